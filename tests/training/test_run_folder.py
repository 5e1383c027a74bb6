"""What a run folder holds when the disk does not take more: what was complete before, and one clear error."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdlite.build import build_detector
from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.errors import TrainingError
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    detector = build_detector("ssdlite192_mobilenet_v2_050", class_names=["cat"], width_mult=0.1, image_size=32)
    return Checkpoint(detector.config, detector.state_dict(), training={"options": TrainOptions().to_dict()})


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses to write more bytes than that into a file, as it does where the disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def rows(epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "loss": 1.0} for epoch in range(1, epochs + 1)]


def refused(folder: RunFolder, checkpoint: Checkpoint, epochs: int) -> str:
    with no_file_above(100_000), pytest.raises(TrainingError) as caught:
        folder.save_epoch(checkpoint, rows(epochs), False)
    return str(caught.value)


def test_a_full_disk_is_named_and_the_last_complete_checkpoint_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert refused(folder, checkpoint, 1) == (
        f"{tmp_path}/last.pt: cannot be written (File too large); no epoch is saved yet; "
        f"make room and --resume {tmp_path} begins again"
    )
    folder.save_epoch(checkpoint, rows(3), True)
    kept = {name: (tmp_path / name).read_bytes() for name in ("best.pt", "last.pt")}
    assert refused(folder, checkpoint, 4) == (
        f"{tmp_path}/last.pt: cannot be written (File too large); last.pt of epoch 3 is kept; "
        f"make room and --resume {tmp_path} goes on"
    )
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert load_checkpoint(folder.last).config == checkpoint.config
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "last.pt", "metrics.jsonl"}


def test_a_full_disk_at_the_end_leaves_the_trained_detector(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_epoch(checkpoint, rows(1), True)
    with no_file_above(10), pytest.raises(TrainingError) as caught:
        folder.finish({"AP": 0.5}, rows(1), np.zeros((8, 8, 3), np.uint8))
    assert str(caught.value) == (
        f"{tmp_path}/curves.png: cannot be written (File too large); training is complete, best.pt and last.pt are "
        f"kept; make room and --resume {tmp_path} writes the rest"
    )
    folder.finish({"AP": 0.5}, rows(1), None)
    assert json.loads((tmp_path / "summary.json").read_text()) == {"AP": 0.5}
