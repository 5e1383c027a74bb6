"""Detectors built from presets, and checkpoints and exported models loaded from their files.

What a detector needs is loaded by what builds one; an exported model needs neither torch nor configurations.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ssdlite.errors import CheckpointError, ConfigError, ContractError, SsdliteError
from ssdlite.images.prediction import DetectionModel
from ssdlite.runtime.contract import CONTRACT_FILE
from ssdlite.runtime.files import describe_folder, is_exported, is_folder, run_checkpoint

if TYPE_CHECKING:
    import torch

    from ssdlite.anchors import AnchorConfig
    from ssdlite.config import Amp, BoxLossName, ImageSize
    from ssdlite.detector import Detector
    from ssdlite.heads.losses import DetectionLoss
    from ssdlite.predictor import Predictor
    from ssdlite.runtime.contract import Provenance
    from ssdlite.runtime.operating_points import OperatingPoint


def list_detectors() -> list[str]:
    """The names of the presets."""
    from ssdlite.config import PRESETS

    return list(PRESETS)


def build_detector(
    preset: str = "ssdlite320_mobilenet_v2",
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    width_mult: float | None = None,
    image_size: ImageSize | None = None,
    anchors: AnchorConfig | None = None,
    resize: Literal["stretch", "letterbox"] | None = None,
    backbone_weights: str | Path | None = None,
    **options: Any,
) -> Detector:
    """A detector, randomly initialised but for ``backbone_weights``.

    Args:
        preset: one of ``list_detectors()``.
        num_classes: without background; the names are then ``class_0``, ... unless ``class_names`` gives them.
            With neither, COCO's 80.
        width_mult: channels, as a factor of the published network's.
        image_size: of the input, one side in pixels or (height, width); need not be a multiple of 32.
        anchors: shapes per map, in place of the preset's.
        resize: ``stretch`` pictures to the input, or keep their shape and pad (``letterbox``).
        backbone_weights: ``imagenet`` takes ImageNet weights of the backbone, by their owner's loader or from an
            installed package; a path reads a file of torchvision's or timm's. Input normalisation, padding and the
            norms' epsilon are then those of the weights, unless given.
        options: any other field of ``DetectorConfig``.

    Raises:
        ConfigError: an unknown preset or option (the known ones are listed), a value out of range, or weights that
            cannot be downloaded.
        CheckpointError: a file of weights that is damaged, or not of this backbone.
    """
    changes: dict[str, Any] = {
        "num_classes": num_classes,
        "class_names": class_names,
        "width_mult": width_mult,
        "image_size": image_size,
        "anchors": anchors,
        "resize": resize,
        **options,
    }
    from ssdlite.config import preset_config
    from ssdlite.detector import detector_from_config

    config = preset_config(preset, **changes)
    if backbone_weights is None:
        return detector_from_config(config)
    from ssdlite.weights.backbones import load_backbone_weights, read_backbone_weights

    weights = read_backbone_weights(backbone_weights, name=config.backbone.name, width_mult=config.backbone.width_mult)
    detector = detector_from_config(preset_config(preset, **{**weights.options, **changes}))
    report = load_backbone_weights(detector.backbone, weights, name=config.backbone.name)
    if report.random:
        warnings.warn(
            f"{config.backbone.name}: {len(report.random)} tensors from {report.random[0]} on stay random, no weights "
            f"are published: backbone={config.backbone.name.removesuffix('_reduced')!r} has weights throughout",
            stacklevel=2,
        )
    return detector


def build_loss(
    detector: Detector,
    *,
    loss: str | None = None,
    matcher: str | None = None,
    box_loss: BoxLossName | None = None,
    box_weight: float | None = None,
) -> DetectionLoss:
    """The loss over the detector's anchors; what is not given is what its head asks for.

    Args:
        loss: of ``ssdlite.heads.LOSSES``.
        matcher: of ``ssdlite.heads.ASSIGNERS``: which anchors answer for which objects.
        box_weight: beside the classification loss; by default one that goes with the two.

    Raises:
        ConfigError: an unknown name, or a loss of another score function than the detector's.
    """
    from ssdlite.heads.assigners import ASSIGNERS, build_assigner
    from ssdlite.heads.losses import BOX_LOSSES, LOSSES
    from ssdlite.validation import require, require_known

    head = detector.head
    loss, matcher = loss or head.default_loss, matcher or head.default_assigner
    box_loss = box_loss or head.default_box_loss
    require_known([loss], LOSSES, "loss")
    require_known([matcher], ASSIGNERS, "assigner")
    require_known([box_loss], BOX_LOSSES, "box loss")
    wanted, own = LOSSES[loss].score_function, detector.config.head.score_function
    require(wanted == own, f"loss {loss}: it trains scores by {wanted}, those of the detector are by {own}")
    return LOSSES[loss](
        detector.anchors,
        head.box_code,
        matcher=build_assigner(matcher, detector.config, detector.anchors.device),
        box_loss=box_loss,
        box_weight=box_weight,
    )


def load_detector(path: str | Path, *, device: str | torch.device = "cpu") -> Detector:
    """The detector of a checkpoint (its averaged weights, where training kept an average), in evaluation mode.

    Of the folder of a training its best.pt.

    Raises:
        CheckpointError: not a checkpoint of ours, damaged, or one that does not fit its own description.
        ConfigError: a device that is not there.
        ModuleNotFoundError: torch is not installed; what runs without it is named.
    """
    try:
        from ssdlite.checkpoint import load_checkpoint
        from ssdlite.device import choose_device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        advice = "ssdlite.runtime.load_model runs exported models without it"
        raise ModuleNotFoundError(f"{path}: a checkpoint needs torch; {advice}", name="torch") from None

    detector = load_checkpoint(path).build_detector()
    return detector.to(choose_device(str(device))).eval()


def load_predictor(
    path: str | Path, *, device: str | torch.device = "cpu", compile_options: Mapping[str, Any] | None = None
) -> Predictor:
    """The detector of a checkpoint, optimized for prediction; see ``Predictor``. Raises as ``load_detector``.

    Of an exported model ``ssdlite.runtime.load_model`` makes a detector.
    """
    detector = load_detector(path, device=device)
    from ssdlite.predictor import Predictor

    return Predictor(detector, compile_options=compile_options)


class Thresholds(TypedDict, total=False):
    """Settings that may differ from those that a detector brings along; None leaves one as it is."""

    score_threshold: float | None
    nms_threshold: float | None
    max_detections: int | None


def load_any(
    path: Path,
    *,
    model: str | None = None,
    device: str = "auto",
    thresholds: Thresholds | None = None,
    threads: int | None = None,
    amp: Amp = "off",
) -> DetectionModel:
    """The detector of a checkpoint or a training's folder on ``device``, or of an exported file or bundle.

    ``model`` is which file of a bundle.

    ``threads`` that compute are for exported models; those of torch are the process's own (``torch.set_num_threads``).
    ``amp`` is for checkpoints: an exported model's precision is its own.

    Raises:
        CheckpointError, ContractError: the file is missing, not ours, damaged, or contradicts itself.
        ConfigError: a device that is not there or not for this file, or a threshold that cannot be had.
    """
    given = {name: value for name, value in (thresholds or {}).items() if value is not None}
    path = run_checkpoint(Path(path))
    if is_exported(path):
        from ssdlite.runtime.model import load_model

        if is_folder(path) and not (path / CONTRACT_FILE).is_file():
            raise ContractError(
                f"{path}: expected a detector: a checkpoint, the folder of a training or bundle, or an exported "
                f"file; this folder holds {describe_folder(path)}, neither best.pt nor {CONTRACT_FILE}. Pictures and "
                "data are named as in `ssdlite predict PICTURES --weights DETECTOR`, `ssdlite eval DETECTOR --data DIR`"
            )
        check_runs_on_cpu(path, device)
        return load_model(path, model, threads=threads).with_thresholds(**given)  # type: ignore[arg-type]
    if model is not None:
        raise ConfigError(f"--model {model}: chooses a file of a bundle, and {path} is no bundle")
    from ssdlite.config import override
    from ssdlite.device import choose_amp, choose_device
    from ssdlite.predictor import Predictor

    chosen = choose_device(device)
    detector = load_detector(path, device=chosen)
    detector.config = override(detector.config, **given)
    return Predictor(detector, amp=choose_amp(amp, chosen))


def load_operating_points(path: str | Path, model: str | None = None) -> dict[str, OperatingPoint]:
    """For each class the score threshold with the best F1 on the validation data, as stored with the model.

    Of a checkpoint, of a training's folder its best.pt, of an exported file or a bundle, ``model`` being a file of it.

    Raises:
        CheckpointError, ContractError: the file is missing, not ours, damaged, or has none.
    """
    found = run_checkpoint(Path(path))
    remedy = "`ssdlite train` writes them, and `ssdlite eval --output DIR` into its metrics.json"
    if is_exported(found):
        from ssdlite.runtime.files import open_model

        points = open_model(found, model, None)[0].operating_points
        error: type[SsdliteError] = ContractError
    else:
        from ssdlite.checkpoint import load_checkpoint

        points, error = load_checkpoint(found).operating_points, CheckpointError
    if not points:
        raise error(f"{path}: holds no operating points, a score threshold for each class; {remedy}")
    return points


def trained_rename(model: DetectionModel) -> tuple[str, ...] | None:
    """The names that training gave to classes of its data (``ReadOptions.rename``); None where it gave none.

    Checkpoints, bundles and exported files bring them along.
    """
    provenance: Provenance | None = getattr(model, "provenance", None)
    return None if provenance is None else provenance.rename


def is_shipped(path: Path, model: str | None = None) -> bool:
    """Whether this names a detector that comes with the package, and no file, or was exported from one.

    Raises:
        ContractError: as ``load_operating_points``.
    """
    from ssdlite.config import SHIPPED, shipped_file

    if not is_exported(path):
        return shipped_file(path) != path
    from ssdlite.runtime.files import open_model

    exported = open_model(path, model, None)[0].provenance.checkpoint_sha256
    return exported in {hashlib.sha256(file.read_bytes()).hexdigest() for file in SHIPPED.values()}


def check_runs_on_cpu(path: Path, device: str) -> None:
    """Raises ConfigError for an exported model that is asked onto another device."""
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: the exported model {path} runs on the CPU; only a checkpoint uses a GPU")
