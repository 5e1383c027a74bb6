"""Data sets under attack: the files of every annotation format, read as ``check-data`` and training do."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.area import DATA, Area, copy_files, prepare_nothing, write_json
from tests.fuzz.mutations import deep_recursion, mutate_bytes, mutate_document, mutate_xml, strange_text


def _check(root: Path, random: Random) -> None:
    """What ``ssdlite check-data`` does, but for drawing, or how training reads it."""
    from rich.console import Console

    from ssdlite.config import PRESETS
    from ssdlite.datasets.audit.checks import CheckOptions, check_data
    from ssdlite.datasets.audit.report import print_report, report_values
    from ssdlite.datasets.audit.verdict import judge
    from ssdlite.datasets.formats.options import LoadOptions
    from ssdlite.datasets.loading import load_data

    if random.random() < 0.4:
        load_data(root, LoadOptions(skip_bad=random.random() < 0.5))
        return
    options = CheckOptions(fit=random.random() < 0.1, decode=random.random() < 0.1)
    check = check_data(root, lambda train: PRESETS["ssdlite192_mobilenet_v2_050"], options)
    json.dumps(report_values(check, judge(check)))
    print_report(check, Console(file=io.StringIO()), verbose=True)


def _prepare_coco(folder: Path) -> Any:
    return json.loads((DATA / "coco-cc" / "annotations" / "instances_val2017.json").read_text())


def _attack_coco(document: Any, random: Random, folder: Path) -> None:
    copy_files(DATA / "coco-cc" / "val2017", folder / "val2017")
    path = folder / "annotations" / "instances_val2017.json"
    if random.random() < 0.8:
        write_json(path, mutate_document(document, random))
    else:
        path.parent.mkdir()
        path.write_bytes(mutate_bytes(json.dumps(document).encode(), random))
    _check(folder, random)


def _attack_voc(_: Any, random: Random, folder: Path) -> None:
    source = DATA / "bccd"
    names = random.sample(sorted(path.stem for path in (source / "Annotations").iterdir()), 4)
    copy_files(source / "JPEGImages", folder / "JPEGImages", *(f"{name}.jpg" for name in names))
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
    copy_files(DATA / "coco-cc" / "val2017", folder / "images")
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
    copy_files(DATA / "coco-cc" / "val2017", folder)
    kind = random.choice(("project.json", "min.json", "via.json", "metadata.jsonl", "annotations.xml", "LabelMe"))
    pages = sorted(name for name in documents if name.startswith("0"))
    for other in pages if kind == "LabelMe" else ():
        write_json(folder / other, documents[other])
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


def _prepare_parquet(folder: Path) -> bytes:
    """Twenty rows with pictures, as the Hugging Face Hub has them."""
    import pyarrow as pa
    from pyarrow import parquet

    os.environ["XDG_CACHE_HOME"] = str(folder)
    data = [path.read_bytes() for path in sorted((DATA / "coco-cc" / "val2017").iterdir())[:2]] * 10
    features = {"objects": {"category": {"feature": {"names": ["owl", "cat"]}}}}
    table = pa.table(
        {
            "image": [{"bytes": one, "path": "a.jpg"} for one in data],
            "objects": [{"bbox": [[1.0, 2, 30, 40], [5, 6, 7, 8]], "category": [0, 1]}] * len(data),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


def _attack_parquet(whole: bytes, random: Random, folder: Path) -> None:
    """Bytes of all of it, or of its last 4,000: the columns but for the pictures, and the footer."""
    end = len(whole) - (4000 if random.random() < 0.6 else 0)
    begin = whole[:end] if end < len(whole) else b""
    name = random.choice(("train-00000-of-00001.parquet", "metadata.parquet", "train/0000.parquet"))
    (folder / "train").mkdir()
    (folder / name).write_bytes(begin + mutate_bytes(whole[len(begin) :], random))
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
    copy_files(DATA / "coco-cc" / "val2017", folder / "images")
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


DATA_SET_AREAS: dict[str, Area] = {
    "coco": Area(1600, _prepare_coco, _attack_coco),
    "voc": Area(1400, prepare_nothing, _attack_voc),
    "yolo": Area(800, prepare_nothing, _attack_yolo),
    "csv": Area(600, prepare_nothing, _attack_csv),
    "label-tools": Area(1200, _prepare_label_tools, _attack_label_tools),
    "tfrecord": Area(600, _prepare_tfrecord, _attack_tfrecord),
    "parquet": Area(400, _prepare_parquet, _attack_parquet),
    "classes": Area(400, prepare_nothing, _attack_classes),
}
