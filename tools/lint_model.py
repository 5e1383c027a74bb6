"""Say what runtimes for phones would refuse of an exported model, or leave to the CPU, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ssdlite import cli
from ssdlite.console import print_json, print_line
from ssdlite.errors import ConfigError, DataError
from ssdlite.files import counted
from ssdlite.runtime.files import is_folder

if TYPE_CHECKING:
    import onnx

    from ssdlite.export.lint.report import LintFinding, LintReport

ONNX_TARGETS = ("ort-mobile", "nnapi", "coreml", "xnnpack")  # where nobody says which
LINTED = (".onnx", ".html")  # pages have an ONNX model inside
WORDS = {"refused": "refused", "cpu": "left to the CPU", "note": "note"}


@dataclass(frozen=True)
class LintOptions:
    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """ONNX files, web pages, files of one runtime, which are judged for that alone, and bundles."""
    target: tuple[str, ...] = ()
    """Of ONNX files one or more of ort-mobile, nnapi, coreml, xnnpack, openvino, executorch, ncnn; of files of a
    runtime litert, litert-gpu, ncnn-vulkan, coreml-package, openvino, executorch.
    Default: the first four, and all that a file of a runtime is for."""
    json: bool = False
    """Print JSON in place of sentences."""
    strict: bool = False
    """Exit with status 1 also where something is left to the CPU, not only where it is refused."""


def main(argv: Sequence[str] | None = None) -> int:
    unclean: list[Path] = []

    def lint(options: LintOptions) -> None:
        """Say what runtimes for phones would refuse of a model or leave to the CPU, and what to do about each."""
        if not options.models:
            raise ConfigError("expected one or more exported files or bundles, got none")
        reports = [entry for path in options.models for entry in _examine(path, options.target)]
        if options.json:
            print_json([{"model": str(path), **report.to_dict()} for path, report in reports])
        else:
            _print(reports)
        unclean.extend(path for path, report in reports if report.refused or (options.strict and not report.clean))

    status = cli.run(lint, LintOptions, argv, "ssdlite lint")
    return status or int(bool(unclean))


def print_findings(path: Path, targets: Sequence[str]) -> bool:
    """Print what ``targets`` make of an ONNX file or of all ONNX files of a bundle -> whether nothing is amiss.

    Raises:
        ConfigError: an unknown target.
        DataError, ContractError: no ONNX model, or a damaged bundle.
    """
    reports = _examine(path, targets)
    _print(reports)
    return all(report.clean for _, report in reports)


def _examine(path: Path, targets: Sequence[str]) -> list[tuple[Path, LintReport]]:
    from ssdlite.export.lint.lowered import examine_lowered
    from ssdlite.export.lint.report import examine
    from ssdlite.export.lint.rules import FILE_TARGETS, LINT_TARGETS, check_target

    for target in targets:
        check_target(target, also_of_files=True)
    of_onnx = [target for target in targets or ONNX_TARGETS if target in LINT_TARGETS]
    reports: list[tuple[Path, LintReport]] = []
    for file in _find(path, targets):
        if file.suffix.lower() in FILE_TARGETS:
            reports += [(file, report) for report in examine_lowered(file, targets)]
        elif of_onnx:
            model = _load(file)
            reports += [(file, examine(model, target)) for target in of_onnx]
        else:
            raise ConfigError(f"{file}: {', '.join(targets)} judges a runtime's own files, and this is an ONNX model")
    return reports


def _find(path: Path, targets: Sequence[str]) -> list[Path]:
    """A file, or of a bundle those that ``targets`` are about; if there are none, those of any one runtime."""
    from ssdlite.export.lint.rules import FILE_TARGETS, LINT_TARGETS

    if not is_folder(path):
        if path.suffix.lower() == ".ort":
            raise DataError(f"{path}: ONNX Runtime's own format; what is to be said of it, lint says of its .onnx file")
        return [path]
    from ssdlite.runtime.contract_file import read_contract

    files = [path / model.file for model in read_contract(path).models]
    lowered = [file for file in files if file.suffix.lower() in FILE_TARGETS]
    is_about_onnx = not targets or any(target in LINT_TARGETS for target in targets)
    found = [
        file
        for file in files
        if (is_about_onnx and file.suffix in LINTED)
        or (file in lowered and (not targets or set(FILE_TARGETS[file.suffix.lower()]) & set(targets)))
    ]
    if not found and not lowered:
        names = ", ".join(sorted({file.name for file in files}))
        raise DataError(
            f"{path}: expected a bundle with an .onnx file, a web page, or files of one runtime; it has {names}"
        )
    return found or lowered


def _load(path: Path) -> onnx.ModelProto:
    import onnx

    from ssdlite.runtime.backends.base import read_model_file
    from ssdlite.runtime.backends.onnxruntime import check_self_contained
    from ssdlite.runtime.backends.web import read_page_model

    content = read_page_model(path) if path.name.lower().endswith(".html") else read_model_file(path)
    check_self_contained(content, str(path))
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's own, from a package without types
        raise DataError(f"{path}: not an ONNX model, or a damaged one") from None
    if not model.graph.node:
        raise DataError(f"{path}: expected an ONNX model, found no operator in it")
    return model


def _print(reports: Sequence[tuple[Path, LintReport]]) -> None:
    from ssdlite.export.lint.rules import FILE_TARGET_WORDS, LINT_TARGETS

    words = {**LINT_TARGETS, **FILE_TARGET_WORDS}
    for path, report in reports:
        print_line(f"{path.name} on {report.target}: {_summary(report)}")
        print_line(f"  {words[report.target]}; needs {report.needs}")
        for line in _lines(report.findings):
            print_line(line)
        print_line("")


def _summary(report: LintReport) -> str:
    if report.refused:
        return "refused"
    if report.target == "executorch" and report.partitions is not None:  # what is inside its pieces is not counted
        rest = counted(report.nodes - report.taken, "operator")
        return f"takes all but {rest}, in {counted(report.partitions, 'piece')}"
    text = f"takes {report.taken} of {report.nodes} operators"
    if report.partitions is not None:
        text += f", in {report.partitions} {'piece' if report.partitions == 1 else 'pieces'}"
    return text


def _lines(findings: Sequence[LintFinding]) -> Iterator[str]:
    """What is found, why, and what to do, once for all operators of which the same is true."""
    rows: dict[tuple[str, str, str], list[LintFinding]] = {}
    for finding in findings:
        rows.setdefault((finding.kind, finding.why, finding.remedy), []).append(finding)
    for (kind, why, remedy), group in rows.items():
        operators = ", ".join(f"{finding.operator} {finding.count}" for finding in group if finding.operator)
        example = f" (such as {group[0].nodes[0]})" if group[0].nodes and kind != "note" else ""
        yield f"  {WORDS[kind]}: {operators or 'the model'}{example}"
        yield f"    why: {why}"
        yield f"    what to do: {remedy}"


if __name__ == "__main__":
    sys.exit(main())
