"""Audit a data set, and the anchors for it: ``ssdlite check-data DIR``."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import Progress

from ssdlite.arguments import DataArguments
from ssdlite.cli import run
from ssdlite.config import DetectorConfig, ImageSize, preset_config
from ssdlite.console import print_json, print_line
from ssdlite.datasets.audit.checks import CheckOptions, DataCheck, check_data
from ssdlite.datasets.audit.report import draw_report, draw_samples, print_report, report_values
from ssdlite.datasets.audit.verdict import NOT_USABLE, STOPS_TRAINING, DataVerdict, judge
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.files import prepare_folder, write_json
from ssdlite.training.options import TrainOptions

# those that ``ssdlite train`` has too; ``reading`` is carried as well
CARRIED_OPTIONS = ("train_split", "val_split", "classes", "preset", "image_size", "resize", "anchor_budget", "seed")
PLAIN_WIDTH = 160  # characters, where the output is not a terminal


@dataclass(frozen=True)
class Options(DataArguments):
    train_split: str | None = None
    """Split to fit and audit anchors on. Default: the customary one."""
    val_split: str | None = None
    """Split to validate on. Default: the customary one; a single split is divided, with --seed."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to look at. Default: all of the data."""
    reading: ReadOptions = READ_OPTIONS
    decode: bool = True
    """Decode every picture: finds damaged files, duplicates, and leaks between splits."""

    preset: str | None = None
    """The detector that the data are for. Default: the one that `ssdlite train` would take, at its input size."""
    image_size: ImageSize | None = None
    """Side of the square network input in pixels, or its height and width. Default: the detector's."""
    resize: Literal["stretch", "letterbox"] | None = None
    """How a picture becomes the input: stretched, or padded to keep its shape. Default: the detector's."""
    anchors: Literal["default", "fit"] = "fit"
    """Audit the preset's anchors alone, or propose fitted ones beside them."""
    anchor_budget: int | None = None
    """Most anchors that a fit may use. Default: as many as the preset has."""

    output: Path | None = None
    """Folder for report.json, report.png and samples.jpg. Default: runs/check/NAME, or NAME-2, ... where other data of
    that name were checked before."""
    verbose: bool = False
    """Print all that is in report.json: box sizes, anchors, and more of each kind of problem."""
    json: bool = False
    """Print the report as JSON in place of tables."""
    strict: bool = False
    """Exit with status 1 when there are problems; warnings do not count."""
    skip_bad: bool = False
    """Judge the data as trained on with --skip-bad: for --strict, what that leaves out is no problem. All of it is told
    all the same."""
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
        folder = options.output or _free_folder(options.source)
        prepare_folder(folder)
        check = _check(options)
        verdict = judge(check, skip_bad=options.skip_bad)
        _write(check, verdict, folder, options)
        counting = [one for one in check.problems if not (options.skip_bad and one.kind in STOPS_TRAINING)]
        failed = verdict.level == NOT_USABLE or (options.strict and bool(counting))

    return run(work, Options, argv, "ssdlite check-data") or int(failed)


def _check(options: Options) -> DataCheck:
    def detector(train: DetectionIndex) -> DetectorConfig:
        if options.preset is not None:
            return preset_config(options.preset, image_size=options.image_size, resize=options.resize)
        from ssdlite.training.setup import planned_detector

        given = {"image_size": options.image_size, "resize": options.resize}
        return planned_detector(TrainOptions().override(data=str(options.source), **given), train)

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

        return check_data(options.source, detector, wanted, progress)


def _free_folder(source: Path) -> Path:
    """runs/check/NAME, with a number where it holds the report on other data of that name."""
    name = source.resolve().stem if source.is_file() else source.resolve().name
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    folders = (Path("runs") / "check" / one for one in names)
    return next(folder for folder in folders if not _is_about_others(folder / "report.json", source))


def _is_about_others(report: Path, source: Path) -> bool:
    """Whether there is a report on other data than ``source``, or on none that can be told."""
    if not report.exists():
        return False
    try:
        return Path(json.loads(report.read_text())["data"]).resolve() != source.resolve()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def _write(check: DataCheck, verdict: DataVerdict, folder: Path, options: Options) -> None:
    following = verdict.remedy or shlex.join(_training(options, verdict))
    values = report_values(check, verdict) | {"next": following}
    if options.json:
        print_json(values)
    else:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        print_report(check, console, verbose=options.verbose)
    write_json(folder / "report.json", values)
    draw_report(check, folder / "report.png")
    draw_samples(check, folder / "samples.jpg")
    if not options.json:
        more = "" if options.verbose else " (--verbose prints all of it: box sizes, anchors, every kind of problem)"
        print_line(f"written: {folder}/report.json, report.png, samples.jpg{more}", console)
        print_line(f"verdict: {verdict}", console)
        print(f"next: {following}")


def _training(options: Options, verdict: DataVerdict) -> list[str]:
    """The command that trains on what was checked, with what it needs."""
    skip_bad = ["--skip-bad"] if verdict.skip_bad or options.skip_bad else []
    command = ["ssdlite", "train", "--data", str(options.source), *skip_bad]
    given = {name: getattr(options, name) for name in CARRIED_OPTIONS} | msgspec.structs.asdict(options.reading)
    defaults = {name: getattr(Options(), name) for name in CARRIED_OPTIONS} | msgspec.structs.asdict(READ_OPTIONS)
    for name, value in given.items():
        if value != defaults[name]:
            command += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return command


if __name__ == "__main__":
    sys.exit(main())
