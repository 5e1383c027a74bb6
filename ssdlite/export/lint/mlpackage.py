"""What a Core ML package needs, where it is computed, and what Vision takes it for, all read from its specification.

Field numbers are those of Model.proto and MIL.proto of https://github.com/apple/coremltools (mlmodel/format), the
systems to its versions those of coremltools/__init__.py there. That the Neural Engine computes in float16 alone:
https://apple.github.io/coremltools/docs-guides/source/typed-execution.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ssdlite.export.lint.report import LintFinding, LintReport
from ssdlite.protobuf import read_fields, read_messages, read_text, to_number
from ssdlite.runtime.mlpackage import PIPELINE, PROGRAM, SPECIFICATION_FILE, read_package

VERSION, SUPPRESSION = 1, 610  # of a Model
STRING_LABELS, INTEGER_LABELS = 100, 101  # of NonMaximumSuppression
MIL_FLOAT32 = 11  # of a TensorType
SYSTEMS = {6: "iOS 15, macOS 12", 7: "iOS 16, macOS 13", 8: "iOS 17, macOS 14", 9: "iOS 18, macOS 15"}


def examine_package(path: Path) -> LintReport:
    """Every operator of a package is Core ML's own: the version says which system is the first to have them all.

    Raises:
        ContractError: a file of it is missing or damaged.
    """
    read_package(path)  # which is strict about damage
    model = memoryview((path / SPECIFICATION_FILE).read_bytes())
    stages = [stage for pipeline in read_messages(model, PIPELINE) for stage in read_messages(pipeline, 1)]
    programs = [program for one in (model, *stages) for program in read_messages(one, PROGRAM)]
    operators = [one for program in programs for one in _operators(program)]
    floats = Counter(kind for kind, is_float32 in operators if is_float32)
    why = "float32: the CPU or the GPU does it, since the Neural Engine computes in float16 alone"
    remedy = "--precision fp16" if "conv" in floats else "nothing has to be done"
    findings = [LintFinding("note", why, remedy, kind, count) for kind, count in floats.items()]
    version = next((to_number(wire, value) for number, wire, value in read_fields(model) if number == VERSION), 0)
    needs = f"{SYSTEMS.get(version, 'a system that reads specifications')} or newer (version {version})"
    return LintReport(
        "coreml-package", len(operators), len(operators), None, needs, [*findings, _for_vision(model, stages)]
    )


def _operators(program: memoryview) -> Iterator[tuple[str, bool]]:
    """Kind, and whether it computes float32, of those that are no constants."""
    for entry in read_messages(program, 2):  # of functions, of their blocks by opset, and of these the operations
        for function in read_messages(entry, 2):
            for block in (block for one in read_messages(function, 3) for block in read_messages(one, 2)):
                for operation in read_messages(block, 3):
                    kind = read_text(operation, 1)
                    if not kind.startswith("const"):  # const, and constexpr_* of compressed weights
                        yield kind, MIL_FLOAT32 in _types(operation)


def _types(operation: memoryview) -> Iterator[int]:
    """Of an operation's outputs: NamedValueType, ValueType, TensorType."""
    for output in read_messages(operation, 3):
        for tensor in (tensor for value in read_messages(output, 2) for tensor in read_messages(value, 1)):
            yield from (to_number(wire, value) for number, wire, value in read_fields(tensor) if number == 1)


def _for_vision(model: memoryview, stages: list[memoryview]) -> LintFinding:
    suppression = [one for stage in stages[-1:] for one in read_messages(stage, SUPPRESSION)]
    if any(read_messages(one, number) for one in suppression for number in (STRING_LABELS, INTEGER_LABELS)):
        why = "nonMaximumSuppression with class labels at its end: Vision answers VNRecognizedObjectObservation"
        return LintFinding("note", why, "nothing has to be done")
    why = "no nonMaximumSuppression with class labels at its end: Vision does not take it for a detector"
    return LintFinding("note", why, "--variant nms, or MLModel without Vision")
