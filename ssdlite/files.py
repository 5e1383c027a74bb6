"""Files written whole or not at all, folders that can be written to, and lists in sentences."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ssdlite.errors import ConfigError


def listing(items: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The first items, and how many there are besides: what a message can hold of a list of any length."""
    items = list(items)
    more = f"{separator.replace(',', '')}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 classes``, ``4 boxes``."""
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{number} {noun if number == 1 else plural}"


# --- Files written whole or not at all, and untrusted JSON read with one clear error.


@contextmanager
def replacing(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """The name of a temporary file to be filled, which takes the place of ``path`` once the block is through.

    A process that dies half-way leaves the old file as it was; the data reaches the disk before the name does, unless
    not ``durable``, for what a power cut may take since it can be had again: several times as quick. A
    symbolic link stays one: what it points to is replaced. A replaced file keeps its mode, and its owner where the
    system allows that. What is no file, such as a FIFO or /dev/stdout, is sent the data.
    """
    path = Path(path)
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if old is not None and not (stat.S_ISREG(old.st_mode) or stat.S_ISDIR(old.st_mode)):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            with temporary.open("rb") as content, path.open("wb") as stream:
                shutil.copyfileobj(content, stream)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        # Asking for the umask would change it for a moment: the system applies it to a new file itself.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600))
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if old is not None:
            with contextlib.suppress(PermissionError, AttributeError):  # not ours to give away, or no such system
                os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(stat.S_IMODE(old.st_mode))
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that people know; a full disk says none
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """A name beside ``path`` that says whose it is: ``.name.host-process-number.part``."""
    owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"
    return path.with_name(f".{path.stem}.{owner}.part{path.suffix}")


def remove_forgotten(folder: Path) -> None:
    """Delete what processes of this machine that were killed have left in ``folder`` under temporary names."""
    if os.name != "posix" or not folder.is_dir():
        return
    own = re.compile(rf"\..+\.{re.escape(_host())}-(\d+)-[0-9a-f]{{16}}\.part(\.[^.]*)?")
    for path in folder.iterdir():
        found = own.fullmatch(path.name)
        if found is not None and not _is_running(int(found[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())[:40]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's, or no number that this system gives
        pass
    return True


def write_atomically(path: Path | str, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Call ``write`` with a binary file that takes the place of ``path`` once it is complete; see ``replacing``."""
    with replacing(path, durable=durable) as temporary, temporary.open("wb") as file:
        write(file)


def write_text(path: Path | str, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is refused, since strict JSON parsers do not read it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


# --- Where the command-line programs write: folders checked before the work, one clear error for a full disk.


def prepare_folder(folder: Path) -> None:
    """Make ``folder``, check that files can be written there, and clear away what a killed process left half-written.

    Raises:
        ConfigError: they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        remove_forgotten(folder)


def save_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises ConfigError where the file cannot be written."""
    with writing(path):
        write_json(path, value)


def save_json_list(path: Path, values: Sequence[Any]) -> None:
    """Write a JSON array with one value a line. Raises ConfigError where the file cannot be written."""
    lines = ",\n".join(json.dumps(value, allow_nan=False, ensure_ascii=False) for value in values)
    with writing(path):
        write_text(path, f"[\n{lines}\n]\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing ``path`` into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
