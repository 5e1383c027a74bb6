"""Turn another project's detector into a checkpoint of ours: ``ssdlite import-weights SOURCE --output X.pt``."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.markup import escape
from rich.table import Table

from ssdlite import cli
from ssdlite.console import print_line, print_table
from ssdlite.errors import ConfigError
from ssdlite.weights.api import WEIGHT_FORMATS
from ssdlite.weights.source import AnchorOrder, read_anchors

if TYPE_CHECKING:
    from ssdlite.config import DetectorConfig
    from ssdlite.weights import Imported

NAMES_SHOWN = 8
UNUSUAL = (  # options that are shown where they are not as usual
    "activation",
    "narrowing",
    "extra_conv",
    "extra_channels",
    "extra_hidden",
    "extra_output",
    "head_conv",
    "last_head_conv",
    "box_code_scales",
    "norm_momentum",
    "candidates_per_class",
)
BOOK_KEEPING = ".num_batches_tracked"  # a number in every batch norm that no other project has


@dataclass(frozen=True)
class ImportWeightsOptions:
    source: Annotated[str, tyro.conf.Positional]
    """A .tflite, .pth, .ckpt, .pt, .safetensors or .pdparams file, a TensorFlow checkpoint or frozen graph, or
    torchvision:coco, which is downloaded."""
    output: Path
    """The checkpoint to write, such as X.pt."""
    format: Annotated[str, tyro.conf.arg(help=f"What the source is: {', '.join(WEIGHT_FORMATS)}; auto looks.")] = "auto"
    labels: Path | None = None
    """A file with a class name a line, in the order of the classifier's rows, background first or left out; or a label
    map of TensorFlow (.pbtxt). Default: labels.txt or the like beside the source, else COCO's names where they fit."""
    class_names: tuple[str, ...] | None = None
    """The same names, in place of a file. Default: as for --labels."""
    image_size: int | None = None
    """Side of the input in pixels, where the source does not say; one that says another is refused. Default: what the
    source says, else what its format usually has."""
    pictures: Path | None = None
    """A folder of pictures like those to come: folded batch norms (tflite, mb1-ssd) are restored with the statistics of
    some of them, and the order of anchors is checked. Default: statistics of drawn scenes, and no check."""
    anchor_order: AnchorOrder | None = None
    """Of a TensorFlow SSD whose file does not hold its anchors: interpolated_second for one of mid-2017, else
    interpolated_last. Default: that of the file, else interpolated_last."""
    anchors: Path | None = None
    """A JSON file with all anchors, where they are not the project's usual ones: {"levels": [[[width, height], ...],
    ...]}, fractions of the input for each map, finest first. Default: the file's, else the project's usual ones."""
    overwrite: bool = False
    """Write over a file that is there."""
    verbose: bool = False
    """List every tensor."""


def import_file(options: ImportWeightsOptions) -> None:
    """Turn another project's detector into a checkpoint: all of it, or nothing is written."""
    from ssdlite.files import writing
    from ssdlite.weights import import_weights

    _check_output(options)
    imported = import_weights(
        options.source,
        options.format,
        class_names=_class_names(options),
        image_size=options.image_size,
        pictures=options.pictures,
        anchor_order=options.anchor_order,
        anchors=None if options.anchors is None else read_anchors(options.anchors),
    )
    from ssdlite.checkpoint import save_checkpoint

    with writing(options.output):
        save_checkpoint(imported.checkpoint, options.output)
    _print_summary(imported, Path(options.source).name)
    _print_tensors(imported, options.verbose)
    for note in imported.notes:
        print_line(f"note: {note}")
    print_line(
        f"checkpoint: {options.output}  (ssdlite predict, eval, export; ssdlite train --weights to fine-tune it)"
    )


def _check_output(options: ImportWeightsOptions) -> None:
    """Raises ConfigError where the output could not be written, before there is anything to lose."""
    from ssdlite.files import remove_forgotten, writing

    output = options.output
    with writing(output):
        if output.is_dir():
            raise ConfigError(f"{output}: expected a file to write, this is a folder")
        if output.exists() and not options.overwrite:
            raise ConfigError(f"{output}: already there; --overwrite replaces a file")
        if output.exists() and Path(options.source).exists() and output.samefile(options.source):
            raise ConfigError(f"{output}: expected another file than the source")
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            remove_forgotten(folder)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(import_file, ImportWeightsOptions, argv, "ssdlite import-weights")


def _class_names(options: ImportWeightsOptions) -> tuple[str, ...] | None:
    if options.labels is None:
        return options.class_names
    if options.class_names is not None:
        raise ConfigError("--labels and --class-names: expected one of them, got both")
    from ssdlite.weights.class_names import read_class_names

    return read_class_names(options.labels)


def _print_summary(imported: Imported, name: str) -> None:
    config = imported.checkpoint.config
    table = Table(title=escape(f"{name}: {imported.source}"), title_justify="left", show_header=False)
    for fact, value in _facts(config):
        table.add_row(fact, escape(value))
    print_table(table)


def _facts(config: DetectorConfig) -> list[tuple[str, str]]:
    width = "" if config.backbone.width_mult == 1 else f", width {config.backbone.width_mult:g}"
    more = f" and {config.num_classes - NAMES_SHOWN} more" if config.num_classes > NAMES_SHOWN else ""
    height, across = config.input.size
    steps = f", {_plain(config.anchors.steps)} pixels apart" if config.anchors.steps else ""
    steps += f", centres at {config.anchors.offset:g} of a cell" if config.anchors.offset != 0.5 else ""
    return [
        ("backbone", config.backbone.name + width),
        ("neck, head", f"{config.neck.name}, {config.head.name}"),
        *_unusual_facts(config),
        ("input", f"{height} x {across}, {config.input.resize}"),
        ("mean, std", f"{_plain(config.input.mean)}, {_plain(config.input.std)}"),
        ("padding, norm eps", f"{config.layers.padding}, {config.layers.norm_eps:g}"),
        ("anchors", f"{config.num_anchors}: {_plain(config.anchors.shapes_per_cell)} per cell of each map{steps}"),
        ("scores", config.head.score_function),
        (
            "thresholds",
            f"score {config.postprocess.score_threshold:g}, suppression {config.postprocess.nms_threshold:g}",
        ),
        ("classes", f"{config.num_classes}: {', '.join(config.class_names[:NAMES_SHOWN])}{more}"),
    ]


def _unusual_facts(config: DetectorConfig) -> Iterator[tuple[str, str]]:
    from ssdlite.config import DetectorConfig, get_option

    for name in UNUSUAL:
        value = get_option(config, name)
        if value != get_option(DetectorConfig(), name):
            yield name.replace("_", " "), (_plain(value) or "none") if isinstance(value, tuple) else str(value)


def _plain(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _print_tensors(imported: Imported, verbose: bool) -> None:
    """What was matched, made and unused: how many and why, or each by name."""
    made = [(ours, why) for ours, why in imported.made if not ours.endswith(BOOK_KEEPING)]
    print_line(f"{len(imported.matched)} tensors matched, {len(made)} made, {len(imported.left)} unused")
    if verbose:
        for ours, theirs in imported.matched:
            print_line(f"  {theirs} -> {ours}")
    for what, entries in (("made", made), ("unused", imported.left)):
        if verbose:
            for name, why in entries:
                print_line(f"  {what}: {name} ({why})")
        else:
            for why, count in Counter(why for _, why in entries).items():
                print_line(f"  {what}: {count} ({why})")


if __name__ == "__main__":
    sys.exit(main())
