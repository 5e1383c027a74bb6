"""Loading processes that die, or find no room in shared memory, end the work with one error and in bounded time."""

import errno
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from ssdlite.datasets.dataset import Batch, DetectionDataset, collate
from ssdlite.datasets.loading import load_split
from ssdlite.datasets.samples import Sample
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.datasets.workers import SharedMemoryError, WorkerError, explained_worker_failures
from ssdlite.training import trainer
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import train

MAIN = os.getpid()


class InWorkers:
    """Does something to the loading process that reads the picture at ``position``."""

    def __init__(self, harm: Any, position: int = 4) -> None:
        self.harm, self.position = harm, position
        self.transform = DetectionTransform((64, 64), "stretch", "none")

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        if sample.position == self.position and os.getpid() != MAIN:
            self.harm()
        return self.transform(sample, random)


def leave_no_room() -> None:
    """No file may grow beyond a kilobyte; a batch of two takes 24."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=16, val_images=2, seed=3)
    return folder


def load_all(shapes: Path, harm: Any) -> int:
    dataset: Any = DetectionDataset(load_split(shapes, "train"), InWorkers(harm))
    loader: DataLoader[Batch] = DataLoader(dataset, 2, num_workers=2, collate_fn=collate)
    with explained_worker_failures():
        return sum(len(batch) for batch in loader)


@pytest.mark.parametrize(("harm", "kind", "message"), [
    (leave_no_room, SharedMemoryError, r"^no room for a batch .* in shared memory.*--workers 0.*--shm-size 1g"),
    (die, WorkerError, r"^a process that loads pictures died \(pid \d+ \w+ .*\): out of memory.*--workers 0.*$"),
])  # fmt: skip
def test_a_failing_process_is_one_error_in_bounded_time(shapes: Path, harm: Any, kind: Any, message: str) -> None:
    assert load_all(shapes, lambda: None) == 16
    started = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        load_all(shapes, harm)
    assert time.monotonic() - started < 30
    assert "\n" not in str(caught.value)


def test_a_connection_that_a_dying_process_breaks_is_its_death(shapes: Path) -> None:
    """It may die while a batch is fetched from it, before the system has told torch that it did."""
    dataset: Any = DetectionDataset(load_split(shapes, "train"), InWorkers(lambda: None))
    batches = iter(DataLoader(dataset, 2, num_workers=1, collate_fn=collate))
    (process,) = batches._workers  # type: ignore[attr-defined]
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(process.pid, signal.SIGKILL)
        died = rf"^a process that loads pictures died \(pid {process.pid} is killed by signal: Killed\)"
        with pytest.raises(WorkerError, match=died), explained_worker_failures():
            raise ConnectionResetError
    finally:
        batches._shutdown_workers()  # type: ignore[attr-defined]
        signal.signal(signal.SIGCHLD, handler)
    with pytest.raises(ConnectionResetError), explained_worker_failures():
        raise ConnectionResetError


@pytest.mark.parametrize(("free", "kind", "message"), [
    (0, SharedMemoryError, r"^no room for a batch .* in shared memory \(/dev/shm has 67 MB\): .*--workers 0"),
    (1 << 20, OSError, "No space left on device"),  # on another one
])  # fmt: skip
def test_shared_memory_that_is_full_from_the_start_is_one_error(
    free: int, kind: type[Exception], message: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)  # as the system does
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 26, free=free))
    with pytest.raises(kind, match=message):
        load_all(shapes, lambda: None)


@pytest.mark.usefixtures("without_pictures")
def test_a_process_that_is_killed_while_the_main_one_computes_ends_a_training(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = trainer.TrainingStep.__call__

    def killing(step: trainer.TrainingStep, *batch: Any) -> Any:
        children = Path(f"/proc/{MAIN}/task/{MAIN}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        return compute(step, *batch)

    monkeypatch.setattr(trainer.TrainingStep, "__call__", killing)
    small = {"preset": "ssdlite192_mobilenet_v2_050", "width_mult": 0.25, "image_size": 64, "batch_size": 4}
    started = time.monotonic()
    with pytest.raises(WorkerError, match="a process that loads pictures died"):
        train(TrainOptions().override(**small, data=str(shapes), output=str(tmp_path / "run"), workers=2, epochs=4))
    assert time.monotonic() - started < 30
