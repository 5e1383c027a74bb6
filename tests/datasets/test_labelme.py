"""LabelMe's files, one for each picture, as LabelMe writes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool


def shape(label: Any = "cat", points: Any = ((20, 60), (80, 20)), kind: Any = "rectangle") -> dict[str, Any]:
    return {
        "label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {},
        "mask": None,
    }  # fmt: skip


def write(root: Path, name: str, *shapes: Any, image: str = "a.jpg", **more: Any) -> Path:
    content = {
        "version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": "/9j/4AAQ" * 100,
        "imageHeight": 100, "imageWidth": 200, **more,
    }  # fmt: skip
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content, indent=2))
    return root / name


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(root / name)


def test_shapes_become_boxes(tmp_path: Path) -> None:
    shapes = [
        shape(),
        shape("dog", [[5, 10], [20, 5], [15, 60]], "polygon"),
        shape("dog", [[50, 40], [53, 44]], "circle"),
        shape("cat", [[1, 2], [30, 40]], "mask"),
        shape("cat", [[1, 2], [5, 6]], "line"),
        shape("cat", [[1, 2]], "point"),
        shape("cat", [[1, 2], [5, 6], [1, 9]], None),  # of early versions
    ]
    write(tmp_path, "a.json", *shapes)
    write(tmp_path, "b.json", image="b.jpg")
    draw(tmp_path, "a.jpg", "b.jpg", "not yet.jpg")
    (tmp_path / "classes.json").write_text('{"names": ["cat", "dog"]}')
    layout = find_splits(tmp_path)
    assert (layout.format.name, layout.splits) == ("LabelMe", ("all",))
    index = load_split(tmp_path)
    assert index.class_names == ("cat", "dog")
    assert [Path(path).name for path in index.paths] == ["a.jpg", "b.jpg"]
    assert (index.image_ids.tolist(), index.offsets.tolist()) == ([1, 2], [0, 5, 5])
    assert index.labels.tolist() == [0, 1, 1, 0, 0]
    assert index.boxes.tolist() == [[20, 20, 80, 60], [5, 5, 20, 60], [45, 35, 55, 45], [1, 2, 30, 40], [1, 2, 5, 9]]
    assert index.notes == (
        "1 JSON file without shapes: passed over",
        f"{tmp_path} (all): what has no box is passed over: line (1), point (1)",
        f"{tmp_path}: 1 picture without a JSON file: left out",
    )


@pytest.mark.parametrize(("file", "named", "picture"), [
    ("a.json", "a.jpg", "a.jpg"),
    ("a.json", "a.jpg", "a.PNG"),
    ("json/a.json", "..\\images\\a.jpg", "images/a.jpg"),
    ("json/a.json", "../images/b.jpg", "images/b.jpg"),
    ("json/a.json", "a.jpg", "images/a.jpg"),
    ("a.json", r"C:\photos\b.jpg", "b.jpg"),
    ("a.json", "/home/ann/b.jpg", "b.jpg"),
    ("a.json", "../../photos/b.jpg", "b.jpg"),
    ("a.json", None, "a.jpg"),
    ("a.json", "stale.jpg", "a.jpg"),
])  # fmt: skip
def test_the_picture_of_a_file(tmp_path: Path, file: str, named: Any, picture: str) -> None:
    data = tmp_path / "data"
    write(data, file, shape(), image=named)
    draw(data, picture)
    assert load_split(data).paths == (str(data / picture),)


def test_of_two_pictures_the_one_of_the_files_own_name_is_taken_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path, "a.json", shape(), image="b.jpg")
    draw(tmp_path, "a.jpg", "b.jpg")
    index = load_split(tmp_path)
    assert [Path(path).name for path in index.paths] == ["a.jpg"]
    assert [(problem.kind, problem.file) for problem in index.problems] == [("other-picture", str(file))]


def test_a_path_to_a_picture_outside_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.json", shape(), image="../secret.jpg")
    draw(tmp_path, "secret.jpg")
    with pytest.raises(DataError, match="refused: this image path leads out of"):
        load_split(tmp_path / "data", options=LoadOptions(skip_bad=True))


def test_folders_are_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2)):
        for i in range(count):
            write(tmp_path / "cards", f"{split}/{i}.json", shape(), image=f"{i}.jpg", imageData=None)
            draw(tmp_path / "cards", f"{split}/{i}.jpg")
    data = load_data(tmp_path / "cards")
    assert (len(data.train), len(data.val)) == (3, 2)
    assert (data.train.image_ids.tolist(), data.val.image_ids.tolist()) == ([1, 2, 3], [4, 5])
    arguments = [str(tmp_path / "cards"), "--anchors", "default", "--output", str(tmp_path / "report")]
    assert check_tool.main(arguments) == 0


@pytest.mark.parametrize(("bad", "error"), [
    (shape(label=None), "shape 1: Expected `str`, got `null` - at `$.label`"),
    (shape(label=" "), "shape 1: expected a label, got none"),
    (shape(points=[[1, "2"], [3, 4]]), "shape 1: expected a number as y, got '2'"),
    (shape(points=[[1], [3, 4]]), "shape 1: Expected `array` of length 2 - at `$.points[0]`"),
    (shape(points=[]), "shape 1: expected points, got none"),
    (shape(points=[[1, 2]], kind="circle"), "expected the middle of a circle and a point on it, got 1 point"),
    (7, "shape 1: Expected `object`, got `int`"),
])  # fmt: skip
def test_a_malformed_shape_is_named_or_skipped(tmp_path: Path, bad: Any, error: str) -> None:
    file = write(tmp_path, "a.json", bad, shape())
    draw(tmp_path, "a.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{file}: shape 1: " in str(caught.value) and error in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).boxes.tolist() == [[20, 20, 80, 60]]


def test_a_damaged_file_and_a_missing_picture_are_named_or_skipped(tmp_path: Path) -> None:
    write(tmp_path, "a.json", shape())
    damaged = write(tmp_path, "b.json", shape(), image="b.jpg")
    damaged.write_text(damaged.read_text()[:-20])
    write(tmp_path, "c.json", shape(), image="c.jpg")
    draw(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{damaged}: not a LabelMe file: Input data was truncated" in str(caught.value)
    assert f"{tmp_path / 'c.jpg'}: no such image file (of c.json)" in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).problem_counts() == {
        "bad-annotation": 1,
        "bad-image": 1,
    }
