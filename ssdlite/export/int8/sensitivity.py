"""Which layers suffer from integers, found by measuring; and the fewest to keep in float for a demanded accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ssdlite.errors import ExportError
from ssdlite.export.body import find_body
from ssdlite.export.int8.calibration import (
    Calibration,
    InputTensor,
    NarrowRangeError,
    calibrate,
    calibration_inputs,
    to_batch,
)
from ssdlite.export.int8.quantize import ActivationType, quantisation_facts, quantise
from ssdlite.export.pictures import ExportPictures
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import QuantisationFacts
from ssdlite.runtime.model import RuntimeDetector

SAMPLES = 8  # images that tell sensitive layers from others


class Sensitivity(NamedTuple):
    """What quantising one convolution alone does to the outputs."""

    layer: str
    error: float  # root mean square, in standard deviations of the output, mean over the outputs


@dataclass(frozen=True)
class GatedModel:
    """A quantised model whose accuracy was found good enough.

    ``drop`` is what the gate measured; ``float_layers`` are the most sensitive first.
    """

    model: onnx.ModelProto
    drop: float
    float_layers: tuple[str, ...]


def rank_layers(
    model: onnx.ModelProto,
    calibration: Calibration,
    samples: Iterable[InputTensor],
    *,
    activation_type: ActivationType = "uint8",
) -> list[Sensitivity]:
    """Every convolution of the float ``model`` (variant raw or decoded), the most sensitive first.

    Each is quantised alone, and the outputs for ``samples`` are compared with those of the float model.

    Raises:
        ExportError: outputs that do not change smoothly (variant nms), or no samples.
    """
    if any(output.type.tensor_type.elem_type != TensorProto.FLOAT for output in model.graph.output):
        names = ", ".join(output.name for output in model.graph.output)
        raise ExportError(f"sensitivity: expected a raw or decoded model, whose outputs are all float32; got {names}")
    inputs = [to_batch(tensor, model.graph.input[0], i) for i, tensor in enumerate(samples, start=1)]
    if not inputs:
        raise ExportError("sensitivity: there are no images to measure it on")
    expected = _run(model, inputs)
    result = []
    for layer in find_body(model).convolutions:
        alone = quantise(model, calibration, activation_type=activation_type, only=[layer])
        result.append(Sensitivity(layer, output_error(expected, _run(alone, inputs))))
    return sorted(result, key=lambda item: -item.error)


def output_error(expected: Sequence[npt.NDArray[np.float32]], outputs: Sequence[npt.NDArray[np.float32]]) -> float:
    """Root mean square difference, in standard deviations of what was expected, mean over the outputs."""
    errors = []
    for wanted, got in zip(expected, outputs, strict=True):
        spread = max(float(wanted.std(dtype=np.float64)), float(np.finfo(np.float32).tiny))
        errors.append(float(np.sqrt(np.square(got.astype(np.float64) - wanted).mean())) / spread)
    return float(np.mean(errors))


def _run(model: onnx.ModelProto, inputs: Iterable[InputTensor]) -> list[npt.NDArray[np.float32]]:
    """The outputs, in the model's order, of all inputs together."""
    backend = OnnxBackend(model.SerializeToString(), threads=1)
    runs = [backend.run(tensor) for tensor in inputs]
    return [np.concatenate([run[output.name] for run in runs]) for output in model.graph.output]


def choose_float_layers(
    build: Callable[[tuple[str, ...]], onnx.ModelProto],
    gate: Callable[[onnx.ModelProto], float],
    rank: Callable[[], Sequence[str]],
    *,
    max_drop: float,
) -> GatedModel:
    """The quantised model with the fewest float layers that passes, of those that keep the most sensitive ones.

    Args:
        build: the model with these convolutions in float.
        gate: the accuracy that such a model loses.
        rank: all convolutions, the most sensitive first; asked only when the wholly quantised model fails.
        max_drop: what may be lost.

    The number of float layers doubles until the gate holds, then the gap to the last failure is halved.

    Raises:
        ExportError: too much is lost even with a single convolution left in integers.
    """
    layers: Sequence[str] = ()

    def attempt(count: int) -> GatedModel:
        chosen = tuple(layers[:count])
        model = build(chosen)
        return GatedModel(model, gate(model), chosen)

    best = found = attempt(0)
    if found.drop <= max_drop:
        return found
    layers = rank()
    failed, count = 0, min(1, len(layers) - 1)
    while not found.drop <= max_drop:
        if failed == len(layers) - 1:
            raise ExportError(
                f"int8: AP falls by {best.drop:.4f} at best, with {len(best.float_layers)} of {len(layers)} "
                f"convolutions in float; that is more than the {max_drop} allowed"
            )
        found = attempt(count)
        best = min(best, found, key=lambda item: item.drop)
        if not found.drop <= max_drop:
            failed, count = count, min(2 * count, len(layers) - 1)
    while len(found.float_layers) - failed > 1:
        middle = attempt((failed + len(found.float_layers)) // 2)
        if middle.drop <= max_drop:
            found = middle
        else:
            failed = len(middle.float_layers)
    return found


# --- The int8 files of a bundle: calibrated on the data, with as many layers in float as the accuracy demands.

Opener = Callable[[onnx.ModelProto], RuntimeDetector]  # makes a model of the same variant runnable


@dataclass
class Quantiser:
    """Makes int8 models of several variants of one network, which share the layers to keep in float.

    Attributes:
        measure_drop: the AP that a model loses; None where there is no data to measure it on.
        max_drop: what it may lose; None to take it as it comes.
        rankable: the network in a variant whose outputs change smoothly, for ranking layers, and its opener.
    """

    pictures: ExportPictures
    activation_type: ActivationType
    measure_drop: Callable[[RuntimeDetector], float] | None
    max_drop: float | None
    rankable: Callable[[], tuple[onnx.ModelProto, Opener]]
    notify: Callable[[str], object]
    float_layers: tuple[str, ...] | None = field(default=None, init=False)
    calibration: Calibration | None = field(default=None, init=False)  # the last one; variants often share tensors

    def quantise(self, model: onnx.ModelProto, open_model: Opener) -> tuple[onnx.ModelProto, QuantisationFacts]:
        """The float32 ``model`` in integers, and what became of it.

        Raises:
            ExportError: nothing to calibrate on, or too much accuracy is lost whatever is kept in float.
        """
        calibration = self._calibrate(model, open_model)

        def build(float_layers: tuple[str, ...]) -> onnx.ModelProto:
            return quantise(model, calibration, activation_type=self.activation_type, float_layers=float_layers)

        if self.float_layers is None:
            self.float_layers = self._choose(build, open_model)
        result = build(self.float_layers)
        facts = quantisation_facts(
            result,
            calibration,
            activation_type=self.activation_type,
            calibration_data=self.pictures.calibration_name,
            float_layers=self.float_layers,
        )
        return result, facts

    def _choose(self, build: Callable[[tuple[str, ...]], onnx.ModelProto], open_model: Opener) -> tuple[str, ...]:
        measure = self.measure_drop
        if measure is None or self.max_drop is None:
            return ()
        chosen = choose_float_layers(
            build, lambda model: measure(open_model(model)), self._rank, max_drop=self.max_drop
        )
        return chosen.float_layers

    def _rank(self) -> list[str]:
        model, open_model = self.rankable()
        calibration = self._calibrate(model, open_model)
        samples = list(calibration_inputs(open_model(model), self.pictures.calibration_arrays(SAMPLES)))
        return [item.layer for item in rank_layers(model, calibration, samples, activation_type=self.activation_type)]

    def _calibrate(self, model: onnx.ModelProto, open_model: Opener) -> Calibration:
        if not self.pictures.calibration:
            raise ExportError(f"{self.pictures.calibration_name}: no pictures to calibrate on")
        if self.calibration is None or self.calibration.missing(model):
            reader = open_model(model)
            try:
                self.calibration = calibrate(model, calibration_inputs(reader, self.pictures.calibration_arrays()))
            except NarrowRangeError as error:
                self.notify(f"  {error}; taking minmax")
                inputs = calibration_inputs(reader, self.pictures.calibration_arrays())
                self.calibration = calibrate(model, inputs, method="minmax")
        return self.calibration
