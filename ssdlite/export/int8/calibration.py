"""What of an exported graph is worth computing in integers, and the ranges that its activations take on real images."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from ssdlite.errors import ExportError
from ssdlite.images.geometry import CropWindow, ImageArray

BODY_OPERATORS = {"Conv", "Clip", "Relu", "Add", "Mul", "GlobalAveragePool"}
FUSED_OPERATORS = {"Clip", "Relu"}  # become part of the convolution before them, as the limits of its integers


@dataclass(frozen=True)
class Body:
    """The nodes to quantise, in the graph's order; convolutions are those of them with op_type Conv."""

    nodes: tuple[NodeProto, ...]

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Their node names."""
        return tuple(node.name for node in self.nodes if node.op_type == "Conv")


def find_body(model: onnx.ModelProto) -> Body:
    """Convolutions, and what stands between them. What decodes and selects boxes behind the last ones stays float,
    and so does what normalises pictures before the first.

    Raises:
        ExportError: there is no convolution, or two nodes of one name.
    """
    nodes = model.graph.node
    if not any(node.op_type == "Conv" for node in nodes):
        raise ExportError("quantisation: the model has no convolution")
    repeated = sorted(name for name, count in Counter(node.name for node in nodes).items() if count > 1)
    if repeated:
        raise ExportError(f"quantisation: nodes must have different names, but there are several of {repeated[:3]}")
    behind = _reached(nodes, forward=True)
    before = _reached(reversed(nodes), forward=False)
    between = behind & before
    return Body(
        tuple(
            node
            for node in nodes
            if node.op_type == "Conv" or (node.op_type in BODY_OPERATORS and node.name in between)
        )
    )


def _reached(nodes: Iterable[NodeProto], *, forward: bool) -> set[str]:
    """Names of the nodes that a convolution's result reaches, or backward, that reach a convolution."""
    tensors: set[str] = set()
    names: set[str] = set()
    for node in nodes:
        sources, targets = (node.input, node.output) if forward else (node.output, node.input)
        hit = any(name in tensors for name in sources)
        if hit:
            names.add(node.name)
        if hit or node.op_type == "Conv":
            tensors.update(name for name in targets if name)
    return names


def activations_to_quantize(model: onnx.ModelProto, body: Body) -> tuple[str, ...]:
    """Names of the tensors that integers will stand for, weights and biases apart, each once.

    A convolution's result before the activation that becomes part of it is not among them.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    hidden = set(folded_activations(model, body))
    names: dict[str, None] = {}
    for node in body.nodes:
        inputs = node.input if node.op_type in ("Add", "Mul") else node.input[:1]
        names.update(dict.fromkeys(name for name in (*inputs, node.output[0]) if name not in constants | hidden))
    return tuple(names)


def folded_activations(model: onnx.ModelProto, body: Body) -> Mapping[str, str]:
    """Result of a node -> result of the Clip or Relu that is its only reader, where both are of the body."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    outputs = {output.name for output in model.graph.output}
    made = {name for node in body.nodes for name in node.output}
    return {
        node.input[0]: node.output[0]
        for node in body.nodes
        if node.op_type in FUSED_OPERATORS
        and node.input[0] in made
        and readers[node.input[0]] == 1
        and node.input[0] not in outputs
    }


# --- The ranges: what static quantisation needs to know beside the weights.

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
InputTensor = npt.NDArray[Any]  # [1, 3, H, W] or [1, H, W, 3], uint8 or float32, as the model takes it

PERCENTILE = 99.999  # of a tensor's values that stay within its range


@dataclass(frozen=True)
class Calibration:
    """(lowest, highest) value of every activation that is to be quantised, by the tensor's name.

    Computed once for a graph, and used for every candidate that is made from it; for other variants of the same
    detector too, where ``missing`` finds nothing.
    """

    ranges: Mapping[str, tuple[float, float]]
    method: Method
    images: int

    def missing(self, model: onnx.ModelProto) -> list[str]:
        """Activations of ``model`` that this calibration knows nothing of."""
        return [name for name in activations_to_quantize(model, find_body(model)) if name not in self.ranges]


class NarrowRangeError(ExportError):
    """A tensor varies too little for a histogram, as in an untrained network; ``minmax`` needs none."""


class Preprocessor(Protocol):
    """Whoever knows how pictures become input tensors, such as a ``RuntimeDetector``."""

    def preprocess(self, image: ImageArray) -> tuple[InputTensor, CropWindow]:
        """A picture [H, W, 3] -> (the input tensor of a batch of 1, what of the picture it shows)."""


def calibration_inputs(preprocessor: Preprocessor, pictures: Iterable[ImageArray]) -> Iterator[InputTensor]:
    """Pictures [H, W, 3] of any size as the tensors that the model takes, one in memory at a time."""
    return (preprocessor.preprocess(picture)[0] for picture in pictures)


def calibrate(model: onnx.ModelProto, inputs: Iterable[InputTensor], *, method: Method = "percentile") -> Calibration:
    """Run the float ``model`` on ``inputs``, one at a time, and note the range of every activation of its body.

    ``minmax`` keeps all values, ``percentile`` all but the rarest 0.001 %, ``entropy`` gives outliers up as long as
    that tells the rest better apart.

    Raises:
        ExportError: an unknown method, no input at all, one of another shape or type than the model takes, or
            values that are not finite.
    """
    if method not in METHODS:
        raise ExportError(f"calibration method: expected one of {', '.join(METHODS)}, got {method!r}")
    names = activations_to_quantize(model, find_body(model))
    source = model.graph.input[0]
    count = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about values that are not finite; they are refused below
        calibrator = _create_calibrator(model, names, method, Path(folder))
        for count, tensor in enumerate(inputs, start=1):
            batch = to_batch(tensor, source, count)
            try:
                calibrator.collect_data(_Reader(source.name, batch))
            except ValueError as error:  # numpy's, of a histogram over less than its floats can tell apart
                raise NarrowRangeError(f"calibration by {method}: a tensor hardly varies ({error})") from None
        if not count:
            raise ExportError("calibration: no images came; at least 1 is needed, and 50 or more are advisable")
        data = calibrator.compute_data()
    ranges = {name: _checked_range(name, *data[name].range_value) for name in names}
    return Calibration(ranges, method, count)


def to_batch(tensor: InputTensor, source: onnx.ValueInfoProto, number: int) -> InputTensor:
    """The input ``number`` as a model with input ``source`` takes it, repeated where that has a larger fixed batch.

    Raises:
        ExportError: another shape or type, or a value that is not finite.
    """
    kind = source.type.tensor_type
    batch, *rest = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    wanted = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if tensor.dtype != wanted or list(tensor.shape) != [1, *rest]:
        raise ExportError(
            f"calibration image {number}: expected {wanted} {[1, *rest]}, got {tensor.dtype} {list(tensor.shape)}"
        )
    if not np.isfinite(tensor).all():
        raise ExportError(f"calibration image {number}: has values that are not finite")
    return np.repeat(tensor, batch or 1, axis=0)


class _Reader:
    """One input, in the form that ONNX Runtime's calibrators ask for."""

    def __init__(self, name: str, tensor: InputTensor) -> None:
        self._items: list[dict[str, InputTensor]] = [{name: tensor}]

    def get_next(self) -> dict[str, InputTensor] | None:
        return self._items.pop() if self._items else None


def _create_calibrator(model: onnx.ModelProto, names: tuple[str, ...], method: Method, folder: Path) -> Any:
    """ONNX Runtime's calibrator of that method, for the tensors ``names`` alone."""
    from onnxruntime.quantization.calibrate import EntropyCalibrater, MinMaxCalibrater, PercentileCalibrater

    source, augmented = folder / "model.onnx", str(folder / "augmented.onnx")
    onnx.save(model, source)
    if method == "minmax":
        calibrator: Any = MinMaxCalibrater(source, augmented_model_path=augmented)
    elif method == "percentile":
        calibrator = PercentileCalibrater(source, augmented_model_path=augmented, symmetric=True, percentile=PERCENTILE)
    else:
        calibrator = EntropyCalibrater(source, augmented_model_path=augmented)
    select = calibrator.select_tensors_to_calibrate

    def select_named(model: onnx.ModelProto) -> tuple[set[str], dict[str, onnx.ValueInfoProto]]:
        found, infos = select(model)
        return found & set(names), infos

    calibrator.select_tensors_to_calibrate = select_named
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def _checked_range(name: str, lowest: Any, highest: Any) -> tuple[float, float]:
    low, high = float(np.asarray(lowest).item()), float(np.asarray(highest).item())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ExportError(f"calibration: tensor {name!r} goes from {low} to {high}; its values must be finite")
    return low, high
