"""What a training run starts from: its folder, its data, its detector and its loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssdlite.backbones.batch_norm import recalibrate_norms
from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.config import DetectorConfig, override, preset_config
from ssdlite.console import print_line
from ssdlite.datasets.anchor_coverage import input_boxes
from ssdlite.datasets.anchor_fitting import fit_to_boxes
from ssdlite.datasets.dataset import Batch, DetectionDataset, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import DataSplits, load_data
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detector import Detector, detector_from_config
from ssdlite.device import Processes, choose_amp, choose_device
from ssdlite.errors import ConfigError, DataError
from ssdlite.evaluation.inference import refuse_bad
from ssdlite.files import listing
from ssdlite.heads.assigners import build_assigner
from ssdlite.heads.losses import LOSSES, DetectionLoss
from ssdlite.training.finetune import Freezing, config_for_transfer, stage_layers, transfer_backbone, transfer_weights
from ssdlite.training.head_transfer import ScoreFunction, TransferReport
from ssdlite.training.options import MAX_STAGES, SHAPES, TrainOptions, next_run_folder
from ssdlite.training.run_folder import RunFolder
from ssdlite.weights.backbones import IMAGENET, BackboneWeights, read_backbone_weights

NORM_BATCHES = 16  # that batch-norm statistics are measured on
SHAPES_FOLDER = Path("data/shapes")


WeightSource = Checkpoint | BackboneWeights | None  # what a new run starts from; None: from random weights


def open_run(options: TrainOptions, processes: Processes) -> tuple[TrainOptions, RunFolder, WeightSource]:
    """The run folder, a new one or the one to resume, the options as they are to be used, and the weights they name.

    Writes nothing yet.

    Raises:
        ConfigError: an option has a value that cannot be used; known before any data are read.
    """
    if options.resume is not None:
        path = Path(options.resume)
        folder = RunFolder(path.parent if path.name == "last.pt" else path)
        return options.resumed(folder.stored_options()), folder, None
    choose_amp(options.amp, choose_device(options.device))
    source = _read_weights(options)
    if isinstance(source, Checkpoint) and options.loss is None and options.recipe is None:
        options = replace(options, loss="multibox" if source.config.head.score_function == "softmax" else "focal")
    if options.freeze_stages == MAX_STAGES and options.backbone_lr is not None:
        raise ConfigError(f"--backbone-lr does not go with --freeze-stages {MAX_STAGES}, which is all of the backbone")
    config = _config(options, None, source)
    DetectionTransform(config.input.size, config.input.resize, options.settings.augment)
    output = processes.share(options.output or str(next_run_folder()))
    folder = RunFolder(Path(output))
    folder.require_free()
    return replace(options, output=output).spelled_out(), folder, source


def _read_weights(options: TrainOptions) -> WeightSource:
    """What --weights or --backbone-weights name."""
    if options.weights == IMAGENET:
        raise ConfigError(
            f"--weights {IMAGENET}: these are of a backbone alone; --backbone-weights {IMAGENET} takes them"
        )
    if options.weights is not None:
        return load_checkpoint(options.weights)
    if options.backbone_weights is None:
        return None
    config = preset_config(options.preset_name, width_mult=options.width_mult)
    return read_backbone_weights(
        options.backbone_weights, name=config.backbone.name, width_mult=config.backbone.width_mult
    )


def _config(options: TrainOptions, class_names: tuple[str, ...] | None, source: WeightSource) -> DetectorConfig:
    """Of the detector that the options ask for, which starts from ``source``, with its anchors still to be fitted."""
    score_function: ScoreFunction = "softmax" if options.settings.loss == "multibox" else "sigmoid"
    given: dict[str, Any] = {
        "class_names": class_names,
        "width_mult": options.width_mult,
        "image_size": options.image_size,
        "resize": options.resize,
        "finest_stride": options.settings.finest_stride,
        "score_function": score_function,
    }
    if isinstance(source, Checkpoint):
        config = config_for_transfer(source, preset=options.preset, **given)
    else:
        config = preset_config(options.preset_name, **given, **({} if source is None else source.options))
    deepen = options.settings.deepen_heads and config.head.conv == "pointwise"
    return override(config, head_conv="separable") if deepen else config


def load_splits(options: TrainOptions, processes: Processes) -> DataSplits:
    """The training and validation data; the built-in data are made where they are not there yet."""
    root = Path(options.data)
    if options.data == SHAPES:
        root = SHAPES_FOLDER
        if processes.is_first:
            print_line(f"built-in data: shapes, in {root}")
            try:
                generate_shapes(root)
            except OSError as error:
                raise DataError(f"{root}: the built-in data cannot be written there ({error.strerror})") from None
        processes.share(None)  # the others wait until it is there
    splits = load_data(
        root,
        train_split=options.train_split,
        val_split=options.val_split,
        classes=options.classes,
        skip_bad=options.skip_bad,
        seed=options.seed,
    )
    if options.overfit is not None:
        splits = _first_images(splits, options.overfit)
    if processes.is_first:
        for note in splits.notes:
            print_line(note)
    return splits


def _first_images(splits: DataSplits, count: int) -> DataSplits:
    """The first images with objects, to train and to validate on."""
    train = splits.train
    with_objects = [i for i in range(len(train)) if len(train.record(i).boxes)]
    few = train.subset(with_objects[:count], f"{train.name}, {min(count, len(with_objects))} images")
    return DataSplits(few, few, (*splits.notes, f"overfitting: training and validating on {few.name}"))


def build_for_run(
    options: TrainOptions, index: DetectionIndex, source: WeightSource, checkpoint: Checkpoint | None
) -> tuple[Detector, TransferReport | None]:
    """The detector to train: that of the checkpoint of a resumed run, else a new one as the options say.

    With a ``source`` also what became of its weights.
    """
    if checkpoint is not None:
        if checkpoint.config.class_names != index.class_names:
            raise ConfigError(
                f"{checkpoint.path} was trained on the classes {', '.join(checkpoint.config.class_names)}; "
                f"{index.name} has {', '.join(index.class_names)}"
            )
        return detector_from_config(checkpoint.config), None
    config = _config(options, index.class_names, source).changed(category_ids=index.category_ids)
    if options.settings.anchors == "fit":
        boxes = input_boxes(index, config.input.size, config.input.resize)
        config = config.changed(anchors=fit_to_boxes(boxes, config, options.anchor_budget))
    detector = detector_from_config(config)
    if isinstance(source, Checkpoint):
        return detector, transfer_weights(detector, source)
    return detector, None if source is None else transfer_backbone(detector, source)


def reestimate_norms(detector: Detector, index: DetectionIndex, options: TrainOptions, report: TransferReport) -> None:
    """Measure the batch-norm statistics on training pictures; evaluation mode computes what it did before.

    Frozen stages keep theirs, and layers without weights from elsewhere begin as layers do.
    """
    frozen = stage_layers(detector.backbone, options.freeze_stages)
    prefixes = tuple(f"{name}." for name in report.loaded_layers if name not in frozen)
    kept = {name: tensor.clone() for name, tensor in detector.state_dict().items() if not name.startswith(prefixes)}
    transform = DetectionTransform(detector.config.input.size, detector.config.input.resize)
    batch_size = options.settings.batch_size
    loader: DataLoader[Batch] = DataLoader(
        DetectionDataset(index, transform, options.seed),  # type: ignore[arg-type]
        batch_size,
        sampler=np.random.default_rng(options.seed).permutation(len(index))[: NORM_BATCHES * batch_size],
        num_workers=options.workers,
        collate_fn=collate,
        generator=torch.Generator(),  # the loader's own draws must not touch the global one
    )
    recalibrate_norms(detector, _readable(loader, options.skip_bad))
    detector.load_state_dict(kept, strict=False)


def _readable(batches: Iterable[Batch], skip_bad: bool) -> Iterator[Tensor]:
    for batch in batches:
        refuse_bad(batch.bad, skip_bad)
        if len(batch):
            yield batch.images


def build_freezing(
    detector: Detector, options: TrainOptions, report: TransferReport | None, checkpoint: Checkpoint | None
) -> Freezing:
    """What stays as it is: stages, and with ``--batch-norm frozen`` the statistics of all that came with the weights.

    A resumed run knows the latter from its ``checkpoint``.

    Raises:
        ConfigError: layers would be frozen that no weights were found for.
    """
    if report is None:
        return Freezing(detector, options.freeze_stages, checkpoint.training["frozen_norms"] if checkpoint else ())
    names = stage_layers(detector.backbone, options.freeze_stages)
    new = [name for name in names if name not in report.loaded_layers]
    if new:
        raise ConfigError(
            f"--freeze-stages {options.freeze_stages}: not all of {listing(new)} came with the weights of "
            f"{report.path}; what is random has to learn, so expected fewer stages"
        )
    return Freezing(
        detector, options.freeze_stages, report.loaded_layers if options.batch_norm_mode == "frozen" else ()
    )


def build_loss(detector: Detector, options: TrainOptions) -> DetectionLoss:
    """The loss that the options name, over the detector's anchors."""
    anchors, config = detector.anchors, detector.config
    return LOSSES[options.settings.loss](
        anchors,
        detector.head.box_code,
        matcher=build_assigner(options.settings.matcher, config, anchors.device),
        box_loss=options.settings.box_loss,
        box_weight=options.settings.box_weight,
    )
