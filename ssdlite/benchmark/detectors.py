"""Detectors side by side, from a picture file to detections, stage by stage, with memory: ``ssdlite benchmark``."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.table import Table

from ssdlite.benchmark.comparison import Comparison, Contestant, Line, Stages, describe_facts, format_time, run
from ssdlite.benchmark.timing import WARM_UP, own_peak, run_apart, use_threads
from ssdlite.build import load_any
from ssdlite.config import shipped_file
from ssdlite.console import code, figure_table, markdown_table
from ssdlite.errors import ContractError, SsdliteError
from ssdlite.files import write_atomically
from ssdlite.images.geometry import resize_bilinear
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD, DetectionModel, build_input_batch
from ssdlite.images.reading import read_image
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Surroundings, current_surroundings, opening_in
from ssdlite.runtime.files import is_exported, is_folder, read_bundle, run_checkpoint, runtime_problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ssdlite.export.measure import Accuracy

STAGES = {  # decoding: from a file's bytes to pixels; post-processing: to boxes in the picture's pixels, suppressed
    "decode": "decode",
    "resize": "resize",
    "network": "network",
    "postprocess": "post-process",
}
DETECTOR_COLUMNS = ("model", *STAGES.values(), "min", "median", "p95", "ratio", "memory", "size", "AP", "AP50")
MADE_UP, HEIGHT, WIDTH, QUALITY = 8, 480, 640, 90  # pictures, where the user has given none
WITH_WEIGHTS = tuple(suffix for one in BACKENDS.values() if one.has_weights_file for suffix in one.suffixes)
MARKERS = "osD^vP*X<>"
LEAST_SPAN = 0.05  # of AP in the picture: less is no difference to be looked at
MEMORY_RUNS = 3  # batches in the process whose memory is measured


@dataclass(frozen=True)
class Candidate:
    """A file that detects; ``file`` is its name where ``path`` is a bundle."""

    path: Path
    file: str | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.file is None else f"{self.path.name}/{self.file}"

    @property
    def megabytes(self) -> float:
        """Of the file, all files of a package, both files of ncnn and OpenVINO."""
        path = shipped_file(self.path) if self.file is None else self.path / self.file
        if path.is_dir():
            return sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) / 1e6
        weights = path.with_suffix(".bin")
        files = [path, weights] if path.suffix in WITH_WEIGHTS and weights.is_file() else [path]
        return sum(one.stat().st_size for one in files) / 1e6

    def load(self, *, threads: int | None = None, device: str = "cpu") -> DetectionModel:
        """On ``device``, an exported file on the CPU. Raises what ``load_any`` does."""
        device = "cpu" if is_exported(self.path) else device
        return load_any(self.path, model=self.file, device=device, threads=threads)


def find_candidates(paths: Iterable[Path], notify: Callable[[str], object] = lambda text: None) -> list[Candidate]:
    """A candidate for each file, and for each model of a bundle's contract that can be run here; of a training its best
    checkpoint. ``notify`` is given a line about each model that is left out.

    Raises:
        ContractError: a folder is no bundle, or one without a model that can be run here.
    """
    candidates: list[Candidate] = []
    for path in map(run_checkpoint, paths):
        if is_folder(path):
            models = read_bundle(path).models
            problems = {model.file: runtime_problem(model.runtime) for model in models}
            if all(problems.values()):
                raise ContractError(f"{path}: {'; '.join(dict.fromkeys(problems.values()))}")
            for file, problem in problems.items():
                if problem:
                    notify(f"left out: {Candidate(path, file).name}: {problem}")
                else:
                    candidates.append(Candidate(path, file))
        else:
            candidates.append(Candidate(path))
    return candidates


def write_pictures(folder: Path) -> list[Path]:
    """JPEG files of 640 x 480 pixels with synthetic scenes, the same every time."""
    from PIL import Image

    from ssdlite.datasets.shapes import draw_scene

    paths = []
    for number in range(MADE_UP):
        scene = draw_scene(np.random.default_rng(number), with_objects=True)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(resize_bilinear(scene.image, HEIGHT, WIDTH)).save(paths[-1], quality=QUALITY)
    return paths


class Pipeline:
    """Detects in the next ``batch_size`` of ``pictures`` with every call, with ``threads`` that compute.

    ``model`` has to have been loaded for as many threads; torch and OpenCV have theirs in common, set here.
    """

    def __init__(self, model: DetectionModel, pictures: Sequence[Path], *, batch_size: int, threads: int) -> None:
        self._model = model
        self._pictures = itertools.cycle(pictures)
        self._batch_size = batch_size
        self._threads = threads

    def __call__(self) -> Stages:
        use_threads(self._threads)
        model = self._model
        paths = list(itertools.islice(self._pictures, self._batch_size))
        marks = [time.perf_counter()]
        pictures = [read_image(path) for path in paths]
        marks.append(time.perf_counter())
        batch = build_input_batch(pictures, model.input_transform)
        marks.append(time.perf_counter())
        outputs = model.infer_batch(batch.images)
        _wait_for(outputs)
        marks.append(time.perf_counter())
        batch.to_pictures(model.postprocess(outputs, DEFAULT_SCORE_THRESHOLD))
        marks.append(time.perf_counter())
        times = (1000 * (after - before) for before, after in itertools.pairwise(marks))
        return Stages(zip(STAGES, times, strict=True))


def _wait_for(outputs: Any) -> None:
    """A GPU answers before it is done."""
    if isinstance(outputs, tuple) and outputs[0].is_cuda:
        sys.modules["torch"].cuda.synchronize(outputs[0].device)


# --- All of them, under every load.


class Load(NamedTuple):
    """How a detector is used."""

    threads: int
    batch_size: int

    def __str__(self) -> str:
        return f"threads: {self.threads}, batch size: {self.batch_size}"


@dataclass(frozen=True)
class Row:
    """What one candidate costs under one load: times are milliseconds a picture, ``memory`` is in MB.

    ``memory``: the peak of a process that does nothing else.
    """

    line: Line
    load: Load
    megabytes: float
    memory: float | None = None
    accuracy: Accuracy | None = None

    @property
    def name(self) -> str:
        return self.line.name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        times = {name: asdict(self.line)[name] for name in ("name", "stages", "minimum", "median", "p95")}
        accuracy = {} if self.accuracy is None else self.accuracy._asdict()
        return {**times, "megabytes": self.megabytes, "memory": self.memory, **self.load._asdict(), **accuracy}


def compare(
    candidates: Sequence[Candidate],
    pictures: Sequence[Path],
    loads: Iterable[Load],
    *,
    runs: int,
    device: str = "cpu",
    memory: bool = True,
    accuracies: Sequence[Accuracy | None] | None = None,
    on_load: Callable[[Load], object] = lambda load: None,
) -> Iterator[Row]:
    """Rows of all candidates for each load in turn; ``on_load`` is called before each.

    Raises:
        CheckpointError, ContractError, ConfigError: a candidate cannot be loaded or run, or fewer than 1 run.
        DataError: a picture cannot be read.
    """
    for load in loads:
        on_load(load)
        pipelines = [_pipeline(one, pictures, load, device) for one in candidates]
        contestants = [
            Contestant(one.name, pipeline, load.batch_size) for one, pipeline in zip(candidates, pipelines, strict=True)
        ]
        comparison = Comparison(str(load), contestants, reference=contestants[0].name, threads=load.threads)
        lines = run(comparison, runs, warm_up=WARM_UP).lines
        for candidate, line, accuracy in zip(candidates, lines, accuracies or [None for _ in lines], strict=True):
            peak = peak_memory(candidate, pictures, load) if memory else None
            yield Row(line, load, candidate.megabytes, peak, accuracy)


def _pipeline(candidate: Candidate, pictures: Sequence[Path], load: Load, device: str = "cpu") -> Pipeline:
    model = candidate.load(threads=load.threads, device=device)
    return Pipeline(model, pictures, batch_size=load.batch_size, threads=load.threads)


def peak_memory(candidate: Candidate, pictures: Sequence[Path], load: Load) -> float | None:
    """Peak resident MB of a fresh process that loads the candidate and detects in a few batches on the CPU.

    None where the system does not tell, or the process came to grief.
    """
    try:
        return run_apart(_detect, candidate, list(pictures), load, current_surroundings())
    except BrokenProcessPool:
        return None


def _detect(candidate: Candidate, pictures: list[Path], load: Load, surroundings: Surroundings) -> float | None:
    use_threads(load.threads)
    try:
        with opening_in(surroundings):
            pipeline = _pipeline(candidate, pictures, load)
        for _ in range(MEMORY_RUNS):
            pipeline()
    except SsdliteError:  # as the parent has met it
        return None
    return own_peak()


# --- What is shown.


def by_load(rows: Sequence[Row]) -> dict[Load, list[Row]]:
    """The rows under each load, in their order."""
    groups: dict[Load, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.load, []).append(row)
    return groups


def cells(row: Row) -> list[str]:
    """What a table says of a row, in the order of DETECTOR_COLUMNS; ``ratio``: its time to the first's of that load."""
    line = row.line
    times = (*(line.stages[name] for name in STAGES), line.minimum, line.median, line.p95)
    return [
        row.name,
        *map(format_time, times),
        f"{1 / line.speed:.2f}",
        "" if row.memory is None else f"{row.memory:.0f}",
        f"{row.megabytes:.2f}",
        *(("", "") if row.accuracy is None else (f"{figure:.3f}" for figure in row.accuracy)),
    ]


def build_table(rows: Sequence[Row]) -> Table:
    """For the console: rows under one load."""
    return figure_table(str(rows[0].load), DETECTOR_COLUMNS, [cells(row) for row in rows])


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """A table for each load, and what it was measured on."""
    lines = [f"Milliseconds a picture; memory and size of the files in MB. {describe_facts(facts)}."]
    for load, group in by_load(rows).items():
        lines += ["", f"{str(load).capitalize()}:", ""]
        lines += markdown_table(DETECTOR_COLUMNS, [[code(row.name), *cells(row)[1:]] for row in group])
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """AP against latency where there are APs, else the stages as bars; of the first load."""
    from matplotlib.figure import Figure

    load, rows = next(iter(by_load(rows).items()))
    scored = [row for row in rows if row.accuracy is not None]
    figure = Figure(
        figsize=(11 if scored else 9, 5 if scored else 1.2 + 0.45 * len(rows)), dpi=120, layout="constrained"
    )
    axes = figure.subplots()
    (_draw_accuracy if scored else _draw_stages)(axes, scored or rows)
    axes.set_xlabel(f"ms a picture, {load}")
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows):
        assert row.accuracy is not None  # the caller's choice
        label = f"{row.name}: {row.line.median:.3g} ms, AP {row.accuracy.AP:.3f}"
        axes.plot(row.line.median, row.accuracy.AP, MARKERS[number % len(MARKERS)], label=label, alpha=0.8)
    low, high = axes.get_ylim()
    margin = max(LEAST_SPAN - (high - low), 0) / 2
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(left=0)
    axes.set_ylabel("AP")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    left = [0.0] * len(rows)
    for stage, label in STAGES.items():
        times = [row.line.stages[stage] for row in rows]
        axes.barh([row.name for row in rows], times, left=left, label=label)
        left = [a + b for a, b in zip(left, times, strict=True)]
    axes.invert_yaxis()
    axes.legend(loc="best", frameon=False, fontsize=8)
