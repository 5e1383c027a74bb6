"""The ``ssdlite`` command, and what the command-line programs share."""

from __future__ import annotations

import ctypes
import errno
import importlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal, TypeVar

from ssdlite import __version__
from ssdlite.errors import CheckpointError, SsdliteError, quote

COMMANDS = {  # name: (module with main(argv), what it does)
    "train": ("ssdlite.tools.train_det", "train a detector on annotated pictures or built-in data"),
    "eval": ("ssdlite.tools.eval_det", "score a checkpoint or an exported model on annotated data"),
    "predict": ("ssdlite.tools.predict", "detect in images, folders, videos and a camera"),
    "classify": ("ssdlite.tools.classify", "print the likeliest ImageNet labels of pictures"),
    "export": ("ssdlite.tools.export_onnx", "turn a checkpoint into files for phones, checked and measured"),
    "verify": ("ssdlite.tools.verify_bundle", "replay an exported bundle's reference vectors, step by step"),
    "lint": ("ssdlite.tools.lint_model", "say what a mobile runtime will refuse or leave to the CPU"),
    "import-weights": ("ssdlite.tools.import_weights", "turn another project's detector into a checkpoint"),
    "benchmark": ("ssdlite.tools.benchmark", "time detectors side by side, stage by stage"),
    "check-data": ("ssdlite.tools.check_data", "audit a data set and the anchors for it"),
    "convert-data": ("ssdlite.tools.convert_data", "write a data set in another format, all of it or some"),
    "completion": ("ssdlite.tools.completion", "print what makes a shell complete commands and options"),
}
PACKAGE_NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow"}  # modules whose package has another name
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if sys.platform != "win32" else {errno.ENOSPC}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
WAIT_VARIABLES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}  # of any OpenMP, of GNU's and of LLVM's
Waiting = Literal["briefly", "passive", "active"]
# turns of libgomp's waiting loop before a thread sleeps; its own number is that of "active" (docs/performance.md)
SPINS: dict[Waiting, int] = {"briefly": 4000, "passive": 0, "active": 300_000}
PROCESSOR_TIMES = Path("/proc/stat")
BUSY = 0.5  # cores that other work has to keep busy to be reckoned with
STDERR = 2  # the file descriptor, which native code writes to
NATIVE_LOCK = threading.RLock()  # who restores it has to be who has changed it
T = TypeVar("T")


def run(
    work: Callable[[T], None],
    options: type[T],
    argv: Sequence[str] | None,
    program: str,
    *,
    defaults: Callable[[list[str]], T] | None = None,
    short: Mapping[str, str] | None = None,
    recipes: Mapping[str, str] | None = None,
) -> int:
    """Parse ``argv`` into the dataclass ``options``, call ``work`` with it, and return the exit status.

    0 when it went well, 2 with one line on standard error for a user's mistake, 130 when interrupted.

    Args:
        defaults: makes of the arguments the values of options that are not among them.
        short: other names of flags, each not to be given beside its own.
        recipes: of an option whose default is a recipe's, what that is.
    """
    from ssdlite.arguments import parse_arguments, with_full_names

    _escape_unknown_characters()
    try:
        arguments = with_full_names(sys.argv[1:] if argv is None else argv, short or {})
        parsed = parse_arguments(
            options,
            arguments,
            program=program,
            description=work.__doc__,
            defaults=defaults(arguments) if defaults else None,
            recipes=recipes,
        )
        _announce(program, parsed)
        from ssdlite.runtime.backends.base import opening_in

        with opening_in(discard_native_errors):
            work(parsed)
    except SsdliteError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"{program}: error: {place}cannot be written ({error.strerror}); make room", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return 0


def _announce(program: str, options: object) -> None:
    """Say something at once where torch is still to be loaded, which takes seconds; but not amid JSON."""
    is_first = os.environ.get("RANK", "0") == "0"
    is_read_by_people = getattr(options, "json", None) is not True and getattr(options, "announced", True)
    if is_first and "torch" not in sys.modules and is_read_by_people:
        print(f"{program} {__version__}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """``ssdlite COMMAND ...``: hand the rest of the arguments to that command's program."""
    _escape_unknown_characters()
    if argv is None:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("ssdlite: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what Python flushes when it ends
        return 128 + 13  # SIGPIPE, which Windows does not have


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:  # help COMMAND, as git and others take it
        arguments = [*arguments[1:2], "--help"]
    if arguments and arguments[0] in COMMANDS:
        return _run_command(arguments[0], arguments[1:])
    if arguments and arguments[0] == "--version":
        print(f"ssdlite {__version__}")
        return 0
    usage = (
        "usage: ssdlite COMMAND [options]\n\n"
        + "".join(f"  {name:<16}{text}\n" for name, (_, text) in COMMANDS.items())
        + "\n`ssdlite COMMAND --help` or `ssdlite help COMMAND` lists the options of a command.\n"
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage, end="")
        return 0
    from ssdlite.validation import suggest

    unknown = arguments[0]
    print(f"ssdlite: error: unknown command {quote(unknown)}{suggest(unknown, COMMANDS)}", file=sys.stderr)
    return 2


def _run_command(name: str, arguments: list[str]) -> int:
    """A package that is missing, as in an environment for running exported models alone, is named in one line."""
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(arguments))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ssdlite"):
            raise
        module = error.name.partition(".")[0]
        package = PACKAGE_NAMES.get(module, module)
        print(f"ssdlite {name}: error: needs a package that is not installed: pip install {package}", file=sys.stderr)
        return 2


# --- What is looked at before torch is loaded, which takes seconds.


def require_weights(path: Path, *, option: str = "") -> None:
    """Raises CheckpointError, which begins with ``option``, where there is neither a file or folder of this name, nor a
    detector that comes along."""
    from ssdlite.config import no_such_checkpoint, shipped_file
    from ssdlite.runtime.files import is_exported

    if not path.exists() and shipped_file(path) == path and not is_exported(path):
        raise CheckpointError(f"{option}{path}: {no_such_checkpoint(path)}")


def find_weights(path: Path) -> Path:
    """``path`` of a checkpoint or an exported model; of a run's folder the best checkpoint in it, saying so.

    Raises CheckpointError as ``require_weights``.
    """
    from ssdlite.runtime.files import run_checkpoint

    require_weights(path)
    found = run_checkpoint(path)
    if found != path:
        print(f"{path} is the folder of a run: taking {found}", file=sys.stderr)
    return found


# --- What a program may change of its own process, and a library may not.


def _escape_unknown_characters() -> None:
    """A terminal or a file that lacks a character of a class name or a path is sent its number instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """The first SIGINT stops the work; more of them do not disturb what is tidied up then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def discard_native_errors() -> Iterator[None]:
    """What native code writes to standard error meanwhile goes nowhere: some runtimes greet there, with no switch for
    it. (Errors come as exceptions.) Python's own lines do, too, so it is to be brief.
    """
    with NATIVE_LOCK:
        try:
            kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
        except OSError:  # there is no standard error
            yield
            return
        try:
            os.dup2(nowhere, STDERR)
            yield
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
            os.close(nowhere)


def keep_freed_memory() -> None:
    """From now on this process returns no memory to the system before it ends. Does nothing without glibc.

    A training step frees some gigabytes of large tensors and asks for them again. Returned each time, they come back
    page by page, a fault for each: a sixth of the step on a CPU (docs/notes/performance.md).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def set_threads(count: int | None, waiting: Waiting | None) -> str | None:
    """How many threads compute, by default one for each core, and how those wait that are done before the others.

    ``active`` ones look again and again for milliseconds, as is OpenMP's way: beside another process that computes they
    keep the core that the thread they wait for needs. ``passive`` ones sleep at once, and take time to wake. Those that
    wait ``briefly`` look for as long as threads left alone have to. Unless the environment says how, threads wait
    passively where something else computes by now, and briefly where nothing does; the first is returned in words.

    To be called before torch is loaded, when OpenMP reads the environment; later only the number has an effect.
    """
    if "torch" in sys.modules:
        if count is not None:
            sys.modules["torch"].set_num_threads(count)
        return None
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
    remark = None
    if waiting is None:
        if WAIT_VARIABLES & os.environ.keys():
            return None
        busy = busy_cores()
        waiting = "passive" if busy > BUSY else "briefly"
        if waiting == "passive":
            remark = f"other work keeps {busy:.1f} cores busy: threads sleep while they wait for one another (--wait)"
    os.environ["GOMP_SPINCOUNT"] = str(SPINS[waiting])
    if waiting != "briefly":
        os.environ["OMP_WAIT_POLICY"] = waiting.upper()
    return remark


def busy_cores() -> float:
    """How many of the cores that this process may use others keep busy, in a fifth of a second; 0 but on Linux."""
    if not PROCESSOR_TIMES.exists():
        return 0.0
    before, start = _idle_seconds(), time.monotonic()
    time.sleep(0.2)
    passed = time.monotonic() - start
    return sum(max(0.0, 1 - (after - idle) / passed) for idle, after in zip(before, _idle_seconds(), strict=True))


def _idle_seconds() -> list[float]:
    """Of each core that this process may use, since the machine started (proc_stat(5))."""
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in PROCESSOR_TIMES.read_text().splitlines()]
    return [(int(row[4]) + int(row[5])) / os.sysconf("SC_CLK_TCK") for row in rows if row and row[0] in own]


if __name__ == "__main__":
    sys.exit(main())
