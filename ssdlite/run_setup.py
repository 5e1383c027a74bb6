"""What a training run starts from: its folder, its data, its detector and its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ssdlite.assigners import build_matcher
from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.config import DetectorConfig
from ssdlite.console import say
from ssdlite.datasets.discover import load_data
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.input_boxes import fit_to_boxes, input_boxes
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.datasets.splits import DataSplits
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detector import Detector, detector_from_config
from ssdlite.device import choose_amp, choose_device
from ssdlite.distributed import Processes
from ssdlite.errors import ConfigError, DataError
from ssdlite.loss import LOSSES, DetectionLoss
from ssdlite.presets import preset_config
from ssdlite.run_folder import RunFolder
from ssdlite.train_options import SHAPES, TrainOptions, next_run_folder

SHAPES_FOLDER = Path("data/shapes")


def open_run(options: TrainOptions, processes: Processes) -> tuple[TrainOptions, RunFolder]:
    """The run folder, a new one or the one to resume, and the options as they are to be used. Writes nothing yet.

    Raises:
        ConfigError: an option has a value that cannot be used; known before any data are read.
    """
    if options.resume is not None:
        path = Path(options.resume)
        folder = RunFolder(path.parent if path.name == "last.pt" else path)
        return options.resumed(folder.stored_options()), folder
    choose_amp(options.amp, choose_device(options.device))
    config = _config(options, None)
    DetectionTransform(config.image_size, config.resize, options.augmentation)
    if options.weights is not None:
        load_checkpoint(options.weights)
    output = processes.share(options.output or str(next_run_folder()))
    folder = RunFolder(Path(output))
    folder.require_free()
    return replace(options, output=output), folder


def _config(options: TrainOptions, class_names: tuple[str, ...] | None) -> DetectorConfig:
    return preset_config(
        options.preset_name,
        class_names=class_names,
        width_mult=options.width_mult,
        image_size=options.image_size,
        resize=options.resize,
        finest_stride=options.finest_stride,
        score_function="softmax" if options.class_loss_name == "multibox" else "sigmoid",
    )


def load_splits(options: TrainOptions, processes: Processes) -> DataSplits:
    """The training and validation data; the built-in data are made where they are not there yet."""
    root = Path(options.data)
    if options.data == SHAPES:
        root = SHAPES_FOLDER
        if processes.is_first:
            say(f"built-in data: shapes, in {root}")
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
            say(note)
    return splits


def _first_images(splits: DataSplits, count: int) -> DataSplits:
    """The first images with objects, to train and to validate on."""
    train = splits.train
    with_objects = [i for i in range(len(train)) if len(train.record(i).boxes)]
    few = train.subset(with_objects[:count], f"{train.name}, {min(count, len(with_objects))} images")
    return DataSplits(few, few, (*splits.notes, f"overfitting: training and validating on {few.name}"))


def build_for_run(options: TrainOptions, index: DetectionIndex, checkpoint: Checkpoint | None) -> Detector:
    """The detector to train: that of the checkpoint of a resumed run, else a new one as the options say."""
    if checkpoint is not None:
        if checkpoint.config.class_names != index.class_names:
            raise ConfigError(
                f"{checkpoint.path} was trained on the classes {', '.join(checkpoint.config.class_names)}; "
                f"{index.name} has {', '.join(index.class_names)}"
            )
        return detector_from_config(checkpoint.config)
    config = replace(_config(options, index.class_names), category_ids=index.category_ids)
    if options.anchors == "fit":
        boxes = input_boxes(index, config.image_size, config.resize)
        config = replace(config, anchors=fit_to_boxes(boxes, config, options.anchor_budget))
    detector = detector_from_config(config)
    if options.weights is not None:
        _load_fitting(detector, load_checkpoint(options.weights))
    return detector


def _load_fitting(detector: Detector, checkpoint: Checkpoint) -> None:
    """Load the tensors whose name and shape agree. Raises ConfigError where none does."""
    own = detector.state_dict()
    fitting: dict[str, Tensor] = {
        name: tensor for name, tensor in checkpoint.weights.items() if name in own and own[name].shape == tensor.shape
    }
    if not fitting:
        raise ConfigError(f"--weights {checkpoint.path}: none of its tensors fits this detector")
    detector.load_state_dict(fitting, strict=False)
    say(f"loaded {len(fitting)} of {len(own)} tensors from {checkpoint.path}")


def build_loss(detector: Detector, options: TrainOptions) -> DetectionLoss:
    """The loss that the options name, over the detector's anchors."""
    anchors, config = detector.anchors, detector.config
    scales = torch.tensor(config.box_code_scales, device=anchors.device)
    return LOSSES[options.class_loss_name](
        anchors,
        scales,
        matcher=build_matcher(options.matcher_name, config, anchors.device),
        box_loss=options.box_loss_name,
        box_weight=options.box_weight,
    )
