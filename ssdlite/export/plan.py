"""What to export, and its checks before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssdlite.contract import Precision, Variant
from ssdlite.errors import ConfigError
from ssdlite.export.graphs import MAX_CANDIDATES, GraphOptions


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """One export. Attributes are explained where the command line names them (``tools/export_onnx.py``)."""

    checkpoint: Path
    output: Path
    variants: tuple[Variant, ...] = ("decoded", "nms")
    precisions: tuple[Precision, ...] = ("fp32",)
    input_type: Literal["uint8", "float32"] = "uint8"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    batch: int | None = 1
    opset: int | None = None
    score_threshold: float | None = None
    nms_threshold: float | None = None
    max_detections: int | None = None
    max_candidates: int = MAX_CANDIDATES
    ort_format: bool = False
    ncnn: bool = False
    data: Path | None = None
    calibration_split: str | None = None
    gate_split: str | None = None
    calibration_folder: Path | None = None
    calibration_images: int = 64
    activation_type: Literal["uint8", "int8"] = "uint8"
    max_ap_drop: float | None = None
    golden_images: int = 3
    licence: str = "not stated"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("variants", "precisions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name}: expected one or more different ones, got {', '.join(values) or 'none'}")
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise ConfigError(f"--batch: expected 1 to 1024 or dynamic, got {self.batch}")
        if not 1 <= self.max_candidates <= 100_000:
            raise ConfigError(f"--max-candidates: expected 1 to 100000, got {self.max_candidates}")
        if self.calibration_images < 1:
            raise ConfigError(f"--calibration-images: expected 1 or more, got {self.calibration_images}")
        if not 1 <= self.golden_images <= 100:
            raise ConfigError(f"--golden-images: expected 1 to 100, got {self.golden_images}")
        if self.max_ap_drop is not None and not 0 <= self.max_ap_drop <= 1:
            raise ConfigError(f"--max-ap-drop: expected 0 to 1, got {self.max_ap_drop}")
        if "int8" in self.precisions and self.data is None and self.calibration_folder is None:
            raise ConfigError(
                "--precision int8 is calibrated on real pictures: give annotated ones with --data (then the accuracy "
                "is measured as well), or any with --calibration-folder"
            )
        if self.max_ap_drop is not None and self.data is None:
            raise ConfigError("--max-ap-drop needs --data to measure the accuracy on")

    @property
    def thresholds(self) -> dict[str, float]:
        """The detector's settings that were asked for in place of its own."""
        names = ("score_threshold", "nms_threshold", "max_detections")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def graph(self, variant: Variant, precision: Precision) -> GraphOptions:
        return GraphOptions(
            variant=variant,
            precision=precision,
            input_type=self.input_type,
            layout=self.layout,
            batch=self.batch,
            opset=self.opset,
            max_candidates=self.max_candidates,
        )
