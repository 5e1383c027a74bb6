"""Score a checkpoint or an exported model on annotated data: COCO's twelve figures, and Pascal VOC's AP."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ssdlite import cli
from ssdlite.arguments import DATA_NAMES
from ssdlite.build import Thresholds, load_any, trained_rename
from ssdlite.console import POINT_CAPTION, POINT_COLUMNS, format_figure, point_cells, print_line, print_table
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.errors import ConfigError, DataError
from ssdlite.files import listing, prepare_folder, save_json, save_json_list
from ssdlite.runtime.files import is_exported

if TYPE_CHECKING:
    from ssdlite.datasets.index import DetectionIndex
    from ssdlite.device import Processes
    from ssdlite.evaluation.analysis.trained import TrainedWith
    from ssdlite.evaluation.coco import Evaluator, Metrics
    from ssdlite.evaluation.voc import VocMetrics
    from ssdlite.images.prediction import DetectionModel
    from ssdlite.training.run_folder import RunFolder


@dataclass(frozen=True)
class EvalOptions:
    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The checkpoint, such as best.pt of a training, the folder of a training, or an exported .onnx or .ort file or
    bundle folder."""
    data: Path | None = None
    """Folder or annotation file of a data set in any known format (docs/data.md); also --annotations. Default: the data
    of the checkpoint's run."""
    model: str | None = None
    """Which file of a bundle. Default: the nms one, otherwise decoded, otherwise raw, in fp32 if there is one."""
    split: str | None = None
    """Which split to score on. Default: without --data what the run validated on, also where that was divided off the
    training data; with --data val, otherwise test, otherwise the only one."""
    output: Path | None = None
    """Folder for metrics.json, coco_results.json and the report. Default: none of them is written."""
    report: bool = True
    """Write report.html, which shows in pictures what goes wrong, and the same as report.json into --output."""
    json: Path | None = None
    """Write the figures to this file. Default: metrics.json in --output, where that is given."""
    coco_results: Path | None = None
    """Write the detections to this file in COCO's result format, with the data's own category ids. Default:
    coco_results.json in --output, where that is given."""
    batch_size: int = 32
    """Images that go through the network together."""
    workers: int = 2
    """Processes that read images."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one. Exported models run on the CPU."""
    amp: Literal["off", "auto", "bfloat16", "float16"] = "off"
    """Mixed precision: faster where the device has it; the figures may differ in the third digit. Not for exported
    models."""
    score_threshold: float | None = None
    """Leave out detections below this score. This and the next two are built into exported models of variant nms and
    cannot be changed there. Default: the model's setting."""
    nms_threshold: float | None = None
    """IoU above which NMS drops the lower-scoring of two boxes. Default: the model's setting."""
    max_detections: int | None = None
    """Detections an image. Default: the model's setting."""
    skip_bad: bool = False
    """Leave out images and annotations that cannot be used, and count them, instead of stopping."""
    reading: ReadOptions = READ_OPTIONS


def evaluate(options: EvalOptions) -> None:
    """Score a checkpoint or an exported model with COCO's figures, per class, and Pascal VOC's average precision.

    Under torchrun each process takes a share of the images; the figures are those of a single one.
    """
    options = replace(options, checkpoint=cli.find_weights(options.checkpoint))
    _check(options)
    files = _output_files(options)
    from ssdlite.device import join_processes

    with join_processes(options.device) as processes:
        model = _load_model(options)
        console = Console(quiet=not processes.is_first)
        index = (
            _load_index(options, model, console) if options.data else _data_of_run(options, model, processes, console)
        )
        start = time.perf_counter()
        evaluator = _detect(options, model, index, processes, console)
        if processes.is_first:
            _report(options, model, evaluator, time.perf_counter() - start, console=console, files=files)


def _report(
    options: EvalOptions,
    model: DetectionModel,
    evaluator: Evaluator,
    seconds: float,
    *,
    console: Console,
    files: OutputFiles,
) -> None:
    from ssdlite.evaluation.voc import compute_voc_metrics

    metrics = evaluator.compute()
    voc = compute_voc_metrics(evaluator.index, evaluator.state())
    _print_tables(console, evaluator.index, metrics, voc)
    if files.figures:
        report = {
            "checkpoint": str(options.checkpoint),
            "data": None if options.data is None else str(options.data),
            "split": evaluator.index.name,
            "images": len(evaluator.index),
            "objects": sum(evaluator.index.object_counts().values()),
            "seconds": round(seconds, 2),
            **metrics.to_dict(),
            "voc": voc.to_dict(),
        }
        save_json(files.figures, report)
    if files.coco_results:
        save_json_list(files.coco_results, evaluator.coco_results())
    written = [path for path in files if path]
    if options.output and options.report:
        from ssdlite.evaluation.analysis.report import write_report

        trained = _trained_with(options.checkpoint, model)
        written += write_report(options.output, evaluator, metrics, options.checkpoint, trained)
    for path in written:
        print_line(f"wrote {path}", console)
    if options.report and not options.output:
        print_line("--output DIR writes report.html as well: what is found, missed and confused, in pictures", console)


def _trained_with(checkpoint: Path, model: DetectionModel) -> TrainedWith:
    """What the report need not advise: what the file says, and of a run's the lines of metrics.jsonl beside it."""
    from ssdlite.evaluation.analysis.trained import TrainedWith

    config = getattr(model, "config", None)
    if config is None:  # of an exported model
        return TrainedWith(image_size=max(model.input_transform.size))
    if not checkpoint.is_file():  # one that comes along
        return TrainedWith.of(config)
    from ssdlite.checkpoint import load_checkpoint

    options, history = load_checkpoint(checkpoint).training.get("options"), []
    with suppress(OSError, ValueError, RecursionError):  # what is not as training writes it says nothing
        history = [json.loads(line) for line in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in history if isinstance(line, dict)]
    return TrainedWith.of(config, options if isinstance(options, dict) else None, lines)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(evaluate, EvalOptions, argv, "ssdlite eval", short=DATA_NAMES)


class OutputFiles(NamedTuple):
    figures: Path | None
    coco_results: Path | None


def _output_files(options: EvalOptions) -> OutputFiles:
    """Where to write, the folders made and found writable before any work is done."""
    folder = options.output
    figures = options.json or (folder / "metrics.json" if folder else None)
    results = options.coco_results or (folder / "coco_results.json" if folder else None)
    for path in (figures, results):
        if path:
            prepare_folder(path.parent)
    return OutputFiles(figures, results)


def _check(options: EvalOptions) -> None:
    """Raises ConfigError or DataError for what can be seen without a detector."""
    for name, value, least in (("batch-size", options.batch_size, 1), ("workers", options.workers, 0)):
        if value < least:
            raise ConfigError(f"--{name}: expected {least} or more, got {value}")
    if options.amp != "off" and is_exported(options.checkpoint):
        raise ConfigError(f"--amp {options.amp}: the precision of the exported model {options.checkpoint} is its own")
    if options.data is not None:
        from ssdlite.datasets.loading import require_there

        require_there(options.data, options.reading)


def _load_model(options: EvalOptions) -> DetectionModel:
    thresholds = Thresholds(
        score_threshold=options.score_threshold,
        nms_threshold=options.nms_threshold,
        max_detections=options.max_detections,
    )
    return load_any(
        options.checkpoint, model=options.model, device=options.device, thresholds=thresholds, amp=options.amp
    )


def _load_index(options: EvalOptions, model: DetectionModel, console: Console) -> DetectionIndex:
    """The split under the detector's class names, saying what does not fit."""
    from ssdlite.datasets.index import problem_notes
    from ssdlite.datasets.loading import find_splits, load_split

    assert options.data is not None  # the caller's condition
    reading = _as_trained(options.reading, model, console)
    layout = find_splits(options.data, reading)
    loading = reading.loading(model.class_names, skip_bad=options.skip_bad)
    index = load_split(layout, options.split, loading, allow_absent=True)
    notes = [f"{index.name}: {len(index)} images, {sum(index.object_counts().values())} objects to find"]
    if options.split is None and len(layout.splits) == 1:
        notes.append(f"warning: {index.name} is the only split; pictures that were trained on may be among these")
    for note in (*notes, *problem_notes(index)):
        print_line(note, console)
    return index


def _as_trained(reading: ReadOptions, model: DetectionModel, console: Console) -> ReadOptions:
    """With the names that the model's training gave to classes, where the caller says nothing of names."""
    rename = trained_rename(model) if reading.rename is None else None
    if rename:
        print_line(f"classes are renamed as in training: --rename {' '.join(rename)}", console)
    return reading.as_trained(rename)


def _data_of_run(options: EvalOptions, model: DetectionModel, processes: Processes, console: Console) -> DetectionIndex:
    """What the run that the checkpoint lies in has validated on; with ``--split`` that split of its data.

    Raises:
        ConfigError: it lies in no folder of a run.
        DataError: the data are not those of then.
    """
    from ssdlite.training.run_folder import RunFolder
    from ssdlite.training.setup import data_root

    folder = RunFolder(options.checkpoint.parent)
    if not (folder.path / "config.json").is_file():
        part = f", of which --split {options.split} is one" if options.split else ""
        raise ConfigError(
            f"--data: expected a data set to score {options.checkpoint} on{part}; it lies in no folder of a run"
        )
    if options.split is None:
        return _validation_data(folder, processes)
    dataset = folder.description().options.dataset
    given = {
        name: value
        for name, value in msgspec.structs.asdict(options.reading).items()
        if value != getattr(READ_OPTIONS, name)
    }
    as_trained = {name: getattr(dataset, name) for name in READ_OPTIONS.__struct_fields__}
    skip_bad = options.skip_bad or dataset.skip_bad
    reading = READ_OPTIONS.changed(**as_trained | given)
    return _load_index(replace(options, data=data_root(dataset), reading=reading, skip_bad=skip_bad), model, console)


def _validation_data(folder: RunFolder, processes: Processes) -> DetectionIndex:
    """Raises DataError where the data are not those of then."""
    from ssdlite.training.run_folder import SplitFingerprint
    from ssdlite.training.setup import load_splits

    stored = folder.description()
    index = load_splits(stored.options, processes).val
    expected = (stored.data or {}).get("val", SplitFingerprint.of(index))
    if SplitFingerprint.of(index) != expected:
        raise DataError(
            f"{index.name}: expected {expected}, as {folder.path} was validated on, got {SplitFingerprint.of(index)}; "
            "name the data with --data"
        )
    return index


def _detect(
    options: EvalOptions, model: DetectionModel, index: DetectionIndex, processes: Processes, console: Console
) -> Evaluator:
    """Run the model over the split. Images that cannot be decoded (with --skip-bad) are not scored."""
    from ssdlite.evaluation.inference import evaluate_dataset

    with Progress(console=Console(stderr=True, quiet=not processes.is_first)) as progress:
        task = progress.add_task("images", total=len(index) / processes.count)
        evaluator, unreadable = evaluate_dataset(
            model,
            index,
            processes,
            batch_size=options.batch_size,
            workers=options.workers,
            skip_bad=options.skip_bad,
            on_image=lambda: progress.advance(task),
        )
    for path in unreadable:
        print_line(f"left out: {path} cannot be read", console)
    return evaluator


def _print_tables(console: Console, index: DetectionIndex, metrics: Metrics, voc: VocMetrics) -> None:
    from ssdlite.evaluation.coco import FIGURES

    figures = Table(title=escape(f"COCO figures of {index.name}"), title_justify="left")
    figures.add_column("figure")
    figures.add_column("value", justify="right")
    figures.add_column("meaning")
    for name, value in metrics.figures().items():
        figures.add_row(name, format_figure(value), FIGURES[name])
    print_table(figures, console)

    caption = f"VOC07: Pascal VOC's AP at 11 points, VOC: over all points. {POINT_CAPTION}"
    classes = Table(title="per class", caption=caption, box=box.SIMPLE_HEAD)
    classes.show_edge, classes.pad_edge, classes.padding = False, False, (0, 1, 0, 0)  # it fits into 80 columns
    classes.add_column("class")
    for heading in ("objects", "AP", "AP50", "VOC07", "VOC", *POINT_COLUMNS):
        classes.add_column(heading, justify="right")
    counts = {name: count for name, count in index.object_counts().items() if count}
    points = metrics.to_dict()["operating_points"]
    for name, count in counts.items():
        own, own_voc = metrics.per_class[name], voc.per_class[name]
        values = (own.AP, own.AP50, own_voc.ap_11point, own_voc.ap_all_points)
        classes.add_row(escape(name), str(count), *map(format_figure, values), *point_cells(points.get(name)))
    means = (metrics.AP, metrics.AP50, voc.mean.ap_11point, voc.mean.ap_all_points)
    classes.add_row("mean", str(sum(counts.values())), *map(format_figure, means))
    print_table(classes, console)
    if absent := index.absent_classes():
        print_line(f"no objects of {listing(absent, 12)}; these classes are not scored", console)


if __name__ == "__main__":
    sys.exit(main())
