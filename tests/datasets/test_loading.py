"""Recognising data sets, choosing their splits, and one class list for both."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions, ReadOptions
from ssdlite.datasets.index import Problem, describe_causes
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.datasets.split_choice import choose_splits, match_split, split_to_evaluate
from ssdlite.errors import DataError
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import train

CATS_AND_DOGS = ("cat", "dog")
VOC_OBJECT = (
    "<annotation><object><name>cat</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    "</object></annotation>"
)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)


def write_coco(
    file: Path,
    folder: Path,
    *,
    images: int = 2,
    names: Sequence[str] = CATS_AND_DOGS,
    bbox: Any = (1, 2, 10, 20),
) -> None:
    """``images`` pictures with one object each, of the first class, the second, and so on."""
    for i in range(images):
        write_image(folder / f"{i}.jpg")
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(images)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % len(names) + 1, "bbox": bbox} for i in range(images)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_voc(root: Path, sets: dict[str, Sequence[str]], names: Sequence[str] = CATS_AND_DOGS) -> None:
    """Image sets of pictures with one object each, whose class is the stem's up to the underscore."""
    for name, stems in sets.items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")
    for stem in sorted({stem for stems in sets.values() for stem in stems}):
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>64</width><height>48</height></size>"
            f"<object><name>{stem.split('_')[0]}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox></object></annotation>"
        )


@pytest.mark.parametrize("folder", ["{split}", "images/{split}", "images", "JPEGImages", "."])
def test_coco_annotations_are_found_with_their_images(tmp_path: Path, folder: str) -> None:
    for i, split in enumerate(("train2017", "val2017")):
        images = tmp_path / folder.format(split=split)
        write_coco(tmp_path / "annotations" / f"instances_{split}.json", images, images=2 + i)
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    layout = find_splits(tmp_path)
    assert (layout.format.name, sorted(layout.splits)) == ("COCO", ["train2017", "val2017"])
    data = load_data(tmp_path)
    assert (len(data.train), len(data.val)) == (2, 3)
    assert {Path(path).parent for path in data.val.paths} == {tmp_path / folder.format(split="val2017")}


@pytest.mark.parametrize(
    ("train", "val"), [("Train", "Validation"), ("TRAIN", "Valid"), ("training", "VAL"), ("Train2017", "Val2017")]
)
def test_splits_are_known_by_their_names_in_any_case(tmp_path: Path, train: str, val: str) -> None:
    for split in (train, val):
        write_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split)
    data = load_data(tmp_path)
    assert (data.train.name, data.val.name) == (f"{tmp_path.name}/{train}", f"{tmp_path.name}/{val}")
    assert load_split(tmp_path).name == data.val.name
    assert load_split(tmp_path, "valid").name == data.val.name


def test_what_macos_puts_beside_files_is_no_annotation(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", {"all": ["cat_1", "dog_2"]})
    (tmp_path / "voc" / "ImageSets" / "Main" / "all.txt").unlink()
    (tmp_path / "voc" / "ImageSets" / "Main" / "._all.txt").write_bytes(b"\0\5\x16\7")
    for stem in ("cat_1", "dog_2"):
        (tmp_path / "voc" / "Annotations" / f"._{stem}.xml").write_bytes(b"\0\5\x16\7")
    assert find_splits(tmp_path / "voc").splits == ("all",)
    assert len(load_split(tmp_path / "voc")) == 2
    write_coco(tmp_path / "coco" / "annotations" / "train.json", tmp_path / "coco" / "train")
    (tmp_path / "coco" / "annotations" / "._train.json").write_bytes(b"\0\5\x16\7")
    assert find_splits(tmp_path / "coco").splits == ("train",)
    write_coco(tmp_path / "zip" / "train" / "_annotations.coco.json", tmp_path / "zip" / "train")
    hidden = tmp_path / "zip" / "__MACOSX" / "train" / "._annotations.coco.json"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"\0\5\x16\7")
    assert find_splits(tmp_path / "zip").splits == ("train",)


def test_a_roboflow_group_is_a_class_where_any_split_has_objects_of_it(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("valid", 3)):
        file = tmp_path / split / "_annotations.coco.json"
        write_coco(file, tmp_path / split, images=count, names=("red", "white", "cells"))
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["supercategory"] = "none" if category["name"] == "cells" else "cells"
        file.write_text(json.dumps(content))
    assert load_data(tmp_path).train.class_names == ("red", "white", "cells")  # of which only valid has an object
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    data = load_data(tmp_path)
    assert data.train.class_names == data.val.class_names == ("red", "white")
    assert [note for note in data.notes if "a group, not a class" in note] == [
        f"{tmp_path}: category 'cells' has no objects and others belong to it: a group, not a class"
    ]


def test_classes_of_two_splits_that_differ_in_case_are_one(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["Person_1", "cat_2"], "val": ["person_3", "CAT_4"]})
    data = load_data(tmp_path)
    assert data.train.class_names == data.val.class_names == ("cat", "person")
    assert (data.train.labels.tolist(), data.val.labels.tolist()) == ([1, 0], [1, 0])
    write_coco(tmp_path / "coco" / "annotations" / "train.json", tmp_path / "coco" / "train", names=("Cat", "dog"))
    write_coco(tmp_path / "coco" / "annotations" / "val.json", tmp_path / "coco" / "val", names=("cat", "Dog"))
    assert load_data(tmp_path / "coco").val.class_names == ("Cat", "dog")


@pytest.mark.parametrize(("text", "cause"), [
    ("<annotation><object>", "2 x not well-formed XML; the first: {file}: not well-formed XML (no element"),
    ("<annotation><filename>a&b.jpg</filename></annotation>", "2 x not well-formed XML; the first: {file}: not well"),
    ('<?xml version="1.0" encoding="gb2312"?><annotation/>', "2 x not well-formed XML; the first: {file}: not"),
    ("<!DOCTYPE annotation><annotation/>", "2 x refused; the first: {file}: refused: document types and entities"),
    (VOC_OBJECT.format("11,5"), "2 x expected four numbers in <bndbox>; the first: {file}: object 1: expected four"),
    ("<annotation><object><name>cat</name></object></annotation>", "2 x expected four numbers in <bndbox>; the"),
    ("<annotation/>", "found none"),
])  # fmt: skip
@pytest.mark.parametrize("skip_bad", [False, True])
def test_nothing_found_has_its_causes_with_their_counts(tmp_path: Path, text: str, cause: str, skip_bad: bool) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
    with pytest.raises(DataError, match="expected annotated objects, found none") as caught:
        load_data(tmp_path, LoadOptions(skip_bad=skip_bad))
    assert cause.format(file=tmp_path / "Annotations" / "a.xml") in str(caught.value)


def test_pictures_in_a_folder_that_is_not_looked_at_are_the_cause(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1", "cat_2", "cat_3"]})
    (tmp_path / "JPEGImages").rename(tmp_path / "pics")
    with pytest.raises(DataError, match=r"found none: 3 x no such image file; the first: .*cat_1\.jpg: no such image"):
        load_data(tmp_path)


@pytest.mark.parametrize(("change", "cause"), [
    ({"iscrowd": 1}, "found none in 2 images: 2 crowd regions or difficult ones, which are ignored"),
    ({"bbox": [1, 2, "x", 4]}, "expected at least one usable image, got none: 2 x Expected `float`; the first: "),
    ({"bbox": [1, 2, 0, 4]}, "found none in 2 images: 2 x box dropped (zero-size); the first: "),
])  # fmt: skip
def test_training_without_any_object_is_an_error(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    file = tmp_path / "annotations" / "instances_train.json"
    write_coco(file, tmp_path / "train")
    write_coco(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation.update(change)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        train(TrainOptions().override(data=str(tmp_path), output=str(tmp_path / "run"), skip_bad=True))
    assert cause in str(caught.value)


def test_roboflow_folders_are_recognised(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split)
    assert sorted(find_splits(tmp_path).splits) == ["test", "train", "valid"]
    for data in (load_data(tmp_path), load_data(tmp_path, val_split="val")):
        assert Path(data.val.paths[0]).parent.name == "valid"
    write_coco(tmp_path / "val" / "_annotations.coco.json", tmp_path / "val")
    assert sorted(find_splits(tmp_path).splits) == ["test", "train", "val", "valid"]


@pytest.mark.parametrize("below", ["", "VOCdevkit"])
def test_a_voc_devkit_of_several_years_is_read_together(tmp_path: Path, below: str) -> None:
    write_voc(tmp_path / below / "VOC2007", {"train": ["cat_1"], "val": ["dog_1"], "test": ["cat_2", "cat_3"]})
    write_voc(tmp_path / below / "VOC2012", {"train": ["bird_1", "bird_2"], "val": ["cow_1"]})
    data = load_data(tmp_path)
    assert (len(data.train), len(data.val)) == (3, 2)
    assert data.train.class_names == data.val.class_names == ("bird", "cat", "cow", "dog")
    assert len(load_split(tmp_path, "test")) == 2


def test_a_bare_voc_folder_is_recognised(tmp_path: Path) -> None:
    write_voc(tmp_path, {"trainval": ["cat_1", "cat_2", "owl_1"], "test": ["owl_2"]})
    data = load_data(tmp_path)
    assert (len(data.train), len(data.val)) == (2, 1)  # a part of trainval: test is not to choose on
    assert "'test' is left for scoring (--val-split test would choose the best epoch on it)" in data.details
    assert data.details < set(data.notes) and data.find_test() == "test"
    data = load_data(tmp_path, val_split="test")
    assert (len(data.train), len(data.val)) == (3, 1)
    assert data.val.labels.tolist() == [1]


def test_the_message_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_splits(tmp_path)
    for words in ("The folder is empty", "COCO, VOC, YOLO, CVAT, Label Studio", "docs/data.md", str(tmp_path)):
        assert words in str(caught.value)
    with pytest.raises(DataError) as caught:
        find_splits(tmp_path, ReadOptions(data_format="voc"))
    for words in ("VOC2007/", "Annotations/*.xml", "The folder is empty", str(tmp_path)):
        assert words in str(caught.value)
    with pytest.raises(DataError, match=r"expected a folder with COCO, VOC.* or .+ annotations, found no folder"):
        find_splits(tmp_path / "none")


def test_one_split_is_divided_with_the_seed_and_says_so(tmp_path: Path) -> None:
    write_voc(tmp_path, {})
    write_voc(tmp_path, {"all": [f"cat_{i}" for i in range(10)]})
    (tmp_path / "ImageSets" / "Main" / "all.txt").unlink()
    data = load_data(tmp_path, seed=3)
    assert (len(data.train), len(data.val)) == (8, 2)
    assert not set(data.train.paths) & set(data.val.paths)
    assert len({*data.train.paths, *data.val.paths}) == 10
    note = "no validation split beside 'all': divided into 8 images to train and 2 to validate on (seed 3)"
    assert note in data.notes
    assert load_data(tmp_path, seed=3).val.paths == data.val.paths
    assert any(load_data(tmp_path, seed=seed).val.paths != data.val.paths for seed in range(3))


def test_a_single_image_cannot_be_divided(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1"]})
    with pytest.raises(DataError, match="training itself needs two, so add pictures"):
        load_data(tmp_path)


def test_splits_can_be_named(tmp_path: Path) -> None:
    for split, images in (("train2017", 2), ("val2017", 3), ("odd", 4)):
        file = tmp_path / "annotations" / f"instances_{split}.json"
        write_coco(file, tmp_path / "images" / split, images=images)
    data = load_data(tmp_path, train_split="odd", val_split="train")
    assert (len(data.train), len(data.val)) == (4, 2)
    assert len(load_split(tmp_path)) == 3
    assert len(load_split(tmp_path, "odd")) == 4
    with pytest.raises(DataError, match=r"--val-split: expected one of the splits odd, train2017, val2017, got 'tset'"):
        load_data(tmp_path, val_split="tset")


def test_validating_on_the_training_split_is_a_warning(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1", "cat_2"], "val": ["cat_2", "cat_3"]})
    same = load_data(tmp_path, train_split="train", val_split="train")
    assert same.val.paths == same.train.paths
    assert any(note.startswith("warning: all of the images to validate on are trained on too") for note in same.notes)
    assert any(note.startswith("warning: 1 of the images") for note in load_data(tmp_path).notes)


def test_both_splits_get_the_classes_of_the_training_file(tmp_path: Path) -> None:
    write_coco(tmp_path / "annotations" / "instances_train.json", tmp_path / "train", names=("cat", "dog", "cow"))
    write_coco(tmp_path / "annotations" / "instances_val.json", tmp_path / "val", names=("dog", "cat"))
    data = load_data(tmp_path)
    assert data.train.class_names == data.val.class_names == ("cat", "dog", "cow")
    assert data.val.labels.tolist() == [1, 0]
    assert data.val.category_ids[:2] == (2, 1)
    write_coco(tmp_path / "annotations" / "instances_val.json", tmp_path / "val", names=("cat", "owl"))
    expected = f"expected the classes of {tmp_path.name}/train, cat, dog, cow; got others too: owl"
    with pytest.raises(DataError, match=rf"instances_val\.json: {expected}. Choose those to use with --classes"):
        load_data(tmp_path)
    assert load_data(tmp_path, LoadOptions(classes=("dog", "cat"))).val.class_names == ("dog", "cat")


def test_voc_splits_share_the_classes_of_both_and_one_split_those_of_all(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["dog_1"], "val": ["cat_1"], "test": ["emu_1"]})
    data = load_data(tmp_path)
    assert data.train.class_names == data.val.class_names == ("cat", "dog")
    assert load_split(tmp_path, "train").class_names == ("cat", "dog", "emu")
    assert load_split(tmp_path, "test", LoadOptions(classes=("emu", "yak")), allow_absent=True).class_names == (
        "emu",
        "yak",
    )
    assert load_split(tmp_path, "test", LoadOptions(classes=("yak", "EMU")), allow_absent=True).labels.tolist() == [1]
    with pytest.raises(DataError, match="no class 'yak'"):
        load_split(tmp_path, "test", LoadOptions(classes=("emu", "yak")))


def test_notes_count_images_objects_classes_and_problems(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_coco(root / "annotations" / "instances_train.json", root / "train", images=5, bbox=[60, 2, 10, 20])
    write_coco(root / "annotations" / "instances_val.json", root / "val", images=1, bbox=[1, 2, 0, 20])
    notes = load_data(root).notes
    assert notes == (
        f"{root}: COCO annotations with the splits train, val",
        "pets/train: 5 images, 5 objects of 2 classes",
        "pets/val: 1 image, 0 objects of 2 classes",
        "warning: pets/val: no objects to validate on; best.pt cannot be chosen by AP",
        (
            "pets/train: 5 boxes clipped: instances_train.json annotation 0 (cat) of 0.jpg; "
            "instances_train.json annotation 1 (dog) of 1.jpg; "
            "instances_train.json annotation 2 (cat) of 2.jpg; and 2 more"
        ),
        "pets/val: 1 box dropped (zero-size): instances_val.json annotation 0 (cat) of 0.jpg",
    )


def test_bad_data_is_an_error_or_skipped_and_noted(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1", "cat_2"], "val": ["cat_3"]})
    (tmp_path / "JPEGImages" / "cat_1.jpg").unlink()
    with pytest.raises(DataError, match=r"cat_1\.jpg: no such image file"):
        load_data(tmp_path)
    data = load_data(tmp_path, LoadOptions(skip_bad=True))
    assert len(data.train) == 1
    assert any("1 image skipped: cat_1.jpg no such image file" in note for note in data.notes)


def test_a_voc_folder_without_any_object_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1"], "val": ["cat_2"]})
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text("<annotation/>")
    with pytest.raises(DataError, match="expected annotated objects in the splits train, val, found none"):
        load_data(tmp_path)


def test_a_split_without_usable_images_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cat_1"], "val": ["cat_3"]})
    (tmp_path / "JPEGImages" / "cat_1.jpg").unlink()
    with pytest.raises(
        DataError, match=r"train: expected at least one usable image, got none: 1 x no such image file; "
    ):
        load_data(tmp_path, LoadOptions(skip_bad=True))


@pytest.mark.parametrize(("names", "train", "val"), [
    (["test", "train", "trainval", "val"], "train", "val"),
    (["train2014", "train2017", "val2014", "val2017"], "train2017", "val2017"),
    (["test", "trainval"], "trainval", None),
    (["train", "valid"], "train", "valid"),
    (["train", "other"], "train", None),
    (["all"], "all", None),
])  # fmt: skip
def test_the_customary_splits(names: list[str], train: str, val: str | None) -> None:
    assert choose_splits(names, None, None) == (train, val)


@pytest.mark.parametrize(("asked", "chosen"), [
    (("trainval", None), ("trainval", None)),
    (("train2014", None), ("train2014", "val2014")),
    ((None, "test"), ("trainval", "test")),
    ((None, "val"), ("train2014", "val")),
    (("test", None), ("test", "val")),
])  # fmt: skip
def test_named_splits_and_their_customary_other(asked: tuple[str | None, str | None], chosen: tuple[str, str]) -> None:
    names = ["test", "train2014", "trainval", "val", "val2014"]
    assert choose_splits(names, *asked) == chosen


def test_a_name_without_its_year_has_to_be_unambiguous() -> None:
    assert match_split("train", ["train2017", "val2017"], "--train-split") == "train2017"
    with pytest.raises(DataError, match="did you mean train2014 or train2017"):
        match_split("train", ["train2014", "train2017"], "--train-split")


def test_splits_of_unknown_names_have_to_be_chosen() -> None:
    with pytest.raises(DataError, match="none of the splits a, b is called train"):
        choose_splits(["a", "b"], None, None)
    with pytest.raises(DataError, match="none of the splits a, b is called val or test"):
        split_to_evaluate(["a", "b"])
    assert split_to_evaluate(["a"]) == "a"
    assert split_to_evaluate(["test", "trainval"]) == "test"


def test_real_data_sets_are_recognised(small_data: Path) -> None:
    cells = load_data(small_data / "bccd")
    assert (len(cells.train), len(cells.val)) == (9, 7)
    assert "bccd/val: 1 box dropped (zero-size): BloodImage_00338.xml object 13 (RBC)" in cells.notes
    assert len(load_split(small_data / "bccd", "test")) == 2
    photographs = load_data(small_data / "coco-cc", train_split="train", val_split="val")
    assert (len(photographs.train), len(photographs.val)) == (10, 6)


def test_validate_is_a_validation_split() -> None:
    assert choose_splits(["TRAIN", "VALIDATE", "TEST"], None, None) == ("TRAIN", "VALIDATE")


def test_a_folder_of_pictures_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^--images nowhere: expected a folder of pictures, found no folder"):
        load_data(tmp_path, LoadOptions(images="nowhere"))


def test_a_cause_is_shown_with_the_numbers_of_the_first() -> None:
    problems = [Problem("bad-annotation", f"{i}.txt", f"line {i}: expected 8 columns, got {i}") for i in (3, 4)]
    assert describe_causes(problems) == "2 x expected 8 columns; the first: 3.txt: line 3: expected 8 columns, got 3"


def test_a_test_split_without_objects_is_not_named(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split)
    assert load_data(tmp_path).find_test() == "test"
    file = tmp_path / "test" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    assert find_splits(tmp_path).splits == ("test", "train", "val")
    assert load_data(tmp_path).find_test() is None


def test_a_validation_split_that_is_too_small_to_measure_by_is_said(tmp_path: Path) -> None:
    for split, images in (("train", 2), ("val", 2), ("minival", 50)):
        write_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split, images=images)
    data = load_data(tmp_path)
    said = "2 objects in 2 pictures to validate on: AP will differ by chance, one object being 0.50 of the recall; "
    assert [note.partition(": ")[2].startswith(said) for note in data.notes].count(True) == 1
    assert not any("by chance" in note for note in load_data(tmp_path, val_split="minival").notes)
