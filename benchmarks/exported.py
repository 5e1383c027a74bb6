"""Exported networks: beside LiteRT and the machine's own limit, layer by layer; what a bound on candidates changes."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import BenchmarksOptions
from ssdlite import Detector, load_detector
from ssdlite.benchmark.comparison import Comparison, Contestant
from ssdlite.benchmark.detectors import write_pictures
from ssdlite.benchmark.timing import timed, use_threads
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.console import print_line
from ssdlite.datasets.loading import find_splits, load_split
from ssdlite.detections import Detections
from ssdlite.detector import stack_images
from ssdlite.export.graphs import NmsGraph, RawGraph
from ssdlite.export.options import ExportOptions, GraphOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.postprocess import postprocess
from ssdlite.images.geometry import fit_window
from ssdlite.images.reading import read_image
from ssdlite.runtime.model import load_model
from ssdlite.weights import import_weights

MATRIX = 2048
REFERENCE = "LiteRT, the original file"


def litert(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Our files of an imported TensorFlow Lite SSD, in ONNX Runtime and in LiteRT, beside the original file in LiteRT;
    one thread.

    Networks alone: from a normalised input to logits and box codes. Beside them a large product of matrices in the same
    run, as a floor for the time of as many multiply-adds.
    """
    if options.tflite is None:
        print_line("litert: left out, it needs --tflite FILE (docs/weights.md says where to get one)")
        return
    checkpoint = _import(options.tflite)
    with tempfile.TemporaryDirectory() as folder:
        bundle = _export(checkpoint, Path(folder))
        contestants = [Contestant(REFERENCE, _litert(options.tflite))]
        for suffix, precision in itertools.product((".onnx", ".tflite"), ("fp32", "int8")):
            model = load_model(bundle, f"raw_{precision}{suffix}", threads=1)
            size = (*model.input_size, 3)
            inputs, _ = model.preprocess(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
            contestants.append(Contestant(f"ours, {precision}, {suffix}", partial(model.backend.run, inputs)))
        share, limit = _matrix_product(_multiply_adds(checkpoint))
        contestants.append(Contestant("as many multiply-adds in a matrix product", limit, share))
        yield Comparison(
            f"network of {options.tflite.name}",
            contestants,
            reference=REFERENCE,
            targets={
                "ours, fp32, .onnx": 1 / 1.10,
                "ours, int8, .onnx": 1 / 0.65,
                "ours, fp32, .tflite": 1 / 1.05,
                "ours, int8, .tflite": 1 / 0.6,
            },
            rounds=60,
            notes=[
                "the floor is a product of matrices, scaled to the network's multiply-adds",
                *layer_notes(bundle / "raw_fp32.onnx", _limit(limit)),
            ],
        )


def _limit(product: Callable[[], object]) -> float:
    """Multiply-adds a second, the best of some turns on one thread."""
    use_threads(1)
    return MATRIX**3 / (min(timed(product)() for _ in range(5)) / 1000)


def _import(path: Path) -> Checkpoint:
    names = [f"class {i}" for i in range(_classes(path))]
    return import_weights(path, class_names=names).checkpoint


def _classes(path: Path) -> int:
    """LiteRT's own view of how many there are."""
    shapes = [tuple(detail["shape"]) for detail in _interpreter(path).get_output_details()]
    return next(int(shape[-1]) for shape in shapes if shape[-1] not in (4, 16))


def _interpreter(path: Path):  # type: ignore[no-untyped-def]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _litert(path: Path) -> Callable[[], object]:
    interpreter = _interpreter(path)
    (detail,) = interpreter.get_input_details()
    interpreter.set_tensor(detail["index"], np.random.default_rng(0).random(detail["shape"], np.float32) * 2 - 1)
    return interpreter.invoke  # type: ignore[no-any-return]


def _export(checkpoint: Checkpoint, folder: Path) -> Path:
    pictures = folder / "pictures"
    pictures.mkdir()
    write_pictures(pictures)
    save_checkpoint(checkpoint, folder / "imported.pt")
    options = ExportOptions(
        checkpoint=folder / "imported.pt",
        output=folder / "bundle",
        target=("onnxruntime", "litert"),
        variant=("raw",),
        precision=("fp32", "int8"),
        input_type="float32",
        calibration_folder=pictures,
    )
    export_bundle(options, lambda text: None)
    return folder / "bundle"


def _multiply_adds(checkpoint: Checkpoint) -> float:
    detector = checkpoint.build_detector().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(torch.zeros(1, 3, *checkpoint.config.input.size))
    return counter.get_total_flops() / 2


def _matrix_product(multiply_adds: float) -> tuple[float, Callable[[], object]]:
    """A product of matrices, and how many times the network's multiply-adds it has."""
    first, second = torch.rand(2, MATRIX, MATRIX)
    return MATRIX**3 / multiply_adds, partial(torch.mm, first, second)


# --- Where the time goes, by kind of layer.

RUNS, WARM_UP = 30, 5
LARGE_MAP = 38  # from this side on a map of few channels: more bytes than arithmetic


def layer_notes(path: Path, limit: float) -> list[str]:
    """A line for each kind of layer of a float32 model of one input, slowest first.

    ``limit``: multiply-adds a second that the machine reaches in a large product of matrices, on one thread.
    """
    seconds: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    for event in _profile(path):
        kind, multiply_adds = _describe(event["args"])
        seconds[kind] += event["dur"] / 1e6 / RUNS
        work[kind] += multiply_adds / RUNS
    total, all_work = sum(seconds.values()), sum(work.values())
    slowest_first = sorted(seconds, key=lambda kind: -seconds[kind])
    return [
        f"{path.name}, layer by layer: {all_work / total / limit:.0%} of the machine's limit",
        *(
            f"{kind}: {seconds[kind] / total:.0%} of the time for {work[kind] / all_work:.0%} of the multiply-adds, "
            f"{work[kind] / seconds[kind] / limit:.0%} of the limit"
            for kind in slowest_first
        ),
    ]


def _profile(path: Path) -> list[dict[str, Any]]:
    """ONNX Runtime's own record of RUNS runs on one thread, behind some that do not count."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        values = np.random.default_rng(0).random(given.shape, np.float32)
        for _ in range(RUNS + WARM_UP):
            session.run(None, {given.name: values})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    return kernels[len(kernels) // (RUNS + WARM_UP) * WARM_UP :]


def _describe(facts: dict[str, Any]) -> tuple[str, int]:
    """The kind of a layer, and its multiply-adds; ONNX Runtime pads channels to a multiple of 16, which are counted."""
    if facts["op_name"] != "Conv":
        return "all that is no convolution", 0
    (inputs,) = facts["input_type_shape"][0].values()
    (weights,) = facts["input_type_shape"][1].values()
    (outputs,) = facts["output_type_shape"][0].values()
    multiply_adds = math.prod(weights) * math.prod(outputs[2:])
    kernel = f"{weights[2]} x {weights[3]}"
    if weights[1] == 1 and inputs[1] > 1:
        return f"depthwise {kernel}", multiply_adds
    if inputs[1] <= 3:
        return f"the first convolution, {kernel}", multiply_adds
    size = f"maps of {LARGE_MAP} x {LARGE_MAP} and more" if outputs[2] >= LARGE_MAP else "smaller maps"
    return f"{kernel}, {size}", multiply_adds


# --- Bounds on candidates.


@torch.no_grad()
def candidate_bound(options: BenchmarksOptions) -> Iterator[Comparison]:
    """How many candidates real pictures have, what a bound on them costs, and in how many it changes a detection."""
    if options.checkpoint is None or not options.data:
        print_line("candidate_bound: left out, it needs --checkpoint FILE --data FOLDER ...")
        return
    detector = load_detector(options.checkpoint)
    config, network = detector.config, RawGraph(detector, GraphOptions(variant="nms"))
    graphs = {bound: NmsGraph(network, bound) for bound in options.bounds or (256, 512, 1024, 2048)}
    height, width = config.input.size
    size = np.array([width, height, width, height])
    counts: list[int] = []
    changed = dict.fromkeys(graphs, 0)
    for inputs in network_inputs(options.data, detector):
        outputs = Outputs(*network(inputs))
        scores = class_scores(outputs.class_logits, config.head.score_function)
        counts.append(int((scores > config.postprocess.score_threshold).sum()))
        (unbounded,) = postprocess(outputs, detector.anchors, config)
        for bound, graph in graphs.items():
            boxes, found, labels, count = (output[0].numpy() for output in graph(inputs))
            bounded = Detections(boxes * size, found, labels, config.class_names)[: int(count)]
            same = np.array_equal(bounded.labels, unbounded.labels)
            same = same and np.allclose(bounded.scores, unbounded.scores, atol=1e-6)
            decided = unbounded.scores < 1 - 1e-6  # of several boxes that all score 1, any may stay here
            same = same and np.allclose(bounded.boxes[decided], unbounded.boxes[decided], atol=1e-2)
            changed[bound] += not same
    ranked = sorted(counts)
    middle = ranked[len(ranked) // 2]
    yield Comparison(
        f"network and suppression of {options.checkpoint.name}, most candidates",
        [Contestant(str(bound), partial(graph, inputs)) for bound, graph in graphs.items()],
        reference=str(next(iter(graphs))),
        notes=[
            f"{len(counts)} pictures; pairs above the score threshold: median {middle}, most {ranked[-1]}",
            *(f"at most {bound} candidates: {number} with another detection" for bound, number in changed.items()),
        ],
    )


def network_inputs(folders: Sequence[Path], detector: Detector) -> Iterator[torch.Tensor]:
    """Every picture of every split, once, as [1, 3, H, W]."""
    config = detector.config
    paths = {
        path for folder in folders for name in find_splits(folder).splits for path in load_split(folder, name).paths
    }
    for path in sorted(paths):
        image = read_image(path)
        yield stack_images([fit_window(image.shape[:2], config.input.size, config.input.resize).render(image)])
