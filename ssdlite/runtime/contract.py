"""What an exported model promises: how to feed it, what it answers, how good it was found to be.

One document serves all readers. ``contract.json`` of a bundle holds it for all models; every ONNX file carries it,
for itself alone, in its ``metadata_props`` under ``METADATA_KEY``. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD
from ssdlite.runtime.operating_points import OperatingPoint, ThresholdSource
from ssdlite.runtime.plain import to_plain

CONTRACT_FORMAT = "ssdlite-contract"
CONTRACT_VERSION = 3
METADATA_KEY = "ssdlite.contract"
LABELS_KEY = "labels.txt"  # in the metadata of a file that has its class names a second time, for others' programs
CONTRACT_FILE = "contract.json"
MAX_SIDE = 4096
INTEGER_MEANS = {"uint8": 0.0, "int8": 128.0}  # of inputs that are normalised inside
UNDECODED = ("raw", "anchors")  # variants whose box deltas refer to the contract's anchors

Variant = Literal["raw", "anchors", "decoded", "nms"]
Precision = Literal["fp32", "fp16", "int8"]
BoxCodeName = Literal["center_size", "distances"]
InputType = Literal["uint8", "int8", "float32"]
InputLayout = Literal["NCHW", "NHWC"]
ActivationType = Literal["uint8", "int8"]
Meaning = Literal["class_logits", "box_deltas", "scores", "boxes", "labels", "count"]
OUTPUTS: dict[str, tuple[Meaning, ...]] = {
    "raw": ("class_logits", "box_deltas"),
    "anchors": ("scores", "box_deltas"),
    "decoded": ("scores", "boxes"),
    "nms": ("boxes", "scores", "labels", "count"),
}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The tensor that the network takes. An app writes ``(value - mean) / std`` of each 0..255 channel value.

    ``batch`` is None where it is free. ``uint8`` inputs have mean 0 and std 1, ``int8`` ones mean 128 and std 1: their
    normalisation is inside.
    """

    name: str
    type: InputType
    layout: InputLayout
    batch: int | None = None
    height: int
    width: int
    color_order: Literal["RGB", "BGR"] = "RGB"
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
    half_pixel_centers: bool = True
    antialias: bool = False
    padding_value: int = 114
    padding_position: Literal["center"] = "center"


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """Boxes of the decoded and nms outputs: their corners' order, as fractions of the input's width and height.

    Of box deltas ``yxyx`` says that they come as dy, dx, dh, dw.
    """

    format: Literal["xyxy", "yxyx"] = "xyxy"
    scale: Literal["fraction", "pixels"] = "fraction"


@dataclass(frozen=True, kw_only=True)
class AnchorSpec:
    """The anchors that raw box deltas refer to, in the order of the outputs, as fractions of the input.

    ``center_size``: ``dx, dy, dw, dh = deltas / box_code_scales``; centre = anchor centre + (dx, dy) * anchor size;
    size = anchor size * exp(min((dw, dh), max_log_scale)). ``distances``: left, top, right, bottom = deltas;
    (x0, y0) = anchor centre - (left, top) * anchor size; (x1, y1) = anchor centre + (right, bottom) * anchor size.
    """

    format: Literal["cxcywh"] = "cxcywh"
    scale: Literal["fraction"] = "fraction"
    box_code: BoxCodeName = "center_size"
    box_code_scales: tuple[float, float, float, float]
    max_log_scale: float
    values: tuple[tuple[float, float, float, float], ...]

    @cached_property
    def array(self) -> npt.NDArray[np.float32]:
        """[A, 4] centre x, centre y, width, height."""
        return np.array(self.values, np.float32).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class PostprocessSpec:
    """From raw or decoded outputs to detections; the nms variant has all of it inside.

    Scores above ``score_threshold`` count; of each class the ``candidates_per_class`` best enter non-maximum
    suppression, of each image the ``max_detections`` best boxes that are left remain. Inside nms models at most
    ``max_candidates`` pairs of anchor and class, the best, are looked at.

    What reaches ``operating_threshold`` is to be shown; the rest, down to ``score_threshold``, is for measuring.
    """

    score_function: Literal["softmax", "sigmoid"]
    background_index: int = 0  # of class_logits
    score_threshold: float
    nms_threshold: float
    candidates_per_class: int
    max_detections: int
    max_candidates: int
    operating_threshold: float = DEFAULT_SCORE_THRESHOLD
    operating_threshold_source: ThresholdSource = "guess"  # see docs/deploy.md


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
    runtime: str  # and its version: "onnxruntime 1.31.1"
    processor: str


@dataclass(frozen=True, kw_only=True)
class QuantizationFacts:
    """What of an int8 file is really computed in integers."""

    activation_type: ActivationType
    calibration_method: str
    calibration_images: int
    calibration_data: str
    quantized_layers: int
    total_layers: int
    float_layers: tuple[str, ...]  # convolutions kept in float, the most sensitive first


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One file of the bundle. ``weights_file`` is the second file of ncnn and OpenVINO.

    ``boxes`` and ``score_threshold`` stand where they are not as the contract says of all models: the latter only of
    nms models, which have it built in. ``difference_from_pytorch`` is the largest of any output (nms: of an
    object's score) on the reference pictures.
    """

    file: str
    runtime: str = "onnxruntime"  # a name in ``BACKENDS``
    variant: Variant
    precision: Precision
    outputs: tuple[OutputSpec, ...]
    input: InputSpec
    opset: int | None = None
    ir_version: int | None = None
    weights_file: str | None = None
    boxes: BoxSpec | None = None
    score_threshold: float | None = None
    difference_from_pytorch: float | None = None
    accuracy: AccuracyFigure | None = None
    latency: LatencyFigure | None = None
    quantization: QuantizationFacts | None = None
    sha256: dict[str, str] | None = (
        None  # of files, by name, whose damage their runtime would not notice or not survive
    )

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its one file, or two."""
        return (self.file,) if self.weights_file is None else (self.file, self.weights_file)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from. ``metrics`` are those that the checkpoint brought along, ``rename`` the names that
    its training gave to classes of the data, each as ``OLD=NEW``, ``val_split`` the split that it was told to validate
    on, of which the metrics are."""

    checkpoint: str  # file name
    checkpoint_sha256: str
    license: str
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    rename: tuple[str, ...] | None = None
    val_split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The whole document. ``class_names`` and ``category_ids`` (of the training data; none where nobody
    said) are by label, 0..K-1."""

    format: str = CONTRACT_FORMAT
    format_version: int = CONTRACT_VERSION
    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    resize: ResizeSpec
    boxes: BoxSpec = BoxSpec()
    postprocess: PostprocessSpec
    anchors: AnchorSpec | None = None  # where a model of variant raw or anchors is there
    models: tuple[ModelSpec, ...]
    provenance: Provenance
    operating_points: dict[str, OperatingPoint] | None = None  # by class name, where the checkpoint brought them

    def for_model(self, file: str) -> Contract:
        """The document of one file alone, as it stands in that file's own metadata.

        Raises:
            ContractError: no such model; the message names those there are.
        """
        for model in self.models:
            if model.file == file:
                return replace(self, models=(model,), anchors=self.anchors if model.variant in UNDECODED else None)
        raise ContractError(f"no model {file!r}; there are {', '.join(model.file for model in self.models)}")

    def boxes_of(self, model: ModelSpec) -> BoxSpec:
        return model.boxes or self.boxes

    def postprocess_of(self, model: ModelSpec) -> PostprocessSpec:
        if model.score_threshold is None:
            return self.postprocess
        return replace(self.postprocess, score_threshold=model.score_threshold)

    def to_dict(self) -> dict[str, Any]:
        return dict(to_plain(self))
