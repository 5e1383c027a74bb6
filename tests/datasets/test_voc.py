"""Pascal VOC annotations read into an index: what is right, what is mended, and what is refused."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.base import BadItems, build_index
from ssdlite.datasets.formats.options import ReadOptions, VocCorners
from ssdlite.datasets.formats.voc import VocFormat, read_voc
from ssdlite.datasets.formats.voc_files import read_voc_file
from ssdlite.datasets.formats.voc_folders import image_sets
from ssdlite.datasets.index import DetectionIndex, problem_notes, select_classes
from ssdlite.errors import DataError

BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><filename>&b;</filename></annotation>"""
EXTERNAL = """<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<annotation><filename>a.jpg</filename><object><name>&x;</name></object></annotation>"""


def object_xml(
    name: str,
    *corners: object,
    difficult: int | None = 0,
    order: Sequence[str] = ("xmin", "ymin", "xmax", "ymax"),
) -> str:
    texts = zip(order, corners, strict=True)
    box = "".join(f"<{corner}>{value}</{corner}>" for corner, value in texts)
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{mark}<bndbox>{box}</bndbox></object>"


def load_voc(
    roots: Sequence[Path],
    image_set: str,
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    corners: VocCorners = "auto",
) -> DetectionIndex:
    bad = BadItems(skip_bad)
    found = read_voc(roots, image_set, bad, options=ReadOptions(voc_corners=corners))
    known = VocFormat().order_classes(set(found.class_names))
    return build_index(found, select_classes(known, classes, found.source), bad, name=image_set)


class Voc:
    """A VOC folder on disk, whose files a test writes before it is read. Pictures are 64 x 48 pixels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        self.members: list[str] = []

    def add(self, stem: str, *objects: str, size: tuple[int, int] = (64, 48), filename: str | None = None) -> Path:
        """An annotation file with its picture, listed in the image set."""
        Image.new("RGB", (64, 48)).save(self.root / "JPEGImages" / f"{stem}.jpg")
        width, height = size
        text = (
            f"<annotation><folder>x</folder><filename>{filename or stem + '.jpg'}</filename>"
            f"<path>/home/somebody/{stem}.jpg</path>"
            f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            f"{''.join(objects)}</annotation>"
        )
        return self.write(stem, text)

    def write(self, stem: str, text: str) -> Path:
        path = self.root / "Annotations" / f"{stem}.xml"
        path.write_text(text)
        self.members.append(stem)
        return path

    def save_set(self, name: str = "train", text: str | None = None) -> None:
        path = self.root / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text("\n".join(self.members) + "\n" if text is None else text)

    def load(self, image_set: str = "train", **options: Any) -> DetectionIndex:
        if image_set == "train":
            self.save_set()
        return load_voc([self.root], image_set, **options)


@pytest.fixture
def voc(tmp_path: Path) -> Voc:
    return Voc(tmp_path / "voc")


def test_corners_are_one_based_and_inclusive(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 1, 1, 64, 48), object_xml("cat", 11, 21, 20, 40))
    index = voc.load()
    assert index.boxes.tolist() == [[0, 0, 64, 48], [10, 20, 20, 40]]
    assert index.areas.tolist() == [3072, 200]
    assert index.sizes.tolist() == [[48, 64]]
    assert index.problems == ()


@pytest.mark.parametrize(("database", "box"), [
    ("The VOC2011 Database", [10, 20.5, 45.7, 40]),  # some of VOC's own have fractions
    ("mine", [11, 21.5, 45.7, 40]),
])  # fmt: skip
def test_corners_may_come_in_any_order_and_as_fractions(voc: Voc, database: str, box: list[float]) -> None:
    corners = object_xml("cat", 40, "45.70", 11, "21.5", order=("ymax", "xmax", "xmin", "ymin"))
    voc.add("a", f"<source><database>{database}</database></source>", corners)
    np.testing.assert_allclose(voc.load().boxes, [box], rtol=1e-6)


def test_a_corner_at_0_tells_that_all_of_a_set_are_positions_on_the_picture(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 0, 0, 64, 48), object_xml("cat", 10, 10, 20, 20))
    voc.save_set("val")
    voc.members.clear()
    voc.add("b", object_xml("cat", 10, 10, 20, 20))
    voc.add("c", "<source><database>The VOC2007 Database</database></source>", object_xml("cat", 10, 10, 20, 20))
    train, val = voc.load(), voc.load("val")
    assert train.boxes.tolist() == [[10, 10, 20, 20], [9, 9, 20, 20]]  # c is VOC's own
    assert val.boxes.tolist() == [[0, 0, 64, 48], [10, 10, 20, 20]]
    assert train.problems == val.problems == ()
    assert train.notes == val.notes
    assert "counted from 1: a.xml has a corner at 0 (--voc-corners decides otherwise)" in train.notes[0]
    assert voc.load(corners="one-based").boxes.tolist() == [[9, 9, 20, 20], [9, 9, 20, 20]]
    assert voc.load(corners="canvas").boxes.tolist() == [[10, 10, 20, 20], [10, 10, 20, 20]]


@pytest.mark.parametrize(("source", "corners", "box"), [
    ("", (1, 1, 64, 48), [0, 0, 64, 48]),  # the whole picture in VOC's count: a corner at the width says nothing
    ("<source><database>The VOC2007 Database</database></source>", (0, 5, 20, 20), [0, 5, 20, 20]),  # a copied template
    ("<source><database>Unknown</database></source>", (1, 1, 64, 48), [1, 1, 64, 48]),  # LabelImg puts 1 for 0
    ("<source><database> Unspecified </database></source>", (5, 5, 9, 9), [5, 5, 9, 9]),
    ("<source><database>mine</database></source>", (5, "5.0", 9, 9), [4, 4, 9, 9]),
    ("<source><database>mine</database></source>", (5, 5, 9, "9.25"), [5, 5, 9, 9.25]),
])  # fmt: skip
def test_what_tells_positions_on_the_picture(voc: Voc, source: str, corners: Any, box: list[float]) -> None:
    voc.add("a", source, object_xml("cat", *corners))
    assert voc.load().boxes.tolist() == [box]


def test_difficult_objects_are_kept_to_be_ignored(voc: Voc) -> None:
    voc.add("a", *(object_xml("cat", 1, 1, 9, 9, difficult=mark) for mark in (1, 0, None)))
    assert voc.load().ignore.tolist() == [True, False, False]


def test_parts_of_objects_are_no_objects(voc: Voc) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    voc.add("a", object_xml("person", 1, 1, 20, 20).replace("</object>", part + "</object>"))
    index = voc.load()
    assert index.class_names == ("person",)
    assert index.boxes.tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize(("corners", "kind", "kept"), [
    ((-4, 1, 20, 20), "clipped", [[0, 0, 20, 20]]),
    ((50, 40, 70, 60), "clipped", [[49, 39, 64, 48]]),
    (("50.0", 40, 64, 48), None, [[49, 39, 64, 48]]),
    ((10, 10, 10, 10), "zero-size", []),
    ((10, 10, 10, 30), "zero-size", []),
    ((30, 10, 20, 30), "zero-size", []),
    ((100, 100, 120, 120), "outside", []),
    (("nan", 1, 20, 20), "not-finite", []),
    ((1, 1, "inf", 20), "not-finite", []),
])  # fmt: skip
def test_boxes_are_clipped_or_dropped_and_counted(
    voc: Voc, corners: tuple[object, ...], kind: str | None, kept: list[list[float]]
) -> None:
    path = voc.add("a", object_xml("cat", 2, 2, 9, 9), object_xml("dog", *corners))
    index = voc.load()
    assert index.boxes.tolist() == [[1, 1, 9, 9], *kept]
    assert [(p.kind, p.file, p.detail) for p in index.problems] == (
        [(kind, str(path), "object 2 (dog)")] if kind else []
    )


@pytest.mark.parametrize(("broken", "reason"), [
    (object_xml("dog", "left", 1, 5, 5), "object 2: expected four numbers in <bndbox>, got xmin left, ymin 1"),
    (object_xml("dog", 1, 1, 5, 5).replace("<xmax>5</xmax>", ""), "object 2: expected four numbers in <bndbox>"),
    ("<object><name>dog</name></object>", "object 2: expected four numbers in <bndbox>, got xmin None"),
    (object_xml("", 1, 1, 5, 5), "object 2: expected a <name>, got none"),
])  # fmt: skip
def test_a_malformed_object_is_one_error_or_skipped(voc: Voc, broken: str, reason: str) -> None:
    path = voc.add("a", object_xml("cat", 2, 2, 9, 9), broken)
    with pytest.raises(DataError) as caught:
        voc.load()
    assert f"{path}: {reason}" in str(caught.value)
    index = voc.load(skip_bad=True)
    assert index.boxes.tolist() == [[1, 1, 9, 9]]
    assert index.class_names == ("cat",)
    assert index.problem_counts() == {"bad-annotation": 1}


@pytest.mark.parametrize(("text", "reason"), [
    ("<annotation><object>", "not well-formed XML"),
    ("", "not well-formed XML"),
    ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not well-formed XML"),
    ("<html></html>", "expected a VOC <annotation>, got <html>"),
    (BOMB, "refused: document types and entities are not allowed"),
    (EXTERNAL, "refused: document types and entities are not allowed"),
    ("<!DOCTYPE annotation><annotation/>", "refused: document types and entities are not allowed"),
])  # fmt: skip
def test_malformed_and_hostile_xml_is_one_error_or_skipped(voc: Voc, text: str, reason: str) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    path = voc.write("b", text)
    with pytest.raises(DataError) as caught:
        voc.load()
    assert f"{path}: {reason}" in str(caught.value)
    index = voc.load(skip_bad=True)
    assert len(index) == 1
    assert index.problem_counts() == {"bad-annotation": 1}


def test_everything_unusable_is_named_in_one_error_or_skipped(voc: Voc) -> None:
    for stem in ("a", "b", "c"):
        voc.add(stem, object_xml("cat", 2, 2, 9, 9))
    voc.add("d", object_xml("cat", 2, 2, 9, 9), size=(640, 480))
    (voc.root / "JPEGImages" / "a.jpg").unlink()
    (voc.root / "JPEGImages" / "b.jpg").write_text("no picture")
    voc.members.append("listed_only")
    with pytest.raises(DataError) as caught:
        voc.load()
    for line in (
        "4 of its images or annotations cannot be used",
        "a.jpg: no such image file",
        "b.jpg: cannot be read as an image",
        "d.jpg: the annotations say 640 x 480 pixels, the file has 64 x 48",
        "listed_only.xml: no such annotation file",
    ):
        assert line in str(caught.value)
    index = voc.load(skip_bad=True)
    assert [Path(path).name for path in index.paths] == ["c.jpg"]
    assert index.problem_counts() == {"bad-annotation": 1, "bad-image": 3}


@pytest.mark.parametrize("size", [(0, 0), ("", ""), ("?", "?")])
def test_an_unstated_size_is_that_of_the_file(voc: Voc, size: Any) -> None:
    voc.add("a", object_xml("cat", 2, 2, 90, 9), size=size)
    index = voc.load()
    assert index.sizes.tolist() == [[48, 64]]
    assert index.boxes.tolist() == [[1, 1, 64, 9]]


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "sub/../../../secret.jpg", "C:\\secret.jpg"])
def test_a_file_name_that_leaves_the_folder_is_always_refused(voc: Voc, name: str, skip_bad: bool) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9), filename=name)
    with pytest.raises(DataError, match=r"a\.xml: .*refused: this image path leads out of"):
        voc.load(skip_bad=skip_bad)


def test_an_image_set_line_that_leaves_the_folder_is_refused(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    voc.members.append("../../outside")
    with pytest.raises(DataError, match="refused: this image path leads out of"):
        voc.load(skip_bad=True)


def test_a_link_that_leaves_the_folder_is_refused(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    picture = voc.root / "JPEGImages" / "a.jpg"
    picture.rename(voc.root.parent / "secret.jpg")
    picture.symlink_to(voc.root.parent / "secret.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: refused: this link leads out of the data folder"):
        voc.load(skip_bad=True)


def test_the_picture_is_found_by_its_name_or_by_that_of_the_annotation(voc: Voc) -> None:
    images = voc.root / "JPEGImages"
    for stem, filename in (("a", "other.png"), ("b", "gone.jpg"), ("c", "c"), ("d", "d.jpg")):
        voc.add(stem, object_xml("cat", 2, 2, 9, 9), filename=filename)
    (images / "a.jpg").rename(images / "other.png")
    (images / "b.jpg").rename(images / "b.JPG")
    Image.new("RGB", (64, 48)).save(images / "c.png")
    (images / "c.jpg").unlink()
    assert [Path(path).name for path in voc.load().paths] == ["other.png", "b.JPG", "c.png", "d.jpg"]


def test_the_picture_of_the_annotations_own_name_comes_before_the_one_it_names(voc: Voc) -> None:
    images = voc.root / "JPEGImages"
    for stem, filename in (("0", "0.jpg"), ("1396", "0.jpg"), ("2", "2.png")):
        voc.add(stem, object_xml("cat", 2, 2, 9, 9), filename=filename)
    Image.new("RGB", (64, 48)).save(images / "2.png")
    index = voc.load()
    assert [Path(path).name for path in index.paths] == ["0.jpg", "1396.jpg", "2.png"]
    assert [(p.kind, Path(p.file).name, p.detail) for p in index.problems] == [
        ("other-picture", "1396.xml", "<filename> names 0.jpg, but 1396.jpg is there too and was taken")
    ]
    assert problem_notes(index)[0].startswith("train: 1 annotation naming another picture than their own: 1396.xml")


def test_a_file_too_large_for_an_annotation_is_refused_before_parsing(voc: Voc) -> None:
    path = voc.write("a", f"<annotation><!--{'x' * (1 << 24)}--></annotation>")
    with pytest.raises(DataError, match=r"a\.xml: expected an annotation file of at most 16777216 bytes, got 16777248"):
        read_voc_file(path)


def test_what_is_no_file_is_an_error_and_nothing_waits_for_it(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    os.mkfifo(voc.root / "Annotations" / "b.xml")
    (voc.root / "Annotations" / "c.xml").symlink_to("/dev/zero")
    assert voc.load().boxes.tolist() == [[1, 1, 9, 9]]
    voc.members.append("b")
    with pytest.raises(DataError, match=r"b\.xml: expected an annotation file, got what is no regular file"):
        voc.load()


def test_a_suffix_in_capitals_is_one(voc: Voc) -> None:
    path = voc.add("a", object_xml("cat", 2, 2, 9, 9))
    path.rename(path.with_suffix(".XML"))
    assert len(voc.load()) == 1


def test_a_long_attribute_takes_time_in_proportion(voc: Voc) -> None:
    path = voc.write("a", f'<annotation verified="{"x" * (15 << 20)}"/>')
    started = time.process_time()
    assert read_voc_file(path).objects == ()
    assert time.process_time() - started < 0.9  # 0.2; parsed in parts 1.7, with older parsers 20 and more


def test_classes_are_in_vocs_order_or_alphabetical(voc: Voc) -> None:
    voc.add("a", *(object_xml(name, 2, 2, 9, 9) for name in ("tvmonitor", "aeroplane", "person")))
    assert voc.load().class_names == ("aeroplane", "person", "tvmonitor")
    assert voc.load().category_ids == (1, 2, 3)
    voc.add("b", object_xml("Zebra", 2, 2, 9, 9))
    assert voc.load().class_names == ("Zebra", "aeroplane", "person", "tvmonitor")


def test_classes_select_and_order_and_leave_the_images(voc: Voc) -> None:
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    voc.add("b", object_xml("dog", 2, 2, 9, 9), object_xml("cow", 2, 2, 9, 9))
    index = voc.load(classes=["dog", "cat"])
    assert (index.class_names, len(index), index.labels.tolist()) == (("dog", "cat"), 2, [1, 0])
    assert index.problems == ()
    with pytest.raises(DataError, match="no class 'dgo'; known, nearest first: dog, cat, cow"):
        voc.load(classes=["dgo"])


def test_images_without_objects_stay(voc: Voc) -> None:
    voc.add("a")
    voc.add("b", object_xml("cat", 2, 2, 9, 9))
    assert voc.load().offsets.tolist() == [0, 0, 1]


def test_image_ids_are_the_same_in_every_image_set(voc: Voc) -> None:
    for stem in ("b", "c", "a"):
        voc.add(stem, object_xml("cat", 2, 2, 9, 9))
    assert voc.load().image_ids.tolist() == [2, 3, 1]
    voc.save_set("val", "c\n\n  \n")
    assert voc.load("val").image_ids.tolist() == [3]


def test_per_class_files_are_no_image_sets(voc: Voc) -> None:
    voc.add("2007_000001", object_xml("cat", 2, 2, 9, 9))
    for name, text in (
        ("train", "2007_000001\n"),
        ("my_val", "2007_000001\n"),
        ("cat_train", "2007_000001  1\n"),
        ("dog_train", "2007_000001 -1\n2007_000002  0\n"),
    ):
        voc.save_set(name, text)
    assert image_sets(voc.root) == ["my_val", "train"]


def test_a_folder_without_image_sets_is_one_split(voc: Voc) -> None:
    voc.add("b", object_xml("cat", 2, 2, 9, 9))
    voc.add("a", object_xml("cat", 2, 2, 9, 9))
    assert image_sets(voc.root) == ["all"]
    assert [Path(path).name for path in voc.load("all").paths] == ["a.jpg", "b.jpg"]


def test_an_unknown_image_set_is_an_error(voc: Voc) -> None:
    with pytest.raises(DataError, match="no image set 'dev' in ImageSets/Main"):
        voc.load("dev")


def test_several_years_are_read_together(tmp_path: Path) -> None:
    years = [Voc(tmp_path / "VOC2007"), Voc(tmp_path / "VOC2012")]
    years[0].add("000005", object_xml("cat", 2, 2, 9, 9))
    years[1].add("2008_000001", object_xml("dog", 2, 2, 9, 9))
    years[1].add("000005", object_xml("dog", 2, 2, 9, 9))
    for year in years:
        year.save_set("trainval")
    years[0].save_set("test", "000005\n")
    roots = [year.root for year in years]
    index = load_voc(roots, "trainval")
    assert index.class_names == ("cat", "dog")
    assert [Path(path).parts[-3:] for path in index.paths] == [
        ("VOC2007", "JPEGImages", "000005.jpg"),
        ("VOC2012", "JPEGImages", "2008_000001.jpg"),
        ("VOC2012", "JPEGImages", "000005.jpg"),
    ]
    assert index.image_ids.tolist() == [1, 3, 2]
    assert len(load_voc(roots, "test")) == 1


@pytest.mark.parametrize(("image_set", "images", "per_class"), [
    ("train", 9, [24, 106, 9]),
    ("val", 7, [13, 92, 7]),
    ("trainval", 16, [37, 198, 16]),
    ("test", 2, [4, 20, 1]),
])  # fmt: skip
def test_real_blood_cells(small_data: Path, image_set: str, images: int, per_class: list[int]) -> None:
    index = load_voc([small_data / "bccd"], image_set)
    assert len(index) == images
    assert index.class_names == ("Platelets", "RBC", "WBC")
    assert np.bincount(index.labels).tolist() == per_class
    assert not index.ignore.any()
    assert (index.boxes >= 0).all()
    assert (index.boxes <= [640, 480, 640, 480]).all()


def test_the_two_zero_size_boxes_of_the_blood_cells_are_named(small_data: Path) -> None:
    problems = load_voc([small_data / "bccd"], "trainval").problems
    assert [(p.kind, Path(p.file).name, p.detail) for p in problems] == [
        ("zero-size", "BloodImage_00338.xml", "object 13 (RBC)"),
        ("zero-size", "BloodImage_00343.xml", "object 4 (RBC)"),
    ]


def test_a_real_white_blood_cell_has_its_box(small_data: Path) -> None:
    index = load_voc([small_data / "bccd"], "trainval")
    record = index.record([Path(path).name for path in index.paths].index("BloodImage_00000.jpg"))
    assert record.image_id == 1
    assert record.size == (480, 640)
    assert record.boxes[0].tolist() == [260, 177, 491, 376]  # LabelImg's: positions on the picture
    assert record.labels[0] == 2
