"""Data sets in another format: every box to half a pixel, every class, every picture."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args, get_type_hints

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from ssdlite.datasets.conversion import convert_data
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_all, load_data, load_split
from ssdlite.datasets.writers import LABEL_WRITERS
from ssdlite.errors import ConfigError, DataError
from ssdlite.tools import check_data, predict
from ssdlite.tools import convert_data as convert_tool

CLASSES = ("zebra crossing", "Ampel & <Schild>", "café, groß", 'no "1"', "猫")
FORMAT_NAMES = {"coco": "COCO", "yolo": "YOLO", "voc": "VOC", "csv": "CSV", "label-studio": "Label Studio"}
Boxes = dict[int, list[tuple[str, list[float]]]]  # by the picture's width: (class, box)


class Picture(NamedTuple):
    """Each has a width of its own, by which it is known again."""

    file: str
    size: tuple[int, int]  # width, height
    objects: Sequence[tuple[int, list[float]]] = ()  # (class, xyxy)


TRAIN = (
    Picture("photo 1.jpg", (101, 80), [(0, [0, 0, 101, 80]), (1, [0.25, 79, 1.5, 80])]),
    Picture("photo 0.jpg", (102, 80), [(2, [100.4, 0, 102, 0.9])]),
    Picture("cam a/Straße ö.JPG", (103, 3000), [(4, [10.123, 2000.987, 50.456, 2999.5]), (4, [1, 1, 2, 2])]),
    Picture("cam b/Straße ö.jpg", (104, 90), [(0, [3, 4, 5, 6])]),
    Picture("cam b/background.png", (105, 90)),
    Picture("cam b/images/x.jpg", (106, 90), [(3, [1, 2, 30, 40])]),
    Picture("cam b/images/x.png", (107, 90), [(3, [5, 2, 30, 40])]),
    Picture("classes.jpg", (108, 90), [(1, [9, 2, 30, 40])]),
    Picture("100%25 50%.jpg", (109, 90), [(1, [8, 2, 30, 40])]),
)
VAL = (
    Picture("photo 1.jpg", (201, 80), [(2, [0, 0, 20, 20])]),
    Picture("#2.jpg", (202, 80), [(4, [5.5, 6.5, 20, 20])]),
    Picture("empty.jpg", (203, 80)),
)


def write_coco(root: Path, splits: dict[str, Sequence[Picture]], classes: Sequence[str] = CLASSES) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, pictures in splits.items():
        content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": 10 * i + 7, "name": name} for i, name in enumerate(classes)]
        for number, picture in enumerate(pictures):
            path = root / split / picture.file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", picture.size).save(path)
            width, height = picture.size
            content["images"].append({"id": number, "file_name": picture.file, "width": width, "height": height})
            for label, (x0, y0, x1, y1) in picture.objects:
                bbox = [x0, y0, x1 - x0, y1 - y0]
                row = {"id": len(content["annotations"]), "image_id": number, "category_id": 10 * label + 7}
                content["annotations"].append({**row, "bbox": bbox, "iscrowd": 0, "area": bbox[2] * bbox[3]})
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stated(pictures: Sequence[Picture]) -> Boxes:
    return {
        picture.size[0]: [(CLASSES[label], box) for label, box in picture.objects] for picture in pictures
    }  # fmt: skip


def found(index: DetectionIndex) -> Boxes:
    records = [index.record(i) for i in range(len(index))]
    assert len({record.size[1] for record in records}) == len(index)
    for record in records:
        with Image.open(record.path) as image:
            assert image.size == record.size[::-1]
    return {
        record.size[1]: [
            (index.class_names[label], box)
            for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
        ]
        for record in records
    }


def require_same(found: Boxes, expected: Boxes, tolerance: float = 0.01) -> None:
    assert {width: [name for name, _ in rows] for width, rows in found.items()} == {
        width: [name for name, _ in rows] for width, rows in expected.items()
    }
    for width, rows in expected.items():
        for (_, box), (_, own) in zip(rows, found[width], strict=True):
            assert own == pytest.approx(box, abs=tolerance)


@pytest.mark.parametrize("to", sorted(LABEL_WRITERS))
def test_every_format_holds_every_box_class_and_picture(to: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", {"train": TRAIN, "val": VAL})
    convert_data(tmp_path / "coco", tmp_path / "out", to)
    assert listed(tmp_path) == ["coco", "out"]
    layout = find_splits(tmp_path / "out")
    assert (layout.format.name, layout.splits, layout.notes) == (FORMAT_NAMES[to], ("train", "val"), ())
    splits = load_all(tmp_path / "out")
    require_same(found(splits["train"]), stated(TRAIN))
    require_same(found(splits["val"]), stated(VAL))
    kept = CLASSES if to in ("coco", "yolo", "csv") else tuple(sorted(CLASSES))
    assert splits["train"].class_names == splits["val"].class_names == kept
    assert splits["train"].problem_counts() == {}


def test_a_round_trip_through_all_formats(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", {"train": TRAIN, "val": VAL})
    before = tmp_path / "coco"
    for to in ("yolo", "voc", "csv", "coco"):
        convert_data(before, tmp_path / f"as_{to}", to)
        before = tmp_path / f"as_{to}"
    splits = load_all(before)
    assert list(splits) == ["train", "val"]
    require_same(found(splits["train"]), stated(TRAIN), 0.5)
    require_same(found(splits["val"]), stated(VAL), 0.5)


# --- What stands in the files.

TWO = (
    Picture("a b.jpg", (200, 100), [(1, [20, 10, 60.5, 50]), (0, [0, 0, 200, 100])]),
    Picture("sub/none.png", (50, 40)),
)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    write_coco(tmp_path / "two", {"train": TWO}, ("no", "R&B"))
    return tmp_path / "two"


def test_yolo_files(two: Path, tmp_path: Path) -> None:
    notes = convert_data(two, tmp_path / "out", "yolo")
    assert notes == ["train: 2 pictures (1 without objects), 2 objects"]
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == [
        "data.yaml", "images/train/a b.jpg", "images/train/sub/none.png", "labels/train/a b.txt",
        "labels/train/sub/none.txt",
    ]  # fmt: skip
    assert (tmp_path / "out" / "labels" / "train" / "a b.txt").read_text() == (
        "1 0.20125000 0.30000000 0.20250000 0.40000000\n0 0.50000000 0.50000000 1.00000000 1.00000000\n"
    )
    assert (tmp_path / "out" / "labels" / "train" / "sub" / "none.txt").read_text() == ""
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text()) == {
        "train": "images/train", "nc": 2, "names": {0: "no", 1: "R&B"},
    }  # fmt: skip


def test_voc_files(two: Path, tmp_path: Path) -> None:
    convert_data(two, tmp_path / "out", "voc")
    assert (tmp_path / "out" / "ImageSets" / "Main" / "train.txt").read_text() == "a b\nnone\n"
    assert (tmp_path / "out" / "JPEGImages" / "none.png").is_file()
    text = (tmp_path / "out" / "Annotations" / "a b.xml").read_text()
    assert "<filename>a b.jpg</filename>" in text and "<database>Unknown</database>" in text
    assert "<size><width>200</width><height>100</height><depth>3</depth></size>" in text
    assert "<name>R&amp;B</name>" in text
    assert "<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60.5</xmax><ymax>50</ymax></bndbox>" in text


def test_csv_files(two: Path, tmp_path: Path) -> None:
    convert_data(two, tmp_path / "out", "csv")
    assert (tmp_path / "out" / "train_labels.csv").read_text() == (
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        "images/train/a b.jpg,200,100,R&B,20,10,60.5,50\n"
        "images/train/a b.jpg,200,100,no,0,0,200,100\n"
        "images/train/sub/none.png,50,40,,,,,\n"
    )
    assert (tmp_path / "out" / "classes.csv").read_text() == "no,0\nR&B,1\n"


def test_coco_files(two: Path, tmp_path: Path) -> None:
    convert_data(two, tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "a b.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "sub/none.png", "width": 50, "height": 40},
    ]
    common = {"image_id": 1, "iscrowd": 0}
    assert content["annotations"] == [
        {"id": 1, "category_id": 2, "bbox": [20, 10, 40.5, 40], "area": 1620, **common},
        {"id": 2, "category_id": 1, "bbox": [0, 0, 200, 100], "area": 20000, **common},
    ]
    assert content["categories"] == [{"id": 1, "name": "no"}, {"id": 2, "name": "R&B"}]
    coco = COCO(tmp_path / "out" / "annotations" / "instances_train.json")
    assert coco.getAnnIds(imgIds=[1]) == [1, 2] and coco.getAnnIds(imgIds=[2]) == []


def test_classes_that_are_numbers_keep_their_names_in_tables(tmp_path: Path) -> None:
    write_coco(tmp_path / "digits", {"train": TWO}, ("7", "3"))
    convert_data(tmp_path / "digits", tmp_path / "out", "csv")
    index = load_split(tmp_path / "out")
    assert [index.class_names[label] for label in index.labels] == ["3", "7"]


# --- Which splits, classes and objects.


def write_voc(root: Path, sets: dict[str, Sequence[str]]) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, stems in sets.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))
    for stem in {stem for stems in sets.values() for stem in stems}:
        Image.new("RGB", (64, 48)).save(root / "JPEGImages" / f"{stem}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            f"<xmax>{size}</xmax><ymax>{size}</ymax></bndbox></object>"
            for name, difficult, size in (("car", 0, 9), ("truck", 1, 20))
        )
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")


SETS = {"train": ("a", "b"), "val": ("c",), "trainval": ("a", "b", "c"), "test": ("d",)}


def test_a_split_made_of_others_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", SETS)
    notes = convert_data(tmp_path / "voc", tmp_path / "out", "coco")
    assert "trainval: left out, other splits have all of its pictures (--splits names those to write)" in notes
    assert find_splits(tmp_path / "out").splits == ("test", "train", "val")
    convert_data(tmp_path / "voc", tmp_path / "voc2", "voc", splits=("train", "trainval"))
    assert (tmp_path / "voc2" / "ImageSets" / "Main" / "trainval.txt").read_text() == "a\nb\nc\n"
    assert listed(tmp_path / "voc2" / "JPEGImages") == ["a.jpg", "b.jpg", "c.jpg"]


def test_splits_are_written_under_other_names(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", SETS)
    convert_data(tmp_path / "voc", tmp_path / "out", "yolo", splits=("trainval=train", "test=val"))
    assert [len(index) for index in load_all(tmp_path / "out").values()] == [3, 1]
    with pytest.raises(DataError) as error:
        convert_data(tmp_path / "voc", tmp_path / "bad", "yolo", splits=("train=a", "val=b"))
    known = "YOLO knows train, val, test"
    assert str(error.value) == f"split 'a' cannot be written: {known}; choose or rename with --splits OLD=NEW"
    with pytest.raises(DataError, match=r"split '\.\./a': expected a name of a folder"):
        convert_data(tmp_path / "voc", tmp_path / "bad", "coco", splits=("train=../a",))
    assert listed(tmp_path) == ["out", "voc"]


@pytest.mark.parametrize(
    ("to", "objects", "ignored"),
    [("coco", 8, 4), ("voc", 8, 4), ("yolo", 4, 0), ("csv", 4, 0), ("label-studio", 4, 0)],
)
def test_objects_to_be_ignored_stay_so_or_are_left_out_and_counted(
    to: str, objects: int, ignored: int, tmp_path: Path
) -> None:
    write_voc(tmp_path / "voc", SETS)
    notes = convert_data(tmp_path / "voc", tmp_path / "out", to)
    splits = load_all(tmp_path / "out").values()
    assert sum(len(index.labels) for index in splits) == objects
    assert sum(int(index.ignore.sum()) for index in splits) == ignored
    lost = "4 objects left out: crowd regions or difficult ones, which are to be ignored and for which "
    assert f"{lost}{LABEL_WRITERS[to].name} has no sign" in notes or ignored


def test_the_command_chooses_and_renames_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "data", {"train": TRAIN, "val": VAL})
    out = tmp_path / "out"
    rename = "zebra crossing=sign,Ampel & <Schild>=sign,猫=cat"
    arguments = [str(tmp_path / "data"), "--to", "voc", "--output", str(out), "--classes", "sign", "cat"]
    assert convert_tool.main([*arguments, "--rename", rename]) == 0
    renamed = "'photo 1.jpg' is photo_1.jpg; 'photo 0.jpg' is photo_0.jpg; 'Straße ö.jpg' is Straße ö_2.jpg"
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == [
        "train: 9 pictures (4 without objects), 7 objects",
        "val: 3 pictures (2 without objects), 1 object",
        f"6 pictures under another name, where the format cannot have theirs or another has it: {renamed}; and 3 more",
        f"written: {out}",
        f"next: ssdlite train --data {out}",
    ]
    data = load_data(out)
    assert data.train.class_names == ("cat", "sign")
    assert data.train.object_counts() == {"cat": 2, "sign": 5}
    assert check_data.main([str(out), "--output", str(tmp_path / "check"), "--no-decode", "--strict"]) == 0


@pytest.mark.parametrize("to", sorted(LABEL_WRITERS))
@pytest.mark.parametrize("names", [("all",), ("fold 1", "fold 2"), ("classes", "labels"), ("train2017", "val2017")])
def test_splits_keep_their_names(names: tuple[str, ...], to: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "data", dict.fromkeys(names, TWO), ("no", "R&B"))
    given = None if to != "yolo" else ("train",) if len(names) == 1 else ("train", "val")
    chosen = given and [f"{old}={new}" for old, new in zip(names, given, strict=True)]
    convert_data(tmp_path / "data", tmp_path / "out", to, splits=chosen)
    splits = load_all(tmp_path / "out")
    expected = set(given or names)
    assert set(splits) == ({"classes_labels", "labels"} if to == "csv" and "classes" in names else expected)
    assert [len(index.labels) for index in splits.values()] == [2] * len(names)


@pytest.mark.parametrize("options", [convert_tool.ConvertOptions, predict.PredictOptions])
def test_the_commands_offer_every_format(options: type) -> None:
    hints = get_type_hints(options, vars(predict) | vars(convert_tool) | {"PreAnnotations": object})
    kind = hints.get("to") or hints["labels"]
    choices = {name for part in (kind, *get_args(kind)) for name in get_args(part) if isinstance(name, str)}
    assert choices == LABEL_WRITERS.keys()


# --- What cannot be written, and where nothing may be.


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "a\x1bb", "a\u2028b", " a", "a\ufffe"])
@pytest.mark.parametrize("to", sorted(LABEL_WRITERS))
def test_a_class_name_that_a_format_cannot_hold_is_refused_by_all(name: str, to: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "data", {"train": TWO}, ("fine", name))
    with pytest.raises(DataError) as error:
        convert_data(tmp_path / "data", tmp_path / "out", to)
    assert str(error.value) == (
        f"{tmp_path / 'data'}: expected class names without control characters, line ends, and spaces around them, "
        f"got {name!r}; --rename gives it another name, --classes leaves it out"
    )
    assert listed(tmp_path) == ["data"]


@pytest.mark.parametrize("name", ["../x", "..", "&<>\"'", "{x: 1}", "- a", "# b", "null", "1", "=cmd", "a;b", "%s"])
@pytest.mark.parametrize("to", sorted(LABEL_WRITERS))
def test_a_class_name_with_signs_of_a_format_stays_as_it_is(name: str, to: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "data", {"train": TWO}, ("fine", name))
    convert_data(tmp_path / "data", tmp_path / "out", to)
    index = load_split(tmp_path / "out")
    assert [index.class_names[label] for label in index.labels] == [name, "fine"]


def test_names_of_pictures_that_not_every_system_has_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    names = [
        "a\nb.jpg",
        "a:b.jpg",
        "c&<>'.jpg",
        "A.jpg",
        "a.JPG",
        ".x y .jpg",
        "n" * 251 + ".jpg",
        "a\\b.jpg",
        "d .jpg",
    ]
    rows = [["filename", "class", "xmin", "ymin", "xmax", "ymax"]]
    for number, name in enumerate(names):
        Image.new("RGB", (50 + number, 40)).save(folder / name, "JPEG")
        rows.append([name, "thing", "1", "2", str(10 + number), "30"])
    with (folder / "train_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    expected = {50 + number: [("thing", [1, 2, 10 + number, 30])] for number in range(len(names))}
    for to in LABEL_WRITERS:
        notes = convert_data(folder, tmp_path / to, to, LoadOptions(skip_bad=False))
        require_same(found(load_split(tmp_path / to)), expected)  # type: ignore[arg-type]
        assert any("pictures under another name" in note for note in notes)


def test_the_output_has_to_be_new_and_elsewhere(two: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="expected a new or an empty folder; this one holds something already"):
        convert_data(two, tmp_path / "full", "yolo")
    with pytest.raises(ConfigError, match="expected a folder outside of the data"):
        convert_data(two, two / "out", "yolo")
    assert listed(tmp_path / "full") == ["mine.txt"] and not (two / "out").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_conversion_that_fails_leaves_nothing(
    exists: bool, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if exists:
        (tmp_path / "out").mkdir()
    monkeypatch.setattr("ssdlite.datasets.writers.yolo.YoloWriter.finish", fail)
    with pytest.raises(ConfigError, match=r"out: cannot be written \(No space left on device\)"):
        convert_data(two, tmp_path / "out", "yolo")
    assert listed(tmp_path) == (["out", "two"] if exists else ["two"])
    assert not exists or listed(tmp_path / "out") == []


def test_a_full_disk_is_not_taken_for_an_unreadable_picture(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(source), None, str(target))  # as sendfile leaves it

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(ConfigError, match=r"out: cannot be written \(No space left on device\)"):
        convert_data(two, tmp_path / "out", "yolo")


def test_a_picture_that_is_gone_meanwhile_is_named(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = two / "train" / "a b.jpg"

    def remove(self: object, below: PurePosixPath) -> PurePosixPath:
        path.unlink()
        return below

    monkeypatch.setattr("ssdlite.datasets.writers.base.LabelWriter.picture_name", remove)
    with pytest.raises(DataError) as error:
        convert_data(two, tmp_path / "out", "coco")
    assert str(error.value) == f"{path}: cannot be read (No such file or directory)"
    assert listed(tmp_path) == ["two"]


def test_pictures_may_be_hard_links(two: Path, tmp_path: Path) -> None:
    convert_data(two, tmp_path / "out", "yolo", pictures="link")
    assert (tmp_path / "out" / "images" / "train" / "a b.jpg").samefile(two / "train" / "a b.jpg")


def test_bad_boxes_are_those_of_the_readers(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two / "train" / "a b.jpg").unlink()
    arguments = [str(two), "--to", "coco", "--output", str(tmp_path / "out")]
    assert convert_tool.main(arguments) == 2
    assert "a b.jpg: no such image file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_with_exif_keep_their_boxes_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    (tmp_path / "data").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "data" / "a.jpg", exif=exif)
    (tmp_path / "data" / "train_labels.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,0,0,10,20\n"
    )
    for to in LABEL_WRITERS:
        convert_data(tmp_path / "data", tmp_path / to, to)
        index = load_split(tmp_path / to)
        assert index.sizes.tolist() == [[60, 40]]
        np.testing.assert_allclose(index.boxes, [[20, 0, 40, 10]], atol=0.01)
