"""Hugging Face's imagefolder with the objects of each picture in its metadata."""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

TWO = {"bbox": [[302.0, 109.0, 73.0, 52.0], [10, 20, 30.5, 40]], "category": ["cat", "dog"]}


def row(name: str, objects: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "file_name": name,
        "objects": {"bbox": [[1, 2, 10, 20]], "category": ["cat"]} if objects is None else objects,
        **more,
    }


def write(root: Path, rows: Sequence[Any], *pictures: str, name: str = "metadata.jsonl", end: str = "\n") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (root / name).write_bytes(end.join([*lines, ""]).encode())
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 200)).save(root / picture)
    return root / name


@pytest.mark.parametrize("objects", [
    TWO,
    {"id": [114, 115], "area": [3796, 1220], "bbox": TWO["bbox"], "categories": ["cat", "dog"]},
    {"boxes": TWO["bbox"], "label": ["cat", "dog"]},
    [{"bbox": TWO["bbox"][0], "category": "cat"}, {"bbox": TWO["bbox"][1], "label": "dog"}],
])  # fmt: skip
def test_the_forms_of_objects(tmp_path: Path, objects: Any) -> None:
    file = write(
        tmp_path, [row("0001.png", objects), row("0002.png", {"bbox": [], "category": []})], "0001.png", "0002.png"
    )
    for data in (tmp_path, file):
        layout = find_splits(data)
        assert (layout.format.name, layout.splits) == ("imagefolder", ("all",))
        index = load_split(data)
        assert index.class_names == ("cat", "dog")
        assert (index.image_ids.tolist(), index.offsets.tolist()) == ([1, 2], [0, 2, 2])
        assert index.boxes.tolist() == [[302, 109, 375, 161], [10, 20, 40.5, 60]]
        assert index.labels.tolist() == [0, 1]


def test_boxes_beside_the_file_name_lines_that_end_otherwise_and_a_mark(tmp_path: Path) -> None:
    rows = [
        "\ufeff" + json.dumps({"file_name": "a.png", "bbox": [[1, 2, 10, 20]], "labels": ["cat"]}),
        "",
        row("b.png", {}),
    ]
    write(tmp_path, rows, "a.png", "b.png", end="\r\n")
    with pytest.raises(
        DataError, match=r"line 3: expected objects with lists bbox and category of one length, got None"
    ):
        load_split(tmp_path)
    index = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert (index.boxes.tolist(), len(index)) == ([[1, 2, 11, 22]], 1)


def test_a_table(tmp_path: Path) -> None:
    lines = [
        "file_name,objects,width,height",
        '0001.png,"{""bbox"": [[1, 2, 10, 20]], ""categories"": [""cat""]}",400,200',
        "0002.png,,400,200",
    ]
    write(tmp_path, lines, "0001.png", "0002.png", name="metadata.csv")
    assert find_splits(tmp_path).format.name == "imagefolder"
    assert load_split(tmp_path).boxes.tolist() == [[1, 2, 11, 22]]


def test_numbers_become_names_or_are_given_them(tmp_path: Path) -> None:
    objects = {"bbox": [[1, 2, 10, 20]] * 3, "category": [10, 2, 0]}
    file = write(tmp_path, [row("a.png", objects)], "a.png")
    index = load_split(tmp_path)
    assert (index.class_names, index.labels.tolist()) == (("0", "2", "10"), [2, 1, 0])
    (note,) = index.notes
    assert note.startswith(f"{file}: its categories are numbers, which become the names of the classes; a classes.txt")
    (tmp_path / "classes.txt").write_text("owl\nant\ncat\n")
    with pytest.raises(DataError, match="line 1, object 1: expected a category from 0 to 2, as many as names, got 10"):
        load_split(tmp_path)
    index = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert (index.class_names, index.labels.tolist(), index.notes) == (("owl", "cat"), [1, 0], ())


@pytest.mark.parametrize("below", ["", "data/"])
def test_folders_are_splits(tmp_path: Path, below: str) -> None:
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        names = [f"{i}.png" for i in range(count)]
        write(tmp_path / "cards" / below / split, [row(name) for name in names], *names)
    assert find_splits(tmp_path / "cards").splits == ("test", "train", "validation")
    data = load_data(tmp_path / "cards")
    assert (len(data.train), len(data.val)) == (3, 2)
    arguments = [str(tmp_path / "cards"), "--anchors", "default", "--output", str(tmp_path / "report")]
    assert check_tool.main(arguments) == 0


def test_one_file_for_the_folders_of_all_splits(tmp_path: Path) -> None:
    names = ["train/a.png", "train/b.png", "test/a.png"]
    write(tmp_path, [row(name) for name in names], *names)
    assert find_splits(tmp_path).splits == ("test", "train")
    assert load_split(tmp_path, "test").paths == (str(tmp_path / "test" / "a.png"),)
    assert load_split(tmp_path, "test").image_ids.tolist() == [3]


@pytest.mark.parametrize(("line", "error"), [
    ("{not JSON", "line 2: JSON is malformed"),
    ({"file_name": 5, "objects": {}}, "line 2: expected a file_name, got 5"),
    (row("b.png", 3), "line 2: expected an object with bbox and category, got 3"),
    (row("b.png", {"bbox": [[1, 2, 3, 4]], "category": []}), "line 2: expected objects with lists bbox and"),
    (row("b.png", {"bbox": [[1, 2, 3]], "category": ["cat"]}), "line 2, object 1: expected bbox [x, y, width, height]"),
    (row("b.png", {"bbox": [[1, 2, 3, "4"]], "category": ["cat"]}), "object 1: expected a number as bbox, got '4'"),
    (row("b.png", {"bbox": [[1, 2, -3, 4]], "category": ["cat"]}), "expected bbox [x, y, width, height], got"),
    (row("b.png", {"bbox": [[1, 2, 3, 4]], "category": [None]}), "expected a category's name or number, got None"),
])  # fmt: skip
def test_a_malformed_line_is_named_or_skipped(tmp_path: Path, line: Any, error: str) -> None:
    file = write(tmp_path, [row("a.png"), line], "a.png", "b.png")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{file}: line 2" in str(caught.value) and error in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).boxes.tolist() == [[1, 2, 11, 22]]


def test_metadata_about_other_things_is_none(tmp_path: Path) -> None:
    write(tmp_path, [{"file_name": "a.png", "text": "a cat"}], "a.png")
    with pytest.raises(DataError, match="no annotations found"):
        find_splits(tmp_path)


def write_parquet(file: Path, columns: dict[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra dev, is not installed")
    file.parent.mkdir(parents=True, exist_ok=True)
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(columns), file)
    return file


def test_a_parquet_file(tmp_path: Path) -> None:
    """The forms of objects, other columns beside them, more rows than are read at a time."""
    count = 150
    names = [f"{number:03d}.png" for number in range(count)]
    lists = [{"bbox": TWO["bbox"], "category": ["cat", "dog"]}, {"bbox": [], "category": []}, *[None] * (count - 2)]
    columns = {"file_name": names, "caption": ["a cat"] * count, "objects": lists}
    write(tmp_path / "lists", [], *names, name="none.txt")
    file = write_parquet(tmp_path / "lists" / "metadata.parquet", columns)
    for data in (file.parent, file):
        assert find_splits(data).format.name == "imagefolder"
        index = load_split(data)
        assert (len(index), index.class_names, index.labels.tolist()) == (150, ("cat", "dog"), [0, 1])
        assert index.boxes.tolist() == [[302, 109, 375, 161], [10, 20, 40.5, 60]]
        assert index.image_ids[-1] == 150
    write(tmp_path / "pairs", [], "a.png", name="none.txt")
    pairs = [[{"bbox": [1, 2, 10, 20], "category": 3}]]
    write_parquet(tmp_path / "pairs" / "metadata.parquet", {"file_name": ["a.png"], "objects": pairs})
    assert load_split(tmp_path / "pairs").boxes.tolist() == [[1, 2, 11, 22]]


def test_a_parquet_file_needs_its_package_and_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metadata.parquet"
    file.write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(DataError, match=r"metadata\.parquet: cannot be read as Parquet"):
        load_data(tmp_path)
    write_parquet(file, {"file_name": ["a.png"], "objects": [{"bbox": [[1, 2, 10, 20]], "category": ["cat"]}]})
    file.write_bytes(file.read_bytes()[:-30] + b"damaged" * 3 + b"xPAR1")
    with pytest.raises(DataError, match=r"metadata\.parquet: cannot be read as Parquet"):
        load_data(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"metadata\.parquet: needs a package .*: pip install 'ssdlite\[parquet\]'"):
        load_data(tmp_path)


def test_other_metadata_than_of_objects(tmp_path: Path) -> None:
    """Classes of whole pictures; captions that speak of objects."""
    write(tmp_path / "parquet", [], "a.png", name="none.txt")
    write_parquet(tmp_path / "parquet" / "metadata.parquet", {"file_name": ["a.png"], "label": ["objects"]})
    write(tmp_path / "lines", [{"file_name": "a.png", "text": "two objects, a bbox: none"}], "a.png")
    write(tmp_path / "table", ["file_name,text about objects", "a.png,bbox"], "a.png", name="metadata.csv")
    for folder, hint in (
        ("parquet", r"metadata.parquet has no `objects`, which imagefolder's metadata.parquet has beside `file_name`"),
        ("lines", r"metadata.jsonl has no `objects`, which imagefolder's metadata.jsonl has beside `file_name`"),
        ("table", ""),
    ):
        for skip in (False, True):
            with pytest.raises(DataError, match=f"no annotations found.*{hint}"):
                load_data(tmp_path / folder, LoadOptions(skip_bad=skip))


def test_a_parquet_file_beside_other_annotations_is_no_hindrance(tmp_path: Path) -> None:
    write(tmp_path, [row("a.png")], "a.png")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    assert load_split(tmp_path).boxes.tolist() == [[1, 2, 11, 22]]
    (tmp_path / "metadata.jsonl").unlink()
    assert find_splits(tmp_path).splits == ("all",)
