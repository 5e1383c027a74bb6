"""Our ONNX of an imported TensorFlow Lite SSD in ONNX Runtime, beside LiteRT on the original file; one thread.

``python -m benchmarks litert --tflite FILE`` (docs/weights.md says where to get one). Networks alone: from a normalised
input to logits and box codes. Beside them the machine's own limit: a large product of matrices in the same run, as
a floor for the time of as many multiply-adds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.layers import layer_notes
from ssdlite.benchmark.pictures import write_pictures
from ssdlite.benchmark.stages import use_threads
from ssdlite.benchmark.timing import timed
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.console import print_line
from ssdlite.export.options import ExportOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.runtime.model import load_model
from ssdlite.weights import import_weights

ROUNDS = 60
MATRIX = 2048
REFERENCE = "LiteRT, the original file"


def comparisons(settings: Settings) -> Iterator[Comparison]:
    if settings.tflite is None:
        print_line("litert: left out, it needs --tflite FILE (docs/weights.md says where to get one)")
        return
    checkpoint = _import(settings.tflite)
    with tempfile.TemporaryDirectory() as folder:
        bundle = _export(checkpoint, Path(folder))
        contestants = [Contestant(REFERENCE, _litert(settings.tflite))]
        for precision in ("fp32", "int8"):
            model = load_model(bundle, f"raw_{precision}.onnx", threads=1)
            size = (*model.input_size, 3)
            inputs, _ = model.preprocess(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
            contestants.append(Contestant(f"ours, {precision}", partial(model.backend.run, inputs)))
        share, limit = _matrix_product(_multiply_adds(checkpoint))
        contestants.append(Contestant("as many multiply-adds in a matrix product", limit, share))
        yield Comparison(
            f"network of {settings.tflite.name}",
            contestants,
            reference=REFERENCE,
            targets={"ours, fp32": 1 / 1.10, "ours, int8": 1 / 0.65},
            threads=1,
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
        detector(torch.zeros(1, 3, *checkpoint.config.image_size))
    return counter.get_total_flops() / 2


def _matrix_product(multiply_adds: float) -> tuple[float, Callable[[], object]]:
    """A product of matrices, and how many times the network's multiply-adds it has."""
    first, second = torch.rand(2, MATRIX, MATRIX)
    return MATRIX**3 / multiply_adds, partial(torch.mm, first, second)
