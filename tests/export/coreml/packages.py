"""The detector of the Core ML packages that tests look at (conftest.py writes them), and what is where in one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import ssdlite
from ssdlite import Detector
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.verify.report import VerifyReport
from ssdlite.runtime.contract import Contract

NAMES = ("cat", "dog", "cow")
METRICS = {
    "operating_points": {
        name: {"score_threshold": threshold, "precision": 0.5, "recall": 0.5, "f1": 0.5}
        for name, threshold in zip(NAMES, (0.2, 0.6, 0.7), strict=True)
    }
}
MANIFEST = "Manifest.json"
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
needs_coreml = pytest.mark.skipif(find_spec("coremltools") is None, reason="writing needs coremltools")


def random_detector(preset: str, class_names: tuple[str, ...] = NAMES, **changes: Any) -> Detector:
    """With weights that let activations keep their size, so that every layer counts, and scores of all sizes."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(preset, class_names=class_names, **changes).eval()
    for name, module in detector.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            if name.startswith("head.classification"):
                module.weight.data *= 3
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    return detector


def golden_pixels(bundle: Path, number: int) -> npt.NDArray[np.uint8]:
    """A reference picture at the input's size."""
    return np.fromfile(bundle / "golden" / f"image_{number}.resized.bin", np.uint8).reshape(64, 96, 3)


def steps(report: VerifyReport, file: str) -> dict[str, str]:
    (model,) = [one for one in report.models if one.file == file]
    return {step.step: step.status for step in model.steps}


def export_with(checkpoint: Path, output: Path, **changes: Any) -> Contract:
    return export_bundle(ExportOptions(checkpoint=checkpoint, output=output, target=("coreml",), **changes))
