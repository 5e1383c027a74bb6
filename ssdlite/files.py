"""Parts of sentences for messages."""

from __future__ import annotations

import json
import os
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
    """``1 image``, ``2 images``, ``3 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


# --- Files written whole or not at all, and untrusted JSON read with one clear error.


def write_atomically(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write`` with a binary file that takes the place of ``path`` only once it is complete.

    A process that dies half-way leaves the old file as it was. The data reaches the disk before the name does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is refused, since strict JSON parsers do not read it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def umask() -> int:
    """The permissions that new files are denied."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- Where the command-line programs write: folders checked before the work, one clear error for a full disk.


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` and check that files can be written there.

    Raises:
        ConfigError: they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()


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
