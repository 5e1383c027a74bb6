"""A detector that starts from weights with other classes, anchors, input size or maps, and what of it stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssdlite.anchors import AnchorConfig, with_finer_level
from ssdlite.backbones.base import Backbone
from ssdlite.backbones.batch_norm import recalibrate_norms
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig, ImageSize, ScoreFunction, get_option, input_size, override, preset_config
from ssdlite.datasets.dataset import Batch, DetectionDataset, collate
from ssdlite.datasets.index import DetectionIndex, match_classes
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.datasets.workers import explained_worker_failures
from ssdlite.detector import Detector, detector_from_config
from ssdlite.device import Processes, choose_device
from ssdlite.errors import ConfigError
from ssdlite.evaluation.inference import evaluate_dataset, refuse_bad
from ssdlite.files import listing
from ssdlite.heads.base import Neck
from ssdlite.predictor import Predictor
from ssdlite.training.head_transfer import (
    NewClasses,
    PartReport,
    TransferReport,
    count_predictors,
    count_tensors,
    transfer_head,
)
from ssdlite.training.options import StartOptions, TrainOptions
from ssdlite.training.state import TrainingState
from ssdlite.weights.backbones import BackboneWeights, load_backbone_weights

SCORED_PICTURES = 200
NORM_BATCHES = 16  # that batch-norm statistics are measured on
NEW_CLASSES: NewClasses = "mean"
SCORE_NOTE = "class scores: {} there, {} here; rows are the log-odds against background"
DEEPENED_NOTE = "predictors deepened: their new layers begin as the identity, so that they compute what they did"
# whatever the preset says
GOES_WITH_WEIGHTS = ("padding", "narrowing", "norm_eps", "norm_momentum", "activation", "mean", "std")


def config_for_transfer(
    source: Checkpoint,
    *,
    preset: str | None = None,
    class_names: tuple[str, ...] | None = None,
    width_mult: float | None = None,
    image_size: ImageSize | None = None,
    resize: Literal["stretch", "letterbox"] | None = None,
    finest_stride: Literal[8, 16] | None = None,
    score_function: ScoreFunction | None = None,
) -> DetectorConfig:
    """The detector to fine-tune: the source's own shape, or a preset's with what belongs to the source's weights.

    None leaves what the source, or the preset, has.

    Raises:
        ConfigError: another backbone than the source's; values out of range.
    """
    config = source.config
    changes: dict[str, Any] = {
        "class_names": class_names,
        "width_mult": width_mult,
        "image_size": None if image_size is None else input_size(image_size),
        "resize": resize,
        "finest_stride": finest_stride,
        "score_function": score_function,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if preset is not None:
        result = preset_config(preset, **given, **{name: get_option(config, name) for name in GOES_WITH_WEIGHTS})
    else:
        if class_names is not None:
            given["category_ids"] = ()
        result = override(config, **given, anchors=_anchors_for(config, finest_stride, image_size))
    _check_backbone(result, source)
    return result


def _anchors_for(config: DetectorConfig, finest_stride: int | None, image_size: ImageSize | None) -> AnchorConfig:
    """The source's anchors for an input or for maps that may be others."""
    anchors = config.anchors
    of_strides = anchors.steps == tuple(map(float, config.strides))  # which any size has; others belong to one
    if image_size is not None and input_size(image_size) != config.input.size and not of_strides:
        anchors = anchors.changed(steps=())
    if finest_stride is None or finest_stride == config.strides[0]:
        return anchors
    if finest_stride < config.strides[0]:
        return with_finer_level(anchors)
    return anchors.changed(levels=anchors.levels[1:], steps=anchors.steps[1:])


def _check_backbone(config: DetectorConfig, source: Checkpoint) -> None:
    ours = f"{config.backbone.name} of width {config.backbone.width_mult:g}"
    theirs = f"{source.config.backbone.name} of width {source.config.backbone.width_mult:g}"
    if ours.replace("_reduced", "") != theirs.replace("_reduced", ""):
        raise ConfigError(
            f"--weights {source.path}: they have the backbone {theirs}, this detector {ours}; "
            "leave out --preset and --width-mult to keep the shape of the weights"
        )


def transfer_weights(
    detector: Detector, checkpoint: Checkpoint, *, new_classes: NewClasses = NEW_CLASSES
) -> TransferReport:
    """Give ``detector`` every weight of ``checkpoint`` that means the same in it.

    Backbone and extra layers: up to the first layer whose tensors do not all agree in name and shape. Predictors:
    those of the map with the same stride, where the layers before it came over: each anchor from the nearest anchor
    there, each class from the class of the same name (case, spaces, hyphens and underscores aside), so that the same
    boxes and scores come out of them; heads other than SSD's as a whole, where the maps and all but the classes agree.
    Other classes start as ``new_classes`` says; whatever else is new stays as it is.

    Raises:
        ConfigError: no layer of the backbone fits.
        CheckpointError: the checkpoint does not fit its own description.
    """
    source = checkpoint.build_detector()
    backbone, layers = _transfer_layers("backbone", detector.backbone, source.backbone)
    if not layers:
        raise ConfigError(f"{checkpoint.path}: none of its backbone's layers fits this detector")
    neck, more_layers = _transfer_layers("neck", detector.neck, source.neck, connected=not backbone.new)
    names = [*(f"backbone.{name}" for name in layers), *(f"neck.{name}" for name in more_layers)]

    matches = match_classes(detector.class_names, source.class_names)
    intact = _intact_strides(detector, len(layers), len(more_layers))
    heads, predictors = transfer_head(detector, source, intact, matches, new_classes)
    if not predictors:
        matches = [None] * len(matches)
    used = {match for match in matches if match is not None}
    kinds = source.config.head.score_function, detector.config.head.score_function
    notes = [] if kinds[0] == kinds[1] else [SCORE_NOTE.format(*kinds)]
    if any(part.loaded and part.new for part in heads):
        notes.append(DEEPENED_NOTE)
    return TransferReport(
        path=checkpoint.path,
        parts=(backbone, neck, *heads),
        kept_classes=tuple(n for n, match in zip(detector.class_names, matches, strict=True) if match is not None),
        new_classes=tuple(n for n, match in zip(detector.class_names, matches, strict=True) if match is None),
        left_classes=tuple(name for label, name in enumerate(source.class_names) if label not in used),
        loaded_layers=(*names, *predictors),
        notes=tuple(notes),
    )


def transfer_backbone(detector: Detector, weights: BackboneWeights) -> TransferReport:
    """Give ``detector`` a classifier's weights; see ``load_backbone_weights`` for the errors."""
    found = load_backbone_weights(detector.backbone, weights, name=detector.config.backbone.name)
    partly = {".".join(name.split(".")[:2]) for name in found.random}
    return TransferReport(
        path=found.source,
        parts=(
            PartReport("backbone", count_tensors(found.loaded), new=len(found.random), left=count_tensors(found.left)),
            PartReport("neck", new=count_tensors(detector.neck.state_dict())),
            *(
                PartReport(f"predictors, stride {stride}", new=count_predictors(detector, level))
                for level, stride in enumerate(detector.config.strides)
            ),
        ),
        kept_classes=(),
        new_classes=detector.class_names,
        left_classes=(),
        loaded_layers=tuple(f"backbone.{layer}" for layer in detector.backbone.layer_names if layer not in partly),
    )


def _transfer_layers(
    part: str, ours: Backbone | Neck, theirs: Backbone | Neck, *, connected: bool = True
) -> tuple[PartReport, list[str]]:
    """Load the layers up to the first that differs; none if they are not ``connected`` to loaded ones. Says which."""
    loaded: list[str] = []
    for name in ours.layer_names:
        if not (connected and name in theirs.layer_names and _load_if_it_fits(ours, theirs, name)):
            break
        loaded.append(name)
    new, left = (
        sum(count_tensors(of.get_submodule(name).state_dict()) for name in of.layer_names if name not in loaded)
        for of in (ours, theirs)
    )
    kept = sum(count_tensors(ours.get_submodule(name).state_dict()) for name in loaded)
    return PartReport(part, loaded=kept, new=new, left=left), loaded


def _intact_strides(detector: Detector, layers: int, neck_layers: int) -> list[int]:
    """Strides of the maps that the first ``layers`` of the backbone and the first ``neck_layers`` suffice for.

    A map of the backbone that comes through as it is may be tapped inside the first layer of the next stage.
    """
    backbone, neck = detector.backbone, detector.neck
    intact = []
    for level, stride in enumerate(detector.config.strides):
        behind_neck = neck.layers_before(level)
        stages = len(backbone.stages) if behind_neck else stride.bit_length()
        if len(stage_layers(backbone, stages)) <= layers and behind_neck <= neck_layers:
            intact.append(stride)
    return intact


def _load_if_it_fits(ours: nn.Module, theirs: nn.Module, name: str) -> bool:
    layer, state = ours.get_submodule(name), theirs.get_submodule(name).state_dict()
    if _shapes(layer.state_dict()) != _shapes(state):
        return False
    layer.load_state_dict(state)
    return True


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def score_untrained(
    source: Checkpoint, index: DetectionIndex, options: TrainOptions, processes: Processes
) -> float | None:
    """AP of the source's detector as it is, on some pictures of ``index`` and for its classes; None without objects."""
    detector = detector_from_config(config_for_transfer(source, class_names=index.class_names))
    transfer_weights(detector, source)
    spread = np.linspace(0, len(index) - 1, min(len(index), SCORED_PICTURES)).astype(int).tolist()
    evaluation = evaluate_dataset(
        Predictor(detector.to(choose_device(options.system.device)).eval()),
        index.subset(spread, index.name),
        processes,
        workers=options.system.workers,
        skip_bad=options.dataset.skip_bad,
    )
    return evaluation.evaluator.compute().AP


# --- What does not follow the training: the first stages, and batch-norm statistics.


def stage_layers(backbone: Backbone, count: int) -> list[str]:
    """The layers of the first ``count`` stages, by their names in the detector."""
    return [f"backbone.{name}" for stage in backbone.stages[:count] for name in stage]


class Freezing:
    """Keeps the first stages of a detector's backbone as they are, and the batch-norm statistics of ``norm_layers``.

    Frozen stages have no gradients, and their norms neither learn nor measure; of the norms in ``norm_layers`` (names
    of layers, prefixes in the state dict) weight and bias learn. ``apply`` is to be called after every ``train()``,
    which puts all modules into training mode.
    """

    def __init__(self, detector: Detector, stages: int, norm_layers: Iterable[str] = ()) -> None:
        self.norm_layers = tuple(norm_layers)
        self.layers = [detector.get_submodule(name) for name in stage_layers(detector.backbone, stages)]
        prefixes = tuple(f"{name}." for name in self.norm_layers)
        self.norms = [
            module
            for name, module in detector.named_modules()
            if name.startswith(prefixes) and isinstance(module, nn.BatchNorm2d)
        ]
        for layer in self.layers:
            layer.requires_grad_(False)

    def apply(self) -> None:
        for module in (*self.layers, *self.norms):
            module.eval()


def reestimate_norms(detector: Detector, index: DetectionIndex, options: TrainOptions, report: TransferReport) -> None:
    """Measure the batch-norm statistics on training pictures; evaluation mode computes what it did before.

    Frozen stages keep theirs, and layers without weights from elsewhere begin as layers do.
    """
    frozen = stage_layers(detector.backbone, options.start.freeze_stages)
    prefixes = tuple(f"{name}." for name in report.loaded_layers if name not in frozen)
    kept = {name: tensor.clone() for name, tensor in detector.state_dict().items() if not name.startswith(prefixes)}
    transform = DetectionTransform(detector.config.input.size, detector.config.input.resize)
    batch_size = options.settings.batch_size
    loader: DataLoader[Batch] = DataLoader(
        DetectionDataset(index, transform, options.run.seed),  # type: ignore[arg-type]
        batch_size,
        sampler=np.random.default_rng(options.run.seed).permutation(len(index))[: NORM_BATCHES * batch_size],
        num_workers=options.system.workers,
        collate_fn=collate,
        generator=torch.Generator(),  # the loader's own draws must not touch the global one
    )
    with explained_worker_failures():
        recalibrate_norms(detector, _readable(loader, options.dataset.skip_bad))
    detector.load_state_dict(kept, strict=False)


def _readable(batches: Iterable[Batch], skip_bad: bool) -> Iterator[Tensor]:
    for batch in batches:
        refuse_bad(batch.bad, skip_bad)
        if len(batch):
            yield batch.images


def build_freezing(
    detector: Detector, start: StartOptions, report: TransferReport | None, state: TrainingState | None
) -> Freezing:
    """What stays as it is: stages, and with ``--batch-norm frozen`` the statistics of all that came with the weights.

    A resumed run knows the latter from its ``state``.

    Raises:
        ConfigError: layers would be frozen that no weights were found for.
    """
    if report is None:
        return Freezing(detector, start.freeze_stages, state.frozen_norms if state else ())
    new = [name for name in stage_layers(detector.backbone, start.freeze_stages) if name not in report.loaded_layers]
    if new:
        raise ConfigError(
            f"--freeze-stages {start.freeze_stages}: not all of {listing(new)} came with the weights of "
            f"{report.path}; what is random has to learn, so expected fewer stages"
        )
    return Freezing(detector, start.freeze_stages, report.loaded_layers if start.batch_norm_mode == "frozen" else ())
