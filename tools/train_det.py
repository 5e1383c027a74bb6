"""Train a detector: ``python tools/train_det.py --data DIR`` or ``ssdlite train --data DIR``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ssdlite.arguments import DATA_NAMES, pick_arguments
from ssdlite.cli import Waiting, keep_freed_memory, require_weights, run, set_threads
from ssdlite.training.options import SHAPES, TrainOptions
from ssdlite.training.recipes import recipe_defaults
from ssdlite.training.run_config import options_to_repeat, stored_options
from ssdlite.validation import Config, require

SHORT = {"-e": "--epochs", "-b": "--batch-size", **DATA_NAMES}


class ResumeCommand(Config, frozen=True, kw_only=True):
    resume: str | None = None
    """Run folder to continue, with its own options; the result is that of an uninterrupted run.
    Default: a new run begins."""
    config: str | None = None
    """config.json of a run: its options, also those that were decided from the data, are those of a new run in a new
    folder, where others are not given. Default: none."""


class TrainCommand(ResumeCommand, frozen=True, kw_only=True):
    threads: int | None = None
    """Threads that compute. Default: one for each core."""
    wait: Waiting | None = None
    """How a thread waits for another: active (it keeps its core for milliseconds), passive (it sleeps at once, for a
    machine with other work), or briefly, between the two. Default: passive where something else computes at the start,
    else briefly, unless OpenMP's variables say how."""
    options: Annotated[TrainOptions, tyro.conf.arg(name="")] = TrainOptions()

    def check(self) -> None:
        require(self.threads is None or self.threads >= 1, f"--threads: expected 1 or more, got {self.threads}")


def train_det(command: TrainCommand) -> None:
    """Train a detector on a data set in any known format (docs/data.md), or on the built-in shapes."""
    if command.resume is None:
        _require_input(command.options)
    remark = set_threads(command.threads, command.wait)
    from ssdlite.device import names_gpu
    from ssdlite.training.runs import resume, train

    if not names_gpu(command.options.system.device):
        keep_freed_memory()
    if command.resume is None:
        train(command.options, remark=remark)
    else:
        resume(command.resume, command.options, remark=remark)


def _require_input(options: TrainOptions) -> None:
    """Raises DataError or CheckpointError for data or weights that are not there."""
    if options.dataset.data != SHAPES:
        from ssdlite.datasets.loading import require_there

        require_there(Path(options.dataset.data), options.dataset)
    weights = options.start.detector_weights
    if weights is not None and weights != "imagenet":  # of which there is another thing to say
        require_weights(Path(weights))
    if options.distillation.teacher is not None:
        require_weights(Path(options.distillation.teacher), option="--teacher: ")


def defaults(arguments: list[str]) -> TrainCommand:
    """What an option is that is not given: in a run that is resumed or repeated, what it was there."""
    given = pick_arguments(ResumeCommand, arguments)
    require(given.resume is None or given.config is None, "--config begins a new run, and does not go with --resume")
    if given.config is not None:
        return TrainCommand(options=options_to_repeat(given.config))
    return TrainCommand() if given.resume is None else TrainCommand(options=stored_options(given.resume))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--data")  # ssdlite train DIR, as check-data and convert-data take it
    return run(
        train_det, TrainCommand, arguments, "ssdlite train", defaults=defaults, short=SHORT, recipes=recipe_defaults()
    )


if __name__ == "__main__":
    sys.exit(main())
