"""What an exported model promises: how to feed it, what it answers, how good it was found to be.

One document serves all readers. ``contract.json`` of a bundle holds it for all models; every ONNX file carries it,
for itself alone, in its ``metadata_props`` under ``METADATA_KEY``. Needs numpy only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.plain import PlainError, from_plain, parse_json, to_plain

FORMAT = "ssdlite-contract"
FORMAT_VERSION = 1
METADATA_KEY = "ssdlite.contract"
CONTRACT_FILE = "contract.json"
MAX_CONTRACT_BYTES = 64 << 20
MAX_SIDE = 4096
MAX_BATCH = 1024
MAX_CLASSES = 100_000
MAX_ANCHORS = 500_000
MAX_MODELS = 100

Variant = Literal["raw", "decoded", "nms"]
Precision = Literal["fp32", "fp16", "int8"]
Runtime = Literal["onnxruntime", "ncnn"]
Meaning = Literal["class_logits", "box_deltas", "scores", "boxes", "labels", "count"]
OUTPUTS: dict[str, tuple[Meaning, ...]] = {
    "raw": ("class_logits", "box_deltas"),
    "decoded": ("scores", "boxes"),
    "nms": ("boxes", "scores", "labels", "count"),
}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The tensor that the network takes. An app writes ``(value - mean) / std`` of each 0..255 channel value.

    ``batch`` is None where it is free. ``uint8`` inputs have mean 0 and std 1: their normalisation is inside.
    """

    name: str
    type: Literal["uint8", "float32"]
    layout: Literal["NCHW", "NHWC"]
    batch: int | None = None
    height: int
    width: int
    colour_order: Literal["RGB", "BGR"] = "RGB"
    value_range: tuple[float, float] = (0.0, 255.0)  # before mean and std
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int | None, int, int, int]:
        if self.layout == "NCHW":
            return self.batch, 3, self.height, self.width
        return self.batch, self.height, self.width, 3


@dataclass(frozen=True, kw_only=True)
class ResizeSpec:
    """How a picture of any size becomes the input: ``stretch`` fills it, ``letterbox`` keeps the shape, centred.

    ``bilinear`` takes the four nearest source pixels, with half-pixel centres and no smoothing when it shrinks
    (``cv2.INTER_LINEAR``). ``padding_value`` fills all channels of what a letterbox leaves free.
    """

    mode: Literal["stretch", "letterbox"]
    interpolation: Literal["bilinear"] = "bilinear"
    half_pixel_centres: bool = True
    antialias: bool = False
    padding_value: int = 114
    padding_position: Literal["centre"] = "centre"


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """Boxes of the decoded and nms outputs: their corners' order, as fractions of the input's width and height."""

    format: Literal["xyxy", "yxyx"] = "xyxy"
    scale: Literal["fraction", "pixels"] = "fraction"


@dataclass(frozen=True, kw_only=True)
class AnchorSpec:
    """The anchors that raw box deltas refer to, in the order of the outputs, as fractions of the input.

    ``dx, dy, dw, dh = deltas / box_code_scales``; centre = anchor centre + (dx, dy) * anchor size;
    size = anchor size * exp(min((dw, dh), max_log_scale)).
    """

    format: Literal["cxcywh"] = "cxcywh"
    scale: Literal["fraction"] = "fraction"
    box_code_scales: tuple[float, float, float, float]
    max_log_scale: float
    values: tuple[tuple[float, float, float, float], ...]

    def array(self) -> npt.NDArray[np.float32]:
        """[A, 4] centre x, centre y, width, height."""
        return np.array(self.values, np.float32).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class PostprocessSpec:
    """From raw or decoded outputs to detections; the nms variant has all of it inside.

    Scores above ``score_threshold`` count; of each class the ``candidates_per_class`` best enter non-maximum
    suppression, of each image the ``max_detections`` best survivors remain. Inside nms models at most
    ``max_candidates`` pairs of anchor and class, the best, are looked at.
    """

    score_function: Literal["softmax", "sigmoid"]
    background_slot: int = 0  # of class_logits
    score_threshold: float
    nms_threshold: float
    candidates_per_class: int
    max_detections: int
    max_candidates: int


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One output: its name in the file, what it means, its shape (None: follows the batch) and type."""

    name: str
    meaning: Meaning
    shape: tuple[int | None, ...]
    type: Literal["float32", "int32"] = "float32"


@dataclass(frozen=True, kw_only=True)
class AccuracyFigure:
    """AP of this very file, beside that of the PyTorch model on the same images."""

    AP: float
    AP50: float
    AP_drop: float  # PyTorch's AP minus this file's
    data: str
    split: str
    images: int


@dataclass(frozen=True, kw_only=True)
class LatencyFigure:
    """Median time of one image through this file, with what it was measured."""

    median_ms: float
    threads: int
    runs: int
    runtime: str  # e.g. "onnxruntime 1.31.1"
    processor: str


@dataclass(frozen=True, kw_only=True)
class QuantisationFacts:
    """What of an int8 file is really computed in integers."""

    activation_type: Literal["uint8", "int8"]
    calibration_method: str
    calibration_images: int
    calibration_data: str
    quantised_layers: int
    total_layers: int
    float_layers: tuple[str, ...]  # convolutions kept in float, the most sensitive first


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One file of the bundle. ``weights_file`` is ncnn's second file.

    ``difference_from_pytorch`` is the largest of any output (nms: of the scores) on the golden pictures.
    """

    file: str
    runtime: Runtime = "onnxruntime"
    variant: Variant
    precision: Precision
    outputs: tuple[OutputSpec, ...]
    input: InputSpec
    opset: int | None = None
    ir_version: int | None = None
    weights_file: str | None = None
    difference_from_pytorch: float | None = None
    accuracy: AccuracyFigure | None = None
    latency: LatencyFigure | None = None
    quantisation: QuantisationFacts | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from. ``metrics`` are those that the checkpoint brought along."""

    checkpoint: str  # file name
    checkpoint_sha256: str
    licence: str
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The whole document. ``class_names`` and ``category_ids`` (of the training data) are by label, 0..K-1."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    resize: ResizeSpec
    boxes: BoxSpec = BoxSpec()
    postprocess: PostprocessSpec
    anchors: AnchorSpec | None = None  # where a model of variant raw is there
    models: tuple[ModelSpec, ...]
    provenance: Provenance

    def for_model(self, file: str) -> Contract:
        """The document of one file alone, as it stands in that file's own metadata.

        Raises:
            ContractError: no such model; the message names those there are.
        """
        for model in self.models:
            if model.file == file:
                return replace(self, models=(model,), anchors=self.anchors if model.variant == "raw" else None)
        raise ContractError(f"no model {file!r}; there are {', '.join(model.file for model in self.models)}")

    def to_dict(self) -> dict[str, Any]:
        return dict(to_plain(self))


def parse_contract(text: str | bytes, where: str) -> Contract:
    """The contract that ``text`` (JSON) holds, wholly checked: types, ranges, names of files, agreement of counts.

    Raises:
        ContractError: says where, what was expected and what came.
    """
    if len(text) > MAX_CONTRACT_BYTES:
        raise ContractError(f"{where}: a contract of {len(text)} bytes, more than the {MAX_CONTRACT_BYTES} allowed")
    try:
        values = parse_json(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise PlainError(f"not a contract of ssdlite: expected an object with format {FORMAT!r}")
        if values.get("format_version") != FORMAT_VERSION:
            raise PlainError(
                f"format version {values.get('format_version')!r}; this version of ssdlite reads {FORMAT_VERSION}"
            )
        contract = from_plain(Contract, values, "contract")
        _check_contract(contract)
    except PlainError as error:
        raise ContractError(f"{where}: {error}") from None
    return contract


def read_contract(bundle: Path) -> Contract:
    """The contract of a bundle folder. Raises ContractError."""
    path = bundle / CONTRACT_FILE
    try:
        if path.stat().st_size > MAX_CONTRACT_BYTES:
            raise ContractError(f"{path}: larger than the {MAX_CONTRACT_BYTES} bytes allowed")
        return parse_contract(path.read_bytes(), str(path))
    except OSError as error:
        raise ContractError(f"{path}: cannot be read as the contract of a bundle ({error.strerror})") from None


def _check_contract(contract: Contract) -> None:
    count = len(contract.class_names)
    _expect(1 <= count <= MAX_CLASSES, f"class_names: expected 1 to {MAX_CLASSES} names, got {count}")
    _expect(len(set(contract.class_names)) == count, "class_names: names must differ")
    _expect(
        len(contract.category_ids) == count,
        f"category_ids: expected {count}, one per class, got {len(contract.category_ids)}",
    )
    _expect(0 <= contract.resize.padding_value <= 255, "resize.padding_value: expected 0 to 255")
    _check_postprocess(contract.postprocess)
    _expect(1 <= len(contract.models) <= MAX_MODELS, f"models: expected 1 to {MAX_MODELS}, got {len(contract.models)}")
    files = [name for model in contract.models for name in (model.file, model.weights_file) if name is not None]
    _expect(len(set(files)) == len(files), "models: files must differ")
    for name in files:
        _expect(is_plain_file_name(name), f"models: expected the name of a file in the bundle, got {name[:80]!r}")
    if contract.anchors is not None:
        _check_anchors(contract.anchors)
    for model in contract.models:
        _check_model(model, contract)


def is_plain_file_name(name: str) -> bool:
    """Whether ``name`` is a file's name and nothing else: no folder, no hidden file, nothing that a system refuses."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", name) is not None


def _check_postprocess(spec: PostprocessSpec) -> None:
    for name in ("score_threshold", "nms_threshold"):
        _expect(0 <= getattr(spec, name) <= 1, f"postprocess.{name}: expected 0 to 1, got {getattr(spec, name)}")
    for name in ("candidates_per_class", "max_detections", "max_candidates"):
        value = getattr(spec, name)
        _expect(1 <= value <= MAX_ANCHORS, f"postprocess.{name}: expected 1 to {MAX_ANCHORS}, got {value}")
    _expect(spec.background_slot == 0, f"postprocess.background_slot: expected 0, got {spec.background_slot}")


def _check_anchors(spec: AnchorSpec) -> None:
    _expect(1 <= len(spec.values) <= MAX_ANCHORS, f"anchors: expected 1 to {MAX_ANCHORS}, got {len(spec.values)}")
    _expect(all(0 < v < 1e6 for v in spec.box_code_scales), "anchors.box_code_scales: expected positive numbers")
    _expect(0 < spec.max_log_scale <= 20, f"anchors.max_log_scale: expected 0 to 20, got {spec.max_log_scale}")
    values = np.array(spec.values, np.float64)
    within = (np.abs(values[:, :2]) <= 16).all() and (values[:, 2:] > 0).all() and (values[:, 2:] <= 16).all()
    _expect(bool(within), "anchors.values: expected centres and positive sizes as fractions of the input")


def _check_model(model: ModelSpec, contract: Contract) -> None:
    where = f"model {model.file}"
    spec = model.input
    _expect(
        32 <= spec.height <= MAX_SIDE and 32 <= spec.width <= MAX_SIDE,
        f"{where}: input: expected sides of 32 to {MAX_SIDE}, got {spec.height} x {spec.width}",
    )
    _expect(
        spec.batch is None or 1 <= spec.batch <= MAX_BATCH,
        f"{where}: input: expected a batch of 1 to {MAX_BATCH}, got {spec.batch}",
    )
    _expect(all(abs(v) <= 1e6 for v in spec.mean), f"{where}: input.mean: expected finite numbers, got {spec.mean}")
    _expect(all(1e-6 <= v <= 1e6 for v in spec.std), f"{where}: input.std: expected positive numbers, got {spec.std}")
    identity = spec.mean == (0.0, 0.0, 0.0) and spec.std == (1.0, 1.0, 1.0)
    _expect(spec.type != "uint8" or identity, f"{where}: input: a uint8 tensor cannot be normalised by the app")
    meanings = tuple(output.meaning for output in model.outputs)
    _expect(
        meanings == OUTPUTS[model.variant],
        f"{where}: outputs: a {model.variant} model has {', '.join(OUTPUTS[model.variant])}, got {', '.join(meanings)}",
    )
    _expect(model.runtime != "ncnn" or model.weights_file is not None, f"{where}: weights_file is missing")
    _expect(model.variant != "raw" or contract.anchors is not None, f"{where}: a raw model needs anchors")
    _check_outputs(model, contract, where)


def _check_outputs(model: ModelSpec, contract: Contract, where: str) -> None:
    """Every output's shape follows from the classes, the anchors and the batch."""
    batch, classes, limit = model.input.batch, len(contract.class_names), contract.postprocess.max_detections
    shapes = {output.meaning: output.shape for output in model.outputs}
    if model.variant == "nms":
        expected: dict[Meaning, tuple[int | None, ...]] = {
            "boxes": (batch, limit, 4),
            "scores": (batch, limit),
            "labels": (batch, limit),
            "count": (batch,),
        }
    else:
        first = model.outputs[0].shape
        count = first[1] if len(first) == 3 else None
        _expect(
            isinstance(count, int) and 1 <= count <= MAX_ANCHORS,
            f"{where}: outputs: expected [batch, anchors, columns], got {list(first)}",
        )
        if model.variant == "raw" and contract.anchors is not None:
            anchors = len(contract.anchors.values)
            _expect(count == anchors, f"{where}: outputs: {count} anchors, the contract lists {anchors}")
            expected = {"class_logits": (batch, count, classes + 1), "box_deltas": (batch, count, 4)}
        else:
            expected = {"scores": (batch, count, classes), "boxes": (batch, count, 4)}
    for meaning, shape in expected.items():
        _expect(
            shapes[meaning] == shape,
            f"{where}: output {meaning}: expected shape {list(shape)}, got {list(shapes[meaning])}",
        )


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise PlainError(message)
