"""What is attacked: each area damages something small and real, and gives it to the function that a user would call.

Here are pictures, models and what holds them; data sets are in ``data_sets``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from ssdlite.errors import SsdliteError
from tests.fuzz.area import DATA, Area, copy_files, prepare_nothing, write_json
from tests.fuzz.data_sets import DATA_SET_AREAS
from tests.fuzz.mutations import mutate_bytes, mutate_document, strange_array, strange_value

BUNDLE = DATA / "before_parts" / "bundle"

# --- Pictures and arrays.

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "LA", "I;16")


def _prepare_pictures(folder: Path) -> list[bytes]:
    with Image.open(DATA / "coco-cc" / "val2017" / "000000122745.jpg") as picture:
        small = picture.convert("RGB").resize((40, 30))
    files = []
    for name in FORMATS:
        for mode in MODES:
            stream = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):  # formats do not know all modes
                small.convert("L" if mode == "I;16" else mode).convert(mode).save(stream, name)
                files.append(stream.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    small.save(stream, "JPEG", exif=exif)
    return [*files, stream.getvalue(), stream.getvalue()]


def _attack_picture(files: list[bytes], random: Random, folder: Path) -> None:
    from ssdlite.images.reading import read_image, read_image_size

    path = folder / random.choice(("a.jpg", "a.png", "a.webp", "a"))
    path.write_bytes(mutate_bytes(random.choice(files), random))
    with contextlib.suppress(SsdliteError):
        read_image_size(path)
    pixels = read_image(path, reduction=random.choice((1, 1, 2, 8)))
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def _prepare_detector(folder: Path) -> Any:
    from ssdlite.build import load_detector

    return load_detector(DATA / "before_parts" / "shapes_detector.pt")


def _attack_arrays(detector: Any, random: Random, folder: Path) -> None:
    import torch

    picture = strange_array(random) if random.random() < 0.8 else strange_value(random)
    if isinstance(picture, np.ndarray) and random.random() < 0.3:
        with contextlib.suppress(TypeError, ValueError):  # strides and types that torch has not
            picture = torch.from_numpy(picture)
    thresholds = (0.3, 0.3, 0.3, 0.0, 1.0, -1.0, 2.0, float("nan"), "0.3", None)
    detector.predict(picture, score_threshold=random.choice(thresholds), batch_size=random.choice((16, 1, 0, -1)))


# --- Checkpoints, run folders, configurations.


def _prepare_checkpoint(folder: Path) -> Any:
    import torch

    path = DATA / "before_parts" / "run" / "best.pt"
    return path.read_bytes(), torch.load(path, weights_only=True)


def _attack_checkpoint(material: Any, random: Random, folder: Path) -> None:
    from ssdlite.build import load_detector

    path = folder / "a.pt"
    _write_torch(path, *material, random)
    load_detector(path)


def _write_torch(path: Path, data: bytes, content: Any, random: Random) -> None:
    import torch

    if random.random() < 0.25:
        path.write_bytes(mutate_bytes(data, random))
        return
    damaged = mutate_document(content, random)
    if random.random() < 0.5 and isinstance(damaged, dict):
        _mutate_tensor(damaged, random)
    with contextlib.suppress(Exception):  # what cannot be pickled is no attack
        torch.save(damaged, path)


def _mutate_tensor(content: dict[Any, Any], random: Random) -> None:
    """Another tensor, or none, in place of one, however deep it lies."""
    import torch

    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [content]
    while stack:
        part = stack.pop()
        keys = part.keys() if isinstance(part, dict) else range(len(part))
        for key in keys:
            if isinstance(part[key], torch.Tensor):
                places.append((part, key))
            elif isinstance(part[key], (dict, list)) and len(places) < 5000:
                stack.append(part[key])
    if not places:
        return
    part, key = random.choice(places)
    tensor = part[key]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: tensor.flatten()[:3],
        tensor.double,
        tensor.half,
        lambda: tensor.to(torch.int64),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
        lambda: torch.zeros(0),
        lambda: tensor.new_zeros(1).expand(1 << 28),
        lambda: tensor[None],
        tensor.to_sparse,
        lambda: torch.empty(tensor.shape, device="meta"),
        lambda: tensor.to(torch.float8_e4m3fn) if tensor.is_floating_point() else tensor,
        lambda: tensor.to(torch.complex64),
        tensor.tolist,
    )
    with contextlib.suppress(RuntimeError, NotImplementedError):  # not every kind has every change
        part[key] = random.choice(changes)()


def _prepare_run(folder: Path) -> Any:
    import torch

    source = DATA / "before_parts" / "run"
    data = (source / "last.pt").read_bytes()
    from ssdlite.datasets.shapes import generate_shapes

    os.chdir(folder)
    generate_shapes(Path("data"), train_images=16, val_images=4)
    return source, data, torch.load(source / "last.pt", weights_only=True)


def _attack_run(material: Any, random: Random, folder: Path) -> None:
    """Resume a run of one more epoch on 16 pictures; most cases end before that."""
    from ssdlite.training.runs import resume

    source, data, content = material
    run = folder / "run"
    shutil.copytree(source, run)
    kind = random.randrange(4)
    if kind < 2:
        _write_torch(run / "last.pt", data, content, random)
    elif kind == 2:
        write_json(run / "config.json", mutate_document(json.loads((source / "config.json").read_text()), random))
    else:
        name = random.choice(("config.json", "metrics.jsonl", "best.pt", "last.pt"))
        (run / name).write_bytes(mutate_bytes((source / name).read_bytes(), random))
    resume(run)


def _prepare_configs(folder: Path) -> Any:
    rows = [json.loads(line)["config"] for line in (DATA / "before_parts" / "configs.jsonl").read_text().splitlines()]
    from ssdlite.config import DetectorConfig

    return rows + [DetectorConfig.from_dict(row).to_dict() for row in rows]


def _attack_config(rows: Any, random: Random, folder: Path) -> None:
    from ssdlite.config import DetectorConfig

    DetectorConfig.from_dict(mutate_document(random.choice(rows), random))


# --- Exported models.


def _attack_contract(_: Any, random: Random, folder: Path) -> None:
    bundle = folder / "bundle"
    copy_files(BUNDLE, bundle, "nms_fp16.onnx", "decoded_fp16.onnx")
    document = json.loads((BUNDLE / "contract.json").read_text())
    if random.random() < 0.8:
        write_json(bundle / "contract.json", mutate_document(document, random))
    else:
        (bundle / "contract.json").write_bytes(mutate_bytes((BUNDLE / "contract.json").read_bytes(), random))
    _predict(bundle)


def _predict(path: Path) -> None:
    from ssdlite.runtime import load_model

    load_model(path, threads=1).predict(np.zeros((20, 30, 3), np.uint8), score_threshold=0.0)


def _attack_onnx(_: Any, random: Random, folder: Path) -> None:
    """Its bytes, or its parts; asked and linted."""
    import onnx

    from ssdlite.tools.lint_model import print_findings

    path = folder / "a.onnx"
    data = (BUNDLE / "decoded_fp16.onnx").read_bytes()
    if random.random() < 0.5:
        path.write_bytes(mutate_bytes(data, random))
    else:
        model = onnx.load_from_string(data)
        _mutate_graph(model, random)
        path.write_bytes(model.SerializeToString())
    with contextlib.suppress(SsdliteError), contextlib.redirect_stdout(io.StringIO()):
        print_findings(path, ["ort-mobile", "nnapi", "coreml", "xnnpack", "executorch", "ncnn"])
    _predict(path)


def _mutate_graph(model: Any, random: Random) -> None:
    graph = model.graph
    for _ in range(random.randint(1, 3)):
        node = random.choice(graph.node)
        tensor = random.choice(graph.initializer)
        kind = random.randrange(8)
        if kind == 0:
            node.op_type = random.choice(("Relu", "Loop", "NonMaxSuppression", "", "X" * 1000))
        elif kind == 1 and node.input:
            node.input[0] = random.choice(("", "nowhere", *node.output))
        elif kind == 2:
            graph.node.remove(node)
        elif kind == 3 and tensor.dims:
            tensor.dims[0] = random.choice((0, -1, 2**40, 7))
        elif kind == 4:
            tensor.data_type = random.randrange(30)
        elif kind == 5:
            tensor.raw_data = mutate_bytes(tensor.raw_data[:4096], random)
        elif kind == 6:
            model.opset_import[0].version = random.choice((0, 1, 99, 2**62))
        elif model.metadata_props:
            entry = random.choice(model.metadata_props)
            entry.value = mutate_bytes(entry.value.encode(), random).decode("utf-8", "replace")


def _attack_golden(_: Any, random: Random, folder: Path) -> None:
    from ssdlite.export.verify.bundle import verify_bundle
    from ssdlite.export.verify.report import format_report

    bundle = folder / "bundle"
    copy_files(BUNDLE, bundle)
    copy_files(BUNDLE / "golden", bundle / "golden")
    path = random.choice(sorted((bundle / "golden").iterdir()))
    data = path.read_bytes()
    path.unlink()
    if path.suffix == ".json" and random.random() < 0.7:
        write_json(path, mutate_document(json.loads(data), random))
    else:
        path.write_bytes(mutate_bytes(data, random))
    list(format_report(verify_bundle(bundle)))


NCNN_PARAM = """\
7767517
3 3
Input            in0    0 1 in0 0=8 1=8 2=3
Convolution      conv   1 1 in0 mid 0=4 1=1 6=12
Sigmoid          out    1 1 mid scores
"""


def _attack_ncnn(_: Any, random: Random, folder: Path) -> None:
    from ssdlite.runtime import load_model

    document = json.loads((BUNDLE / "contract.json").read_text())
    own = document["models"][0]
    own |= {"file": "a.param", "runtime": "ncnn", "weights_file": "a.bin", "opset": None, "ir_version": None}
    document["models"] = [own]
    write_json(folder / "bundle" / "contract.json", document)
    (folder / "bundle" / "a.param").write_bytes(mutate_bytes(NCNN_PARAM.encode(), random))
    (folder / "bundle" / "a.bin").write_bytes(mutate_bytes(bytes(64), random))
    load_model(folder / "bundle", threads=1).predict(np.zeros((20, 30, 3), np.uint8))


def _prepare_openvino(folder: Path) -> Path:
    """A small model for OpenVINO, as exported."""
    import onnx

    from ssdlite.export.targets.openvino import convert_to_openvino, openvino_spec
    from ssdlite.runtime import read_contract

    contract = read_contract(BUNDLE).for_model("decoded_fp16.onnx")
    (model,) = contract.models
    artifact = convert_to_openvino(onnx.load(BUNDLE / model.file), openvino_spec(replace(model, file="a.xml")))
    artifact.save(folder, replace(contract, models=(artifact.spec,)))
    return folder


def _attack_openvino(source: Path, random: Random, folder: Path) -> None:
    """Bytes of either file, numbers of the graph, the contract's hash of the weights right or not."""
    copy_files(source, folder, "a.xml", "a.bin")
    kind = random.randrange(3)
    path = folder / ("a.bin" if kind == 0 else "a.xml")
    data = path.read_bytes()
    if kind == 2:
        numbers = [*re.finditer(rb'"\d+(,\d+)*"', data)]
        for _ in range(random.choice((1, 3, 10))):
            value = random.choice((b"0", b"-1", b"1", b"7", b"99999999999", b"4294967296", b""))
            data = data.replace(random.choice(numbers)[0], b'"' + value + b'"', 1)
        path.write_bytes(data)
    else:
        path.write_bytes(mutate_bytes(data, random))
    if random.random() < 0.5:  # as a stranger would write it
        own = hashlib.sha256((folder / "a.bin").read_bytes()).hexdigest().encode()
        text = (folder / "a.xml").read_bytes()
        (folder / "a.xml").write_bytes(re.sub(rb"(a\.bin&quot;:&quot;)[0-9a-f]{64}", rb"\g<1>" + own, text))
    _predict(folder / "a.xml")


# --- Weights of other projects.


def _import(path: Path) -> None:
    from ssdlite.weights import import_weights

    import_weights(path, class_names=["circle", "square", "triangle"])


def _attack_tflite(_: Any, random: Random, folder: Path) -> None:
    (folder / "a.tflite").write_bytes(mutate_bytes((DATA / "shapes_detector.tflite").read_bytes(), random))
    _import(folder / "a.tflite")


def _attack_tensorflow(_: Any, random: Random, folder: Path) -> None:
    source = DATA / "tensorflow"
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / random.choice(sorted(one.name for one in source.iterdir()))
    path.write_bytes(mutate_bytes(path.read_bytes(), random))
    _import(path if path.suffix == ".pb" else folder / "small-7")


def _prepare_torchvision(folder: Path) -> Any:
    """A small state dict with torchvision's names."""
    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    with torch.device("meta"):
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in model.state_dict().items()}
    torch.save(state, folder / "state.pt")
    return (folder / "state.pt").read_bytes(), state


def _attack_torchvision(material: Any, random: Random, folder: Path) -> None:
    data, state = material
    names = random.sample(sorted(state), 12)
    content = {"model": {name: state[name] for name in names}, "epoch": 3} if random.random() < 0.3 else dict(state)
    if len(content) > 100:  # a shallow copy is enough: the tensors stay
        for _ in range(random.randint(1, 3)):
            name = random.choice(sorted(map(str, content)))
            change = random.randrange(3)
            if change == 0:
                content.pop(name, None)
            elif change == 1:
                content[name] = strange_value(random)
            else:
                _mutate_tensor(content, random)
        import torch

        with contextlib.suppress(Exception):
            torch.save(content, folder / "a.pth")
    else:
        _write_torch(folder / "a.pth", data[:100_000], content, random)
    _import(folder / "a.pth")


def _prepare_paddle(folder: Path) -> Any:
    """Pickles of a state dict with PicoDet's first names, and calls of what is no part of an array."""
    content = {
        "backbone.conv1.conv.weight": np.zeros((16, 3, 3, 3), np.float32),
        "head.conv_feat.se.0.fc.weight": np.ones((4, 4, 1, 1), np.float16),
        "head.head_cls0.bias": np.zeros(3),
        "StructuredToParameterName@@": {"head.head_cls0.bias": "conv2d_0.b_0"},
    }
    return [pickle.dumps(content, protocol=protocol) for protocol in (2, 3, 4)]


def _attack_paddle(files: list[bytes], random: Random, folder: Path) -> None:
    data = random.choice(files)
    if random.random() < 0.3:
        names = (b"numpy", b"ndarray", b"_reconstruct", b"dtype", b"multiarray", b"latin1")
        strange = (b"os", b"system", b"builtins", b"eval", b"", b"\x93" * 3, b"\xff" * 4)
        data = data.replace(random.choice(names), random.choice(strange), 1)
    else:
        data = mutate_bytes(data, random)
    (folder / "a.pdparams").write_bytes(data)
    _import(folder / "a.pdparams")


AREAS: dict[str, Area] = DATA_SET_AREAS | {
    "pictures": Area(2400, _prepare_pictures, _attack_picture),
    "arrays": Area(800, _prepare_detector, _attack_arrays, (SsdliteError, TypeError, ValueError)),
    "checkpoints": Area(800, _prepare_checkpoint, _attack_checkpoint),
    "runs": Area(300, _prepare_run, _attack_run),
    "configs": Area(1000, _prepare_configs, _attack_config),
    "contracts": Area(800, prepare_nothing, _attack_contract),
    "onnx": Area(500, prepare_nothing, _attack_onnx),
    "golden": Area(300, prepare_nothing, _attack_golden),
    "ncnn": Area(200, prepare_nothing, _attack_ncnn),
    "openvino": Area(300, _prepare_openvino, _attack_openvino),
    "tflite": Area(300, prepare_nothing, _attack_tflite),
    "tensorflow": Area(600, prepare_nothing, _attack_tensorflow),
    "torchvision": Area(200, _prepare_torchvision, _attack_torchvision),
    "paddle": Area(600, _prepare_paddle, _attack_paddle),
}
