"""With --skip-bad a picture of which no object can be read is left out: only one without objects is background.

Of every format ``good.png`` has a cat, ``empty.png`` nothing, and of ``unread.png`` nothing can be read; of
``half.png`` one object can. Pictures are 64 x 48 pixels.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import load_split
from ssdlite.errors import DataError
from tests.datasets.written_files import write

NAMES = ("good", "empty", "unread", "half")
PICTURES = {f"{name}.png": None for name in NAMES}
BOX = [8, 4, 32, 16]  # x, y, width, height
CORNERS = [8.0, 4.0, 40.0, 20.0]


def by_name(good: Any, bad: Any) -> dict[str, list[Any]]:
    """The objects of each picture."""
    return {"good": [good], "empty": [], "unread": [bad], "half": [bad, good]}


def coco(bbox: Any = (1, 2, 3), **more: Any) -> dict[str, Any]:
    found = by_name({"bbox": BOX, "category_id": 1}, {"bbox": bbox, "category_id": 1, **more})
    return {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(NAMES)],
        "annotations": [one | {"image_id": number} for number, name in enumerate(NAMES) for one in found[name]],
        "categories": [{"id": 1, "name": "cat"}],
    }


def voc(name: str) -> str:
    box = "<bndbox><xmin>8</xmin><ymin>4</ymin><xmax>40</xmax><ymax>20</ymax></bndbox>"
    good = f"<object><name>cat</name>{box}</object>"
    objects = by_name(good, good.replace("<xmax>40</xmax>", ""))[name]
    return f"<annotation><source><database>Unknown</database></source>{''.join(objects)}</annotation>"


def cvat() -> str:
    good = '<box label="cat" xtl="8" ytl="4" xbr="40" ybr="20"/>'
    found = by_name(good, good.replace("40", "wide"))
    images = [f'<image id="0" name="{name}.png">{"".join(found[name])}</image>' for name in NAMES]
    return f"<annotations><version>1.1</version>{''.join(images)}</annotations>"


def label_studio() -> list[Any]:
    good = {"x": 12.5, "y": 100 * 4 / 48, "width": 50, "height": 100 * 16 / 48, "rectanglelabels": ["cat"]}
    found = by_name({"value": good}, {"value": good | {"width": None}})
    return [
        {"data": {"image": f"{name}.png"}, "annotations": [{"was_cancelled": False, "result": found[name]}]}
        for name in NAMES
    ]


def labelme(name: str) -> dict[str, Any]:
    good = {"label": "cat", "shape_type": "rectangle", "points": [[8, 4], [40, 20]]}
    return {"flags": {}, "shapes": by_name(good, good | {"points": []})[name], "imagePath": f"{name}.png"}


def via_regions() -> dict[str, list[Any]]:
    shape = {"name": "rect", "x": 8, "y": 4, "width": 32, "height": 16}
    good = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
    return by_name(good, good | {"shape_attributes": shape | {"width": "wide"}})


def via_table(bad: str) -> str:
    good = '"{""name"": ""rect"", ""x"": 8, ""y"": 4, ""width"": 32, ""height"": 16}"'
    rows = ["filename,region_shape_attributes,region_attributes", "empty.png,{},{}"]
    found = by_name(good, bad)
    rows += [f'{name}.png,{one},"{{""class"": ""cat""}}"' for name in NAMES for one in found[name]]
    return "\n".join(rows)


def folder_rows(bad: Any) -> str:
    found = by_name({"bbox": BOX, "category": "cat"}, bad)
    return "\n".join(json.dumps({"file_name": f"{name}.png", "objects": found[name]}) for name in NAMES)


YOLO = by_name("0 0.375 0.25 0.5 0.3333333333\n", "0 0.375 0.25 0.5\n")
CSV = ["filename,class,xmin,ymin,xmax,ymax", "good.png,cat,8,4,40,20", "empty.png,,,,,", "unread.png,cat,8,4,40,wide"]
FILES: dict[str, dict[str, Any]] = {
    "COCO, three numbers": {"labels.json": coco()},
    "COCO, a negative size": {"labels.json": coco((8, 4, -1, 16))},
    "COCO, an unknown category": {"labels.json": coco(BOX, category_id=7)},
    "VOC": {f"{name}.xml": voc(name) for name in NAMES},
    "YOLO": {f"{name}.txt": "".join(YOLO[name]) for name in NAMES} | {"classes.txt": "cat"},
    "CVAT": {"annotations.xml": cvat()},
    "Label Studio": {"export.json": label_studio()},
    "CSV": {"boxes.csv": "\n".join([*CSV, "half.png,cat,8,4,40,20", "half.png,cat,8,4,40,wide"])},
    "LabelMe": {f"{name}.json": labelme(name) for name in NAMES},
    "imagefolder, an object": {"metadata.jsonl": folder_rows({"bbox": [1], "category": "cat"})},
    "VIA": {"via.json": {name: {"filename": f"{name}.png", "regions": via_regions()[name]} for name in NAMES}},
    "VIA's table, a shape": {"via.csv": via_table('"{""name"": ""rect"", ""x"": 8}"')},
    "VIA's table, no shape": {"via.csv": via_table('"{""name"": "')},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_picture_with_no_object_that_can_be_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, PICTURES | FILES[name])
    with pytest.raises(DataError, match="2 of its images or annotations cannot be used"):
        load_split(tmp_path)
    index = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    records = [index.record(position) for position in range(len(index))]
    found = {Path(record.path).stem: record.boxes.round(3).tolist() for record in records}
    assert found == {"good": [CORNERS], "empty": [], "half": [CORNERS]}
    assert index.problem_counts() == {"bad-annotation": 2}


@pytest.mark.parametrize(("name", "files"), [
    ("YOLO", {f"{name}.txt": "".join(YOLO[name]) for name in NAMES} | {"classes.txt": "cat"}),
    ("imagefolder", {"metadata.jsonl": folder_rows({"bbox": BOX, "category": "cat"})}),
])  # fmt: skip
def test_a_picture_whose_annotation_as_a_whole_cannot_be_read(tmp_path: Path, name: str, files: dict[str, Any]) -> None:
    write(tmp_path, PICTURES | files)
    if name == "YOLO":
        (tmp_path / "unread.txt").write_bytes(b"0 0.375 0.25 0.5 \xff")
    else:
        lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
        lines[2] = '{"file_name": "unread.png", "objects": {"bbox": [[8, 4, 32, 16]], "category": []}}'
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    index = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert [Path(path).stem for path in sorted(index.paths)] == ["empty", "good", "half"]
