"""What ``ssdlite verify`` found: per model, per step, in a form for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.files import runtime_problem
from ssdlite.runtime.plain import to_plain

Step = Literal["contract", "picture", "resize", "input", "outputs", "detections"]
Status = Literal["pass", "fail", "skipped"]
MARKS: dict[Status, str] = {"pass": "pass", "fail": "FAIL", "skipped": "-"}
STEPS: tuple[Step, ...] = ("contract", "picture", "resize", "input", "outputs", "detections")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step of one model over all pictures; figures are those of the worst, ``image``."""

    step: Step
    status: Status
    text: str
    image: str | None = None
    worst: float | None = None  # largest difference
    allowed: float | None = None
    likely: str | None = None  # the mistake that would explain it


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    file: str
    variant: str
    precision: str
    runtime: str
    steps: tuple[StepResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return any(result.status == "fail" for result in self.steps)


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """``runtimes``: version of those installed; ``missing``: those that some model needs and that do not run here."""

    bundle: str
    dump: str | None
    runtimes: dict[str, str]
    missing: tuple[str, ...]
    models: tuple[ModelResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not any(model.failed for model in self.models)

    def failed_steps(self) -> dict[str, list[str]]:
        """Names of the steps that failed, by model file."""
        return {
            model.file: [result.step for result in model.steps if result.status == "fail"]
            for model in self.models
            if model.failed
        }

    def to_dict(self) -> dict[str, Any]:
        return {**to_plain(self), "passed": self.passed}


def worst_of(results: Sequence[StepResult]) -> StepResult:
    """One result for all pictures: the first of the failed ones that has an explanation, or else the largest."""
    failed = [result for result in results if result.status == "fail"]
    if not failed and len(results) > 1:
        largest = max(results, key=lambda result: result.worst or 0.0)
        return replace(largest, text=f"{len(results)} pictures; the worst: {largest.text}")
    explained = [result for result in failed if result.likely is not None]
    if explained:
        return explained[0]
    return max(failed or results, key=lambda result: result.worst or 0.0)


def format_report(report: VerifyReport) -> Iterator[str]:
    """The report as lines for a person."""
    subject = f"{report.dump} against the reference vectors of {report.bundle}" if report.dump else report.bundle
    installed = ", ".join(f"{name} {version}" for name, version in report.runtimes.items()) or "none"
    yield f"{subject}; runtimes here: {installed}"
    for name in report.missing:
        yield f"{runtime_problem(name)}: its models were not run"
    for model in report.models:
        yield ""
        package = BACKENDS[model.runtime].package
        here = "" if package == model.runtime or runtime_problem(model.runtime) else f", run here by {package}"
        yield f"{model.file}  ({model.variant}, {model.precision}, {model.runtime}{here})"
        for result in model.steps:
            where = f"{result.image}: " if result.image else ""
            yield f"  {result.step:<11} {MARKS[result.status]:<5} {where}{result.text}"
            if result.likely:
                yield f"  {'':<17} likely: {result.likely}"
        for note in model.notes:
            yield f"  {'note':<11} {note}"
    yield ""
    for note in report.notes:
        yield f"note: {note}"
    failed = "; ".join(f"{file}: {', '.join(steps)}" for file, steps in report.failed_steps().items())
    yield f"FAILED: {failed}" if failed else "passed"
