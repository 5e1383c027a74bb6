"""Classes under other names, and several as one: --rename."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions, parse_renames
from ssdlite.datasets.loading import load_data, load_split
from ssdlite.errors import ConfigError, DataError
from ssdlite.tools import check_data
from ssdlite.training.options import DatasetOptions

CATEGORIES = ((3, "car"), (5, "person"), (8, "Truck"), (9, "bus"))


def write_coco(root: Path, split: str, categories: Sequence[tuple[int, str]] = CATEGORIES) -> None:
    """One picture with one object of each category, one above the other."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(root / split / f"{split}.jpg")
    content = {
        "images": [{"id": 1, "file_name": f"{split}.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": number, "bbox": [0, 10 * i, 20, 8]}
            for i, (number, _) in enumerate(categories)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("rename", "names", "ids", "labels"),
    [
        (("car=vehicle,truck=vehicle",), ("vehicle", "person", "bus"), (3, 5, 9), [0, 1, 0, 2]),
        (("car=bus", "truck = bus"), ("person", "bus"), (5, 9), [1, 0, 1, 1]),
        (("car=person,person=car",), ("person", "car", "Truck", "bus"), (3, 5, 8, 9), [0, 1, 2, 3]),
        ((r"bus=van\, large",), ("car", "person", "Truck", "van, large"), (3, 5, 8, 9), [0, 1, 2, 3]),
    ],
)
def test_classes_of_one_name_are_one_class(
    rename: tuple[str, ...], names: tuple[str, ...], ids: tuple[int, ...], labels: list[int], tmp_path: Path
) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split)
    data = load_data(tmp_path, LoadOptions(rename=rename))
    for index in (data.train, data.val):
        assert (index.class_names, index.category_ids, index.labels.tolist()) == (names, ids, labels)


def test_classes_are_chosen_by_their_new_names(tmp_path: Path) -> None:
    write_coco(tmp_path, "train")
    index = load_split(tmp_path, options=LoadOptions(rename=("car=vehicle,bus=vehicle",), classes=("vehicle",)))
    assert index.boxes.tolist() == [[0, 0, 20, 8], [0, 30, 20, 38]]


def test_a_class_that_another_split_alone_has_may_be_renamed(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", CATEGORIES[:2])
    write_coco(tmp_path, "val", CATEGORIES[:2])
    write_coco(tmp_path, "test")
    data = load_data(tmp_path, LoadOptions(rename=("car=vehicle,truck=vehicle",)))
    assert data.train.class_names == ("vehicle", "person")


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, "train")
    options = LoadOptions(rename=("car=vehicle,lorry=vehicle",))
    with pytest.raises(DataError) as error:
        load_split(tmp_path, options=options)
    known_names = "Truck, bus, car, person"
    assert str(error.value) == f"{tmp_path}: --rename: no class 'lorry'; known, nearest first: {known_names}"
    known = load_split(tmp_path, options=options, allow_absent=True)  # a checkpoint's renames on other data
    assert known.class_names == ("vehicle", "person", "Truck", "bus")


def test_renames_of_a_run_leave_the_new_names_as_they_are() -> None:
    run = ("car=big\\, red,truck=van", "van=lorry")
    assert LoadOptions().as_trained(run).rename == (*run, "big\\, red=big\\, red", "lorry=lorry")
    assert LoadOptions(rename=()).as_trained(run).rename == ()
    assert LoadOptions().as_trained(None).rename is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("car", "--rename: expected OLD=NEW,OLD=NEW ..., got 'car' in 'car'"),
        ("car=a,", "--rename: expected OLD=NEW,OLD=NEW ..., got '' in 'car=a,'"),
        ("car=a=b", "--rename: expected OLD=NEW,OLD=NEW ..., got 'car=a=b' in 'car=a=b'"),
        ("car=a,car=b", "--rename: expected one new name of 'car', got 'a' and 'b'"),
    ],
)
def test_what_is_no_renaming_is_refused(entry: str, message: str) -> None:
    for options in (LoadOptions, DatasetOptions):
        with pytest.raises(ConfigError) as error:
            options(rename=(entry,))
        assert str(error.value) == message


def test_renames_are_all_at_once() -> None:
    assert parse_renames(("a=b,b=c", "c=a")) == {"a": "b", "b": "c", "c": "a"}


def test_check_data_takes_renames(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path / "data", split)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "data"), "--rename", "car=vehicle,truck=vehicle,bus=vehicle", "--output", str(out)]
    assert check_data.main([*arguments, "--no-decode"]) == 1  # one picture is too few to train on
    assert '"vehicle"' in (out / "report.json").read_text() and '"car"' not in (out / "report.json").read_text()
