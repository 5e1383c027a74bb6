"""What is said of a folder of no known format: what is in it, and what the nearest format misses."""

from pathlib import Path
from typing import Any

import pytest

from ssdlite.datasets.loading import find_splits, load_split
from ssdlite.errors import DataError
from tests.datasets.written_files import write

LABEL = "0 0.5 0.5 0.2 0.2\n"
IMAGES = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
DETECTION = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(("files", "message"), [
    ({"sub/.hidden": "x"}, "The folder is empty."),
    ({"a.png": None, "x/b.png": None}, "It has 2 pictures. Nothing beside the pictures could hold their boxes."),
    ({"train/cat/a.png": None, "train/dog/b.png": None},
     "It has 2 pictures. The folders of the pictures (cat, dog) may be classes, but nothing has boxes."),
    ({"a.png": None, "metadata.jsonl": '{"file_name": "a.png", "text": "x"}'},
     "1 JSONL file. metadata.jsonl has no `objects`, which imagefolder's metadata.jsonl has beside `file_name`."),
    ({"a.pdf": "x"}, "It has 1 other file. It has no pictures."),
    ({"a.png": None, "a.json": {"name": 1}, "z.json": IMAGES},
     "2 JSON files. z.json is nearly COCO's: it has `images` and `annotations`, but no `categories`."),
    ({"a.png": None, "s.json": {"name": 1, "version": 2}},
     "It has 1 picture and 1 JSON file. s.json is of no known format: its keys are 'name', 'version'."),
    ({"a.png": None, "found.json": [DETECTION]},
     "found.json has detections in COCO's form of results, not annotations."),
    ({"a.png": None, "l.json": [1, 2]}, "l.json is of no known format: a list of 2."),
    ({"a.png": None, "l.json": "[1, 2"}, "l.json is of no known format: Input data was truncated."),
    ({"a.png": None, "captions_val.json": IMAGES | {"categories": []}},
     "captions_val.json has COCO's lists, but of captions, key points or segments, without boxes."),
    ({"a.png": None, "sub/b.csv": "class,xmin,ymin,xmax,ymax\nace,1,2,3,4\n"},
     "sub/b.csv is no table of boxes: its header has no column for filename (class, xmin, ymin, xmax, ymax)."),
    ({"a.png": None, "b.csv": "image,class,score,xmin,ymin,xmax,ymax\n"},
     "b.csv has scores, as detections have: to use"),
    ({"photos/a.png": None, "txt/a/a.txt": LABEL, "n.json": {"a": 1}},
     "It has 1 picture, 1 JSON file and 1 text file. txt/a/a.txt looks like a label file of YOLO: expected such files"),
    ({"images/a.png": None, "data.yaml": "names: [a]\n"},
     "1 YAML file. data.yaml names classes as YOLO's descriptions do, but there is no label file (.txt)."),
    ({"docs/a.xml": "<annotation/>", "images/a.png": None},
     "docs/a.xml looks like VOC's: expected such files beside the pictures"),
    ({"a.png": None, "a.xml": "<note>x</note>"}, "a.xml is of no known format: its element is <note>."),
    ({"README.txt": "cards", "cards.zip": "PK"}, "It has 1 text file and 1 archive. Unpack cards.zip."),
])  # fmt: skip
def test_what_is_in_the_folder(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    root = write(tmp_path / "data", files)
    with pytest.raises(DataError) as caught:
        find_splits(root)
    assert str(caught.value).startswith(f"{root}: no annotations found. ")
    assert message in str(caught.value)
    assert " Formats that are read: COCO, VOC, YOLO, CVAT, Label Studio, " in str(caught.value)
    assert str(caught.value).endswith(" (docs/data.md)")
    assert len(str(caught.value)) < 550 + len(str(root))


def test_the_data_sets_in_its_folders_are_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"images/a.png": None, "labels/a.txt": LABEL})
    write(tmp_path / "three", {"a.png": None})
    with pytest.raises(DataError) as caught:
        find_splits(tmp_path)
    message = f"{tmp_path}: no annotations found, but data sets in its folders; give one of one, two"
    assert str(caught.value) == message


def test_a_description_of_yolo_without_any_label_file(tmp_path: Path) -> None:
    text = "train: train/images\nval: val/images\nnames: [ace]\n"
    write(tmp_path, {"data.yaml": text, "train/images/a.png": None, "val/images/b.png": None, "val/images/c.png": None})
    with pytest.raises(DataError) as caught:
        load_split(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path / 'data.yaml'}: expected label files (.txt) in labels/ parallel to images/, or beside the "
        "pictures, found none for any of 3 pictures (train, val); empty files stand for background"
    )
    write(tmp_path, {"train/labels/a.txt": ""})
    assert (len(load_split(tmp_path, "train")), len(load_split(tmp_path, "val"))) == (1, 2)
