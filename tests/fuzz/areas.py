"""What is attacked: each area damages something small and real, and gives it to the function that a user would call.

An area is ``prepare(folder)``, once in each process, and ``attack(material, random, folder)``, once a case, in an empty
folder. What ends in one of ``EXPECTED`` was answered; anything else that is raised is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssdlite.errors import SsdliteError
from tests.fuzz.mutations import (
    deep_recursion,
    mutate_bytes,
    mutate_document,
    mutate_xml,
    strange_array,
    strange_text,
    strange_value,
)

DATA = Path(__file__).parents[1] / "data"
BUNDLE = DATA / "before_parts" / "bundle"
EXPECTED = (SsdliteError,)


class Area(NamedTuple):
    cases: int  # of a whole campaign
    prepare: Callable[[Path], Any]
    attack: Callable[[Any, Random, Path], object]
    expected: tuple[type[Exception], ...] = EXPECTED


def _copy(source: Path, target: Path, *names: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and (not names or path.name in names):
            shutil.copyfile(path, target / path.name)


def _write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with deep_recursion():
        path.write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))


def _check(root: Path, random: Random) -> None:
    """What ``ssdlite check-data`` does, but for drawing, or how training reads it."""
    from rich.console import Console

    from ssdlite.config import PRESETS
    from ssdlite.datasets.audit.checks import CheckOptions, check_data
    from ssdlite.datasets.audit.report import print_report, report_values
    from ssdlite.datasets.formats.options import LoadOptions
    from ssdlite.datasets.loading import load_data

    if random.random() < 0.4:
        load_data(root, LoadOptions(skip_bad=random.random() < 0.5))
        return
    options = CheckOptions(fit=random.random() < 0.1, decode=random.random() < 0.1)
    check = check_data(root, PRESETS["ssdlite192_mobilenet_v2_050"], options)
    json.dumps(report_values(check))
    print_report(check, Console(file=io.StringIO()))


# --- Data sets.


def _prepare_coco(folder: Path) -> Any:
    return json.loads((DATA / "coco-cc" / "annotations" / "instances_val2017.json").read_text())


def _attack_coco(document: Any, random: Random, folder: Path) -> None:
    _copy(DATA / "coco-cc" / "val2017", folder / "val2017")
    path = folder / "annotations" / "instances_val2017.json"
    if random.random() < 0.8:
        _write_json(path, mutate_document(document, random))
    else:
        path.parent.mkdir()
        path.write_bytes(mutate_bytes(json.dumps(document).encode(), random))
    _check(folder, random)


def _attack_voc(_: Any, random: Random, folder: Path) -> None:
    source = DATA / "bccd"
    names = random.sample(sorted(path.stem for path in (source / "Annotations").iterdir()), 4)
    _copy(source / "JPEGImages", folder / "JPEGImages", *(f"{name}.jpg" for name in names))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    (lists / "val.txt").write_text("\n".join(names) + "\n")
    for number, name in enumerate(names):
        text = (source / "Annotations" / f"{name}.xml").read_text()
        target = folder / "Annotations" / f"{name}.xml"
        if number == 0:
            target.write_bytes(mutate_bytes(text.encode(), random))
        else:
            target.write_text(mutate_xml(text, random) if number == 1 else text)
    if random.random() < 0.2:
        (lists / "val.txt").write_bytes(mutate_bytes((lists / "val.txt").read_bytes(), random))
    if random.random() < 0.3:  # as LabelImg leaves them
        (folder / "val").mkdir()
        for path in (*(folder / "Annotations").iterdir(), *(folder / "JPEGImages").iterdir()):
            path.rename(folder / "val" / path.name)
    _check(folder, random)


TABLE = """\
filename,width,height,class,xmin,ymin,xmax,ymax
000000122745.jpg,240,320,owl,8,4,40,20
000000122745.jpg,240,320,cat,16,10,80,40
000000208901.jpg,320,213,owl,16,10,80,40
images/000000062554.jpg,,,,,,,
"""


def _attack_csv(_: Any, random: Random, folder: Path) -> None:
    """Fields, separators, columns and bytes of a table, and of the list of classes beside it."""
    _copy(DATA / "coco-cc" / "val2017", folder / "images")
    rows = [line.split(",") for line in TABLE.splitlines()]
    for _number in range(random.randint(0, 4)):
        row = random.choice(rows)
        row[random.randrange(len(row))] = strange_text(random)
    if random.random() < 0.3:
        column = random.randrange(8)
        rows = [row[:column] + row[column + 1 :] for row in rows]
    delimiter = random.choice((",", ",", ",", ";", "\t"))
    text = "\n".join(delimiter.join(row) for row in rows)
    data = text.encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")
    (folder / "labels.csv").write_bytes(data if random.random() < 0.6 else mutate_bytes(data, random))
    if random.random() < 0.3:
        (folder / "classes.csv").write_bytes(mutate_bytes(b"owl,0\ncat,1\n", random))
    _check(folder, random)


def _prepare_label_tools(folder: Path) -> dict[str, Any]:
    """A file of each tool about the same photographs, by the name that the tool gives it."""
    rectangle = {"name": "rect", "x": 20, "y": 30, "width": 40, "height": 50}
    ellipse = {"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 10, "theta": 0.3}
    regions = [{"shape_attributes": one, "region_attributes": {"name": "owl"}} for one in (rectangle, ellipse)]
    circle = {"label": "owl", "points": [[20, 60], [80, 20]], "shape_type": "circle"}
    sides = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 15.0, "rectanglelabels": ["owl"]}
    points = {"points": [[5, 10], [20, 5], [15, 60]], "polygonlabels": ["cat"]}
    documents: dict[str, Any] = {"project.json": [], "min.json": [], "via.json": {}, "metadata.jsonl": []}
    elements = []
    for path in sorted((DATA / "coco-cc" / "val2017").glob("*.jpg")):
        width, height = Image.open(path).size
        stated = {"original_width": width, "original_height": height}
        results = [{**stated, "value": value, "type": "rectanglelabels"} for value in (sides, points)]
        data = {"image": f"/data/upload/1/1a2b3c4d-{path.name}"}
        task = {"id": 1, "data": data, "annotations": [{"result": results, "was_cancelled": False}]}
        documents["project.json"].append(task)
        documents["min.json"].append({"image": path.name, "label": [{**stated, **sides}], "annotation_id": 2})
        documents["via.json"][f"{path.name}47"] = {"filename": path.name, "regions": regions, "file_attributes": {}}
        documents["metadata.jsonl"].append(
            {"file_name": path.name, "objects": {"bbox": [[1, 2, 30, 40]], "category": ["owl"]}}
        )
        elements.append(
            f'<image id="0" name="{path.name}" width="{width}" height="{height}">'
            '<box label="owl" xtl="1.5" ytl="2" xbr="30" ybr="40" rotation="10"></box>'
            '<polygon label="cat" points="1,2;30,40;9,60"></polygon>'
            '<ellipse label="cat" cx="50" cy="40" rx="20" ry="10"></ellipse></image>'
        )
        documents[f"{path.stem}.json"] = {"version": "5", "flags": {}, "shapes": [circle], "imagePath": path.name}
    return {**documents, "annotations.xml": f"<annotations>{''.join(elements)}</annotations>"}


def _attack_label_tools(documents: dict[str, Any], random: Random, folder: Path) -> None:
    _copy(DATA / "coco-cc" / "val2017", folder)
    kind = random.choice(("project.json", "min.json", "via.json", "metadata.jsonl", "annotations.xml", "LabelMe"))
    pages = sorted(name for name in documents if name.startswith("0"))
    for other in pages if kind == "LabelMe" else ():
        _write_json(folder / other, documents[other])
    name = random.choice(pages) if kind == "LabelMe" else kind
    document = documents[name]
    if isinstance(document, str):
        text = re.sub(r'"[^"]*"', lambda found: _other_value(found.group(), random), document)
        text = text if random.random() < 0.7 else mutate_xml(text, random)
    elif name.endswith(".jsonl"):
        lines = mutate_document(document, random)
        text = "\n".join(map(_as_json, lines if isinstance(lines, list) else [lines]))
    else:
        text = _as_json(mutate_document(document, random))
    data = text.encode("utf-8", "surrogatepass")
    (folder / name).write_bytes(data if random.random() < 0.8 else mutate_bytes(data, random))
    _check(folder, random)


def _other_value(quoted: str, random: Random) -> str:
    return f'"{strange_text(random)}"' if random.random() < 0.01 else quoted


def _as_json(document: Any) -> str:
    with deep_recursion():
        return json.dumps(document)


def _prepare_tfrecord(folder: Path) -> list[bytes]:
    """Three records as TensorFlow writes them."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return [
        _example(path.read_bytes(), [0.1, 0.2], [b"owl", b"cat"])
        for path in sorted((DATA / "coco-cc" / "val2017").iterdir())[:3]
    ]


def _example(picture: bytes, corners: list[float], names: list[bytes]) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(content)) + content

    floats = np.array(corners, "<f4")
    features = {
        "image/encoded": field(1, field(1, picture)),
        "image/object/class/text": field(1, b"".join(field(1, name) for name in names)),
        "image/object/class/label": field(3, field(1, bytes(range(len(names))))),
        **{f"image/object/bbox/{side}min": field(2, field(1, floats.tobytes())) for side in "xy"},
        **{f"image/object/bbox/{side}max": field(2, field(1, (floats + 0.5).astype("<f4").tobytes())) for side in "xy"},
    }
    entries = [field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()]
    return field(1, b"".join(entries))


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def _attack_tfrecord(records: list[bytes], random: Random, folder: Path) -> None:
    """The records, the frames around them with right checksums of their lengths or not, the label map."""
    from ssdlite.datasets.formats.record_files import crc32c, mask

    data = b""
    for record in records:
        hurt = record
        if random.random() < 0.4:  # what is not of the picture
            cut = record.rindex(b"image/object/bbox/ymax") - random.randint(0, 600)
            hurt = (
                mutate_bytes(record, random)
                if random.random() < 0.3
                else record[:cut] + mutate_bytes(record[cut:], random)
            )
        length = len(hurt).to_bytes(8, "little")
        data += length + mask(crc32c(length)).to_bytes(4, "little") + hurt + bytes(4)
    path = folder / random.choice(("a.record", "train.record-00000-of-00001", "a.tfrecord"))
    path.write_bytes(data if random.random() < 0.7 else mutate_bytes(data, random))
    if random.random() < 0.3:
        (folder / "label_map.pbtxt").write_bytes(
            mutate_bytes(b"item { id: 1 name: 'owl' } item { id: 2 name: 'cat' }", random)
        )
    _check(folder, random)


YOLO_YAML = """\
path: ../datasets/coco  # dataset root
train: ../images
val: [images, "/content/coco/images"]
test: list.txt
kpt_shape: [2, 3]
nc: 3
names:
  0: owl
  1: cat
  2: dog
"""
YOLO_LABELS = """\
0 0.5 0.5 0.25 0.5
1 0.25 0.25 0.5 0.5 0.93
2 0.1 0.1 0.9 0.1 0.9 0.8 0.1 0.8
1 0.5 0.5 0.2 0.2 0.1 0.2 2 0.3 0.4 1
"""


def _attack_yolo(_: Any, random: Random, folder: Path) -> None:
    """A description, label files, a list of pictures and a list of classes."""
    _copy(DATA / "coco-cc" / "val2017", folder / "images")
    (folder / "labels").mkdir()
    pictures = sorted((folder / "images").iterdir())
    for picture in pictures:
        lines = [line.split(" ") for line in YOLO_LABELS.splitlines()]
        for _number in range(random.randint(0, 2)):
            line = random.choice(lines)
            line[random.randrange(len(line))] = random.choice((strange_text(random), "1e308", "-0.2", "nan", "7"))
        data = "\n".join(map(" ".join, lines)).encode("utf-8", "surrogatepass")
        data = data if random.random() < 0.7 else mutate_bytes(data, random)
        (folder / "labels" / f"{picture.stem}.txt").write_bytes(data)
    names = [picture.name for picture in pictures] + [strange_text(random), "../../a.jpg", "/etc/a.jpg"]
    listed = "\n".join(random.sample(names, 4)).encode("utf-8", "surrogatepass")
    (folder / "list.txt").write_bytes(listed)
    text = YOLO_YAML
    for _number in range(random.randint(0, 3)):
        old = random.choice(["images", "owl", "cat", "0", "3", "names", "../", "list.txt", "[", ":", "\n", "2"])
        text = text.replace(old, random.choice((strange_text(random), "&a ", "*a", "[[", "{", "..", "/", "")), 1)
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.8:
        (folder / "data.yaml").write_bytes(data if random.random() < 0.6 else mutate_bytes(data, random))
    if random.random() < 0.5:
        (folder / "classes.txt").write_bytes(mutate_bytes(b"owl\ncat\ndog\n", random))
    _check(folder, random)


def _attack_classes(_: Any, random: Random, folder: Path) -> None:
    """Splits and class lists that are asked for."""
    from ssdlite.datasets.formats.options import LoadOptions
    from ssdlite.datasets.loading import load_data

    texts = ["RBC", "WBC", "Platelets", "train", "val", "test", ""]
    strange = [strange_text(random) for _ in range(4)]
    classes = [random.choice(texts + strange) for _ in range(random.randint(0, 4))]
    splits = [random.choice([None, *texts, *strange]) for _ in range(2)]
    chosen = LoadOptions(classes=random.choice((None, classes)))
    load_data(DATA / "bccd", chosen, train_split=splits[0], val_split=splits[1])


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
    from ssdlite.training.trainer import resume

    source, data, content = material
    run = folder / "run"
    shutil.copytree(source, run)
    kind = random.randrange(4)
    if kind < 2:
        _write_torch(run / "last.pt", data, content, random)
    elif kind == 2:
        _write_json(run / "config.json", mutate_document(json.loads((source / "config.json").read_text()), random))
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
    _copy(BUNDLE, bundle, "nms_fp16.onnx", "decoded_fp16.onnx")
    document = json.loads((BUNDLE / "contract.json").read_text())
    if random.random() < 0.8:
        _write_json(bundle / "contract.json", mutate_document(document, random))
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
        print_findings(path, ["ort-mobile", "nnapi", "coreml", "xnnpack", "ncnn"])
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
    _copy(BUNDLE, bundle)
    _copy(BUNDLE / "golden", bundle / "golden")
    path = random.choice(sorted((bundle / "golden").iterdir()))
    data = path.read_bytes()
    path.unlink()
    if path.suffix == ".json" and random.random() < 0.7:
        _write_json(path, mutate_document(json.loads(data), random))
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
    _write_json(folder / "bundle" / "contract.json", document)
    (folder / "bundle" / "a.param").write_bytes(mutate_bytes(NCNN_PARAM.encode(), random))
    (folder / "bundle" / "a.bin").write_bytes(mutate_bytes(bytes(64), random))
    load_model(folder / "bundle", threads=1).predict(np.zeros((20, 30, 3), np.uint8))


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


def _nothing(folder: Path) -> None:
    return None


AREAS: dict[str, Area] = {
    "coco": Area(1600, _prepare_coco, _attack_coco),
    "voc": Area(1400, _nothing, _attack_voc),
    "yolo": Area(800, _nothing, _attack_yolo),
    "csv": Area(600, _nothing, _attack_csv),
    "label-tools": Area(1200, _prepare_label_tools, _attack_label_tools),
    "tfrecord": Area(600, _prepare_tfrecord, _attack_tfrecord),
    "classes": Area(400, _nothing, _attack_classes),
    "pictures": Area(2400, _prepare_pictures, _attack_picture),
    "arrays": Area(800, _prepare_detector, _attack_arrays, (SsdliteError, TypeError, ValueError)),
    "checkpoints": Area(800, _prepare_checkpoint, _attack_checkpoint),
    "runs": Area(300, _prepare_run, _attack_run),
    "configs": Area(1000, _prepare_configs, _attack_config),
    "contracts": Area(800, _nothing, _attack_contract),
    "onnx": Area(500, _nothing, _attack_onnx),
    "golden": Area(300, _nothing, _attack_golden),
    "ncnn": Area(200, _nothing, _attack_ncnn),
    "tflite": Area(300, _nothing, _attack_tflite),
    "tensorflow": Area(600, _nothing, _attack_tensorflow),
    "torchvision": Area(200, _prepare_torchvision, _attack_torchvision),
}
