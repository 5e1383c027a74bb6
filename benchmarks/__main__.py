"""Run the comparisons of docs/performance.md: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import COMPARISONS, BenchmarksOptions
from ssdlite import cli
from ssdlite.benchmark.comparison import Result, build_table, describe_facts, run, to_markdown
from ssdlite.benchmark.timing import describe_machine, use_threads
from ssdlite.console import print_line, print_table
from ssdlite.errors import ConfigError
from ssdlite.files import prepare_folder, save_json, write_text, writing
from ssdlite.validation import suggest


def compare(options: BenchmarksOptions) -> None:
    """Run the comparisons in turns and print ratios. On a shared machine only the ratios mean anything."""
    check(options)
    if options.output is not None:
        prepare_folder(options.output)
    results: list[Result] = []
    for name in options.names:
        module = importlib.import_module(f"benchmarks.{COMPARISONS[name]}")
        torch.manual_seed(0)
        for comparison in getattr(module, name)(options):
            use_threads(comparison.threads)
            results.append(run(comparison, options.rounds))
            print_table(build_table(results[-1]))
            for note in results[-1].notes:
                print_line(f"  {note}")
            if options.output is not None:
                save(options.output, results)
    print_line(describe_facts(machine()))


def check(options: BenchmarksOptions) -> None:
    """Raises ConfigError for what cannot be run."""
    if options.threads < 1 or (options.rounds is not None and options.rounds < 1):
        raise ConfigError(f"--threads and --rounds: expected 1 or more, got {options.threads} and {options.rounds}")
    if options.bounds is not None and (not options.bounds or min(options.bounds) < 1):
        raise ConfigError(f"--bounds: expected numbers of 1 or more, got {options.bounds}")
    for option, path in (("--tflite", options.tflite), ("--checkpoint", options.checkpoint)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{option} {path}: no such file")
    for name in options.names:
        if name not in COMPARISONS:
            raise ConfigError(f"unknown comparison {name!r}{suggest(name, COMPARISONS)}")


def save(folder: Path, results: list[Result]) -> None:
    """What has been measured so far."""
    facts = machine()
    save_json(folder / "performance.json", {**facts, "results": [one.to_dict() for one in results]})
    with writing(folder):
        write_text(folder / "performance.md", to_markdown(results, facts))


def machine() -> dict[str, Any]:
    """What it ran on."""
    facts: dict[str, Any] = describe_machine(("torch", "torchvision", "onnxruntime", "ai-edge-litert"))
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


if __name__ == "__main__":
    sys.exit(cli.run(compare, BenchmarksOptions, None, "python -m benchmarks"))
