"""The steps from a picture to detections, compared one at a time.

Every step is fed with what is given of the step before, so that a mistake shows in the step that makes it and in no
other. A replay is given the reference vectors, and judges the files of a bundle by them; a dump has what an app made of
the reference pictures, and is judged by what the reference makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ssdlite.detections import Detection
from ssdlite.errors import ContractError
from ssdlite.export.verify import explain
from ssdlite.export.verify.agreement import (
    INPUT_TOLERANCE,
    RESIZE_TOLERANCE,
    Difference,
    OutputArrays,
    box_tolerance,
    compare_arrays,
    compare_detections,
    compare_outputs,
    output_tolerance,
    unmatched_share,
)
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.report import STEPS, Step, StepResult
from ssdlite.export.verify.vectors import GoldenImage, MissingVectorError, Vectors
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image, read_image_size
from ssdlite.runtime.backends.base import Array
from ssdlite.runtime.files import runtime_problem


@dataclass(kw_only=True)
class PictureSteps:
    """One model and one picture.

    Args:
        golden: the vectors of the bundle.
        dump: those of an app; None replays the reference ones.
        problem: why the model cannot be run, where it cannot.

    Raises:
        ContractError: reference vectors are missing or damaged. Those of a dump then fail in their step.
    """

    image: GoldenImage
    golden: Vectors
    dump: Vectors | None
    reference: Reference
    score_threshold: float
    problem: str

    def __post_init__(self) -> None:
        self._made_with = "the reference vectors were made with " if self.dump is None else ""
        self._given: dict[Step, Any] = {}
        self._damaged: dict[Step, str] = {}
        for step in STEPS[1:]:
            try:
                self._given[step] = (self.dump or self.golden).load(step, self.image)
            except ContractError as error:
                if self.dump is None:
                    raise
                if not isinstance(error, MissingVectorError):
                    self._damaged[step] = str(error)

    def run(self, step: Step) -> StepResult:
        steps: dict[Step, Callable[[Any], StepResult]] = {
            "picture": self._picture,
            "resize": self._resize,
            "input": self._input,
            "outputs": self._replay_outputs if self.dump is None else self._outputs,
            "detections": self._detections,
        }
        if step in self._given:
            return steps[step](self._given[step])
        if step not in self._damaged:
            return StepResult(step=step, status="skipped", text="not in the dump")
        path = (self.dump or self.golden).path(step, self.image, self.reference.model.outputs[0].meaning)
        size = path.stat().st_size if path.is_file() else 0
        likely = explain.explain_size(size, self.image, self.reference.model, step)
        return self._result(step, Difference(False, self._damaged[step]), lambda: likely)

    def _result(
        self, step: Step, difference: Difference, find: Callable[[], str | None] = lambda: None, prefix: str = ""
    ) -> StepResult:
        """``find`` looks for an explanation, which ``prefix`` introduces, where the step failed."""
        likely = None if difference.passed else find()
        return StepResult(
            step=step,
            status="pass" if difference.passed else "fail",
            text=difference.text,
            image=None if difference.passed else self.image.name,
            worst=difference.worst if difference.worst != float("inf") else None,
            allowed=difference.allowed,
            likely=likely and prefix + likely,
        )

    def _picture(self, given: ImageArray) -> StepResult:
        right = self.golden.load("picture", self.image)
        if self.dump is None:
            given = self._decode()
            difference = compare_arrays(right, given, INPUT_TOLERANCE)
        else:
            difference = compare_arrays(right, given, RESIZE_TOLERANCE, unit="of 255")
        return self._result("picture", difference, lambda: explain.explain_picture(given, right))

    def _decode(self) -> ImageArray:
        path = self.golden.folder / f"{self.image.name}.png"
        size, _ = read_image_size(path)
        if size != self.image.size:
            raise ContractError(
                f"{path}: expected {self.image.width} x {self.image.height} pixels, got {size[1]} x {size[0]}"
            )
        return read_image(path)

    def _resize(self, given: ImageArray) -> StepResult:
        right = self.reference.resized(self.rgb)
        difference = compare_arrays(right, given, RESIZE_TOLERANCE, unit="of 255")
        return self._result(
            "resize",
            difference,
            lambda: explain.explain_resized(given, right, self.rgb, self.reference),
            self._made_with,
        )

    def _input(self, given: Array) -> StepResult:
        right = self.reference.tensor(self.resized)
        tolerance = INPUT_TOLERANCE if "resize" in self._given else RESIZE_TOLERANCE
        grey_level = 1 / min(self.reference.model.input.std)  # of the channel that is scaled down the least
        return self._result(
            "input",
            compare_arrays(right, given, tolerance, grey_level, "of 255"),
            lambda: explain.explain_tensor(given, right, self.reference, [("", self.resized), *self._wrong_resized()]),
            self._made_with,
        )

    def _outputs(self, given: OutputArrays) -> StepResult:
        """Of an app, with what the network answers to its input, or to the reference one."""
        model, known = self.reference.model, "input" in self._given
        right = {meaning: value for meaning, value in self.right_outputs.items() if meaning in given}
        if model.variant == "nms" and len(right) < len(model.outputs):
            text = f"only {', '.join(given)} given; a model of variant nms is compared with all its outputs"
            return self._result("outputs", Difference(False, text))

        def find() -> str | None:
            likely = explain.explain_outputs(given, right, self.reference, known_input=known)
            if likely is None and self.reference.backend is not None:
                fed = explain.explain_input(self.reference, self._wrong_tensors(), given, right)
                likely = fed and f"the network was fed: {fed}"
            return likely

        difference = compare_outputs(right, given, self.reference, known_input=known)
        return self._result("outputs", difference, find)

    def _replay_outputs(self, golden: OutputArrays) -> StepResult:
        """Of the network, with the reference ones."""
        if self.reference.backend is None:
            missing = self.problem == runtime_problem(self.reference.model.runtime)
            return StepResult(step="outputs", status="skipped" if missing else "fail", text=self.problem)
        try:
            answered = self.reference.outputs(self.tensor)
        except ContractError as error:
            return self._result("outputs", Difference(False, str(error)))

        def find() -> str:
            likely = explain.explain_outputs(answered, golden, self.reference)
            if likely is None:
                takes = explain.explain_input(self.reference, self._wrong_tensors(), golden, answered)
                likely = takes and f"the network takes: {takes}"
            likely = likely or explain.explain_mean(self.reference, self.tensor, golden)
            return likely or "none of the usual mistakes: other or damaged weights"

        return self._result("outputs", compare_outputs(golden, answered, self.reference), find)

    def _detections(self, given: list[Detection]) -> StepResult:
        """With those of the outputs that are given, or that the network should give."""
        own = self._given.get("outputs", {})
        complete = len(own) == len(self.reference.model.outputs)
        outputs = own if complete else self.right_outputs
        try:
            difference = self._compare_detections(outputs, given, known_outputs=complete)
        except ContractError as error:
            if self.dump is None:
                return self._result("detections", Difference(False, str(error)))
            if not complete:
                raise
            return StepResult(step="detections", status="skipped", text=f"the outputs cannot be used: {error}")
        if complete and self.dump is not None and not difference.passed:
            # Where the outputs are wrong in themselves, right detections show that the app knows and corrects it.
            corrected = self._compare_detections(self.right_outputs, given, known_outputs=False)
            if corrected.passed and self._outputs(own).status == "fail":
                difference = corrected

        def find() -> str | None:
            likely = explain.explain_detections(given, outputs, self.reference, self.image.size, self.score_threshold)
            if likely is None and "outputs" not in self._given and self.reference.backend is not None:
                likely = self._explain_from_input(given)
            return likely

        return self._result("detections", difference, find, self._made_with)

    def _compare_detections(self, outputs: OutputArrays, given: list[Detection], *, known_outputs: bool) -> Difference:
        """The reference's detections from ``outputs`` with those given, from the same or from outputs like them."""
        model, size, threshold = self.reference.model, self.image.size, self.score_threshold
        found = self.reference.detections(outputs, size, threshold)
        exact = box_tolerance(self.reference.window(size))
        if known_outputs:
            expected, actual = (given, found) if self.dump is None else (found, given)
            return compare_detections(expected, actual, box=exact, least_score=threshold)
        return compare_detections(
            found,
            given,
            score=output_tolerance("scores", model, False).worst,
            box=max(exact, output_tolerance("boxes", model, False).worst * max(size)),
            least_score=threshold,
            share=unmatched_share(model, False),
        )

    def _explain_from_input(self, given: list[Detection]) -> str | None:
        """Which mistake in the input leads to these detections, all steps after it being right."""
        for name, tensor in self._wrong_tensors():
            if self._compare_detections(self.reference.outputs(tensor), given, known_outputs=True).passed:
                return f"the network was fed: {name}"
        return None

    def _wrong_tensors(self) -> Iterator[tuple[str, Array]]:
        """Input tensors by the mistakes that make them, as far back as the dump leaves room for one."""
        yield from explain.tensor_guesses(self.tensor, self.reference)
        if "input" not in self._given:
            for name, pixels in self._wrong_resized():
                yield name, self.reference.tensor(pixels)

    def _wrong_resized(self) -> Iterator[tuple[str, ImageArray]]:
        """Wrongly resized pictures that a tensor may have been made from, where none is given."""
        return iter(()) if "resize" in self._given else explain.resize_guesses(self.rgb, self.reference)

    @cached_property
    def rgb(self) -> ImageArray:
        given = self._given.get("picture")
        pixels: ImageArray = self.golden.load("picture", self.image) if given is None else given
        return pixels

    @cached_property
    def resized(self) -> ImageArray:
        given: ImageArray | None = self._given.get("resize")
        return self.reference.resized(self.rgb) if given is None else given

    @cached_property
    def tensor(self) -> Array:
        given: Array | None = self._given.get("input")
        return self.reference.tensor(self.resized) if given is None else given

    @cached_property
    def right_outputs(self) -> dict[str, Array]:
        """Of the given input, where there is one and the model can be run here; otherwise the reference ones."""
        if self.reference.backend is not None and self._given.keys() & {"picture", "resize", "input"}:
            return self.reference.outputs(self.tensor)
        golden: dict[str, Array] = self.golden.load("outputs", self.image)
        return golden
