"""Which options a run had: its folder, and the ``config.json`` there. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssdlite.errors import ConfigError, quote
from ssdlite.training.options import TrainOptions

RUN_FILES = ("last.pt", "best.pt", "config.json", "metrics.jsonl", "summary.json")


def run_path(path: Path | str) -> Path:
    """The run folder that ``path`` is, or that it is a file of."""
    return Path(path).parent if Path(path).name in RUN_FILES else Path(path)


def read_description(folder: Path) -> tuple[TrainOptions, dict[str, Any]]:
    """The options of the run in ``folder``, and the whole of its config.json.

    Raises:
        ConfigError: there is none, or not of a run.
    """
    try:
        options, content = _read_config(folder / "config.json")
    except OSError as error:
        raise ConfigError(
            f"--resume {folder}: expected a run folder with a config.json ({error.strerror}); "
            "--weights begins a new run from a checkpoint"
        ) from None
    return options.override(output=str(folder)), content


def _read_config(file: Path) -> tuple[TrainOptions, dict[str, Any]]:
    try:
        content = json.loads(file.read_text())
        options = content["options"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{file}: expected the options of a run under 'options', got {quote(error)}") from None
    return TrainOptions.from_dict(options), content


def stored_options(folder: Path | str) -> TrainOptions:
    """The options of the run in ``folder``, to be resumed as they are or with some changed. Raises ConfigError."""
    options, _ = read_description(run_path(folder))
    return options


def options_to_repeat(config: Path | str) -> TrainOptions:
    """The options in config.json of a run, to be run again in a folder of its own. Raises ConfigError."""
    file = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
    try:
        options, _ = _read_config(file)
    except OSError as error:
        raise ConfigError(f"--config {config}: expected config.json of a run ({error.strerror})") from None
    return options.override(output=None)


def next_run_folder(parent: Path = Path("runs")) -> Path:
    """runs/train-001, or the number behind the highest one there."""
    numbers = [int(path.name[6:]) for path in parent.glob("train-*") if path.name[6:].isdigit()]
    return parent / f"train-{max(numbers, default=0) + 1:03d}"
