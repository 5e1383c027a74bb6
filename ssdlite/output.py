"""Where the command-line programs write: folders checked before the work, one clear error for a full disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssdlite.errors import ConfigError
from ssdlite.files import write_json, write_text


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
