"""What a training run begins with: its folder, its data, its detector and the weights that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig, override, preset_config
from ssdlite.console import print_line
from ssdlite.datasets.anchor_coverage import input_boxes
from ssdlite.datasets.anchor_fitting import fit_to_boxes
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import DataSplits, load_data
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.datasets.split_checks import require_objects
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detector import Detector, detector_from_config
from ssdlite.device import Processes, choose_amp, choose_device
from ssdlite.errors import ConfigError, DataError
from ssdlite.files import counted
from ssdlite.heads.losses import LOSSES
from ssdlite.training.decide import Decided, Decision, decide
from ssdlite.training.distillation import require_same_classes, require_same_outputs
from ssdlite.training.finetune import config_for_transfer, transfer_backbone, transfer_weights
from ssdlite.training.guide import require_guided_assigner
from ssdlite.training.head_transfer import TransferReport
from ssdlite.training.options import SHAPES, DatasetOptions, TrainOptions, parse_duration
from ssdlite.training.recipes import AUTO
from ssdlite.training.run_config import next_run_folder
from ssdlite.training.run_folder import RunFolder, SplitFingerprint
from ssdlite.training.sources import (
    WeightSource,
    base_config,
    hash_tensors,
    read_same_teacher,
    read_same_weights,
    read_weights,
)
from ssdlite.training.state import TrainingState, read_state

SHAPES_FOLDER = Path("data/shapes")


@dataclass(frozen=True)
class RunStart:
    """What a run begins with, or goes on from; nothing is written yet.

    Attributes:
        options: with everything named.
        source: the weights that they name, unless a checkpoint has them already.
        source_sha256: of these weights, also where a checkpoint has them.
        data: what a run that is resumed was begun with, where it says so.
        detector: of a run that is resumed.
        checkpoint: the newest of a run that is resumed; None where it was stopped before its first.
        state: what the checkpoint says of training.
        decisions: what of the options was decided from the data.
        seconds: that a new run is to take, its epochs being still to be found.
        teacher: the detector that it learns from beside the annotations, and the SHA-256 of its tensors.
    """

    options: TrainOptions
    folder: RunFolder
    source: WeightSource = None
    source_sha256: str | None = None
    data: dict[str, SplitFingerprint] | None = None
    detector: DetectorConfig | None = None
    checkpoint: Checkpoint | None = None
    state: TrainingState | None = None
    decisions: tuple[Decision, ...] = ()
    seconds: int | None = None
    teacher: Checkpoint | None = None
    teacher_sha256: str | None = None


def claim_folder(options: TrainOptions, processes: Processes) -> RunFolder:
    """The folder of a new run, which holds none; before the data are read, so that a mistake is soon seen.

    Raises:
        ConfigError: it holds a run, or the device or the weights are not there.
    """
    choose_amp(options.system.amp, choose_device(options.system.device))
    folder = RunFolder(Path(processes.share(options.run.output or str(next_run_folder()))))
    folder.require_free()
    return folder


def start_run(decided: Decided, folder: RunFolder, teacher: Checkpoint | None = None) -> RunStart:
    """A new run in ``folder``, which learns from ``teacher``.

    Raises:
        ConfigError: an option has a value that cannot be used.
    """
    options, decisions, source = decided
    options.start.require_weights()
    options = _with_defaults_of_head(options, source)
    if options.loss.assignment_guide:
        require_guided_assigner(options.settings.matcher)
    config = _config(options, None, source)
    _check_frozen_stages(options, config)
    DetectionTransform(config.input.size, config.input.resize, options.settings.augment)
    seconds = None if options.optimization.time is None else parse_duration(options.optimization.time)
    options = options.override(output=str(folder.path), time=None).spelled_out()
    return RunStart(
        options,
        folder,
        source,
        None if source is None else hash_tensors(source),
        decisions=decisions,
        seconds=seconds,
        teacher=teacher,
        teacher_sha256=None if teacher is None else hash_tensors(teacher),
    )


def _with_defaults_of_head(options: TrainOptions, source: WeightSource) -> TrainOptions:
    """Where no recipe is named, losses and the assigner that are not given are those that the head asks for."""
    if options.recipe_name != AUTO:
        return options
    with torch.device("meta"):  # takes no memory and no time
        head = detector_from_config(base_config(options, source)).head
    given = options.loss
    return options.override(
        loss=given.loss or head.default_loss,
        matcher=given.matcher or head.default_assigner,
        box_loss=given.box_loss or head.default_box_loss,
    )


def _check_frozen_stages(options: TrainOptions, config: DetectorConfig) -> None:
    if not options.start.freeze_stages:
        return
    with torch.device("meta"):  # takes no memory and no time
        stages = len(detector_from_config(config).backbone.stages)
    if options.start.freeze_stages > stages:
        raise ConfigError(
            f"--freeze-stages: expected 0 to {stages} (all of the backbone), got {options.start.freeze_stages}"
        )
    if options.start.freeze_stages == stages and options.optimization.backbone_lr is not None:
        raise ConfigError(f"--backbone-lr does not go with --freeze-stages {stages}, which is all of the backbone")


def continue_run(folder: RunFolder, options: TrainOptions) -> RunStart:
    """The run in ``folder``, with its own ``options`` but for those that may change.

    Stopped before its first checkpoint, it begins again: with the detector that ``config.json`` describes, from the
    weights that it began with.

    Raises:
        ConfigError: there is no run, or it would become another one by the options, or by weights that have changed.
        CheckpointError: its checkpoint is damaged, or has no training state.
    """
    stored = folder.description()
    options.require_same_run(stored.options)
    choose_amp(options.system.amp, choose_device(options.system.device))
    checkpoint = folder.load_last()
    detector = stored.detector if checkpoint is None else checkpoint.config
    source = None
    if checkpoint is None or options.start != stored.options.start:
        source = read_same_weights(options, folder.path, stored.source_sha256)
    state = None if checkpoint is None else read_state(checkpoint)
    source = source if checkpoint is None else None  # which has them already
    return RunStart(
        options,
        folder,
        source,
        stored.source_sha256,
        stored.data,
        detector,
        checkpoint,
        state,
        stored.decisions,
        # the labels of one that labels only are there
        teacher=(
            read_same_teacher(options, folder.path, stored.teacher_sha256)
            if options.distillation.compares_outputs
            else None
        ),
        teacher_sha256=stored.teacher_sha256,
    )


def _config(options: TrainOptions, class_names: tuple[str, ...] | None, source: WeightSource) -> DetectorConfig:
    """Of the detector that the options ask for, which starts from ``source``, with its anchors still to be fitted."""
    given: dict[str, Any] = {
        "class_names": class_names,
        "width_mult": options.detector.width_mult,
        "image_size": options.detector.image_size,
        "resize": options.detector.resize,
        "finest_stride": options.settings.finest_stride,
        "score_function": LOSSES[options.settings.loss].score_function,
    }
    if isinstance(source, Checkpoint):
        config = config_for_transfer(source, preset=options.detector.preset, **given)
    else:
        config = preset_config(options.preset_name, **given, **({} if source is None else source.options))
    deepen = options.settings.deepen_heads and config.head.conv == "pointwise"
    return override(config, head_conv="separable") if deepen else config


def data_root(dataset: DatasetOptions) -> Path:
    """Where the data are, also the built-in ones."""
    return SHAPES_FOLDER if dataset.data == SHAPES else Path(dataset.data)


def load_splits(options: TrainOptions, processes: Processes) -> DataSplits:
    """The training and validation data, saying what they are; the built-in ones are made where they are missing."""
    dataset = options.dataset
    root = data_root(dataset)
    if dataset.data == SHAPES:
        if processes.is_first:
            print_line(f"built-in data: shapes, in {root} (--data names your own)")
            try:
                generate_shapes(root)
            except OSError as error:
                raise DataError(f"{root}: the built-in data cannot be written there ({error.strerror})") from None
        processes.share(None)  # the others wait until it is there
    splits = load_data(
        root, dataset, train_split=dataset.train_split, val_split=dataset.val_split, seed=options.run.seed
    )
    require_objects(splits.train)
    if dataset.overfit is not None:
        splits = _first_images(splits, dataset.overfit)
    if processes.is_first:
        for note in splits.notes:
            if note not in splits.details:
                print_line(note)
    return splits


def _first_images(splits: DataSplits, count: int) -> DataSplits:
    """The first images with objects, to train and to validate on."""
    train = splits.train
    with_objects = [i for i in range(len(train)) if len(train.record(i).boxes)]
    few = train.subset(with_objects[:count], f"{train.name}, {counted(min(count, len(with_objects)), 'image')}")
    notes = (*splits.notes, f"overfitting: training and validating on {few.name}")
    return DataSplits(few, few, notes, splits.details)


def identify_data(splits: DataSplits, start: RunStart) -> dict[str, SplitFingerprint]:
    """By which the data are known again.

    Raises:
        ConfigError: the run was begun with others; it would go on in another order, and score on other pictures.
    """
    found = {"train": SplitFingerprint.of(splits.train), "val": SplitFingerprint.of(splits.val)}
    for name, index in (("train", splits.train), ("val", splits.val)):
        expected = (start.data or found).get(name)
        if found[name] != expected:
            raise ConfigError(
                f"--resume {start.folder.path}: the data have changed: {index.name}: expected {expected}, as the run "
                f"was begun with, got {found[name]}{_same_counts(found[name], expected)}; restore them, or begin a new "
                f"run from its weights with --weights {start.folder.last}"
            )
    return found


def _same_counts(found: SplitFingerprint, expected: SplitFingerprint | None) -> str:
    same = expected is not None and (found.images, found.objects) == (expected.images, expected.objects)
    return ", of other names, sizes, classes or boxes" if same else ""


def planned_detector(options: TrainOptions, train: DetectionIndex) -> DetectorConfig:
    """What ``options`` train on these pictures, with the anchors that a fit would replace.

    A detector that finds all the classes already is kept as it is; that is not looked into here, as it takes a while.
    """
    options, _, source = decide(options, train, read_weights(options))
    return _config(_with_defaults_of_head(options, source), train.class_names, source)


def require_teacher_fits(teacher: Checkpoint, train: DetectionIndex, options: TrainOptions) -> None:
    """Raises ConfigError for a teacher that cannot teach what ``options`` train, before it is asked anything.

    Anchors, which may be fitted, are compared later.
    """
    if options.distillation.compares_outputs:
        require_same_outputs(teacher, planned_detector(options, train), anchors_are_known=False)
    else:
        require_same_classes(teacher, train.class_names)


def build_for_run(start: RunStart, index: DetectionIndex) -> tuple[Detector, TransferReport | None]:
    """The detector to train, and what became of the weights that it starts from.

    That of a run that is resumed, else a new one for the classes and, with ``--anchors fit``, the boxes of ``index``.
    """
    if start.detector is None:
        detector = detector_from_config(_config_for(index, start))
    else:
        _require_same_classes(start.detector, index, start.folder)
        detector = detector_from_config(start.detector)
    if isinstance(start.source, Checkpoint):
        return detector, transfer_weights(detector, start.source)
    return detector, None if start.source is None else transfer_backbone(detector, start.source)


def _config_for(index: DetectionIndex, start: RunStart) -> DetectorConfig:
    options = start.options
    config = _config(options, index.class_names, start.source).changed(category_ids=index.category_ids)
    if options.settings.anchors != "fit":
        return config
    if start.teacher is not None and options.distillation.compares_outputs:
        return config.changed(anchors=start.teacher.config.anchors)  # the two are compared anchor by anchor
    boxes = input_boxes(index, config.input.size, config.input.resize)
    return config.changed(anchors=fit_to_boxes(boxes, config, options.detector.anchor_budget))


def _require_same_classes(detector: DetectorConfig, index: DetectionIndex, folder: RunFolder) -> None:
    if detector.class_names != index.class_names:
        raise ConfigError(
            f"{folder.path} was trained on the classes {', '.join(detector.class_names)}; "
            f"{index.name} has {', '.join(index.class_names)}"
        )
