"""The steps of a comparison: what an app made of the golden pictures, against what this package makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.export.verify.agreement import (
    INPUT_TOLERANCE,
    RESIZE_TOLERANCE,
    Difference,
    box_tolerance,
    compare_arrays,
    compare_detections,
    compare_outputs,
    output_tolerance,
    unmatched_share,
)
from ssdlite.export.verify.explain import (
    Guess,
    explain_detections,
    explain_input,
    explain_outputs,
    explain_picture,
    explain_resized,
    explain_tensor,
    resize_guesses,
    tensor_guesses,
)
from ssdlite.export.verify.explain_size import explain_size
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.replay import grey_level, result
from ssdlite.export.verify.report import Step, StepResult
from ssdlite.export.verify.vectors import (
    Golden,
    GoldenDetection,
    GoldenImage,
    Vectors,
    detections_file,
    output_file,
    resized_file,
    rgb_file,
    tensor_file,
)
from ssdlite.images.geometry import ImageArray

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
T = TypeVar("T")


class Own(NamedTuple):
    """What the app gave for one picture; None for what it did not give, or gave in an impossible form."""

    rgb: ImageArray | None
    resized: ImageArray | None
    tensor: Array | None
    outputs: Outputs | None
    detections: list[GoldenDetection] | None
    problems: dict[Step, str]


class DumpSteps:
    """One model on one picture at a time. Each result of the app is compared with what the reference makes of the
    app's own result of the step before, or of the golden one where that is not there.
    """

    def __init__(self, golden: Golden, dump: Vectors, reference: Reference, problem: str) -> None:
        self.golden = golden
        self.dump = dump
        self.reference = reference
        self.problem = problem
        self.spec = reference.model.input
        self._given: dict[str, Own] = {}

    def run(self, step: Step, image: GoldenImage) -> StepResult:
        own = self._own(image)
        if step in own.problems:
            name = self._file(step, image)
            likely = explain_size(self.dump.folder / name, self.reference, image, step)
            return StepResult(step=step, status="fail", text=own.problems[step], image=image.name, likely=likely)
        steps: dict[Step, tuple[Any, Callable[[GoldenImage, Own], StepResult]]] = {
            "picture": (own.rgb, self._picture),
            "resize": (own.resized, self._resize),
            "input": (own.tensor, self._input),
            "outputs": (own.outputs, self._outputs),
            "detections": (own.detections, self._detections),
        }
        given, compare = steps[step]
        if given is None:
            return StepResult(step=step, status="skipped", text="not in the dump")
        return compare(image, own)

    def _picture(self, image: GoldenImage, own: Own) -> StepResult:
        expected, actual = self.golden.rgb(image), _given(own.rgb)
        difference = compare_arrays(expected, actual, RESIZE_TOLERANCE, unit="of 255")
        return result("picture", image, difference, None if difference.passed else explain_picture(actual, expected))

    def _resize(self, image: GoldenImage, own: Own) -> StepResult:
        rgb, actual = self._rgb(image, own), _given(own.resized)
        expected = self.reference.resized(rgb)
        difference = compare_arrays(expected, actual, RESIZE_TOLERANCE, unit="of 255")
        likely = None if difference.passed else explain_resized(actual, expected, rgb, self.reference.contract.resize)
        return result("resize", image, difference, likely)

    def _input(self, image: GoldenImage, own: Own) -> StepResult:
        resized, actual = self._resized(image, own), _given(own.tensor)
        tolerance = INPUT_TOLERANCE if own.resized is not None else RESIZE_TOLERANCE
        difference = compare_arrays(
            self.reference.tensor(resized), actual, tolerance, grey_level(self.reference), "of 255"
        )
        likely = None
        if not difference.passed:
            likely = explain_tensor(actual, self.reference.tensor(resized), self.spec, self._bases(image, own))
        return result("input", image, difference, likely)

    def _outputs(self, image: GoldenImage, own: Own) -> StepResult:
        model, contract, actual = self.reference.model, self.reference.contract, _given(own.outputs)
        known = own.tensor is not None
        expected = self._expected_outputs(image, own)
        expected = {meaning: value for meaning, value in expected.items() if meaning in actual}
        if model.variant == "nms" and len(expected) < len(model.outputs):
            text = f"only {', '.join(actual)} given; a model of variant nms is compared with all its outputs"
            return StepResult(step="outputs", status="fail", text=text, image=image.name)
        difference = compare_outputs(expected, actual, contract, model, known_input=known)
        if difference.passed:
            return result("outputs", image, difference, None)
        likely = explain_outputs(actual, expected, contract, model, known_input=known)
        if likely is None and self.reference.backend is not None:
            fed = explain_input(self.reference.outputs, self._fed(image, own), actual, expected)
            likely = fed and f"the network was fed: {fed}"
        return result("outputs", image, difference, likely)

    def _detections(self, image: GoldenImage, own: Own) -> StepResult:
        model, actual = self.reference.model, _given(own.detections)
        outputs = self._expected_outputs(image, own)
        difference = self._compare_detections(image, outputs, actual, known_outputs=False)
        if own.outputs is not None and len(own.outputs) == len(model.outputs):
            outputs = dict(own.outputs)
            try:
                of_own = self._compare_detections(image, outputs, actual, known_outputs=True)
            except ContractError as error:
                return StepResult(step="detections", status="skipped", text=f"the outputs cannot be used: {error}")
            # Where the outputs are wrong in themselves, right detections show that the app knows and corrects it.
            outputs_are_wrong = not of_own.passed and self._outputs(image, own).status == "fail"
            difference = difference if outputs_are_wrong and difference.passed else of_own
        if difference.passed:
            return result("detections", image, difference, None)
        threshold = self.golden.index.score_threshold
        likely = explain_detections(actual, outputs, self.reference, image, threshold)
        if likely is None and own.outputs is None and self.reference.backend is not None:
            likely = self._explain_from_input(image, own, actual)
        return result("detections", image, difference, likely)

    def _compare_detections(
        self, image: GoldenImage, outputs: Outputs, actual: list[GoldenDetection], *, known_outputs: bool
    ) -> Difference:
        """The reference's detections from ``outputs`` with the app's, made from the same or from outputs like them."""
        model, threshold = self.reference.model, self.golden.index.score_threshold
        expected = self.reference.detections(outputs, (image.height, image.width), threshold)
        exact = box_tolerance(self.reference.window((image.height, image.width)))
        if known_outputs:
            return compare_detections(expected, actual, box=exact, least_score=threshold)
        return compare_detections(
            expected,
            actual,
            score=output_tolerance("scores", model, False).worst,
            box=max(exact, output_tolerance("boxes", model, False).worst * max(image.height, image.width)),
            least_score=threshold,
            share=unmatched_share(model, False),
        )

    def _explain_from_input(self, image: GoldenImage, own: Own, actual: list[GoldenDetection]) -> str | None:
        """Which mistake in the input leads to these detections, all steps after it being right."""
        for name, tensor in self._fed(image, own):
            outputs = self.reference.outputs(tensor)
            if self._compare_detections(image, outputs, actual, known_outputs=True).passed:
                return f"the network was fed: {name}"
        return None

    def _fed(self, image: GoldenImage, own: Own) -> Iterator[tuple[str, Array]]:
        """Input tensors by the mistakes that make them, as far back as the dump leaves room for one."""
        yield from tensor_guesses(self._tensor(image, own), self.reference.model)
        if own.tensor is None:
            for guess in self._bases(image, own):
                if guess.name:
                    yield guess.name, self.reference.tensor(guess.pixels)

    def _rgb(self, image: GoldenImage, own: Own) -> ImageArray:
        return self.golden.rgb(image) if own.rgb is None else own.rgb

    def _resized(self, image: GoldenImage, own: Own) -> ImageArray:
        if own.resized is not None:
            return own.resized
        return self.reference.resized(self._rgb(image, own))

    def _tensor(self, image: GoldenImage, own: Own) -> Array:
        if own.tensor is not None:
            return own.tensor
        return self.reference.tensor(self._resized(image, own))

    def _expected_outputs(self, image: GoldenImage, own: Own) -> dict[str, Array]:
        """Of the app's own input, where that is there and the model can be run here; otherwise the golden ones."""
        is_golden = own.tensor is None and own.resized is None and own.rgb is None
        if is_golden or self.reference.backend is None:
            return self.golden.outputs(image, self.reference.model)
        return self.reference.outputs(self._tensor(image, own))

    def _bases(self, image: GoldenImage, own: Own) -> list[Guess]:
        """Pixels that an input tensor may have been made from: also wrongly resized ones, where none were given."""
        right = Guess("", self._resized(image, own))
        if own.resized is not None:
            return [right]
        rgb = self._rgb(image, own)
        size = (self.spec.height, self.spec.width)
        wrong = [
            guess for guess in resize_guesses(rgb, size, self.reference.contract.resize) if "BGR" not in guess.name
        ]
        return [right, *wrong]

    def _own(self, image: GoldenImage) -> Own:
        if image.name not in self._given:
            problems: dict[Step, str] = {}

            def read(step: Step, get: Callable[[], T]) -> T | None:
                try:
                    return get()
                except ContractError as error:
                    problems[step] = str(error)
                    return None

            model = self.reference.model
            self._given[image.name] = Own(
                rgb=read("picture", lambda: self.dump.rgb(image)),
                resized=read("resize", lambda: self.dump.resized(image, self.spec)),
                tensor=read("input", lambda: self.dump.tensor(image, self.spec)),
                outputs=read("outputs", lambda: self.dump.outputs(image, model)),
                detections=read("detections", lambda: self.dump.detections(image, model)),
                problems=problems,
            )
        return self._given[image.name]

    def _file(self, step: Step, image: GoldenImage) -> str:
        model = self.reference.model
        names = {
            "picture": rgb_file(image.name),
            "resize": resized_file(image.name),
            "input": tensor_file(image.name, self.spec),
            "outputs": output_file(image.name, model, model.outputs[0].meaning),
            "detections": detections_file(image.name, model),
        }
        return names[step]


def _given(value: T | None) -> T:
    assert value is not None  # run() compares only what is there
    return value
