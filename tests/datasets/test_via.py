"""VGG Image Annotator 2: JSON, project and CSV, as it writes them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

RECT = {"name": "rect", "x": 20, "y": 30, "width": 40, "height": 50}
SHAPES: list[dict[str, Any]] = [
    RECT,
    {"name": "polygon", "all_points_x": [5, 20, 15], "all_points_y": [10, 5, 60]},
    {"name": "polyline", "all_points_x": [1, 9], "all_points_y": [2, 8]},
    {"name": "circle", "cx": 50, "cy": 40, "r": 5.5},
    {"name": "ellipse", "cx": 50, "cy": 40, "rx": 20, "ry": 10, "theta": 1.5707963267948966},
    {"name": "point", "cx": 5, "cy": 6},
]
BOXES = [[20, 30, 60, 80], [5, 5, 20, 60], [1, 2, 9, 8], [44.5, 34.5, 55.5, 45.5], [40, 20, 60, 60]]


def region(shape: Any = RECT, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def page(name: str, *regions: Any) -> dict[str, Any]:
    return {f"{name}4711": {"filename": name, "size": 4711, "regions": list(regions), "file_attributes": {}}}


def write(root: Path, content: Any, *pictures: str, name: str = "via_export_json.json") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(root / picture)
    return root / name


def write_csv(root: Path, pages: dict[str, list[dict[str, Any]]], name: str = "via_export_csv.csv") -> None:
    head = ["filename", "file_size", "file_attributes", "region_count", "region_id"]
    with (root / name).open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*head, "region_shape_attributes", "region_attributes"])
        for file_name, regions in pages.items():
            for i, one in enumerate(regions or [region({})]):
                values = (json.dumps(one[key]) for key in ("shape_attributes", "region_attributes"))
                writer.writerow([file_name, 4711, "{}", len(regions), i, *values])


@pytest.mark.parametrize("kind", ["export", "project", "VIA 1", "CSV"])
def test_regions_become_boxes(tmp_path: Path, kind: str) -> None:
    regions = [region(shape, name="cat" if shape is RECT else "dog") for shape in SHAPES]
    pages = page("a.jpg", *regions) | page("b.jpg")
    file = write(tmp_path, pages, "images/a.jpg", "images/b.jpg")
    if kind == "project":
        project = {"_via_settings": {"core": {}}, "_via_img_metadata": pages, "_via_attributes": {"region": {}}}
        write(tmp_path, project, name=file.name)
    elif kind == "VIA 1":
        pages["a.jpg4711"]["regions"] = {str(i): one for i, one in enumerate(regions)}
        write(tmp_path, pages, name=file.name)
    elif kind == "CSV":
        file.unlink()
        write_csv(tmp_path, {"a.jpg": regions, "b.jpg": []})
        file = tmp_path / "via_export_csv.csv"
    for data in (tmp_path, file):
        index = load_split(data)
        assert [Path(path).name for path in index.paths] == ["a.jpg", "b.jpg"]
        assert (index.image_ids.tolist(), index.offsets.tolist()) == ([1, 2], [0, 5, 5])
        assert (index.class_names, index.labels.tolist()) == (("cat", "dog"), [0, 1, 1, 1, 1])
        assert index.boxes.round(3).tolist() == BOXES
        assert f"{file}: what has no box is passed over: point (1)" in index.notes
    assert find_splits(tmp_path).format.name == "VIA"


@pytest.mark.parametrize(("attributes", "classes"), [
    ({"animal": "cat"}, ["cat"]),
    ({"animal": "cat", "pose": ""}, ["cat"]),
    ({"pose": "sits", "Type": "cat"}, ["cat"]),
    ({"type": "sits", "name": "Tom", "label": "cat"}, ["cat"]),
    ({"animal": {"cat": True, "dog": False, "pet": True}}, ["cat", "pet"]),
    ({}, ["object"]),
])  # fmt: skip
def test_which_attribute_is_the_class(tmp_path: Path, attributes: Any, classes: list[str]) -> None:
    write(tmp_path, page("a.jpg", region(**attributes)), "a.jpg")
    index = load_split(tmp_path)
    assert list(index.class_names) == classes
    assert index.boxes.tolist() == [[20, 30, 60, 80]] * len(classes)
    assert any("its regions have no attributes" in note for note in index.notes) == (not attributes)


def test_several_attributes_without_a_class_among_them_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, page("a.jpg", region(pose="sits", age="old")), "a.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert str(caught.value) == (
        f"{file}: expected one attribute of the regions, or one called class, label, name or type, to be the class; "
        "got 'pose', 'age'"
    )


@pytest.mark.parametrize(("bad", "error"), [
    (7, "expected an object as shape_attributes, got 7"),
    ({"shape_attributes": RECT}, "expected an object as region_attributes, got None"),
    (region({**RECT, "width": "9"}, name="cat"), "expected a number as width, got '9'"),
    (region({"name": "polygon", "all_points_x": [1]}, name="cat"), "expected all_points_x and all_points_y of one"),
    (region(name=""), "expected a class in the attribute 'name', got ''"),
    (region({"name": "ellipse", "cx": 1, "cy": 1, "rx": 1, "ry": 1, "theta": "x"}, name="cat"), "a number as theta"),
])  # fmt: skip
def test_a_malformed_region_is_named_or_skipped(tmp_path: Path, bad: Any, error: str) -> None:
    file = write(tmp_path, page("a.jpg", bad, region(name="cat")), "a.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{file}: a.jpg, region 1: " in str(caught.value) and error in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).boxes.tolist() == [[20, 30, 60, 80]]


def test_a_malformed_line_of_a_table_is_named(tmp_path: Path) -> None:
    write(tmp_path, {}, "a.jpg")
    write_csv(tmp_path, {"a.jpg": [region(name="cat")], "": [region(name="cat")]})
    with (tmp_path / "via_export_csv.csv").open("a") as stream:
        stream.write('a.jpg,1,"{}",1,0,"{""name"": ","{}"\n')
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert "line 3: expected a filename, got none" in str(caught.value)
    assert "line 4: region_shape_attributes: Input data was truncated" in str(caught.value)


def test_a_file_for_each_split_is_audited(tmp_path: Path) -> None:
    for split in ("train", "val"):
        names = [f"{i}.jpg" for i in range(2)]
        content: dict[str, Any] = {}
        for name in names:
            content |= page(name, region(name="cat"))
        write(tmp_path / "cards" / split, content, *names, name="via_region_data.json")
    data = load_data(tmp_path / "cards")
    assert (len(data.train), len(data.val)) == (2, 2)
    arguments = [str(tmp_path / "cards"), "--anchors", "default", "--output", str(tmp_path / "report")]
    assert check_tool.main(arguments) == 0
