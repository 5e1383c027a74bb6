"""The steps of a replay: what the contract, the files and this package make of golden vectors."""

from __future__ import annotations

from collections.abc import Callable

from ssdlite.errors import ContractError
from ssdlite.export.verify.agreement import (
    INPUT_TOLERANCE,
    RESIZE_TOLERANCE,
    Difference,
    box_tolerance,
    compare_arrays,
    compare_detections,
    compare_outputs,
)
from ssdlite.export.verify.explain import (
    Guess,
    explain_detections,
    explain_input,
    explain_mean,
    explain_outputs,
    explain_picture,
    explain_resized,
    explain_tensor,
    tensor_guesses,
)
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.report import Step, StepResult
from ssdlite.export.verify.vectors import Golden, GoldenImage

MADE_WITH = "the golden vectors were made with"


class ReplaySteps:
    """One model on one picture at a time. ``problem`` says why the model cannot be run, where it cannot."""

    def __init__(self, golden: Golden, reference: Reference, problem: str) -> None:
        self.golden = golden
        self.reference = reference
        self.problem = problem
        self.spec = reference.model.input

    def run(self, step: Step, image: GoldenImage) -> StepResult:
        """Raises ContractError where golden vectors are missing or damaged."""
        steps: dict[Step, Callable[[GoldenImage], StepResult]] = {
            "picture": self._picture,
            "resize": self._resize,
            "input": self._input,
            "outputs": self._outputs,
            "detections": self._detections,
        }
        return steps[step](image)

    def _picture(self, image: GoldenImage) -> StepResult:
        expected, actual = self.golden.rgb(image), self.golden.picture(image)
        difference = compare_arrays(expected, actual, INPUT_TOLERANCE)
        likely = None if difference.passed else explain_picture(actual, expected)
        return result("picture", image, difference, likely)

    def _resize(self, image: GoldenImage) -> StepResult:
        rgb, expected = self.golden.rgb(image), self.golden.resized(image, self.spec)
        actual = self.reference.resized(rgb)
        difference = compare_arrays(expected, actual, RESIZE_TOLERANCE, unit="of 255")
        likely = None if difference.passed else explain_resized(expected, actual, rgb, self.reference.contract.resize)
        return result("resize", image, difference, likely and f"{MADE_WITH} {likely}")

    def _input(self, image: GoldenImage) -> StepResult:
        resized, expected = self.golden.resized(image, self.spec), self.golden.tensor(image, self.spec)
        actual = self.reference.tensor(resized)
        difference = compare_arrays(expected, actual, INPUT_TOLERANCE, grey_level(self.reference), "of 255")
        likely = None if difference.passed else explain_tensor(expected, actual, self.spec, [Guess("", resized)])
        return result("input", image, difference, likely and f"{MADE_WITH} {likely}")

    def _outputs(self, image: GoldenImage) -> StepResult:
        model, contract = self.reference.model, self.reference.contract
        tensor, expected = self.golden.tensor(image, self.spec), self.golden.outputs(image, model)
        if self.reference.backend is None:
            missing = self.problem.endswith("is not installed")
            return StepResult(step="outputs", status="skipped" if missing else "fail", text=self.problem)
        try:
            actual = self.reference.outputs(tensor)
        except ContractError as error:
            return StepResult(step="outputs", status="fail", text=str(error), image=image.name)
        difference = compare_outputs(expected, actual, contract, model)
        if difference.passed:
            return result("outputs", image, difference, None)
        likely = explain_outputs(actual, expected, contract, model)
        if likely is None:
            took = explain_input(self.reference.outputs, tensor_guesses(tensor, model), expected, actual)
            likely = took and f"the network takes: {took}"
        return result("outputs", image, difference, likely or self._changed_network(image))

    def _changed_network(self, image: GoldenImage) -> str:
        tensor, expected = self.golden.tensor(image, self.spec), self.golden.outputs(image, self.reference.model)
        mean = explain_mean(self.reference.outputs, tensor, expected, self.reference.model)
        return mean or "none of the usual mistakes: other or damaged weights"

    def _detections(self, image: GoldenImage) -> StepResult:
        model, threshold = self.reference.model, self.golden.index.score_threshold
        outputs, expected = self.golden.outputs(image, model), self.golden.detections(image, model)
        try:
            actual = self.reference.detections(outputs, (image.height, image.width), threshold)
        except ContractError as error:
            return StepResult(step="detections", status="fail", text=str(error), image=image.name)
        allowed = box_tolerance(self.reference.window((image.height, image.width)))
        difference = compare_detections(expected, actual, box=allowed, least_score=threshold)
        likely = None
        if not difference.passed:
            likely = explain_detections(expected, outputs, self.reference, image, threshold)
        return result("detections", image, difference, likely and f"{MADE_WITH} {likely}")


def result(step: Step, image: GoldenImage, difference: Difference, likely: str | None) -> StepResult:
    return StepResult(
        step=step,
        status="pass" if difference.passed else "fail",
        text=difference.text,
        image=None if difference.passed else image.name,
        worst=difference.worst if difference.worst != float("inf") else None,
        allowed=difference.allowed,
        likely=likely,
    )


def grey_level(reference: Reference) -> float:
    """One of 255 grey levels in units of the input tensor, by the channel that is scaled down the least."""
    return 1 / min(reference.model.input.std)
