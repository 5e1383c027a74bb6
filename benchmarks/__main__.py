"""Run the comparisons of docs/performance.md: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.harness import Result, Settings, build_table, run, to_markdown
from ssdlite import cli
from ssdlite.benchmark.stages import use_threads
from ssdlite.benchmark.timing import describe_machine
from ssdlite.config import suggest
from ssdlite.console import print_line, print_table
from ssdlite.errors import ConfigError
from ssdlite.files import prepare_folder, save_json, write_text, writing

COMPARISONS = (
    "training",
    "prediction",
    "postprocessing",
    "loss",
    "whole_run",
    "litert",
    "evaluation",
    "growth",
    "augmentation",
    "depthwise",
)
PACKAGES = ("torch", "torchvision", "onnxruntime", "ai-edge-litert")


@dataclass(frozen=True)
class Options:
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = COMPARISONS
    """Which comparisons to run."""
    rounds: int | None = None
    """Rounds in which every contestant has its turn. Default: each comparison's own number."""
    threads: int = os.cpu_count() or 1
    """Most threads that compute; some comparisons take one."""
    tflite: Path | None = None
    """The TensorFlow Lite SSD of docs/weights.md, which the comparison litert needs."""
    output: Path | None = None
    """Folder for performance.json and performance.md."""


def compare(options: Options) -> None:
    """Run the comparisons in turns and print ratios. On a shared machine only the ratios mean anything."""
    if options.threads < 1 or (options.rounds is not None and options.rounds < 1):
        raise ConfigError(f"--threads and --rounds: expected 1 or more, got {options.threads} and {options.rounds}")
    if options.tflite is not None and not options.tflite.is_file():
        raise ConfigError(f"--tflite {options.tflite}: no such file")
    for name in options.names:
        if name not in COMPARISONS:
            raise ConfigError(f"unknown comparison {name!r}{suggest(name, COMPARISONS)}")
    if options.output is not None:
        prepare_folder(options.output)
    results: list[Result] = []
    for name in options.names:
        module = importlib.import_module(f"benchmarks.{name}")
        torch.manual_seed(0)
        for comparison in module.comparisons(Settings(options.threads, options.tflite)):
            use_threads(comparison.threads)
            results.append(run(comparison, options.rounds or comparison.rounds or module.ROUNDS))
            print_table(build_table(results[-1]))
            for note in results[-1].notes:
                print_line(f"  {note}")
            if options.output is not None:
                save(options.output, results)
    print_line("; ".join(f"{name}: {value}" for name, value in machine().items()))


def save(folder: Path, results: list[Result]) -> None:
    """What has been measured so far."""
    facts = machine()
    save_json(folder / "performance.json", {**facts, "results": [one.to_dict() for one in results]})
    with writing(folder):
        write_text(folder / "performance.md", to_markdown(results, facts))


def machine() -> dict[str, Any]:
    """What it ran on."""
    facts: dict[str, Any] = describe_machine(PACKAGES)
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


if __name__ == "__main__":
    sys.exit(cli.run(compare, Options, None, "python -m benchmarks"))
