"""Where the command-line programs write: folders checked before the work, one clear error instead of a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssdlite.errors import ConfigError
from ssdlite.files import write_json, write_text


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` and check that files can be written there.

    Raises:
        ConfigError: they cannot.
    """

    def probe() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f".probe-{os.getpid()}"
        file.touch()
        file.unlink()

    writing(folder, probe)


def save_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises ConfigError where the file cannot be written."""
    writing(path, lambda: write_json(path, value))


def save_json_list(path: Path, values: Sequence[Any]) -> None:
    """Write a JSON array with one value a line. Raises ConfigError where the file cannot be written."""
    lines = ",\n".join(json.dumps(value, allow_nan=False, ensure_ascii=False) for value in values)
    writing(path, lambda: write_text(path, f"[\n{lines}\n]\n"))


def writing(path: Path, write: Callable[[], object]) -> None:
    """Call ``write``. Raises ConfigError naming ``path`` where the disk does not let it."""
    try:
        write()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
