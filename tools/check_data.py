"""Audit a data set, and the anchors for it: ``ssdlite check-data DIR``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tyro
from rich.console import Console
from rich.progress import Progress

from ssdlite.cli import run
from ssdlite.config import preset_config
from ssdlite.console import print_json, print_line
from ssdlite.datasets.audit.checks import CheckOptions, DataCheck, check_data
from ssdlite.datasets.audit.report import draw_report, draw_samples, print_report, report_values
from ssdlite.datasets.audit.verdict import NOT_USABLE, DataVerdict, judge
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.errors import ConfigError
from ssdlite.files import prepare_folder, write_json

# those that ``ssdlite train`` has too; ``reading`` is carried as well
CARRIED_OPTIONS = ("train_split", "val_split", "classes", "preset", "image_size", "resize", "anchor_budget", "seed")
PLAIN_WIDTH = 160  # characters, where the output is not a terminal


@dataclass(frozen=True)
class Options:
    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder or annotation file of a data set in any known format (docs/data.md). Default: that of --annotations."""
    annotations: Path | None = None
    """The same as PATH, by the name that it has in other programs. Default: PATH."""
    train_split: str | None = None
    """Split to fit and audit anchors on. Default: the customary one."""
    val_split: str | None = None
    """Split to validate on. Default: the customary one; a single split is divided, with --seed."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to look at. Default: all of the data."""
    reading: ReadOptions = READ_OPTIONS
    decode: bool = True
    """Decode every picture: finds damaged files, duplicates, and leaks between splits."""

    preset: str = "ssdlite320_mobilenet_v2"
    """The detector that the data are for."""
    image_size: int | None = None
    """Side of the square network input in pixels. Default: the preset's."""
    resize: Literal["stretch", "letterbox"] | None = None
    """How a picture becomes the input: stretched, or padded to keep its shape. Default: the preset's."""
    anchors: Literal["default", "fit"] = "fit"
    """Audit the preset's anchors alone, or propose fitted ones beside them."""
    anchor_budget: int | None = None
    """Most anchors that a fit may use. Default: as many as the preset has."""

    output: Path | None = None
    """Folder for report.json, report.png and samples.jpg. Default: runs/check/NAME."""
    json: bool = False
    """Print the report as JSON in place of tables."""
    strict: bool = False
    """Exit with status 1 when there are problems; warnings do not count."""
    seed: int = 0
    """Of the division of data with one split."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 where the data cannot be trained on, or with --strict when there are problems; 2 where they
    cannot be read; else 0.
    """
    failed = False

    def work(options: Options) -> None:
        """Audit a data set: counts, sizes, problems, duplicates, leaks between splits, and the anchors for it."""
        nonlocal failed
        prepare_folder(_output_folder(options))
        check = _check(options)
        _write(check, options)
        failed = judge(check).level == NOT_USABLE or (options.strict and bool(check.problems))

    return run(work, Options, argv, "ssdlite check-data") or int(failed)


def _check(options: Options) -> DataCheck:
    config = preset_config(options.preset, image_size=options.image_size, resize=options.resize)
    wanted = CheckOptions(
        train_split=options.train_split,
        val_split=options.val_split,
        loading=options.reading.loading(options.classes, skip_bad=True),
        fit=options.anchors == "fit",
        budget=options.anchor_budget,
        decode=options.decode,
        seed=options.seed,
    )
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:

        def progress(total: int) -> Callable[[], object]:
            task = bar.add_task("reading pictures", total=total)
            return lambda: bar.advance(task)

        return check_data(_source(options), config, wanted, progress)


def _source(options: Options) -> Path:
    given = [path for path in (options.data, options.annotations) if path is not None]
    if len(given) != 1:
        wrong = f"both: {given[0]} and {given[1]}" if given else "neither"
        raise ConfigError(f"expected a data set, either as PATH or as --annotations, got {wrong}")
    return given[0]


def _output_folder(options: Options) -> Path:
    return options.output or Path("runs") / "check" / _source(options).resolve().name


def _write(check: DataCheck, options: Options) -> None:
    verdict = judge(check)
    command = shlex.join(_next_command(options, verdict))
    values = report_values(check) | {"next": command}
    if options.json:
        print_json(values)
    else:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        print_report(check, console)
    folder = _output_folder(options)
    write_json(folder / "report.json", values)
    draw_report(check, folder / "report.png")
    draw_samples(check, folder / "samples.jpg")
    if not options.json:
        print(f"written: {folder}/report.json, report.png, samples.jpg")
        print_line(f"verdict: {verdict}", console)
        print(f"next: {command}")


def _next_command(options: Options, verdict: DataVerdict) -> list[str]:
    """The training on what was checked, with what it needs; where it cannot be, the check of what was mended."""
    data = str(_source(options))
    if verdict.level == NOT_USABLE:
        start = ["ssdlite", "check-data", data]
    else:
        start = ["ssdlite", "train", "--data", data, *(["--skip-bad"] if verdict.skip_bad else [])]
    given = {name: getattr(options, name) for name in CARRIED_OPTIONS} | msgspec.structs.asdict(options.reading)
    defaults = {name: getattr(Options(), name) for name in CARRIED_OPTIONS} | msgspec.structs.asdict(READ_OPTIONS)
    for name, value in given.items():
        if value != defaults[name]:
            start += [f"--{name.replace('_', '-')}", *([str(value)] if not isinstance(value, tuple) else value)]
    return start


if __name__ == "__main__":
    sys.exit(main())
