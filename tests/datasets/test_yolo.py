"""YOLO data sets as Roboflow, CVAT, Label Studio, LabelImg, MakeSense and Ultralytics' tools write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

ACE = "0 0.5 0.5 0.25 0.5\n"  # of 64 x 48 pixels: 24, 12, 40, 36
KING = "1 0.25 0.25 0.5 0.5\n"  # 0, 0, 32, 24
ACE_BOX, KING_BOX = [24, 12, 40, 36], [0, 0, 32, 24]
ROBOFLOW = """\
train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['ace', 'king']

roboflow:
  workspace: cards
  license: CC BY 4.0
  url: https://universe.roboflow.com/cards/cards/dataset/1
"""


def write(root: Path, files: dict[str, str | bytes | None]) -> Path:
    """Files below ``root``; None is a picture of 64 x 48 pixels."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            ending = {".png": "PNG", ".bmp": "BMP"}.get(path.suffix.lower(), "JPEG")
            Image.new("RGB", (64, 48)).save(path, ending)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def contents(index: DetectionIndex) -> dict[str, list[tuple[str, list[float]]]]:
    """Class names and boxes by the pictures' file names."""
    return {
        Path(record.path).name: [
            (index.class_names[label], box)
            for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
        ]
        for record in map(index.record, range(len(index)))
    }


ROBOFLOW_FILES: dict[str, Any] = {
    "README.roboflow.txt": "cards - v1\n\n1 2 3 4\n", "README.dataset.txt": "# cards\n",
    "train/images/a_jpg.rf.0f3.jpg": None, "train/labels/a_jpg.rf.0f3.txt": "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.5",
    "train/images/b.JPG": None, "train/labels/b.txt": "",
    "valid/images/c.png": None, "valid/labels/c.txt": "1 0.25 0.25 0.5 0.5",
}  # fmt: skip
TRAIN = {"a_jpg.rf.0f3.jpg": [("ace", ACE_BOX), ("king", KING_BOX)], "b.JPG": []}
VALID = {"c.png": [("king", KING_BOX)]}


@pytest.mark.parametrize("text", [
    ROBOFLOW,
    ROBOFLOW.replace("\n", "\r\n"),
    "\ufeff" + ROBOFLOW,
    ROBOFLOW.replace("../", ""),
    ROBOFLOW.replace("../", "./"),
    ROBOFLOW.replace("../", "/content/cards-1/"),
    ROBOFLOW.replace("../", "C:\\Users\\ann\\cards\\").replace("/images", "\\images"),
    ROBOFLOW.replace("['ace', 'king']", "\n  0: ace\n  1: king"),
    ROBOFLOW.replace("['ace', 'king']", "{1: king, 0: ace}  # by number"),
    ROBOFLOW.replace("['ace', 'king']", "\n- ace\n- king"),
    "path: ../datasets/cards  # dataset root\n" + ROBOFLOW.replace("../", ""),
    "path: .\n" + ROBOFLOW.replace("../", ""),
    "path:\n" + ROBOFLOW.replace("../train/images", "\n  - train/images").replace("nc: 2", ""),
])  # fmt: skip
def test_a_folder_of_roboflow(tmp_path: Path, text: str) -> None:
    root = write(tmp_path / "cards-1", ROBOFLOW_FILES | {"data.yaml": text})
    for data in (root, root / "data.yaml"):
        assert (find_splits(data).format.name, find_splits(data).splits) == ("YOLO", ("train", "val"))
        found = load_data(data)
        assert (found.train.class_names, found.val.class_names) == (("ace", "king"), ("ace", "king"))
        assert contents(found.train) == TRAIN
        assert contents(found.val) == VALID
        assert f"{root / 'data.yaml'}: test: expected a folder or a list of pictures" in "\n".join(found.notes)


def test_the_paths_that_are_there_are_taken_as_they_stand(tmp_path: Path) -> None:
    root = write(tmp_path / "cards", ROBOFLOW_FILES)
    text = ROBOFLOW.replace("../", f"{root}/")
    (root / "data.yaml").write_text(text)
    assert contents(load_data(root).train) == TRAIN
    (root / "data.yaml").write_text(f"path: {root}\n" + ROBOFLOW.replace("../", ""))
    assert contents(load_data(root).val) == VALID


CLASSES = "ace\nking\n"
CVAT = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
LAYOUTS: dict[str, dict[str, Any]] = {
    "images and labels side by side": {
        "images/train/a.jpg": None, "images/train/sub/B.JPEG": None, "images/val/c.png": None,
        "labels/train/a.txt": ACE, "labels/train/sub/b.TXT": KING, "labels/val/c.txt": ACE,
        "classes.txt": CLASSES,
    },
    "the same with a yaml of another name": {
        "images/train/a.jpg": None, "images/train/B.JPEG": None, "images/val/c.png": None,
        "labels/train/a.txt": ACE, "labels/train/b.txt": KING, "labels/val/c.txt": ACE,
        "cards.yml": "path: cards\ntrain: images/train\nval: images/val\nnames: {0: ace, 1: king}\n",
    },
    "upper case": {
        "Images/Train/a.jpg": None, "Images/Train/B.JPEG": None, "Images/Val/c.png": None,
        "Labels/Train/a.txt": ACE, "Labels/Train/B.txt": KING, "Labels/Val/c.txt": ACE,
        "Classes.txt": CLASSES,
    },
    "split by split": {
        "train/images/a.jpg": None, "train/images/B.JPEG": None, "val/images/c.png": None,
        "train/labels/a.txt": ACE, "train/labels/b.txt": KING, "val/labels/c.txt": ACE,
        "train/classes.txt": CLASSES,
    },
    "labels beside pictures, as Roboflow's Darknet export": {
        "train/a.jpg": None, "train/B.JPEG": None, "valid/c.png": None, "README.dataset.txt": "cards",
        "train/a.txt": ACE, "train/B.txt": KING, "valid/c.txt": ACE,
        "train/_darknet.labels": CLASSES, "valid/_darknet.labels": CLASSES,
    },
    "pictures by split, labels together": {
        "images/train/a.jpg": None, "images/train/B.JPEG": None, "images/val/c.png": None,
        "labels/a.txt": ACE, "labels/B.txt": KING, "labels/c.txt": ACE, "labels/classes.txt": CLASSES,
    },
    "YOLO 1.1 of CVAT": {
        "obj.data": CVAT.replace("names", "valid = data/valid.txt\nnames", 1), "obj.names": CLASSES,
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/B.JPEG\n",
        "valid.txt": "data/obj_valid_data/c.png\n",
        "obj_train_data/a.jpg": None, "obj_train_data/B.JPEG": None, "obj_valid_data/c.png": None,
        "obj_train_data/a.txt": ACE, "obj_train_data/B.txt": KING, "obj_valid_data/c.txt": ACE,
    },
    "the same without its lists": {
        "obj.data": CVAT, "obj.names": CLASSES,
        "obj_train_data/a.jpg": None, "obj_train_data/B.JPEG": None, "obj_valid_data/c.png": None,
        "obj_train_data/a.txt": ACE, "obj_train_data/B.txt": KING, "obj_valid_data/c.txt": ACE,
    },
    "CVAT's for Ultralytics": {
        "data.yaml": "names:\n  0: ace\n  1: king\npath: .\ntrain: train.txt\nval: val.txt\n",
        "train.txt": "data/images/train/a.jpg\ndata/images/train/B.JPEG\n", "val.txt": "data/images/val/c.png\n",
        "images/train/a.jpg": None, "images/train/B.JPEG": None, "images/val/c.png": None,
        "labels/train/a.txt": ACE, "labels/train/B.txt": KING, "labels/val/c.txt": ACE,
    },
    "lists of pictures of other machines": {
        "data.yaml": "names: [ace, king]\ntrain: /home/ann/cards/train.txt\nval: [val.txt]\n",
        "train.txt": "\ufeff/home/ann/cards/images/a.jpg\r\n\r\n/home/ann/cards/images/B.JPEG\r\n",
        "val.txt": "./images/c.png\n./images/c.png\n",
        "images/a.jpg": None, "images/B.JPEG": None, "images/c.png": None,
        "labels/a.txt": ACE, "labels/B.txt": KING, "labels/c.txt": ACE,
    },
    "lists without a description": {
        "obj.names": CLASSES, "train.txt": "img/a.jpg\nimg/B.JPEG\n", "test.txt": "img/c.png\n",
        "img/a.jpg": None, "img/B.JPEG": None, "img/c.png": None,
        "img/a.txt": ACE, "img/B.txt": KING, "img/c.txt": ACE,
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_found_however_files_lie(tmp_path: Path, layout: str) -> None:
    root = write(tmp_path / "cards", LAYOUTS[layout])
    splits = find_splits(root).splits
    assert [split.lower() for split in splits] in (["train", "val"], ["train", "valid"], ["test", "train"])
    train, other = (load_split(root, name) for name in sorted(splits, key=lambda name: name.lower() != "train"))
    assert train.class_names == other.class_names == ("ace", "king")
    names = sorted(contents(train), key=str.lower)
    assert [name.lower() for name in names] == ["a.jpg", "b.jpeg"]
    assert [contents(train)[name] for name in names] == [[("ace", ACE_BOX)], [("king", KING_BOX)]]
    assert contents(other) == {"c.png": [("ace", ACE_BOX)]}
    assert not train.problems and not other.problems


WHOLE: dict[str, dict[str, Any]] = {
    "Label Studio": {
        "classes.txt": CLASSES, "notes.json": '{"categories": [{"id": 0, "name": "ace"}], "info": {"version": "1.0"}}',
        "images/0f3a-a.jpg": None, "images/b.PNG": None, "labels/0f3a-a.txt": ACE, "labels/b.txt": KING,
    },
    "LabelImg, labels beside": {"classes.txt": CLASSES, "a.JPG": None, "b.png": None, "a.txt": ACE, "b.txt": KING},
    "LabelImg, labels in a folder": {
        "labels/classes.txt": CLASSES, "a.JPG": None, "b.png": None, "labels/a.txt": ACE, "labels/b.txt": KING
    },
    "MakeSense, with the list that it imports": {
        "labels.txt": CLASSES, "a.jpg": None, "b.PNG": None, "a.txt": ACE, "b.txt": KING
    },
    "names without splits": {
        "data.yaml": "names: [ace, king]\n", "images/a.jpg": None, "images/b.png": None,
        "labels/a.txt": ACE, "labels/b.txt": KING,
    },
    "pictures in sub-folders": {
        "classes.txt": CLASSES, "images/monday/a.jpg": None, "images/tuesday/b.png": None,
        "labels/monday/a.txt": ACE, "labels/tuesday/b.txt": KING,
    },
    "JPEGImages": {
        "obj.names": CLASSES, "JPEGImages/a.jpg": None, "JPEGImages/b.png": None,
        "labels/a.txt": ACE, "labels/b.txt": KING
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", WHOLE)
def test_a_folder_without_splits_is_one(tmp_path: Path, layout: str) -> None:
    root = write(tmp_path, WHOLE[layout])
    picture = next(root.joinpath(name) for name, content in WHOLE[layout].items() if content is None)
    write(picture.parent, {"background.jpg": None})
    assert (find_splits(root).format.name, find_splits(root).splits) == ("YOLO", ("all",))
    index = load_split(root)
    assert sorted(box for boxes in contents(index).values() for box in boxes) == [("ace", ACE_BOX), ("king", KING_BOX)]
    assert contents(index)["background.jpg"] == []
    assert index.image_ids.tolist() == [1, 2, 3]
    assert any("1 picture of 3 without a label file: background" in note for note in index.notes)


def test_without_a_class_list_classes_are_called_by_their_numbers(tmp_path: Path) -> None:
    files = {f"{split}/{kind}/{split}.{ending}": content
             for split, label in (("train", "7" + ACE[1:] + "10" + KING[1:]), ("val", "2" + ACE[1:]))
             for kind, ending, content in (("images", "jpg", None), ("labels", "txt", label))}  # fmt: skip
    root = write(tmp_path, files)
    found = load_data(root)
    assert found.train.class_names == found.val.class_names == ("2", "7", "10")
    assert (found.train.labels.tolist(), found.val.labels.tolist()) == ([1, 2], [0])
    note = f"{root}: no list of class names (data.yaml, classes.txt): classes are called by their numbers"
    assert note in found.notes
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnc: 11\n")
    assert load_data(root).train.class_names == tuple(map(str, range(11)))
    assert f"{root / 'data.yaml'}: has nc and no names: classes are called by their numbers" in load_data(root).notes


def test_names_are_kept_as_they_are_typed_and_in_their_order(tmp_path: Path) -> None:
    files = {"data.yaml": "train: .\nnc: 4\nnames: [yes, 'no', 007, ~]\n", "a.jpg": None, "a.txt": "2 .5 .5 .25 .5\n"}
    index = load_split(write(tmp_path, files))
    assert index.class_names == ("yes", "no", "007", "3")
    assert index.labels.tolist() == [2]


LABELS = [  # the label, kpt_shape, the box in 64 x 48 pixels, what is said
    ("0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.5", "", [16, 12, 32, 36], "of polygons or oriented boxes"),
    ("0 0.25 0.25 0.5 0.5 0.25 0.75", "", [16, 12, 32, 36], "1 label of polygons or oriented boxes: the boxes around"),
    ("0\t0.5  0.5 0.25 0.5 \r", "", ACE_BOX, ""),
    ("0.0 0.5 0.5 0.25 0.5", "", ACE_BOX, ""),
    ("0 0.5 0.5 0.25 0.5 0.93", "", ACE_BOX, "1 label with a confidence, which is passed over"),
    ("0 0.5 0.5 0.25 0.5 0.1 0.2 2 0 0 0 0.3 0.4 1", "[3, 3]", ACE_BOX, "1 label of poses: their boxes are used"),
    ("0 0.5 0.5 0.25 0.5 0.1 0.2 0.3 0.4", "[2, 2]", ACE_BOX, "of poses"),
    ("0 0.5 0.5 1.0000004 1", "", [0, 0, 64, 48], ""),
]


@pytest.mark.parametrize(("label", "shape", "box", "note"), LABELS)
def test_every_kind_of_label(tmp_path: Path, label: str, shape: str, box: list[float], note: str) -> None:
    text = f"train: images\nnames: [ace]\nkpt_shape: {shape}\n"
    root = write(tmp_path, {"data.yaml": text, "images/a.jpg": None, "labels/a.txt": f"\ufeff{label}\n\n"})
    index = load_split(root)
    assert index.boxes.tolist() == [box]
    assert note in "\n".join(index.notes)


@pytest.mark.parametrize(("label", "error"), [
    ("0 0.5 0.5 0.25", "line 2: expected a class and the 4 numbers of a box, or 3 or more points, got 4 numbers"),
    ("0 0.5 0.5 0.25 0.1 0.1 0.1 0.1", "a class and the 4 numbers of a box, or 3 or more points, got 8 numbers"),
    ("0,0.5,0.5,0.25,0.5", "line 2: expected numbers separated by spaces, got '0,0.5,0.5,0.25,0.5'"),
    ("ace 0.5 0.5 0.25 0.5", "line 2: expected numbers, got 'ace'"),
    ("2 0.5 0.5 0.25 0.5", "data.yaml), got 2"),
    ("2 0.5 0.5 0.25 0.5", "line 2: expected a class from 0 to 1 (2 names in "),
    ("-1 0.5 0.5 0.25 0.5", "line 2: expected a class as a whole number from 0, got '-1'"),
    ("0.5 0.5 0.5 0.25 0.5", "line 2: expected a class as a whole number from 0, got '0.5'"),
    ("0 32 0.5 0.25 0.5", "line 2: expected fractions of the picture from 0 to 1, got 32"),
    ("0 0.5 0.5 0.25 -0.5", "line 2: expected fractions of the picture from 0 to 1, got -0.5"),
    ("0 0.5 nan 0.25 0.5", "line 2: expected fractions of the picture from 0 to 1, got nan"),
    ("0 0.5 0.5 0.25 0.5 1.1 0.2", "line 2: expected fractions of the picture from 0 to 1, got 1.1"),
])  # fmt: skip
def test_a_label_that_cannot_be_used_is_named_or_skipped(tmp_path: Path, label: str, error: str) -> None:
    text = "train: images\nnames: [ace, king]\n"
    root = write(tmp_path, {"data.yaml": text, "images/a.jpg": None, "labels/a.txt": f"{ACE}{label}\n"})
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert f"{root / 'labels' / 'a.txt'}: line 2: " in str(caught.value)
    assert error in str(caught.value)
    index = load_split(root, options=LoadOptions(skip_bad=True))
    assert (index.boxes.tolist(), index.problem_counts()) == ([ACE_BOX], {"bad-annotation": 1})


def test_boxes_without_area_and_those_that_reach_outside_are_counted(tmp_path: Path) -> None:
    label = "0 0.5 0.5 0 0.5\n0 1 0.5 0.5 0.5\n"
    index = load_split(write(tmp_path, {"classes.txt": "ace", "a.jpg": None, "a.txt": label}))
    assert index.boxes.tolist() == [[48, 12, 64, 36]]
    assert [(problem.kind, problem.detail) for problem in index.problems] == [
        ("zero-size", "line 1 (ace)"),
        ("clipped", "line 2 (ace)"),
    ]


@pytest.mark.parametrize(("text", "error"), [
    ("train: images\nnc: 3\nnames: [ace, king]\n", "expected as many names as nc says, got nc 3 and 2 names"),
    ("train: images\nnc: two\nnames: [ace]\n", "nc: expected whole numbers, got 'two'"),
    ("train: images\nnames: {a: ace}\n", "names: expected whole numbers, got 'a'"),
    ("train: images\nnames: [[ace]]\n", "names: expected a list of class names or names by number, got [['ace']]"),
    ("train: images\nnames: ace.names\n", "names: expected a list of class names or names by number, got 'ace.names'"),
    ("train: {a: b}\nnames: [ace]\n", "train: expected a path or a list, got {'a': 'b'}"),
    ("train: images\nnames: [ace\nval: b\n", "line 3: not well-formed YAML (expected ',' or ']', but got ':')"),
    ("train: images\nnames: &a [ace]\nb: *a\n", "line 3: not well-formed YAML (aliases are refused)"),
    ("train: images\nnames: " + "[" * 30 + "]" * 30, "line 2: not well-formed YAML (nested too deeply)"),
    ("train: images\nnames: !!python/object/apply:os.getcwd []\n", "line 2: not well-formed YAML (could not determine"),
    ("train: images\nnc: 300000\n", "expected at most 30000 classes, got nc 300000"),
    ("train: images\nnames: [ace]\nkpt_shape: [17]\n", "kpt_shape: expected two numbers, got ['17']"),
    ("train: pictures\nval: images\nnames: [ace]\n",
     "train: expected a folder or a list of pictures, found none called 'pictures'"),
    (b"train: images\nnames: [\xff]\n", "line 2: expected UTF-8 text (invalid start byte)"),
    ("train: images\nnames: [ace]\n" + "#" * (1 << 19),
     "expected an annotation file of at most 524288 bytes, got 524315"),
])  # fmt: skip
def test_a_description_that_cannot_be_used_is_one_error(tmp_path: Path, text: str | bytes, error: str) -> None:
    root = write(tmp_path, {"data.yaml": text, "images/a.jpg": None, "labels/a.txt": ACE})
    for data in (root, root / "data.yaml"):
        with pytest.raises(DataError) as caught:
            load_data(data)
        assert str(caught.value).startswith(f"{root / 'data.yaml'}: {error}")


def test_pictures_that_are_missing_or_not_to_be_told_apart(tmp_path: Path) -> None:
    files = {"images/a.jpg": None, "images/a.png": None, "labels/a.txt": ACE, "labels/b.txt": ACE, "images/c.jpg": None}
    root = write(tmp_path, files | {"labels/c.txt": KING, "classes.txt": CLASSES})
    with pytest.raises(DataError) as caught:
        load_split(root)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == [
        f"  {root}/labels/a.txt: expected one picture of that name, found 2: images/a.jpg, images/a.png",
        f"  {root}/labels/b.txt: no such image file (of that name, in {root}/images)",
    ]
    index = load_split(root, options=LoadOptions(skip_bad=True))
    assert contents(index) == {"c.jpg": [("king", KING_BOX)]}
    (root / "data.yaml").write_text("train: train.txt\nnames: [ace, king]\n")
    (root / "train.txt").write_text("images/c.jpg\nimages/gone.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: no such image file \('images/gone\.jpg'\)"):
        load_split(root)


def test_pictures_outside_the_folder_of_the_description(tmp_path: Path) -> None:
    outside = write(tmp_path / "disk", {"images/a.jpg": None, "labels/a.txt": ACE, "images/secret.txt": "1 2 3"})
    write(tmp_path / "disk", {"more/images/b.jpg": None, "more/labels/b.txt": KING, "note.txt": "a"})
    lists = f"{outside}/images/a.jpg\n../disk/more/images/b.jpg\n"
    root = write(tmp_path / "cards", {"list.txt": lists})
    for text in (f"train: [{outside}/images, ../disk/more/images]", "path: ../disk\ntrain: [images, more/images]"):
        (root / "data.yaml").write_text(f"{text}\nnames: [ace, king]\n")
        index = load_split(root)
        assert contents(index) == {"a.jpg": [("ace", ACE_BOX)], "b.jpg": [("king", KING_BOX)]}
        assert any("pictures outside its folder are read: " in note and str(outside) in note for note in index.notes)
    (root / "data.yaml").write_text("train: list.txt\nnames: [ace, king]\n")
    index = load_split(root)
    assert contents(index) == {"a.jpg": [("ace", ACE_BOX)], "b.jpg": [("king", KING_BOX)]}
    assert any("list.txt: 2 pictures outside the data folder are read" in note for note in index.notes)
    (root / "list.txt").write_text("../disk/note.txt\n")
    with pytest.raises(DataError, match=r"list\.txt: .*refused"):
        load_split(root)


@pytest.mark.parametrize("place", ["/", "..", "../..", "../disk/note.csv", "//server/images", "\\\\server\\images"])
def test_folders_around_the_data_and_other_files_are_not_read(tmp_path: Path, place: str) -> None:
    write(tmp_path / "disk", {"a.jpg": None, "a.txt": ACE, "note.csv": "a.jpg"})
    root = write(tmp_path / "cards", {"data.yaml": f"train: '{place}'\nnames: [ace]\n", "b.jpg": None})
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert str(caught.value).startswith(
        f"{root / 'data.yaml'}: train: expected a folder or a list of pictures, found none called "
    )


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "other", {"a.jpg": None, "a.txt": ACE})
    root = write(tmp_path / "cards", {"classes.txt": "ace", "images/b.jpg": None, "labels/b.txt": ACE})
    (root / "images" / "a.jpg").symlink_to(root / "images" / "b.jpg")
    assert len(load_split(root)) == 2
    (root / "images" / "a.jpg").unlink()
    (root / "images" / "a.jpg").symlink_to(tmp_path / "other" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: refused: this link leads out of the data folder"):
        load_split(root)
    (root / "images" / "a.jpg").unlink()
    (root / "labels" / "b.txt").unlink()
    (root / "labels" / "b.txt").symlink_to(tmp_path / "other" / "a.txt")
    with pytest.raises(DataError, match=r"b\.txt: refused: this link leads out of the data folder"):
        load_split(root)


def test_boxes_of_pictures_that_exif_turns(tmp_path: Path) -> None:
    root = write(tmp_path, {"classes.txt": "ace", "a.txt": "0 0.5 0.25 0.5 0.5\n"})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: 48 wide, 64 high
    Image.new("RGB", (64, 48)).save(root / "a.jpg", exif=exif)
    assert load_split(root).boxes.tolist() == [[12, 0, 36, 32]]
    stored = load_split(root, options=LoadOptions(exif_boxes="stored"))  # 16, 0, 48, 24 of the pixels as stored
    assert stored.boxes.tolist() == [[24, 16, 48, 48]]


def test_labels_alone_with_pictures_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {"labels/a.txt": ACE, "labels/b.txt": "", "photos/a.jpg": None, "photos/b.jpg": None})
    index = load_split(tmp_path / "labels", options=LoadOptions(images=str(tmp_path / "photos")))
    assert contents(index) == {"a.jpg": [("0", ACE_BOX)], "b.jpg": []}
    with pytest.raises(DataError, match=r"labels/a\.txt: no such image file \(of that name, in .*labels\)"):
        load_split(tmp_path / "labels")


@pytest.mark.parametrize("files", [
    {"a.jpg": None, "a.txt": "a card on a table"},  # captions
    {"images/a.jpg": None, "labels/a.txt": "Car 0.0 0 -1.6 387 181 423 203 1.7 1.6 3.7 -16.5 2.4 58.5"},  # KITTI's
    {"a.jpg": None, "README.roboflow.txt": "cards", "classes.txt": CLASSES},
    {"a.jpg": None, "docker-compose.yaml": "services:\n  names: [a]\n"},
    {"a.jpg": None, "yolo11.yaml": "nc: 80\nbackbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n"},
    {"images/a.jpg": None, "labels/a.txt": ""},
])  # fmt: skip
def test_what_is_not_yolos_is_not_claimed(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no annotations found"):
        find_splits(write(tmp_path, files))


def test_beside_another_format_the_choice_is_asked_for_by_name(tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "owl"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20]} for i in (1, 2)],
    }
    files = {"images/a.jpg": None, "labels/a.txt": ACE, "classes.txt": "ace", "result.json": json.dumps(coco)}
    root = write(tmp_path, files)
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert str(caught.value) == (
        f"{root}: expected annotations of one format, found several that differ: COCO, 2 objects in 1 picture "
        "(--data-format coco); YOLO, 1 object in 1 picture (--data-format yolo)"
    )
    assert load_split(root, options=LoadOptions(data_format="yolo")).class_names == ("ace",)


def test_several_descriptions_are_asked_about(tmp_path: Path) -> None:
    files = {"b.yaml": "names: [ace]\ntrain: images\n", "a.yaml": "names: [king]\ntrain: images\n"}
    root = write(tmp_path, files | {"images/a.jpg": None, "labels/a.txt": ACE})
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert str(caught.value) == (
        f"{root}: expected one file that describes the data set, found a.yaml, b.yaml; give one as --data"
    )
    assert load_split(root / "b.yaml").class_names == ("ace",)


def test_a_description_whose_folders_are_gone_does_not_hide_what_is_there(tmp_path: Path) -> None:
    text = "train: /data/a/first\nval: /data/a/second\nnames: [ace, king]\n"
    files = {"images/train/a.jpg": None, "labels/train/a.txt": ACE, "images/val/b.jpg": None}
    root = write(tmp_path, files | {"labels/val/b.txt": KING, "data.yaml": text})
    found = load_data(root)
    assert (contents(found.train), contents(found.val)) == (
        {"a.jpg": [("ace", ACE_BOX)]},
        {"b.jpg": [("king", KING_BOX)]},
    )
    yaml = root / "data.yaml"
    expected = "expected a folder or a list of pictures, found none called"
    assert f"{yaml}: train: {expected} '/data/a/first'; what is there is used" in found.notes
    assert f"{yaml}: val: {expected} '/data/a/second'; what is there is used" in found.notes


@pytest.mark.parametrize("files", [
    {"data.yaml": "names: [ace, king, 'ace ', ace]\n"}, {"data.yaml": "names: {0: ace, 2: ace, 3: ace}"},
    {"classes.txt": "ace\nking\nace\nace\n"},
])  # fmt: skip
def test_classes_of_one_name_are_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, files | {"a.jpg": None, "a.txt": ACE})
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert str(caught.value) == (
        f"{root / next(iter(files))}: expected every class name once, got 'ace' for the classes 0, 2, 3. Give each its "
        "own; if they are one class, --rename makes them one then"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_text_as_powershell_writes_it(tmp_path: Path, encoding: str) -> None:
    """UTF-16 with its mark: the description, the list of classes or of pictures, and labels."""

    def encoded(text: str) -> bytes:
        return (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)

    yaml = "train: train.txt\nval: train.txt\nnames: [as, könig]\n"
    expected = {"a.jpg": [("as", ACE_BOX), ("könig", KING_BOX)]}
    rest = {"a.jpg": None, "a.txt": encoded(ACE + KING)}
    root = write(tmp_path / "yaml", {"data.yaml": encoded(yaml), "train.txt": encoded("./a.jpg\n")} | rest)
    for data in (root, root / "data.yaml"):
        assert contents(load_data(data).train) == expected
    assert (
        contents(load_split(write(tmp_path / "list", {"classes.txt": encoded("as\r\nkönig\r\n")} | rest))) == expected
    )
    unnamed = load_split(write(tmp_path / "labels", {"images/a.jpg": None, "labels/a.txt": encoded(ACE)}))
    assert contents(unnamed) == {"a.jpg": [("0", ACE_BOX)]}


def test_utf_16_without_its_mark_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, {"data.yaml": "names: [ace]\n".encode("utf-16-le"), "a.jpg": None, "a.txt": ACE})
    with pytest.raises(DataError, match=r"data\.yaml: expected text in UTF-8 \(or UTF-16 that begins with its mark\)"):
        load_split(root)


@pytest.mark.parametrize("text", ["", " \n\n", "# names of classes\n---\n"])
def test_an_empty_description_is_said_to_be_empty(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, {"data.yaml": text, "images/a.jpg": None, "labels/a.txt": ACE})
    found = load_split(root)
    assert found.class_names == ("0",)
    note = f"{root}: no list of class names (data.yaml is empty): classes are called by their numbers"
    assert note in found.notes
    (root / "labels" / "a.txt").unlink()
    with pytest.raises(DataError, match=r"It has 1 picture and 1 YAML file\. data\.yaml is empty\."):
        load_split(root)
    (root / "data.yaml").write_text("")
    with pytest.raises(DataError, match="this is a file; it is empty"):
        load_split(root / "data.yaml")


def test_a_folder_in_a_folder_as_archives_leave_it(tmp_path: Path) -> None:
    write(tmp_path / "cards" / "cards-1", ROBOFLOW_FILES | {"data.yaml": ROBOFLOW})
    assert contents(load_data(tmp_path / "cards").train) == TRAIN


def test_darknets_number_of_classes_has_to_be_that_of_the_names(tmp_path: Path) -> None:
    files = {"obj.data": CVAT.replace("2", "3"), "obj.names": CLASSES, "obj_train_data/a.jpg": None}
    root = write(tmp_path, files | {"obj_train_data/a.txt": ACE})
    with pytest.raises(DataError) as caught:
        load_split(root)
    assert str(caught.value) == (
        f"{root}/obj.data: expected as many names as classes says, got classes 3 and 2 names in {root}/obj.names"
    )


def test_it_is_audited_and_nothing_is_written(tmp_path: Path) -> None:
    root = write(tmp_path / "cards", ROBOFLOW_FILES | {"data.yaml": ROBOFLOW})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert check_tool.main([str(root), "--anchors", "default", "--output", str(tmp_path / "report")]) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    splits = json.loads((tmp_path / "report" / "report.json").read_text())["splits"]
    assert {name: split["classes"] for name, split in splits.items()} == {
        "train": {"ace": 1, "king": 1},
        "val": {"ace": 0, "king": 1},
    }
