"""Data sets of the Hugging Face Hub: Parquet files with the pictures in them."""

import importlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats import parquet_files
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError

pyarrow: Any = pytest.importorskip("pyarrow", reason="pyarrow, of the extra dev, is not installed")

LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}
FEATURES = (
    {"bbox": {"_type": "Sequence"}, "category": {"feature": LABEL, "_type": "List"}},
    {"feature": {"bbox": {"_type": "Sequence"}, "category": LABEL}, "_type": "Sequence"},
    [{"bbox": {"_type": "Sequence"}, "category": LABEL}],
)  # of lists of objects, as versions of ``datasets`` have written them
TWO = {"bbox": [[1.0, 2, 10, 20], [5, 5, 25, 20]], "category": [0, 1]}
NONE: dict[str, list[Any]] = {"bbox": [], "category": []}
BOXES = [[1, 2, 11, 22], [5, 5, 30, 25]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssdlite" / "pictures"


def picture(number: int) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", (50, 40), (number, 0, 0)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"../../{number}.png"}


def write(file: Path, images: Sequence[Any], objects: Sequence[Any], features: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"image_id": list(range(len(images))), "image": images, "objects": objects})
    if features is not None:
        info = {"info": {"features": {"image": {"_type": "Image"}, "objects": features}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    importlib.import_module("pyarrow.parquet").write_table(table, file)
    return file


def objects(index: DetectionIndex) -> list[list[Any]]:
    return [index.record(position).boxes.tolist() for position in range(len(index))]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("names", [
    ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
     "data/validation-00000-of-00001.parquet"),
    ("train-00000-of-00002-0123456789abcdef.parquet", "train-00001-of-00002-0123456789abcdef.parquet",
     "validation.parquet"),
    ("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"),
    ("full/train-00000-of-00002.parquet", "full/train-00001-of-00002.parquet",
     "full/validation-00000-of-00001.parquet"),
])  # fmt: skip
def test_shards_and_splits(tmp_path: Path, names: Sequence[str], features: Any, cache: Path) -> None:
    data = tmp_path / "set"
    write(data / names[0], [picture(0), picture(1)], [TWO, NONE], features)
    write(data / names[1], [picture(2)], [TWO], features)
    write(data / names[2], [picture(3)], [TWO], features)
    layout = find_splits(data)
    assert (layout.format.name, layout.splits) == ("Parquet", ("train", "validation"))
    splits = load_data(data)
    assert objects(splits.train) == [BOXES, [], BOXES]
    assert objects(splits.val) == [BOXES]
    assert splits.train.class_names == splits.val.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 1, 0, 1]
    assert all(Path(path).is_relative_to(cache) for path in splits.train.paths)
    assert Image.open(splits.train.paths[2]).getpixel((0, 0)) == (2, 0, 0)


def test_a_file_of_its_own_and_numbers_without_names(tmp_path: Path) -> None:
    file = write(tmp_path / "set" / "cards.parquet", [picture(0)], [TWO])
    for data in (file, file.parent):
        index = load_split(data)
        assert (index.class_names, objects(index)) == (("0", "1"), [BOXES])
        assert f"{file}: its categories are numbers, which become the names of the classes" in index.notes


def test_what_cannot_be_read_is_named_or_left_out(tmp_path: Path) -> None:
    images = [picture(0), {"bytes": b"<html>", "path": None}, {"bytes": None, "path": "a.png"}, picture(3)]
    wrong = {"bbox": [[1.0, 2, 3]], "category": [0]}
    file = write(tmp_path / "set" / "train-00000-of-00003.parquet", images, [TWO, TWO, TWO, wrong])
    with pytest.raises(DataError) as caught:
        load_split(tmp_path / "set")
    assert str(caught.value).splitlines()[1:5] == [
        f"  {tmp_path / 'set' / 'train-00000-of-00003.parquet'}: expected 3 files, got 1: 2 files missing",
        f"  {file}: row 2: expected the bytes of a picture as image, got other bytes",
        f"  {file}: row 3: expected the bytes of a picture as image, got None",
        f"  {file}: row 4, object 1: expected bbox [x, y, width, height], got [1.0, 2.0, 3.0]",
    ]
    assert objects(load_split(tmp_path / "set", options=LoadOptions(skip_bad=True))) == [BOXES]


def test_damage_a_package_that_is_missing_and_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "set" / "train.parquet", [picture(0)], [TWO])
    data = file.read_bytes()
    file.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as Parquet"):
        load_split(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"train\.parquet: needs a package .*: pip install 'ssdlite\[parquet\]'"):
        load_split(tmp_path / "set")
    monkeypatch.undo()
    pyarrow.parquet.write_table(pyarrow.table({"image": [picture(0)], "label": ["objects"]}), file)
    with pytest.raises(DataError, match="no annotations found"):
        load_split(tmp_path / "set")


@pytest.mark.parametrize(("bound", "error"), [
    ("MOST_PARQUET_ROWS", "expected at most 10 rows, got 12"),
    ("MOST_VALUES", "expected at most 10 values of a column in a group of rows, got 96"),
    ("MAX_GROUP_BYTES", "expected at most 10 bytes in a group of rows, got "),
])  # fmt: skip
def test_more_than_can_be_held_is_an_error(
    tmp_path: Path, bound: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes may stand for millions of equal values. Here: 12 rows of two boxes of four numbers."""
    monkeypatch.setattr(parquet_files, bound, 10)
    file = write(tmp_path / "set" / "train.parquet", [picture(0)] * 12, [TWO] * 12)
    with pytest.raises(DataError, match=f"{file}: {error}"):
        load_split(tmp_path / "set")


@pytest.mark.parametrize("second", ["blue", "red"])
def test_metadata_with_the_pictures_in_it_and_beside_it_is_read_once(tmp_path: Path, second: str) -> None:
    """It is an imagefolder's, also where two of its pictures are equal; without those beside it, it is as the Hub's."""
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    arrow: Any = pytest.importorskip("pyarrow")
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    rows = []
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), "red" if name == "a.png" else second).save(folder / name)
        image = {"bytes": (folder / name).read_bytes(), "path": name}
        rows.append({"file_name": name, "image": image, "objects": {"bbox": [[1.0, 2, 20, 30]], "category": ["owl"]}})
    parquet.write_table(arrow.Table.from_pylist(rows), folder / "metadata.parquet")
    index = load_split(tmp_path / "set")
    assert index.paths == (str(folder / "a.png"), str(folder / "b.png"))
    assert index.boxes.tolist() == [[1, 2, 21, 32]] * 2
    assert find_splits(tmp_path / "set").notes == ()
    for path in index.paths:
        Path(path).unlink()
    assert load_split(tmp_path / "set").boxes.tolist() == [[1, 2, 21, 32]] * 2
