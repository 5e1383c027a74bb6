"""A score threshold that is asked for, before suppression and behind it: post-processing, and whole predictions.

Times are those of the processor, which other work on the machine changes least.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from benchmarks import BenchmarksOptions
from ssdlite.anchors import generate_anchors
from ssdlite.benchmark.comparison import Comparison, Contestant, Stages
from ssdlite.build import load_detector, load_predictor
from ssdlite.config import PRESETS, SHIPPED, DetectorConfig
from ssdlite.datasets.loading import find_splits, load_split
from ssdlite.detections import Detections
from ssdlite.export.options import ExportOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.heads.postprocess import postprocess
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD, DetectionModel
from ssdlite.runtime.contract import BoxSpec, PostprocessSpec
from ssdlite.runtime.model import load_model
from ssdlite.runtime.postprocess import boxes_to_pixels, select_detections

HERE = Path(__file__).parent
CALLS = 5  # that are timed together
OBJECTS, ANCHORS_EACH = 10, 4  # of the made-up outputs; each scores above 0.5 at some anchors
PAIRS = 10_000  # of anchor and class above the threshold of the configuration
PHOTOS = HERE.parent / "tests" / "data" / "coco-cc"
MOST_PHOTOS = 8


class Selection(NamedTuple):
    """One way to post-process: a threshold -> (processor milliseconds, number of detections)."""

    name: str
    measure: Callable[[float], tuple[float, int]]


def selection(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Decoded outputs -> detections, by all implementations, on every preset's anchors and 80 classes."""
    for name, config in PRESETS.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            outputs, anchors = made_up_outputs(config)
            ways = list(_ways(config, outputs, anchors, folder, stack))
            found = {way.name: way.measure(DEFAULT_SCORE_THRESHOLD)[1] for way in ways}
            contestants = [
                Contestant(f"{way.name}, {kind}", lambda way=way, threshold=threshold: _timed(way, threshold))  # type: ignore[misc]
                for way in ways
                for kind, threshold in (("all", 0.0), ("from 0.3", DEFAULT_SCORE_THRESHOLD))
            ]
            yield Comparison(
                f"post-processing of {name}, {len(anchors)} anchors, {config.num_classes} classes",
                contestants,
                reference=contestants[0].name,
                notes=[f"detections from 0.3: {found}"],
            )


def _timed(way: Selection, threshold: float) -> Stages:
    return Stages(processor=way.measure(threshold)[0])


def made_up_outputs(config: DetectorConfig) -> tuple[Outputs, torch.Tensor]:
    """As a trained network's: nearly all background, ``PAIRS`` above the threshold, some objects; and the anchors."""
    anchors = torch.from_numpy(generate_anchors(config.anchors, config.input.size, config.grid_sizes))
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(1, len(anchors), config.num_classes + 1, generator=generator)
    rest = logits[..., 1:].logsumexp(dim=-1, keepdim=True)
    odds = (logits[..., 1:] - rest).flatten().sort(descending=True).values[PAIRS]
    logits[..., :1] = rest + (odds.exp() / config.postprocess.score_threshold - 1).clamp(min=1e-3).log()
    places = torch.randint(len(anchors) - ANCHORS_EACH, (OBJECTS,), generator=generator)
    labels = torch.randint(1, config.num_classes + 1, (OBJECTS,), generator=generator)
    for step in range(ANCHORS_EACH):
        logits[0, places + step, labels] = logits[0, places + step, 0] + 2
    return Outputs(logits, torch.randn(1, len(anchors), 4, generator=generator)), anchors


def _ways(
    config: DetectorConfig, outputs: Outputs, anchors: torch.Tensor, folder: Path, stack: ExitStack
) -> Iterator[Selection]:
    height, width = config.input.size
    limits = msgspec.structs.asdict(config.postprocess)
    spec = PostprocessSpec(score_function=config.head.score_function, max_candidates=2048, **limits)
    scores = class_scores(outputs.class_logits, config.head.score_function)[0].numpy()
    decoded = CenterSizeCode(config.head.box_code_scales).decode(outputs.box_deltas[0], anchors).numpy()
    boxes = (decoded / np.array([width, height, width, height])).astype(np.float32)

    def by_numpy(threshold: float) -> Detections:
        pixels = boxes_to_pixels(boxes, BoxSpec(), (height, width))
        return select_detections(scores, pixels, spec, config.class_names, threshold)

    def by_torch(threshold: float) -> Detections:
        return postprocess(outputs, anchors, config, score_threshold=threshold)[0]

    yield Selection("numpy", lambda threshold: _measure(by_numpy, threshold))
    yield Selection("torch, from logits", lambda threshold: _measure(by_torch, threshold))
    for name, values in (("scores", scores), ("boxes", boxes)):
        np.ascontiguousarray(values).tofile(folder / f"{name}.bin")
    contract = {"class_names": config.class_names, "postprocess": asdict(spec), "boxes": asdict(BoxSpec())}
    own = {"calls": CALLS, "size": {"height": height, "width": width}}
    (folder / "contract.json").write_text(json.dumps(contract | own))
    if node := shutil.which("node"):
        yield Selection("JavaScript", _process(stack, node, HERE / "selection.mjs", folder))
    if compiler := shutil.which("c++"):
        program = folder / "selection"
        subprocess.run([compiler, "-std=c++17", "-O2", "-o", program, HERE / "selection.cpp"], check=True)
        numbers = (CALLS, height, width, config.num_classes, *limits.values())
        yield Selection("C++", _process(stack, program, folder, *numbers))


def _measure(find: Callable[[float], Detections], threshold: float) -> tuple[float, int]:
    start = time.process_time()
    for _ in range(CALLS):
        found = find(threshold)
    return (time.process_time() - start) * 1000 / CALLS, len(found)


def _process(stack: ExitStack, *command: object) -> Callable[[float], tuple[float, int]]:
    """A program that answers a threshold with its milliseconds and its number of detections, until the stack closes."""
    process = stack.enter_context(
        subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert process.stdin is not None and process.stdout is not None
    stack.callback(process.stdin.close)
    ask, answers = process.stdin, process.stdout

    def measure(threshold: float) -> tuple[float, int]:
        ask.write(f"{threshold}\n")
        ask.flush()
        milliseconds, found = answers.readline().split()
        return float(milliseconds), int(found)

    return measure


# --- Whole predictions of the shipped detector.


def open_images(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Photographs -> detections from 0.3, chosen behind suppression as ``Detections.above`` does, and before it."""
    photos = _photos(options)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        checkpoint = SHIPPED["openimages"]
        export = ExportOptions(checkpoint=checkpoint, output=bundle, variant=("decoded",))
        export_bundle(export, lambda text: None)
        models: dict[str, DetectionModel] = {
            "load_model": load_model(bundle, threads=1),
            "load_predictor": load_predictor(checkpoint),
            "load_detector": load_detector(checkpoint),
        }
        for name, model in models.items():
            behind, before = f"{name}, behind suppression", f"{name}, before it"
            yield Comparison(
                f"{name}(openimages).predict from 0.3",
                [
                    Contestant(behind, lambda: _predict(model, photos, 0.0), len(photos)),  # noqa: B023
                    Contestant(before, lambda: _predict(model, photos, DEFAULT_SCORE_THRESHOLD), len(photos)),  # noqa: B023
                ],
                reference=behind,
                targets={before: 1 / 0.65} if name == "load_model" else {},
            )


def _photos(options: BenchmarksOptions) -> list[Path]:
    folders = options.data or (PHOTOS,)
    indices = (load_split(folder, name) for folder in folders for name in find_splits(folder).splits)
    return [Path(path) for index in indices for path in index.paths][:MOST_PHOTOS]


def _predict(model: DetectionModel, photos: list[Path], threshold: float) -> Stages:
    start = time.process_time()
    for found in model.predict(photos, score_threshold=threshold, batch_size=1):
        found.above(DEFAULT_SCORE_THRESHOLD)
    return Stages(processor=(time.process_time() - start) * 1000)
