"""One way to load whatever detects, a checkpoint or an exported model. Only checkpoints load torch."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from ssdlite.errors import ConfigError
from ssdlite.model_files import is_exported
from ssdlite.prediction import DetectionModel


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
) -> DetectionModel:
    """The detector of a checkpoint on ``device``, or of an exported file or bundle (``model``: which file of it).

    ``threads`` that compute are for exported models; those of torch are the process's own (``torch.set_num_threads``).

    Raises:
        CheckpointError, ContractError: the file is missing, not ours, damaged, or contradicts itself.
        ConfigError: a device that is not there or not for this file, or a threshold that cannot be had.
    """
    given = {name: value for name, value in (thresholds or {}).items() if value is not None}
    if is_exported(path):
        from ssdlite.runtime import load_model

        check_runs_on_cpu(path, device)
        return load_model(path, model, threads=threads).with_thresholds(**given)  # type: ignore[arg-type]
    if model is not None:
        raise ConfigError(f"--model {model}: chooses a file of a bundle, and {path} is no bundle")
    from ssdlite.config import override
    from ssdlite.detector import load_detector
    from ssdlite.device import choose_device

    detector = load_detector(path, device=choose_device(device))
    detector.config = override(detector.config, **given)
    return detector


def check_runs_on_cpu(path: Path, device: str) -> None:
    """Raises ConfigError for an exported model that is asked onto another device."""
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: the exported model {path} runs on the CPU; only a checkpoint uses a GPU")
