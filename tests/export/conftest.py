"""What the tests of several targets share: tracing a detector takes two to four seconds."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from ssdlite.config import PRESETS
from tests.export.detectors import ExportedPreset, read_preset, write_preset
from tests.made_once import make_once


@pytest.fixture(scope="session")
def preset_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By the name of a preset the folder of its files, which are written when they are first asked for."""
    return cache(lambda name: make_once(tmp_path_factory, f"preset-{name}", partial(write_preset, name)))


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest, preset_folder: Callable[[str], Path]) -> ExportedPreset:
    """Each preset, to be changed at will."""
    return read_preset(preset_folder(request.param))
