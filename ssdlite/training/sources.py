"""The weights that a run starts from: a detector's, a backbone's, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.config import DetectorConfig, preset_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.training.options import TrainOptions
from ssdlite.weights.backbones import IMAGENET, BackboneWeights, read_backbone_weights

WeightSource = Checkpoint | BackboneWeights | None  # None: random weights


def read_weights(options: TrainOptions) -> WeightSource:
    """What --weights or --backbone-weights name."""
    weights, backbone_weights = options.start.detector_weights, options.start.backbone_weights
    if weights == IMAGENET:
        raise ConfigError(
            f"--weights {IMAGENET}: these are of a backbone alone; --backbone-weights {IMAGENET} takes them"
        )
    if weights is not None:
        return load_checkpoint(weights)
    if backbone_weights is None:
        return None
    config = preset_config(options.preset_name, width_mult=options.detector.width_mult)
    return read_backbone_weights(backbone_weights, name=config.backbone.name, width_mult=config.backbone.width_mult)


def base_config(options: TrainOptions, source: WeightSource) -> DetectorConfig:
    """Of the preset that is asked for, or else of the detector whose weights ``source`` are."""
    if isinstance(source, Checkpoint) and options.detector.preset is None:
        return source.config
    return preset_config(options.preset_name)


def read_same_weights(options: TrainOptions, folder: Path, sha256: str | None) -> WeightSource:
    """The weights that a run to be resumed began with, wherever they are now. Raises ConfigError for others."""
    option, name = "--weights", options.start.weights
    if name is None:
        option, name = "--backbone-weights", options.start.backbone_weights
    try:
        source = read_weights(options)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; where the weights that the run began with have moved, {option} NEWPLACE names them"
        ) from None
    if source is not None and hash_tensors(source) != sha256:
        raise ConfigError(
            f"--resume {folder}: the weights of {name} are not known to be those that it began with (SHA-256 of "
            f"the tensors: expected {sha256}, got {hash_tensors(source)}); name the same ones with {option}, or begin "
            "a new run with another --output"
        )
    return source


def read_teacher(options: TrainOptions) -> Checkpoint | None:
    """The detector that --teacher names."""
    teacher = options.distillation.teacher
    try:
        return None if teacher is None else load_checkpoint(teacher)
    except CheckpointError as error:
        raise CheckpointError(f"--teacher: {error}") from None


def read_same_teacher(options: TrainOptions, folder: Path, sha256: str | None) -> Checkpoint | None:
    """The teacher that a run to be resumed began with, wherever it is now. Raises ConfigError for another."""
    try:
        teacher = read_teacher(options)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; where the run's teacher has moved, --teacher NEWPLACE names it") from None
    if teacher is not None and hash_tensors(teacher) != sha256:
        raise ConfigError(
            f"--resume {folder}: the teacher {teacher.path} is not the one that it began with (SHA-256 of the tensors: "
            f"expected {sha256}, got {hash_tensors(teacher)}); name that one with --teacher"
        )
    return teacher


def hash_tensors(source: Checkpoint | BackboneWeights) -> str:
    """SHA-256 of names, types, shapes and values of the weights, whatever file they come in."""
    tensors: Mapping[str, Tensor] = source.weights if isinstance(source, Checkpoint) else source.tensors
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
