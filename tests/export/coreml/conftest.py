"""Packages of one detector, written once for all processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.export import ExportOptions, export_bundle
from tests.export.coreml.packages import METRICS, random_detector
from tests.made_once import Trace, graphs_from, make_once


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sigmoid scores, an input that is not square, operating points of 0.2, 0.6 and 0.7."""

    def make(folder: Path) -> None:
        changes = {"width_mult": 0.25, "image_size": (64, 96), "score_function": "sigmoid", "nms_threshold": 0.45}
        detector = random_detector("ssdlite320_mobilenet_v1", **changes)
        save_checkpoint(Checkpoint(detector.config, detector.state_dict(), metrics=METRICS), folder / "best.pt")

    return make_once(tmp_path_factory, "coreml-checkpoint", make) / "best.pt"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    """The detector for Vision in all three precisions; not to be changed."""
    return _export_once(tmp_path_factory, trace, "coreml", checkpoint, precision=("fp32", "fp16", "int8"))


@pytest.fixture(scope="session")
def second(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    """Both variants, in the precision that is the default; not to be changed."""
    return _export_once(tmp_path_factory, trace, "coreml-second", checkpoint, variant=("nms", "decoded"))


def _export_once(factory: pytest.TempPathFactory, trace: Trace, name: str, checkpoint: Path, **changes: Any) -> Path:
    def make(folder: Path) -> None:
        paths = {"checkpoint": checkpoint, "output": folder / "bundle"}
        with graphs_from(trace):
            export_bundle(ExportOptions(**paths, target=("coreml",), golden_images=2, license="MIT", **changes))

    return make_once(factory, name, make) / "bundle"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Of the bundle with one package, to be changed."""
    path = tmp_path / "copy"
    shutil.copytree(bundle, path)
    return path
