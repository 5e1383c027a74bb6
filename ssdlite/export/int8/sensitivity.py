"""Which layers suffer from integers, found by measuring; and the fewest to keep in float for a demanded accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ssdlite.errors import ExportError
from ssdlite.export.int8.calibration import Calibration, InputTensor, find_body, to_batch
from ssdlite.export.int8.quantize import quantize
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import ActivationType


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
        alone = quantize(model, calibration, activation_type=activation_type, only=[layer])
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
    backend = OnnxBackend(model.SerializeToString(), threads=1, as_written=True)
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
