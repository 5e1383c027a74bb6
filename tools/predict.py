"""Detect in images, folders, videos and a camera: pictures with boxes, names and scores, and all of it as JSON."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssdlite import cli
from ssdlite.build import is_shipped, load_any, load_operating_points
from ssdlite.console import print_line
from ssdlite.detections import Detections
from ssdlite.errors import CheckpointError, ConfigError, ContractError, DataError
from ssdlite.files import counted, listing, prepare_folder, save_json_list, writing
from ssdlite.images.camera import LAST_CAMERA, Camera, Window, is_camera_name
from ssdlite.images.drawing import draw_detections, draw_detections_on
from ssdlite.images.geometry import ImageArray
from ssdlite.images.media import (
    DETECTIONS_FILE,
    MediaFile,
    VideoReader,
    VideoWriter,
    find_sources,
    into_pillow,
    is_address,
    save_picture,
)
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD, DetectionModel
from ssdlite.images.reading import HEIF_REMEDY, HEIF_SUFFIXES, MAX_PIXELS, picture_remarks, read_image
from ssdlite.runtime.model import RuntimeDetector
from ssdlite.runtime.operating_points import operating_threshold, score_thresholds

if TYPE_CHECKING:
    from ssdlite.datasets.writers.pre_annotations import PreAnnotations

T = TypeVar("T")
LOWER = 0.1  # the score threshold that is advised where nothing is found
LABELS_FOLDER = "labels"  # in the output
HELD_BYTES = 1 << 25  # decoded pictures that wait for their batch; larger ones go through the network alone


@dataclass(frozen=True)
class PredictOptions:
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH [PATH ...]]")] = ()
    """Images, videos, and folders that are searched with their subfolders for both; or a camera alone, by its number,
    such as 0, where no file or folder has that name; with --allow-urls also http(s) addresses of pictures. Default:
    none, beside --camera."""
    camera: int | None = None
    """The number of the camera to detect in, 0 being the first: shown in a window where that can be, and written as a
    video, until q, Esc or Ctrl-C. Default: none, unless a source is one."""
    weights: Path = Path("openimages")
    """The checkpoint, such as best.pt of a training, the folder of a training, an exported .onnx or .ort file or bundle
    folder, or openimages, the detector of 23 everyday classes that comes along."""
    model: str | None = None
    """Which file of a bundle. Default: the nms one, otherwise decoded, otherwise raw, in fp32 if there is one."""
    output: Path | None = None
    """Folder for the pictures and videos with boxes, and detections.json. Default: predictions, or where that is there
    the next free predictions-NNN."""
    score_threshold: float | Literal["auto"] | None = None
    """Draw and report only what scores at least this, 0 to 1. auto: of each class what scores at least its threshold
    with the best F1 on the validation data, which training stored. Default: the median of these, the operating
    threshold of the model; 0.3 where none was measured, as for openimages."""
    class_agnostic: bool = True
    """One label for an object: of boxes that overlap by an IoU of more than 0.7 the best stays, whatever their classes
    are. Without it, all classes that reach the threshold are kept, as Detector.predict has them."""
    labels: Literal["coco", "yolo", "voc", "csv", "label-studio"] | None = None
    """Write what is found in pictures, not in videos, to labels/ in the output folder too, in this format, to be
    corrected in a label tool and trained on. Default: no labels."""
    batch_size: int = 8
    """Images or frames that go through the network together."""
    max_pixels: int = MAX_PIXELS
    """A picture of more pixels is refused before it is decoded; at most 178956970 can be read."""
    allow_urls: bool = False
    """Fetch sources that are http:// or https:// addresses of pictures: at most 64 MiB and 30 seconds each."""
    window: bool = True
    """Show what a camera sees."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one. Exported models run on the CPU."""


@dataclass
class Run:
    """What the steps of one prediction share, and what they leave behind."""

    detector: DetectionModel
    options: PredictOptions
    output: Path
    progress: Progress
    entries: list[dict[str, Any]]
    thresholds: npt.NDArray[np.float64]  # [K] by label
    labels: PreAnnotations | None = None
    objects: Counter[str] = field(default_factory=Counter)  # by class name
    failures: int = 0

    def detect(self, pictures: list[ImageArray]) -> list[Detections]:
        """One result for each picture, of what reaches the threshold of its class."""
        found = self.detector.predict(pictures, score_threshold=float(self.thresholds.min()))
        reaching = [one.above(self.thresholds) for one in found]
        return [one.with_nms(class_agnostic=True) for one in reaching] if self.options.class_agnostic else reaching

    def fail(self, message: str) -> None:
        self.failures += 1
        self.say(f"ssdlite predict: {message}")

    def say(self, message: str) -> None:
        print_line(message, self.progress.console)


def predict(options: PredictOptions) -> None:
    """Detect objects in images, folders, videos and a camera; write annotated copies and a detections.json."""
    _check(options)
    output = options.output or next_output()
    if (output / DETECTIONS_FILE).exists():
        raise ConfigError(
            f"--output {output}: holds the {DETECTIONS_FILE} of an earlier prediction; name another folder"
        )
    number = _camera_number(options)
    if number is not None:
        with Camera(number) as camera:
            run = _start(options, output)
            with run.progress:
                _predict_camera(run, number, camera)
        return
    given = [one if is_address(one) else Path(one) for one in options.sources]
    sources, problems, passed_over = find_sources(given, output)
    if not sources:
        raise DataError("; ".join(problems))
    run = _start(options, output, sources)
    with run.progress:
        if passed_over:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
            heif = f"; {HEIF_REMEDY}" if not passed_over.keys().isdisjoint(HEIF_SUFFIXES) else ""
            run.say(f"skipped, not read as pictures or videos: {kinds}{heif}")
        for problem in problems:
            run.fail(problem)
        try:
            _predict_images(run, [source for source in sources if not source.is_video])
            for source in sources:
                if source.is_video:
                    _predict_video(run, source)
        except BaseException:  # interrupted, or the disk is full: what is done counts
            with suppress(ConfigError):
                _save_entries(run, sources)
            raise
    _save_entries(run, sources)
    if run.failures:
        raise DataError(f"{run.failures} of the sources could not be used; they are named above")


def main(argv: Sequence[str] | None = None) -> int:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg reads it once; we say ourselves what is damaged
    return cli.run(predict, PredictOptions, argv, "ssdlite predict")


def _check(options: PredictOptions) -> None:
    if not options.sources and options.camera is None:
        raise ConfigError("expected one or more images, folders or videos, or a camera, got none")
    for address in filter(is_address, options.sources):
        if not re.match("https?://", address, re.IGNORECASE):
            raise ConfigError(
                f"{address}: expected a file, a folder, or an address that begins with http:// or https://"
            )
        if not options.allow_urls:
            raise ConfigError(f"{address}: an address is fetched only with --allow-urls")
    if isinstance(options.score_threshold, float) and not 0 <= options.score_threshold <= 1:
        raise ConfigError(f"--score-threshold: expected 0 to 1, or auto, got {options.score_threshold}")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: expected 1 or more, got {options.batch_size}")


def _camera_number(options: PredictOptions) -> int | None:
    """None where files are asked for. Raises ConfigError for a camera together with what it excludes."""
    named = [one for one in options.sources if is_camera_name(one)]
    if options.camera is None and not named:
        return None
    number = int(named[0]) if options.camera is None else options.camera
    if not 0 <= number <= LAST_CAMERA:
        raise ConfigError(f"--camera: expected 0 to {LAST_CAMERA}, got {number}")
    if len(options.sources) > (options.camera is None):
        raise ConfigError(f"camera {number}: expected no other source beside it, got {listing(options.sources)}")
    if options.labels is not None:
        raise ConfigError(f"--labels {options.labels}: labels are of pictures, not of the video of camera {number}")
    return number


def _start(options: PredictOptions, output: Path, sources: Sequence[MediaFile] = ()) -> Run:
    """The detector loaded, and the folder made. Raises what these do."""
    weights = cli.find_weights(options.weights)
    detector = load_any(weights, model=options.model, device=options.device)
    thresholds = _thresholds(options, weights, detector)
    labels = _pre_annotations(options, sources, detector.class_names)
    prepare_folder(output)
    return Run(detector, options, output, _progress(), [], thresholds, labels)


def _thresholds(options: PredictOptions, weights: Path, detector: DetectionModel) -> npt.NDArray[np.float64]:
    """[K] by label. Raises what ``load_operating_points`` does."""
    class_names, threshold = detector.class_names, options.score_threshold
    if threshold != "auto":
        return np.full(len(class_names), detector.operating_threshold if threshold is None else threshold)
    try:
        points = load_operating_points(weights, options.model)
    except (CheckpointError, ContractError):
        if not is_shipped(weights, options.model):
            raise
        print_line(
            f"{weights}: no operating points were measured, there being no validation data of its classes: score "
            f"threshold {detector.operating_threshold:g} for each, as without auto; `ssdlite eval {weights} --data DIR "
            "--output DIR` measures them on your pictures"
        )
        return np.full(len(class_names), detector.operating_threshold)
    if unmeasured := [name for name in class_names if name not in points]:
        print_line(f"no operating point of {listing(unmeasured)}: score threshold {operating_threshold(points)[0]:g}")
    return score_thresholds(class_names, points)


def _pre_annotations(
    options: PredictOptions, sources: Sequence[MediaFile], class_names: Sequence[str]
) -> PreAnnotations | None:
    """Where labels are to be written. Raises what ``PreAnnotations`` does."""
    if options.labels is None:
        return None
    from ssdlite.datasets.writers.pre_annotations import PreAnnotations

    pictures = [source.path for source in sources if not source.is_video and source.url is None]
    if len(pictures) < len(sources):
        others = [counted(count, noun) for noun, count in _without_labels(sources).items() if count]
        print_line(f"labels are of pictures alone: none of {' and '.join(others)}")
    return PreAnnotations(options.labels, pictures, class_names, str(options.weights))


def _without_labels(sources: Sequence[MediaFile]) -> dict[str, int]:
    return {"video": sum(one.is_video for one in sources), "address": sum(one.url is not None for one in sources)}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _predict_images(run: Run, sources: Sequence[MediaFile]) -> None:
    if not sources:
        return
    task = run.progress.add_task("images", total=len(sources))
    waiting: list[tuple[MediaFile, ImageArray]] = []
    for position, source in enumerate(sources, start=1):
        waiting += _read(run, source)
        held = sum(image.nbytes for _, image in waiting)
        if len(waiting) == run.options.batch_size or held >= HELD_BYTES or position == len(sources):
            _predict_batch(run, waiting)
            run.progress.update(task, completed=position)


def _predict_batch(run: Run, waiting: list[tuple[MediaFile, ImageArray]]) -> None:
    """Detect, draw and save; ``waiting`` is empty afterwards."""
    for detections in run.detect([image for _, image in waiting]):
        source, image = waiting.pop(0)
        target = run.output / source.target
        picture = into_pillow(image)
        del image
        draw_detections_on(picture, detections)
        with writing(target):
            save_picture(target, picture)
        run.objects.update(detections.names)
        run.entries.append(
            {
                "file": source.name,
                "output": source.target.as_posix(),
                "width": picture.width,
                "height": picture.height,
                "detections": detections.to_list(),
            }
        )


def _read(run: Run, source: MediaFile) -> list[tuple[MediaFile, ImageArray]]:
    """The one picture, or none where it cannot be read."""
    try:
        with _picture_file(source) as path:
            remarks = picture_remarks(path, max_pixels=run.options.max_pixels)
            image = read_image(path, max_pixels=run.options.max_pixels)
    except DataError as error:
        run.fail(str(error))
        return []
    for remark in remarks:
        run.say(f"{source.name}: {remark}")
    return [(source, image)]


def _picture_file(source: MediaFile) -> AbstractContextManager[Path]:
    if source.url is None:
        return nullcontext(source.path)
    from ssdlite.images.download import downloaded

    return downloaded(source.url, source.path.suffix)


def _predict_video(run: Run, source: MediaFile) -> None:
    try:
        with writing(run.output / source.target):
            entry, stated = _annotate_video(run, source)
    except DataError as error:
        run.fail(str(error))
        return
    count = len(entry["frames"])
    if count < stated:
        run.say(f"{source.path}: {count} frames could be read of the {stated} that the file states")
    run.entries.append(entry)
    run.objects.update(one["name"] for frame in entry["frames"] for one in frame["detections"])


def _annotate_video(run: Run, source: MediaFile) -> tuple[dict[str, Any], int]:
    """Write the annotated video -> (its entry for the JSON, number of frames that the file states).

    Raises:
        DataError: not one frame can be read.
    """
    frames: list[dict[str, Any]] = []
    shape: tuple[int, ...] = ()
    target = run.output / source.target
    with VideoReader(source.path) as video, VideoWriter(target, video.info.frames_per_second) as writer:
        task = run.progress.add_task(source.path.name, total=video.info.frame_count or None)
        for batch in _batches(video, run.options.batch_size):
            for image, detections in zip(batch, run.detect(batch), strict=True):
                shape = shape or image.shape
                writer.write(draw_detections(image, detections))
                seconds = round(len(frames) / video.info.frames_per_second, 3)
                frames.append({"frame": len(frames), "seconds": seconds, "detections": detections.to_list()})
            run.progress.advance(task, len(batch))
        run.progress.update(task, total=len(frames))
        if not frames:
            raise DataError(f"{source.path}: no frame of this video can be read")
        entry = {
            "file": str(source.path),
            "output": source.target.as_posix(),
            "width": shape[1],
            "height": shape[0],
            "frames_per_second": video.info.frames_per_second,
            "frames": frames,
        }
        return entry, video.info.frame_count


def _predict_camera(run: Run, number: int, camera: Camera) -> None:
    """Until q, Esc, an interrupt, or the camera's end: the video is complete and the JSON is written.

    Raises:
        DataError: the camera gives no more frames.
    """
    target = Path(f"camera-{number}.mp4")
    frames: list[dict[str, Any]] = []
    height = width = 0
    ended = False
    task = run.progress.add_task(f"camera {number}", total=None)
    with (
        writing(run.output / target),
        VideoWriter(run.output / target, camera.frames_per_second) as writer,
        suppress(KeyboardInterrupt),  # within what completes the video
        _window(run, number) as window,
    ):
        position = 0
        for image, duration in camera:
            (found,) = run.detect([image])
            drawn = draw_detections(image, found)
            for _ in range(duration):
                writer.write(drawn)
            height, width = height or image.shape[0], width or image.shape[1]
            seconds = round(position / camera.frames_per_second, 3)
            frames.append({"frame": position, "seconds": seconds, "detections": found.to_list()})
            run.objects.update(found.names)
            position += duration
            run.progress.update(task, advance=1, description=f"camera {number}: {found.summary}")
            if window is not None and not window.show(drawn):
                break
        else:
            ended = True
    if not frames:
        raise DataError(f"camera {number}: no frame came")
    entry = {
        "file": f"camera {number}",
        "output": target.as_posix(),
        "width": width,
        "height": height,
        "frames_per_second": camera.frames_per_second,
        "frames": frames,
    }
    save_json_list(run.output / DETECTIONS_FILE, [entry])
    print_line(f"{counted(len(frames), 'frame')} of camera {number}, {_found(run)} -> {run.output / target}")
    if ended:
        raise DataError(f"camera {number}: gives no more frames; is it still connected?")


def _window(run: Run, number: int) -> AbstractContextManager[Window | None]:
    """One to show the camera's frames in; where there is none, or none is wanted, what is done instead is said."""
    reason = "--no-window"
    if run.options.window:
        try:
            return Window(f"ssdlite predict: camera {number} (q ends)")
        except ConfigError as error:
            reason = str(error)
    run.say(f"no window ({reason}): camera {number} goes to {run.output} until Ctrl-C")
    return nullcontext()


def next_output(parent: Path = Path()) -> Path:
    """predictions, or predictions-NNN with the number behind the highest one there; the first is predictions-002."""
    numbers = [int(path.name[12:]) for path in parent.glob("predictions-*") if path.name[12:].isdecimal()]
    free = parent / "predictions"
    return parent / f"predictions-{max(numbers, default=1) + 1:03d}" if numbers or free.exists() else free


def _save_entries(run: Run, sources: Sequence[MediaFile]) -> None:
    """All that was found, in the order of the sources, and how much that is."""
    order = {source.name: position for position, source in enumerate(sources)}
    entries = sorted(run.entries, key=lambda entry: order[entry["file"]])
    save_json_list(run.output / DETECTIONS_FILE, entries)
    if run.labels is not None:
        with writing(run.output / LABELS_FOLDER):
            run.labels.write(run.output / LABELS_FOLDER, entries)
    print_line(f"{len(entries)} of {counted(len(sources), 'file')}, {_found(run)} -> {run.output}")
    _say_what_next(run, bool(entries))


def _say_what_next(run: Run, has_results: bool) -> None:
    if has_results and not run.objects:
        known = listing(run.detector.class_names)
        lower = f"; a lower --score-threshold, such as {LOWER:g}, shows what is less sure"
        print_line(f"nothing was found of {known}{lower if run.thresholds.min() > LOWER else ''}")
    if run.labels is not None:
        folder = shlex.quote(str(run.output / LABELS_FOLDER))
        data = "EXPORT.json" if run.options.labels == "label-studio" else folder
        print_line(f"labels to correct: {folder}; then: ssdlite train --data {data} --images FOLDER_OF_THE_PICTURES")


def _found(run: Run) -> str:
    each = run.options.score_threshold == "auto"
    reach = "that reach the threshold of their class" if each else f"with a score of {run.thresholds[0]:g} or more"
    measured = run.options.score_threshold is None and _has_measured_threshold(run.detector)
    why = " (measured in training; --score-threshold sets another)" if measured else ""
    classes = listing([f"{count} {name}" for name, count in run.objects.most_common()])
    which = f" ({classes})" if classes else ""
    return f"{counted(run.objects.total(), 'object')}{which} {reach}{why}"


def _has_measured_threshold(detector: DetectionModel) -> bool:
    if isinstance(detector, RuntimeDetector):
        return detector.contract.postprocess.operating_threshold_source == "measured"
    return detector.operating_threshold != DEFAULT_SCORE_THRESHOLD


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


if __name__ == "__main__":
    sys.exit(main())
