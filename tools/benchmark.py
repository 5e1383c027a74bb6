"""Time detectors side by side, stage by stage, from the picture file to the detections."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ssdlite import cli
from ssdlite.arguments import DATA_NAMES
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.errors import ConfigError
from ssdlite.files import counted

if TYPE_CHECKING:
    from ssdlite.benchmark.detectors import Candidate, Row
    from ssdlite.export.measure import Accuracy

MOST_PICTURES = 64  # of a folder or a split that are timed
PACKAGES = ("torch", "onnxruntime", "openvino", "ai-edge-litert", "executorch", "ncnn", "numpy")
FILES = ("benchmark.json", "benchmark.md", "benchmark.png")


@dataclass(frozen=True)
class BenchmarkOptions:
    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Checkpoints, exported files, and bundles, of which every file is taken. The first is the reference of ratios."""
    pictures: Path | None = None
    """A picture or a folder of them to time on. Default: those of --data, else synthetic ones of 640 x 480 pixels."""
    threads: tuple[int, ...] = (1,)
    """Numbers of threads that compute, each in its turn."""
    batch_sizes: tuple[int, ...] = (1,)
    """Pictures at a time, each number in its turn."""
    runs: int = 50
    """Rounds in which every model has its turn."""
    device: str = "cpu"
    """Of checkpoints: cpu, cuda, cuda:1, ...; exported models run on the CPU."""
    memory: bool = True
    """Measure the memory of each model in a process of its own."""
    data: Path | None = None
    """Data set in any known format (docs/data.md), also --annotations: average precision beside the times. Default:
    times alone."""
    split: str | None = None
    """Which split of --data. Default: val, otherwise test, otherwise the only one."""
    reading: ReadOptions = READ_OPTIONS
    output: Path | None = None
    """Folder for benchmark.json, benchmark.md and benchmark.png (AP against latency, or the stages).
    Default: none is written."""


def benchmark(options: BenchmarkOptions) -> None:
    """Time detectors side by side, in turns: decoding, resizing, network and post-processing of pictures.

    Times are milliseconds a picture and medians where nothing else is said. On a shared machine trust the ratios.
    """
    _check(options)
    from ssdlite.benchmark.comparison import describe_facts
    from ssdlite.benchmark.detectors import Load, build_table, by_load, compare, find_candidates
    from ssdlite.benchmark.timing import describe_machine
    from ssdlite.console import print_line, print_table
    from ssdlite.files import prepare_folder

    if options.output is not None:
        prepare_folder(options.output)
    candidates = find_candidates(options.models, print_line)
    loads = [Load(threads, size) for threads in options.threads for size in options.batch_sizes]
    with _pictures(options) as pictures:
        accuracies = [] if options.data is None else [_accuracy(one, options) for one in candidates]
        rows = list(
            compare(
                candidates,
                pictures,
                loads,
                runs=options.runs,
                device=options.device,
                memory=options.memory,
                accuracies=accuracies,
                on_load=lambda load: print_line(f"timing with {load}" if len(loads) > 1 else "timing"),
            )
        )
        facts = {"runs": options.runs, "pictures": len(pictures), **describe_machine(PACKAGES)}
    for group in by_load(rows).values():
        print_table(build_table(group))
    print_line(f"milliseconds a picture, medians; memory and size in MB; {describe_facts(facts)}")
    if any(one.name.endswith(".html") for one in candidates):
        print_line("web pages: the model inside, in Python's ONNX Runtime; a browser takes longer")
    if options.output is not None:
        _write(options.output, rows, facts)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(benchmark, BenchmarkOptions, argv, "ssdlite benchmark", short=DATA_NAMES)


def _check(options: BenchmarkOptions) -> None:
    if not options.models:
        raise ConfigError("expected checkpoints, exported files or bundles, got none")
    if options.runs < 1:
        raise ConfigError(f"--runs: expected 1 or more, got {options.runs}")
    for name in ("threads", "batch_sizes"):
        values = getattr(options, name)
        if not values or min(values) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected numbers of 1 or more, got {values}")
    if options.split is not None and options.data is None:
        raise ConfigError("--split goes with --data")
    for model in options.models:
        cli.require_weights(model)
    if options.data is not None:
        from ssdlite.datasets.loading import require_there

        require_there(options.data, options.reading)
    if options.pictures is not None:
        _files(options.pictures)


def _accuracy(candidate: Candidate, options: BenchmarkOptions) -> Accuracy:
    from ssdlite.build import trained_rename
    from ssdlite.console import print_line
    from ssdlite.datasets.loading import load_split
    from ssdlite.export.measure import measure_accuracy

    assert options.data is not None  # the caller's condition
    model = candidate.load(device=options.device)
    reading = options.reading.as_trained(trained_rename(model))
    index = load_split(options.data, options.split, reading.loading(model.class_names), allow_absent=True)
    print_line(f"scoring {candidate.name} on {index.name}, {counted(len(index), 'image')}")
    return measure_accuracy(model, index)


@contextmanager
def _pictures(options: BenchmarkOptions) -> Iterator[list[Path]]:
    """What is timed on; synthetic pictures are there as long as the context."""
    if options.pictures is not None:
        yield _files(options.pictures)
    elif options.data is not None:
        from ssdlite.datasets.loading import load_split

        yield [
            Path(path)
            for path in load_split(options.data, options.split, options.reading.loading()).paths[:MOST_PICTURES]
        ]
    else:
        from ssdlite.benchmark.detectors import write_pictures

        with tempfile.TemporaryDirectory() as folder:
            yield write_pictures(Path(folder))


def _files(path: Path) -> list[Path]:
    from ssdlite.images.reading import is_picture_name

    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if is_picture_name(one.name))
    if not files:
        raise ConfigError(f"--pictures {path}: {'no pictures in it' if path.is_dir() else 'no such file or folder'}")
    return files[:MOST_PICTURES]


def _write(folder: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    from ssdlite.benchmark.detectors import draw, to_markdown
    from ssdlite.console import print_line
    from ssdlite.files import save_json, write_text, writing

    table, text, picture = (folder / name for name in FILES)
    save_json(table, {**facts, "rows": [row.to_dict() for row in rows]})
    with writing(folder):
        write_text(text, to_markdown(rows, facts))
        draw(rows, picture)
    print_line(f"wrote {', '.join(FILES)} to {folder}")


if __name__ == "__main__":
    sys.exit(main())
