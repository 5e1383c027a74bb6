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
from ssdlite.runtime.mlpackage import is_package

if TYPE_CHECKING:
    import onnx

    from ssdlite.export.lint.report import LintFinding, LintReport

LOWERED = {".xml": "openvino", ".pte": "executorch"}  # the target that files of this ending are for
LINTED = (".onnx", ".html")  # pages have an ONNX model inside
WORDS = {"refused": "refused", "cpu": "left to the CPU", "note": "note"}


@dataclass(frozen=True)
class LintOptions:
    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """ONNX files, web pages, files of OpenVINO and ExecuTorch, which are judged for these alone, and bundles."""
    target: tuple[str, ...] = ("ort-mobile", "nnapi", "coreml", "xnnpack")
    """One or more of ort-mobile, nnapi, coreml, xnnpack, openvino, executorch, ncnn."""
    json: bool = False
    """Print JSON in place of sentences."""
    strict: bool = False
    """Exit with status 1 also where something is left to the CPU, not only where it is refused."""


def main(argv: Sequence[str] | None = None) -> int:
    unclean: list[Path] = []

    def lint(options: LintOptions) -> None:
        """Say what runtimes for phones would refuse of a model or leave to the CPU, and what to do about each."""
        if not options.models:
            raise ConfigError("expected one or more ONNX files or bundles, got none")
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
    from ssdlite.export.lint.rules import check_target

    for target in targets:
        check_target(target)
    reports = []
    for file in _find(path, targets):
        if file.suffix in LOWERED:
            reports.append((file, examine_lowered(file)))
        else:
            model = _load(file)
            reports += [(file, examine(model, target)) for target in targets]
    return reports


def _find(path: Path, targets: Sequence[str]) -> list[Path]:
    """A file, or of a bundle those with an ONNX model and those of a runtime among ``targets``; if it has none of
    these, those of any runtime that says what it takes.
    """
    if is_package(path):
        raise DataError(
            f"{path}: expected an ONNX model; every operator of a Core ML package is Core ML's own, and the Neural "
            "Engine takes it in fp16 and int8, not in fp32"
        )
    if not path.is_dir():
        _require_rules(path)
        return [path]
    from ssdlite.runtime.contract_file import read_contract

    models = read_contract(path).models
    files = [path / model.file for model in models]
    lowered = [file for file in files if file.suffix in LOWERED]
    found = [file for file in files if file.suffix in LINTED or LOWERED.get(file.suffix) in targets]
    if not found and not lowered:
        runtimes = ", ".join(sorted({model.runtime for model in models}))
        raise DataError(
            f"{path}: expected a bundle with an .onnx file, a web page, or files of OpenVINO or ExecuTorch; for its "
            f"files of {runtimes} there are no rules: what their runtime takes was checked by the export"
        )
    return found or lowered


def _require_rules(path: Path) -> None:
    """Raises DataError for files of runtimes whose limits nobody states in a way that could be checked here."""
    from ssdlite.runtime.backends import BACKENDS

    suffix = path.suffix.lower()
    runtimes = [name for name, backend in BACKENDS.items() if suffix in backend.suffixes]
    if path.is_file() and runtimes and suffix not in (*LINTED, *LOWERED):
        raise DataError(
            f"{path}: a file of {runtimes[0]}, for which there are no rules: what its runtime takes was checked by the "
            "export; `ssdlite benchmark` says how fast it is"
        )


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
    from ssdlite.export.lint.rules import LINT_TARGETS

    for path, report in reports:
        print_line(f"{path.name} on {report.target}: {_summary(report)}")
        print_line(f"  {LINT_TARGETS[report.target]}; needs {report.needs}")
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
