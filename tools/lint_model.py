"""Say what runtimes for phones would refuse of an exported model, or leave to the CPU, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from ssdlite import cli
from ssdlite.console import print_json, print_line
from ssdlite.errors import ConfigError, ContractError, DataError
from ssdlite.files import counted, listing
from ssdlite.runtime.files import is_folder

if TYPE_CHECKING:
    import onnx

    from ssdlite.export.lint.report import LintFinding, LintReport

ONNX_TARGETS = ("ort-mobile", "nnapi", "coreml", "xnnpack")  # where nobody says which
SHOWN_FILES = 6  # in a message
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
        reports = _examine(options.models, options.target)
        if options.json:
            print_json([{"model": str(path), **report.to_dict()} for path, report in reports])
        else:
            _print(reports)
        unclean.extend(path for path, report in reports if report.refused or (options.strict and not report.clean))

    status = cli.run(lint, LintOptions, argv, "ssdlite lint")
    return status or int(bool(unclean))


def print_findings(path: Path, targets: Sequence[str]) -> bool:
    """Print what ``targets`` make of a file, or of those of a bundle that they judge -> whether nothing is amiss.

    Raises:
        ConfigError: an unknown target, or one that judges none of the files.
        DataError, ContractError: nothing that can be judged, or a damaged bundle.
    """
    reports = _examine([path], targets)
    _print(reports)
    return all(report.clean for _, report in reports)


def _examine(paths: Sequence[Path], targets: Sequence[str]) -> list[tuple[Path, LintReport]]:
    """What each of ``targets`` makes of the files that it judges; without any, what the customary ones make of all."""
    from ssdlite.export.lint.lowered import examine_lowered
    from ssdlite.export.lint.report import examine
    from ssdlite.export.lint.rules import FILE_TARGETS, check_target, targets_of

    for target in targets:
        check_target(target, also_of_files=True)
    files = {file: problem for path in paths for file, problem in _find(path, targets).items()}
    for target in targets:
        if not any(target in targets_of(file) for file in files):
            raise _judges_none([target], list(files))
    reports: list[tuple[Path, LintReport]] = []
    for file, problem in files.items():
        if problem:
            print_line(f"left out: {file.name}: {problem}", Console(stderr=True))
        elif file.suffix.lower() in FILE_TARGETS:
            reports += [(file, report) for report in examine_lowered(file, targets)]
        else:
            model = _load(file)
            own = [target for target in targets or ONNX_TARGETS if target in targets_of(file)]
            reports += [(file, examine(model, target)) for target in own]
    return reports


def _find(path: Path, targets: Sequence[str]) -> dict[Path, str]:
    """A file, or of a bundle those that ``targets`` judge, and why one cannot be judged here, if it cannot.

    Raises:
        ConfigError: none of them is for any of the targets.
        DataError, ContractError: there is nothing to judge, or nothing that can be judged here.
    """
    from ssdlite.export.lint.lowered import missing_runtime
    from ssdlite.export.lint.rules import FILE_TARGETS, ONNX_ENDINGS, targets_of

    problems = {path: ""}
    if is_folder(path):
        from ssdlite.runtime.contract_file import read_contract

        models = {path / model.file: model.runtime for model in read_contract(path).models}
        problems = {
            file: missing_runtime(file, runtime)
            for file, runtime in models.items()
            if file.suffix.lower() in (*ONNX_ENDINGS, *FILE_TARGETS)
        }
        if not problems:
            names = ", ".join(sorted(file.name for file in models))
            raise DataError(
                f"{path}: expected a bundle with an .onnx file, a web page, or files of one runtime; it has {names}"
            )
    elif path.suffix.lower() == ".ort":
        raise DataError(f"{path}: ONNX Runtime's own format; what is to be said of it, lint says of its .onnx file")
    judged = {file: one for file, one in problems.items() if not targets or set(targets) & set(targets_of(file))}
    if not judged:
        raise _judges_none(targets, list(problems))
    if all(judged.values()):
        raise ContractError(f"{path}: {'; '.join(dict.fromkeys(judged.values()))}")
    return judged


def _judges_none(targets: Sequence[str], files: Sequence[Path]) -> ConfigError:
    from ssdlite.export.lint.rules import endings_for

    whose = "; ".join(f"--target {target}: is for {' and '.join(endings_for(target))} files" for target in targets)
    return ConfigError(f"{whose}; given: {listing([file.name for file in files], SHOWN_FILES)}")


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
