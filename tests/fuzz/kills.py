"""SIGKILL at random moments: what was begun goes on as if nothing had happened, and nothing torn or forgotten is left.

Each job is run once undisturbed, then killed and begun or resumed again. Trainings must end with weights equal bit for
bit; what exports, predictions and imports leave under their final names must be whole; no process, lock, temporary
file or shared memory may be left after the next start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.area import DATA
from tests.fuzz.campaign import ROOT

COMMAND = "import sys; from ssdlite.cli import main; sys.exit(main())"
SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 600.0  # seconds for one command
LINGER = 10.0  # seconds for processes of a killed one to end
CHECKPOINT = DATA / "before_parts" / "shapes_detector.pt"


@dataclass(frozen=True)
class Job:
    """A command line, and what must hold of the folder that it writes to.

    Args:
        output: what it writes, in the folder that it runs in.
        again: the command after a kill; by default the same.
        fingerprint: of the finished output, equal to that of the undisturbed one.
        whole: raises where what is left after a kill, under the output's own name, is torn.
    """

    arguments: tuple[str, ...]
    output: str
    fingerprint: Callable[[Path], Any]
    again: tuple[str, ...] | None = None
    whole: Callable[[Path], object] = field(default=lambda path: None)


def weights_of(run: Path) -> Any:
    import torch

    content = torch.load(run / "last.pt", weights_only=True)
    return {name: tensor.numpy().tobytes() for name, tensor in content["weights"].items()}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def detections_of(folder: Path) -> Any:
    return json.loads((folder / "detections.json").read_text()), files_of(folder)


def read_checkpoint(path: Path) -> Any:
    from ssdlite.build import load_detector

    return {name: tensor.numpy().tobytes() for name, tensor in load_detector(path).state_dict().items()}


def verify(bundle: Path) -> Any:
    from ssdlite.export.verify.bundle import verify_bundle

    assert verify_bundle(bundle).passed
    return files_of(bundle)


def read_run(run: Path) -> None:
    """What is there of a run can be read."""
    import torch

    for path in run.glob("*.pt"):
        if not path.name.startswith("."):  # of a file that was not complete
            torch.load(path, weights_only=True)
    for path in run.glob("*.json"):
        json.loads(path.read_text())


def _train(*more: str) -> Job:
    arguments = ("train", "--data", "shapes", "--preset", "ssdlite192_mobilenet_v2_050", "--image-size", "64")
    arguments += ("--width-mult", "0.25", "--overfit", "32", "--batch-size", "8", "--epochs", "4", "--device", "cpu")
    arguments += ("--augment", "flip", "--output", "run", "--eval-interval", "2", *more)
    return Job(arguments, "run", weights_of, ("train", "--resume", "run"), read_run)


def jobs() -> dict[str, Job]:
    pictures = str(DATA / "coco-cc" / "val2017")
    tflite = str(DATA / "shapes_detector.tflite")
    return {
        "train": _train("--workers", "0"),
        "train, 2 workers": _train("--workers", "2"),
        "train, cache": _train("--workers", "2", "--cache"),
        "train, weights": _train("--workers", "0", "--weights", str(CHECKPOINT)),
        "export": Job(
            ("export", str(CHECKPOINT), "--variant", "decoded", "--output", "bundle"), "bundle", verify, whole=verify
        ),
        "predict": Job(
            ("predict", pictures, "--weights", str(CHECKPOINT), "--output", "found"),
            "found",
            lambda folder: json.loads((folder / "detections.json").read_text()),
            whole=lambda folder: [json.loads(path.read_text()) for path in folder.glob("*.json")],
        ),
        "import": Job(
            ("import-weights", tflite, "--class-names", "circle", "square", "triangle", "--output", "a.pt"),
            "a.pt",
            read_checkpoint,
            whole=read_checkpoint,
        ),
    }


SHARES = {
    "train": 20,
    "train, 2 workers": 20,
    "train, cache": 15,
    "train, weights": 20,
    "export": 10,
    "predict": 8,
    "import": 7,
}


def run_job(name: str, kills: int, seed: int, folder: Path) -> list[str]:
    """Kill the job that often -> what was wrong, a line each."""
    job, random = jobs()[name], Random(f"{seed}/{name}")
    calm = folder / "calm"
    calm.mkdir(parents=True)
    start = time.monotonic()
    begun = _begin(job.arguments, calm)
    if begun.wait(PATIENCE):
        return [f"{name}: the undisturbed one fails: {_error(calm)}"]
    duration = time.monotonic() - start
    expected = job.fingerprint(calm / job.output)
    faults = []
    for number in range(kills):
        place = folder / f"kill_{number}"
        place.mkdir()
        if (calm / "data").exists():
            (place / "data").symlink_to(calm / "data")
        moment = random.uniform(0.05, 1.0) * duration
        faults += [f"{name}, killed after {moment:.2f} s: {text}" for text in _kill_once(job, moment, expected, place)]
        shutil.rmtree(place)
    return faults


def _kill_once(job: Job, moment: float, expected: Any, place: Path) -> list[str]:
    process, own = _begin(job.arguments, place), []
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        own = _of_session(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    faults = []
    output = place / job.output
    if left := _wait_for_end(process.pid):
        faults.append(f"processes that live on: {left}")
    try:
        if output.exists():
            job.whole(output)
    except Exception as error:  # any is a torn file
        faults.append(f"torn: {type(error).__name__}: {str(error)[:200]}")
    for path in () if job.again else [one for one in place.iterdir() if one.name != "data"]:
        if path == output:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    resumes = job.again is not None and (output / "config.json").exists()
    if job.again is not None and not resumes:
        shutil.rmtree(output, ignore_errors=True)
    second = _begin(job.again if resumes and job.again else job.arguments, place)
    if second.wait(PATIENCE):
        return [*faults, f"the next one fails: {_error(place)}"]
    if job.fingerprint(output) != expected:
        faults.append("another result")
    strange = [one.name for one in place.iterdir() if one.name not in (job.output, "data", "errors.txt")]
    strange += (
        [name for name in files_of(output) if ".part" in name or name.endswith((".tmp", ".lock"))]
        if output.is_dir()
        else []
    )
    if strange:
        faults.append(f"left over: {', '.join(strange)}")
    numbers = {entry.split()[0] for entry in own}
    if left_memory := {name for name in _shared_memory() if numbers & set(name.split("_"))}:
        faults.append(f"shared memory left: {', '.join(sorted(left_memory))}")
    return faults


def _begin(arguments: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "errors.txt").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder,
            env=environment,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )


def _error(folder: Path) -> str:
    return " ".join((folder / "errors.txt").read_text(errors="replace").split())[-400:]


def _shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def _wait_for_end(session: int) -> list[str]:
    """The processes of a session that are left after a while."""
    until = time.monotonic() + LINGER
    while (left := _of_session(session)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


def _of_session(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = path.read_text().split(" (", 1)
            name, fields = rest.rsplit(") ", 1)
        except (OSError, ValueError):
            continue  # it has just ended
        state, _, _, own_session, *_ = fields.split()
        if int(own_session) == session and state != "Z":
            found.append(f"{number} {name}")
    return found
