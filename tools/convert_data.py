"""Write a data set in another format, all of it or some: ``ssdlite convert-data SRC --to yolo --output DIR``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from ssdlite.arguments import DataArguments
from ssdlite.cli import run
from ssdlite.console import print_line
from ssdlite.datasets.conversion import PicturePlacing, convert_data
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(DataArguments):
    to: Literal["coco", "voc", "yolo", "csv", "label-studio"]
    """The format to write."""
    output: Path
    """A new or empty folder, outside of the data."""
    splits: tuple[str, ...] | None = None
    """Splits to write, also under other names: train holdout=test. Default: all, without those, such as trainval, whose
    pictures are in others too."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to write, in their order. Default: all of the data."""
    pictures: PicturePlacing = "copy"
    """Copy the pictures, or make hard links, which need no room but share their content with the originals."""
    skip_bad: bool = False
    """Leave out images and annotations that cannot be used, counting them, instead of stopping."""
    reading: ReadOptions = READ_OPTIONS


def convert(options: ConvertOptions) -> None:
    """Write a data set in another format, with all splits and pictures, or some of the splits and classes."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:

        def progress(total: int) -> Callable[[], object]:
            task = bar.add_task("pictures", total=total)
            return lambda: bar.advance(task)

        notes = convert_data(
            options.source,
            options.output,
            options.to,
            options.reading.loading(options.classes, skip_bad=options.skip_bad),
            splits=options.splits,
            pictures=options.pictures,
            progress=progress,
        )
    for note in notes:
        print_line(note)
    print_line(f"written: {options.output}")
    command = shlex.join(["ssdlite", "train", "--data", str(options.output)])
    print_line("next: import it in Label Studio" if options.to == "label-studio" else f"next: {command}")


def main(argv: Sequence[str] | None = None) -> int:
    return run(convert, ConvertOptions, argv, "ssdlite convert-data")


if __name__ == "__main__":
    sys.exit(main())
