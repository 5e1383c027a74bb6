"""SSD MobileNets of the TensorFlow Object Detection API: their layers' names, and the detector of ours that each is."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig
from ssdlite.backbones.batch_norm import identity_norm
from ssdlite.config import DetectorConfig, Narrowing, ScoreFunction, override
from ssdlite.errors import CheckpointError
from ssdlite.files import listing
from ssdlite.weights.class_names import ClassRows, name_rows
from ssdlite.weights.mapping import (
    ConvLayer,
    DetectorLayers,
    Imported,
    WeightMapping,
    backbone_shapes,
    calibrate_restored_norms,
    config_of_source,
    detector_layers,
)
from ssdlite.weights.raw_tensors import read_values
from ssdlite.weights.source import ImportOptions
from ssdlite.weights.tensorflow.anchors import choose_anchors, graph_anchors
from ssdlite.weights.tensorflow.files import TensorFlowFile
from ssdlite.weights.tensorflow.pipeline_config import FILE_NAME, PipelineConfig, read_pipeline

FIRST_TAPS = {"mobilenet_v1": "Conv2d_11_pointwise", "mobilenet_v2": "expanded_conv_13/expand"}
LAST_LAYERS = {"mobilenet_v1": "Conv2d_13_pointwise", "mobilenet_v2": "Conv_1"}
EXTRA_PREFIXES = {"mobilenet_v1": "Conv2d_13_pointwise", "mobilenet_v2": "layer_19"}
WIDTHS = (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25)  # those that were published, common ones first
LEAST_SCORE = 0.001  # below it nothing is worth a candidate's place; such files often say 1e-8
NMS_THRESHOLD = 0.6  # ssd_mobilenet_v1_coco.config and its descendants
XY_FROM_YX = torch.tensor([1, 0, 3, 2])  # TensorFlow's (y, x, height, width) as our (x, y, width, height)


@dataclass(frozen=True)
class Layout:
    """What tensors of a source say about its detector. ``shapes`` are those of the backbone's filters, in order."""

    backbone: str
    shapes: tuple[tuple[int, ...], ...]
    extra_channels: tuple[int, ...]
    extra_conv: str
    head_conv: str
    anchors_per_cell: tuple[int, ...]
    num_logits: int


def backbone_scopes(backbone: str) -> list[str]:
    """TensorFlow's names of a backbone's convolutions, in the order in which they run."""
    if backbone == "mobilenet_v1":
        blocks = [f"Conv2d_{block}_{part}" for block in range(1, 14) for part in ("depthwise", "pointwise")]
        return ["Conv2d_0", *blocks]
    blocks = [f"expanded_conv_{block}/{part}" for block in range(1, 17) for part in ("expand", "depthwise", "project")]
    return ["Conv", "expanded_conv/depthwise", "expanded_conv/project", *blocks, "Conv_1"]


def extra_scopes(layout: Layout) -> list[str]:
    """The same of the extra layers."""
    prefix, scopes = EXTRA_PREFIXES[layout.backbone], []
    for number, channels in enumerate(layout.extra_channels, 2):
        scopes.append(f"{prefix}_1_Conv2d_{number}_1x1_{channels // 2}")
        last = f"{prefix}_2_Conv2d_{number}_3x3_s2_{channels}"
        scopes += [f"{last}_depthwise", last] if layout.extra_conv == "separable" else [last]
    return scopes


def count_predictions(boxes: Sequence[int], classes: Sequence[int], path: str) -> tuple[tuple[int, ...], int]:
    """Values that the predictors give for a cell of each map -> (anchors per cell of each map, logits of an anchor).

    Raises:
        CheckpointError: they are not 4 and one number of classes for each anchor.
    """
    num_logits = classes[0] * 4 // boxes[0] if boxes[0] else 0
    if num_logits < 2 or any(
        box % 4 or box == 0 or box // 4 * num_logits != row for box, row in zip(boxes, classes, strict=True)
    ):
        raise CheckpointError(
            f"{path}: its predictors give {boxes} and {classes} values per cell: not 4 and one number of classes for "
            "each anchor"
        )
    return tuple(box // 4 for box in boxes), num_logits


def trunk_taps(layout: Layout) -> tuple[int, ...]:
    """How many layers lead to each of the maps that are predicted on, finest first."""
    scopes = backbone_scopes(layout.backbone)
    taps = [scopes.index(names[layout.backbone]) + 1 for names in (FIRST_TAPS, LAST_LAYERS)]
    step = 3 if layout.extra_conv == "separable" else 2
    return (*taps, *(len(scopes) + step * (i + 1) for i in range(len(layout.extra_channels))))


def detector_config(
    layout: Layout,
    *,
    image_size: tuple[int, int],
    classes: ClassRows,
    score_function: ScoreFunction,
    path: str,
    anchors: AnchorConfig,
    changes: Mapping[str, Any],
) -> DetectorConfig:
    """The configuration of our detector; ``changes`` are other values that the source gives.

    Raises:
        CheckpointError: there is no such detector.
    """
    width, narrowing = _width(layout)
    with config_of_source(path, TENSORFLOW_SSD):
        config = override(
            DetectorConfig(),
            backbone=layout.backbone,
            width_mult=width,
            narrowing=narrowing,
            image_size=image_size,
            class_names=classes.names,
            category_ids=classes.category_ids,
            anchors=anchors,
            extra_channels=tuple(_unscaled(channels, width) for channels in layout.extra_channels),
            extra_conv=layout.extra_conv,
            head_conv=layout.head_conv,
            padding="same",
            score_function=score_function,
            nms_threshold=NMS_THRESHOLD,
        )
        return override(config, **changes)


def _width(layout: Layout) -> tuple[float, Narrowing]:
    """The width whose filters most of the source's are like; what still differs, the import names."""
    best: tuple[float, Narrowing] = WIDTHS[0], "classifier"
    most = -1
    for width, narrowing in itertools.product(WIDTHS, get_args(Narrowing)):
        own = backbone_shapes(layout.backbone, width, narrowing)
        alike = sum(ours == theirs for ours, theirs in zip(own, layout.shapes, strict=False))
        if alike > most:
            best, most = (width, narrowing), alike
        if alike == len(own):
            break
    return best


def _unscaled(channels: int, width: float) -> int:
    """The number that ``width`` turns into ``channels``, of those that do the usual one."""
    usual = (one for one in (512, 256, 128) if max(int(one * width), 16) == channels)
    return next(usual, math.ceil(channels / width - 1e-6))


def to_torch(layer: ConvLayer) -> Callable[[Tensor], Tensor]:
    """Filters as checkpoints hold them, HWIO or HWCM -> ours."""
    return (
        (lambda tensor: tensor.permute(2, 3, 0, 1)) if layer.depthwise else (lambda tensor: tensor.permute(3, 2, 0, 1))
    )


def box_rows(tensor: Tensor) -> Tensor:
    """Box predictor [A * 4, ...] of (y, x, height, width) -> of (x, y, width, height)."""
    return tensor.reshape(-1, 4, *tensor.shape[1:])[:, XY_FROM_YX].flatten(0, 1)


# --- SSD and SSDLite MobileNets of the TensorFlow Object Detection API, from checkpoints and frozen graphs, by name.

TENSORFLOW_SSD = "TensorFlow Object Detection API SSD"
BACKBONE_PREFIXES = {"mobilenet_v1": "FeatureExtractor/MobilenetV1/", "mobilenet_v2": "FeatureExtractor/MobilenetV2/"}
WEIGHT = re.compile(r"(?:weights|depthwise_weights|biases|BatchNorm/(?:gamma|beta|moving_mean|moving_variance))$")
FOLDED_NORM = re.compile(r"(.*)/(?:convolution|Conv2D|depthwise)_bn_offset")  # by TensorFlow's optimize_for_inference
REPEATED_SCOPE = re.compile(r"(MobilenetV[12])/\1/")  # of operators, where variables have it once
TRAINING = re.compile(r"/(?:RMSProp|Momentum|Adam|ExponentialMovingAverage)(?:_\d+)?$")
NORM_ENTRIES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
DEFAULT_SIDE = 300  # of all published SSD MobileNets V1 and V2 for TensorFlow 1
DEFAULT_EXTRAS = (512, 256, 256, 128)
BOX, CLASS = "BoxEncodingPredictor", "ClassPredictor"


def read_tensorflow_ssd(file: TensorFlowFile, options: ImportOptions) -> Imported:
    """The SSD among the variables of ``file``; a pipeline.config beside it is heeded.

    Raises:
        CheckpointError: it is another network, tensors are missing or unused, or its classes have no names.
        ConfigError: another size of the input than the file or the pipeline.config says; or anchors, or pictures to
            check them on, where the file holds its own.
    """
    names = [name for name in file.variables if _is_weight(name)]
    layout = _layout(file, names)
    pipeline = read_pipeline(file.location.parent) if file.location else None
    score_function = _score_function(file, pipeline)
    anchors = choose_anchors(
        layout.anchors_per_cell, graph_anchors(file), pipeline.anchors if pipeline else None, options, file.path
    )
    folded = _folded_norms(names)
    if anchors.other is None and not folded:
        options.refuse_pictures(file.path, TENSORFLOW_SSD)
    classes = name_rows(layout.num_logits, options.class_names, score_function, file.path, beside=file.location)
    config = detector_config(
        layout,
        image_size=_image_size(file, pipeline, options),
        classes=classes,
        score_function=score_function,
        path=file.path,
        anchors=anchors.config,
        changes=_changes(file, pipeline),
    )
    tensors = {name: torch.from_numpy(values) for name, values in zip(names, file.read(names), strict=True)}
    mapping = WeightMapping(tensors, file.path, TENSORFLOW_SSD)
    _move_all(mapping, layout, detector_layers(config), classes, folded=folded, norm_eps=config.layers.norm_eps)
    imported = mapping.complete(config)
    if folded:
        imported = calibrate_restored_norms(imported, options.pictures)
    left = tuple((name, _why_left(name)) for name in file.variables if name not in mapping.tensors)
    notes = classes.notes + anchors.notes(imported.checkpoint, options.pictures)
    return replace(imported, left=imported.left + left, notes=notes)


def _is_weight(name: str) -> bool:
    known = WEIGHT.search(name) or FOLDED_NORM.fullmatch(name)
    return name.startswith(("FeatureExtractor/", "BoxPredictor_")) and known is not None


def _folded_norms(names: Sequence[str]) -> dict[str, str]:
    """Scopes of the layers whose batch norm was folded into the filters -> variables of what it added."""
    found = {match[1]: name for name in names if (match := FOLDED_NORM.fullmatch(name))}
    return {REPEATED_SCOPE.sub(r"\1/", scope): name for scope, name in found.items()}


def _why_left(name: str) -> str:
    if name.endswith(".ATTRIBUTES/VARIABLE_VALUE") or "/" not in name or TRAINING.search(name):
        return "state of the training"
    return "not a weight of the network"


def _layout(file: TensorFlowFile, names: list[str]) -> Layout:
    """What names and shapes say, as far as they go; what is missing, the mapping names."""
    backbone = _backbone(file, names)
    extras = _extra_layers(names, backbone)
    boxes, classes = _rows(file, names, BOX), _rows(file, names, CLASS)
    anchors_per_cell, num_logits = count_predictions(boxes, classes, file.path)
    kernel = file.variables[f"BoxPredictor_0/{CLASS}/weights"].shape[0]
    separable = any(name.startswith(f"BoxPredictor_0/{CLASS}_depthwise/") for name in names)
    return Layout(
        backbone,
        tuple(_backbone_shapes(file, backbone)),
        tuple(extras.get(level, (DEFAULT_EXTRAS[min(level, 5) - 2], False))[0] for level in range(2, len(boxes))),
        "separable" if any(depthwise for _, depthwise in extras.values()) else "plain",
        "separable" if separable else "pointwise" if kernel == 1 else "plain",
        anchors_per_cell,
        num_logits,
    )


def _backbone(file: TensorFlowFile, names: list[str]) -> str:
    if any(name.startswith(BACKBONE_PREFIXES["mobilenet_v2"]) for name in names):
        return "mobilenet_v2"
    if any(name.startswith(BACKBONE_PREFIXES["mobilenet_v1"]) for name in names):
        return "mobilenet_v1"
    if any(name.endswith(".ATTRIBUTES/VARIABLE_VALUE") for name in file.variables):
        raise CheckpointError(
            f"{file.path}: an object-based checkpoint of TensorFlow 2, whose names say little; convert the model to a "
            "float TensorFlow Lite file and import that"
        )
    held = listing(names or list(file.variables)) or "none"
    raise CheckpointError(f"{file.path}: no SSD with a MobileNet V1 or V2; it holds variables such as {held}")


def _backbone_shapes(file: TensorFlowFile, backbone: str) -> Iterator[tuple[int, ...]]:
    for scope in backbone_scopes(backbone):
        depthwise = scope.endswith("depthwise")
        variable = file.variables.get(f"{BACKBONE_PREFIXES[backbone]}{scope}/{_kind(depthwise)}")
        shape = variable.shape if variable and len(variable.shape) == 4 else (0, 0, 0, 0)
        rows, columns, inputs, outputs = shape
        yield (inputs, outputs, rows, columns) if depthwise else (outputs, inputs, rows, columns)


def _extra_layers(names: list[str], backbone: str) -> dict[int, tuple[int, bool]]:
    """For each extra layer, by TensorFlow's number, its channels and whether it is separable."""
    prefix = re.escape(f"{BACKBONE_PREFIXES[backbone]}{EXTRA_PREFIXES[backbone]}_2_Conv2d_")
    pattern = re.compile(prefix + r"(\d{1,2})_3x3_s2_(\d{1,4})(_depthwise)?/")
    found: dict[int, tuple[int, bool]] = {}
    for name in names:
        if match := pattern.match(name):
            number = int(match[1])
            found[number] = int(match[2]), match[3] is not None or found.get(number, (0, False))[1]
    return found


def _rows(file: TensorFlowFile, names: list[str], predictor: str) -> list[int]:
    """Values that a kind of predictor gives for a cell of each map."""
    levels = {int(match[1]) for name in names if (match := re.match(r"BoxPredictor_(\d{1,2})/", name))}
    rows = []
    for level in range(max(levels, default=0) + 1):
        for part, rank in (("weights", 4), ("biases", 1)):
            name = f"BoxPredictor_{level}/{predictor}/{part}"
            variable = file.variables.get(name)
            if variable is None or len(variable.shape) != rank or 0 in variable.shape:
                found = "is missing" if variable is None else f"is {list(variable.shape)}"
                raise CheckpointError(f"{file.path}: read as {TENSORFLOW_SSD}, but {name} {found}")
        rows.append(file.variables[f"BoxPredictor_{level}/{predictor}/biases"].shape[0])
    return rows


def _kind(depthwise: bool) -> str:
    return "depthwise_weights" if depthwise else "weights"


def _score_function(file: TensorFlowFile, pipeline: PipelineConfig | None) -> ScoreFunction:
    """Of the graph, or of the pipeline.config; all published ones have sigmoid."""
    for name, operator in file.operators.items():
        if name.startswith("Postprocessor/") and operator in ("Sigmoid", "Softmax"):
            return "sigmoid" if operator == "Sigmoid" else "softmax"
    return pipeline.score_function if pipeline else "sigmoid"


def _image_size(file: TensorFlowFile, pipeline: PipelineConfig | None, options: ImportOptions) -> tuple[int, int]:
    if pipeline and pipeline.image_size:
        options.check_image_size(pipeline.image_size, str(Path(file.path).with_name(FILE_NAME)))
        return pipeline.image_size
    for name, variable in file.variables.items():
        if re.match(r"Preprocessor/.*ResizeImage/", name) and variable.shape == (2,) and variable.dtype == np.int32:
            height, width = read_values([variable], file.path, file.size)[0].tolist()
            options.check_image_size((height, width), file.path)
            return height, width
    side = options.image_size or DEFAULT_SIDE
    return side, side


def _changes(file: TensorFlowFile, pipeline: PipelineConfig | None) -> dict[str, Any]:
    """To our configuration."""
    changes: dict[str, Any] = {}
    if pipeline:
        changes = {
            "norm_eps": pipeline.norm_eps,
            "box_code_scales": pipeline.box_code_scales,
            "score_threshold": max(pipeline.score_threshold, LEAST_SCORE),
            "nms_threshold": pipeline.nms_threshold,
        }
    if len(file.epsilons) == 1:
        changes["norm_eps"] = file.epsilons[0]
    return changes


def _move_all(
    mapping: WeightMapping,
    layout: Layout,
    layers: DetectorLayers,
    classes: ClassRows,
    *,
    folded: Mapping[str, str],
    norm_eps: float,
) -> None:
    def move(scope: str, layer: ConvLayer) -> None:
        mapping.move(f"{scope}/{_kind(layer.depthwise)}", f"{layer.conv}.weight", to_torch(layer))
        if scope in folded:
            _move_folded_norm(mapping, folded[scope], layer, norm_eps)
        else:
            _move_norm(mapping, scope, layer)

    prefix = BACKBONE_PREFIXES[layout.backbone]
    scopes = [prefix + scope for scope in (*backbone_scopes(layout.backbone), *extra_scopes(layout))]
    for scope, trunk_layer in zip(scopes, layers.trunk, strict=True):
        move(scope, trunk_layer)
    for kind, rows, predictors in ((BOX, box_rows, layers.boxes), (CLASS, classes.select, layers.classes)):
        for level, predictor in enumerate(predictors):
            *depthwise, last = predictor
            scope = f"BoxPredictor_{level}/{kind}"
            for layer in depthwise:
                move(f"{scope}_depthwise", layer)
            _move_predictor(mapping, scope, last, rows)


def _move_folded_norm(mapping: WeightMapping, theirs: str, layer: ConvLayer, norm_eps: float) -> None:
    """What a norm added that is otherwise in the filters; the norm that takes it only adds it."""
    mapping.move(theirs, f"{layer.norm}.bias")
    for entry, value in identity_norm(torch.zeros(layer.shape[0]), norm_eps).items():
        if entry != "bias":
            mapping.make(f"{layer.norm}.{entry}", value, "was folded into the convolution, restored")


def _move_norm(mapping: WeightMapping, scope: str, layer: ConvLayer) -> None:
    for theirs, ours in NORM_ENTRIES.items():
        mapping.move(f"{scope}/BatchNorm/{theirs}", f"{layer.norm}.{ours}")
    mapping.make(f"{layer.norm}.num_batches_tracked", torch.tensor(0), "TensorFlow does not count batches")


def _move_predictor(mapping: WeightMapping, scope: str, layer: ConvLayer, rows: Callable[[Tensor], Tensor]) -> None:
    filters = to_torch(layer)
    mapping.move(f"{scope}/weights", f"{layer.conv}.weight", lambda tensor: rows(filters(tensor)))
    mapping.move(f"{scope}/biases", f"{layer.conv}.bias", rows)
