"""Runs cases in processes of their own, and notes what did not answer: other errors, crashes, hangs, memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from ssdlite.errors import SsdliteError
from tests.fuzz.areas import AREAS

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # a case
MEBIBYTES = 2048  # beyond what a process has before its first case
POLL = 0.2
MOST_CHARACTERS = 5000  # of an error's message


@dataclass(frozen=True)
class Fault:
    """``kind``: error, crash, hang or memory. Repeat it by ``--areas AREA --first CASE --cases 1``."""

    area: str
    case: int
    kind: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """Of one area."""

    cases: int
    answered: int  # with an error of ours; the other cases went through
    seconds: float
    peak_mebibytes: float
    faults: tuple[Fault, ...]


# --- In the process that is attacked.


def serve(area: str, seed: int, first: int, count: int) -> None:
    """Run cases and print a line of JSON before and after each."""
    own = AREAS[area]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what is attacked may print
        os.dup2(nowhere.fileno(), 2)
    with tempfile.TemporaryDirectory() as place:
        material = own.prepare(Path(place))
        idle = _peak()
        for number in range(first, first + count):
            _tell(out, case=number)
            folder = Path(place) / f"case_{number}"
            folder.mkdir()
            _forget_peak()
            _tell(
                out, case=number, **run_case(area, seed, number, material, folder), mebibytes=max(0.0, _peak() - idle)
            )
            shutil.rmtree(folder, ignore_errors=True)


def run_case(area: str, seed: int, number: int, material: object, folder: Path) -> dict[str, str]:
    """How case ``number`` ended: passed, answered, or fault with its ``text``."""
    own = AREAS[area]
    try:
        own.attack(material, Random(f"{seed}/{area}/{number}"), folder)
    except own.expected as error:
        text = str(error)
        printable = text.encode("utf-8", "replace").decode() == text
        if printable and len(text) <= MOST_CHARACTERS and (isinstance(error, SsdliteError) or "expected" in text):
            return {"end": "answered"}
        return {"end": "fault", "text": f"a message of {len(text)} characters: {text[:300]!a}"}
    except Exception:  # whatever it is, it is what is looked for
        return {"end": "fault", "text": "\n".join(line[:300] for line in traceback.format_exc().splitlines()[-16:])}
    return {"end": "passed"}


def _tell(out: object, **facts: object) -> None:
    print(json.dumps(facts), file=out, flush=True)  # type: ignore[call-overload]


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(process: int | str = "self", field: str = "VmHWM") -> float:
    """Resident MiB; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


# --- In the one that watches.


def run_area(area: str, seed: int, first: int, count: int) -> Outcome:
    """All cases of an area, in as many processes as it takes: a fault that ends one costs that case alone."""
    start, faults, answered, peak = time.monotonic(), [], 0, 0.0
    following = first
    while following < first + count:
        for facts in _watch(area, seed, following, first + count - following):
            following = facts["case"] + 1
            answered += facts["end"] == "answered"
            peak = max(peak, facts.get("mebibytes", 0.0))
            if facts["end"] not in ("passed", "answered"):
                kind = "error" if facts["end"] == "fault" else facts["end"]
                faults.append(Fault(area, facts["case"], kind, facts["text"]))
            elif facts["mebibytes"] > MEBIBYTES:
                faults.append(Fault(area, facts["case"], "memory", f"{facts['mebibytes']:.0f} MiB"))
    return Outcome(count, answered, time.monotonic() - start, peak, tuple(faults))


def _watch(area: str, seed: int, first: int, count: int) -> Iterator[dict]:  # type: ignore[type-arg]
    """The ends of cases until the process has done all, or one has ended it."""
    command = [sys.executable, "-m", "tests.fuzz", "--serve", area, "--seed", str(seed)]
    command += ["--first", str(first), "--cases", str(count)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    ) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        current, since, idle = first, time.monotonic(), 0.0
        while True:
            try:
                line = lines.get(timeout=POLL)
            except queue.Empty:
                grown = _peak(process.pid, "VmRSS") - idle
                hangs = time.monotonic() - since > SECONDS + (60 if idle == 0 else 0)
                if hangs or (idle and grown > 2 * MEBIBYTES):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    kind = "hang" if hangs else "memory"
                    yield {"case": current, "end": kind, "text": f"{time.monotonic() - since:.0f} s, {grown:.0f} MiB"}
                    return
                continue
            if line is None:
                break
            facts = json.loads(line)
            since = time.monotonic()
            if "end" in facts:
                yield facts
                current = facts["case"] + 1
            else:
                idle = idle or _peak(process.pid, "VmRSS")
                current = facts["case"]
        if process.wait() and current < first + count:
            error = (process.stderr.read() if process.stderr else "")[-500:]
            yield {"case": current, "end": "crash", "text": f"exit status {process.returncode} {error}"}


def _read(stream: object, lines: queue.Queue[str | None]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.put(line)
    lines.put(None)


def to_row(area: str, outcome: Outcome) -> dict[str, object]:
    return {"area": area, **asdict(outcome)}
