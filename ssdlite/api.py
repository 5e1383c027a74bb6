"""What most do from Python, in three calls: ``train``, ``evaluate``, ``export_detector``.

Each takes data in every form that ``as_data_path`` knows. ``export_detector`` is not called ``export`` because that is
a package. What stands behind the three is public too:
``ssdlite.training``, ``ssdlite.evaluation``, ``ssdlite.export``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from ssdlite.build import load_any, trained_rename
from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.config import Amp, AnchorsName, AssignerName, BoxLossName, ClassLossName, ImageSize
from ssdlite.console import format_figure
from ssdlite.datasets.formats.options import READ_OPTIONS, ExifBoxes, ReadOptions, VocCorners
from ssdlite.datasets.from_python import DataSource, as_data_path
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_split
from ssdlite.detector import Detector
from ssdlite.device import join_processes
from ssdlite.evaluation.coco import Metrics
from ssdlite.evaluation.inference import evaluate_dataset
from ssdlite.export.options import ExportOptions, LintName
from ssdlite.export.pipeline import export_bundle
from ssdlite.files import counted
from ssdlite.images.prediction import DetectionModel
from ssdlite.predictor import Predictor
from ssdlite.runtime.contract import Contract, Precision, Variant
from ssdlite.runtime.files import run_checkpoint
from ssdlite.training import runs
from ssdlite.training.callbacks import Callback, LoggerName
from ssdlite.training.options import BatchNormMode, TrainOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class TrainResult:
    """What a training has come to.

    Attributes:
        detector: the best by AP on the validation split, in evaluation mode on the CPU.
        metrics: its figures there.
        folder: the run's, with best.pt, last.pt, metrics.jsonl and pictures.
        summary: what summary.json holds, of the last epoch.
    """

    detector: Detector
    metrics: Metrics
    folder: Path
    summary: dict[str, Any]

    def __repr__(self) -> str:
        """One line: a notebook prints what a cell ends with, and a detector has hundreds of layers."""
        figures = f"AP {format_figure(self.metrics.AP)}, AP50 {format_figure(self.metrics.AP50)}"
        return f"<TrainResult: {counted(len(self.detector.class_names), 'class')}, {figures}, {self.folder}>"


def train(
    data: DataSource | None = None,
    options: TrainOptions | None = None,
    *,
    val: DataSource | None = None,
    class_names: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **changes: Unpack[TrainKeywords],
) -> TrainResult:
    """Train a detector: ``train("pictures", epochs=30).detector.predict("photo.jpg")``.

    Args:
        data: a folder or file of annotated pictures, or data from Python (``as_data_path``); by default that of
            ``options``, and without them the built-in shapes.
        options: what ``changes`` are changes of; by default ``TrainOptions()``, which decides from the data.
        val: data from Python to validate on; without them a part of ``data`` is.
        class_names: of labels that are numbers, for data from Python.
        callbacks: are told of steps, epochs and checkpoints.

    Raises:
        SsdliteError: the options, the data or a checkpoint cannot be used, or the loss is no longer finite.
    """
    options = (options or TrainOptions()).override(**_with_texts(changes))
    if data is not None:
        options = options.override(data=str(as_data_path(data, val, class_names=class_names)))
    summary = runs.train(options, callbacks=callbacks)
    folder = Path(summary["output"])
    best = load_checkpoint(folder / "best.pt")
    return TrainResult(best.build_detector().eval(), msgspec.convert(best.metrics, Metrics), folder, summary)


def _with_texts(changes: TrainKeywords | ReadKeywords) -> dict[str, Any]:
    """Options with paths as they are stored."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}


def evaluate(
    detector: Detector | DetectionModel | str | Path,
    data: DataSource,
    *,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    skip_bad: bool = False,
    **reading: Unpack[ReadKeywords],
) -> Metrics:
    """COCO's figures of a detector, a predictor or an exported model, or of the file or run folder of one.

    Args:
        data: as ``train`` takes them; classes are matched by name.
        split: by default val, else test, else the only one.
        class_names: of labels that are numbers, for data from Python.
        device: for a file's detector; others compute where they are.
        reading: how annotations are read, as in training. Classes are renamed as the run of the detector did, unless
            ``rename`` is given.

    Raises:
        SsdliteError: the file or the data cannot be used.
    """
    model: DetectionModel
    read = READ_OPTIONS.changed(**_with_texts(reading))
    if isinstance(detector, (str, Path)):
        model = load_any(Path(detector), device=device)
    else:
        model = Predictor(detector) if isinstance(detector, Detector) else detector
    read = read.as_trained(trained_rename(model))
    if isinstance(data, DetectionIndex) and data.class_names == model.class_names:
        index = data
    else:
        options = read.loading(model.class_names, skip_bad=skip_bad)
        index = load_split(as_data_path(data, class_names=class_names), split, options, allow_absent=True)
    with join_processes(device) as processes:
        found = evaluate_dataset(model, index, processes, batch_size=batch_size, workers=workers, skip_bad=skip_bad)
    return found.evaluator.compute()


def export_detector(
    detector: Detector | str | Path,
    output: str | Path,
    *,
    notify: Callable[[str], object] = lambda text: None,
    **options: Unpack[ExportKeywords],
) -> Contract:
    """Write a detector, or that of a checkpoint or a run folder, as files for phones to the folder ``output``.

    The operating points that training measured go along, and of a detector that was loaded where it comes from, with
    its licence.

    ``notify`` is called with a line about each step. Returns the contract, which says what each file takes and gives.

    Raises:
        CheckpointError, DataError, ConfigError: what was given cannot be used.
        ExportError: a model cannot be exported as asked, or loses more accuracy than allowed.
    """
    given: dict[str, Any] = dict(options)
    if given.get("data") is not None:
        given["data"] = as_data_path(given["data"])
    if given.get("calibration_folder") is not None:
        given["calibration_folder"] = Path(given["calibration_folder"])
    if not isinstance(detector, Detector):
        return export_bundle(
            ExportOptions(checkpoint=run_checkpoint(Path(detector)), output=Path(output), **given), notify
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.pt"
        save_checkpoint(Checkpoint(detector.config, detector.state_dict(), detector.metrics), file)
        exported = ExportOptions(checkpoint=file, output=Path(output), **given)
        return export_bundle(exported, notify, provenance=detector.provenance)


class ReadKeywords(TypedDict, total=False):
    """How annotations are read, as the command line has it; ``ReadOptions`` says what each means."""

    data_format: str | None
    images: str | Path | None
    voc_corners: VocCorners
    exif_boxes: ExifBoxes
    rename: tuple[str, ...] | None


class TrainKeywords(ReadKeywords, total=False):
    """The options of a training, as the command line has them; ``TrainOptions`` says what each means."""

    recipe: str | None
    classes: tuple[str, ...] | None
    skip_bad: bool
    train_split: str | None
    val_split: str | None
    overfit: int | None
    preset: str | None
    width_mult: float | None
    image_size: ImageSize | None
    resize: Literal["stretch", "letterbox"] | None
    finest_stride: Literal[8, 16] | None
    anchors: AnchorsName | None
    anchor_budget: int | None
    deepen_heads: bool | None
    loss: ClassLossName | None
    box_loss: BoxLossName | None
    box_weight: float | None
    matcher: AssignerName | None
    assignment_guide: bool
    weights: str | None
    backbone_weights: str | None
    freeze_stages: int
    batch_norm: BatchNormMode | None
    teacher: str | Path | None
    distillation_weight: float
    unlabelled: str | Path | None
    unlabelled_score: float | None
    time: str | None
    epochs: int | None
    batch_size: int | None
    optimizer: Literal["sgd", "adamw"]
    lr: float | None
    backbone_lr: float | None
    weight_decay: float | None
    warmup_steps: int | None
    clip_norm: float
    ema_decay: float | None
    augment: str | None
    mosaic: float | None
    reduced_decoding: bool
    output: str | Path | None
    seed: int
    eval_interval: int | None
    patience: int | None
    logger: LoggerName | None
    report: bool
    device: str
    amp: Amp
    workers: int
    cache: bool


class ExportKeywords(TypedDict, total=False):
    """The options of an export, as the command line has them; ``ExportOptions`` says what each means."""

    target: tuple[str, ...]
    variant: tuple[Variant, ...]
    precision: tuple[Precision, ...]
    input_type: Literal["uint8", "int8", "float32"]
    layout: Literal["NCHW", "NHWC"] | None
    batch: str
    opset: int | None
    score_threshold: float | None
    nms_threshold: float | None
    max_detections: int | None
    max_candidates: int
    ort: bool
    web_runtime: str | None
    lint: tuple[LintName, ...]
    data: DataSource | None
    split: str | None
    calibration_split: str | None
    calibration_folder: str | Path | None
    calibration_images: int
    activation_type: Literal["auto", "uint8", "int8"]
    max_ap_drop: float | None
    golden_images: int
    license: str
    overwrite: bool
    reading: ReadOptions
