"""What the tests of several targets share."""

from pathlib import Path

import pytest
import torch

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from tests.export.detectors import NETWORKS, ExportedPreset
from tests.made_once import Trace


@pytest.fixture(params=NETWORKS)
def preset(request: pytest.FixtureRequest, trace: Trace) -> ExportedPreset:
    """Each preset and each network of importers alone, to be changed at will."""
    return ExportedPreset(request.param, trace)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random detector that finds some objects in noise; one class is called as nobody should call it."""
    torch.manual_seed(0)
    names = ("cat", "</script><script>alert(1)</script>")
    detector = ssdlite.build_detector("ssdlite320_mobilenet_v1", class_names=names, width_mult=0.1, image_size=64)
    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    return path
