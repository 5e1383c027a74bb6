"""COCO annotations read into an index: what is right, what is mended, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.base import BadItems, build_index
from ssdlite.datasets.formats.coco import read_coco
from ssdlite.datasets.index import DetectionIndex, select_classes
from ssdlite.errors import DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "bus"}]


def load_coco(
    file: Path,
    folders: Path | Sequence[Path],
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    root: Path | None = None,
    agree_with: DetectionIndex | None = None,
    allow_absent: bool = False,
) -> DetectionIndex:
    bad = BadItems(skip_bad)
    found = read_coco(file, [folders] if isinstance(folders, Path) else folders, bad, root)
    names = select_classes(found.class_names, classes, found.source, allow_absent=allow_absent)
    return build_index(found, agree_with.class_names if agree_with else names, bad, name="train", agree_with=agree_with)


class Coco:
    """A small data set on disk: three pictures of 64 x 48 pixels, whose file a test changes before it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "train"
        self.images.mkdir()
        self.file = root / "instances_train.json"
        names = ("a.jpg", "b.jpg", "c.jpg")
        for name in names:
            Image.new("RGB", (64, 48)).save(self.images / name)
        self.content: dict[str, Any] = {
            "info": {"year": 2017},
            "images": [
                {"id": 10 * (i + 1), "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
            ],
            "annotations": [],
            "categories": CATEGORIES,
        }

    def add(self, bbox: Any, image_id: int = 10, category_id: int = 3, **more: Any) -> None:
        number = len(self.content["annotations"]) + 1
        entry = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}
        self.content["annotations"].append(entry)

    def load(self, folders: Path | Sequence[Path] | None = None, **options: Any) -> DetectionIndex:
        self.file.write_text(json.dumps(self.content))
        return load_coco(self.file, folders or self.images, **options)

    def error(self, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.load(**options)
        assert "instances_train.json" in str(caught.value)
        return str(caught.value)


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


def test_category_ids_with_gaps_become_labels_in_the_order_of_the_ids(coco: Coco) -> None:
    coco.add([1, 2, 10, 20], category_id=90)
    coco.add([1, 2, 10, 20], category_id=3)
    coco.add([1, 2, 10, 20], category_id=7)
    index = coco.load()
    assert index.class_names == ("cat", "dog", "bus")
    assert index.category_ids == (3, 7, 90)
    assert index.record(0).labels.tolist() == [2, 0, 1]
    assert index.name == "train"


@pytest.mark.parametrize(("area", "expected"), [(3072, 3072), (3073, 200), (1e300, 200), (-1, 200), (0, 200)])
def test_an_area_that_is_more_than_the_pictures_is_the_boxs(coco: Coco, area: float, expected: int) -> None:
    coco.add([1, 2, 10, 20], area=area)
    assert coco.load().areas.tolist() == [expected]


def test_objects_go_to_their_images_with_xyxy_boxes(coco: Coco) -> None:
    coco.add([5, 6, 10, 20], image_id=30, segmentation=[[1, 2, 3, 4, 5, 6]], area=55.5)
    coco.add([0, 0, 64, 48], image_id=10)
    coco.add([1.5, 2.25, 3, 4], image_id=30)
    index = coco.load()
    assert index.image_ids.tolist() == [10, 20, 30]
    assert index.sizes.tolist() == [[48, 64]] * 3
    assert index.offsets.tolist() == [0, 1, 1, 3]
    record = index.record(2)
    assert (record.image_id, Path(record.path).name, record.size) == (30, "c.jpg", (48, 64))
    assert record.boxes.tolist() == [[5, 6, 15, 26], [1.5, 2.25, 4.5, 6.25]]
    assert record.areas.tolist() == [55.5, 12.0]
    assert index.record(1).boxes.shape == (0, 4)
    assert index.problems == ()
    assert (index.boxes.dtype, index.labels.dtype, index.ignore.dtype) == (np.float32, np.int64, np.bool_)


def test_a_file_without_objects_is_read(coco: Coco) -> None:
    index = coco.load()
    assert index.boxes.shape == (0, 4)
    assert index.offsets.tolist() == [0, 0, 0, 0]


def test_crowd_regions_are_kept_to_be_ignored(coco: Coco) -> None:
    coco.add([1, 1, 30, 30], iscrowd=1, segmentation={"size": [48, 64], "counts": [0, 5]})
    coco.add([1, 1, 30, 30], iscrowd=0)
    coco.add([1, 1, 30, 30])
    assert coco.load().ignore.tolist() == [True, False, False]


def test_classes_select_and_order_and_leave_the_images(coco: Coco) -> None:
    coco.add([1, 1, 5, 5], image_id=10, category_id=3)
    coco.add([1, 1, 6, 6], image_id=20, category_id=90)
    index = coco.load(classes=["bus", "dog"])
    assert index.class_names == ("bus", "dog")
    assert index.category_ids == (90, 7)
    assert len(index) == 3
    assert index.labels.tolist() == [0]
    assert index.problems == ()


def test_an_unknown_class_names_the_known_ones_nearest_first(coco: Coco) -> None:
    assert "no class 'dogs'; known, nearest first: dog, cat, bus" in coco.error(classes=["dogs"])
    assert "expected different class names, got cat, cat" in coco.error(classes=["cat", "cat"])


def test_absent_classes_can_be_allowed_but_not_all(coco: Coco) -> None:
    index = coco.load(classes=["plane", "bus"], allow_absent=True)
    assert index.class_names == ("plane", "bus")
    assert index.category_ids == (91, 90)
    coco.error(classes=["plane"], allow_absent=True)


def test_a_detectors_classes_may_be_spelled_otherwise(coco: Coco) -> None:
    coco.add([1, 1, 5, 5], image_id=10, category_id=7)
    index = coco.load(classes=["plane", " Dog"], allow_absent=True)
    assert index.class_names == ("plane", " Dog")
    assert index.category_ids == (91, 7)
    assert index.labels.tolist() == [1]
    assert "no class 'Dog'" in coco.error(classes=["Dog"])


@pytest.mark.parametrize(("bbox", "kind", "kept"), [
    ([-5, 10, 20, 20], "clipped", [[0, 10, 15, 30]]),
    ([50, 40, 30, 30], "clipped", [[50, 40, 64, 48]]),
    ([44.4, 10, 20, 20], None, [[np.float32(44.4), 10, 64, 30]]),
    ([10, 10, 0, 20], "zero-size", []),
    ([10, 10, 20, 0], "zero-size", []),
    ([63.9999999, 10, 1e-9, 5], "zero-size", []),
    ([64, 10, 10, 10], "outside", []),
    ([-30, 10, 30, 10], "outside", []),
    ([1e300, 0, 10, 10], "zero-size", []),
    ([10, 10, float("nan"), 20], "not-finite", []),
    ([float("-inf"), 10, 20, 20], "not-finite", []),
    ([10, 10, 1e308, float("inf")], "not-finite", []),
])  # fmt: skip
def test_boxes_are_clipped_or_dropped_and_counted(
    coco: Coco, bbox: list[float], kind: str | None, kept: list[list[float]]
) -> None:
    coco.add([1, 1, 5, 5])
    coco.add(bbox, category_id=7)
    index = coco.load()
    assert index.boxes.tolist() == [[1, 1, 6, 6], *kept]
    assert index.problem_counts() == ({kind: 1} if kind else {})
    if kind:
        (problem,) = index.problems
        assert problem.file == str(coco.file)
        assert problem.detail == "annotation 2 (dog) of a.jpg"


@pytest.mark.parametrize(("bbox", "reason"), [
    (None, r"annotations[1] (id 2): Expected `array`, got `null` - at `$.bbox`"),
    ([1, 2, 3], "annotations[1] (id 2): Expected `array` of length 4"),
    ([1, 2, 3, "four"], "annotations[1] (id 2): Expected `float`, got `str` - at `$.bbox[3]`"),
    ([10, 10, -5, 5], "annotation 2: expected bbox [x, y, width, height], got a negative size in [10.0, 10.0, -5.0"),
])  # fmt: skip
def test_a_malformed_box_is_one_error_or_skipped(coco: Coco, bbox: Any, reason: str) -> None:
    coco.add([1, 1, 5, 5])
    coco.add(bbox)
    message = coco.error()
    assert reason in message
    assert "--skip-bad" in message
    index = coco.load(skip_bad=True)
    assert index.boxes.tolist() == [[1, 1, 6, 6]]
    assert index.problem_counts() == {"bad-annotation": 1}


def test_numbers_written_as_text_are_read_and_counted(coco: Coco) -> None:
    coco.content["images"][0].update(id="10", width="64")
    coco.content["categories"] = [{"id": "3", "name": "cat"}]
    coco.add(["1", "2.5", 3, "4"], area="12.5")
    coco.add([1, 2, 3, 4])
    index = coco.load()
    assert index.boxes.tolist() == [[1, 2.5, 4, 6.5], [1, 2, 4, 6]]
    assert index.areas.tolist() == [12.5, 12]
    assert [(p.kind, p.detail) for p in index.problems] == [
        ("number-as-text", "images[0] (id 10): Expected `int`, got `str` - at `$.id`"),
        ("number-as-text", "annotations[0] (id 1): Expected `float`, got `str` - at `$.bbox[0]`"),
    ]


@pytest.mark.parametrize("boxes", [
    ([0.25, 0.5, 0.5, 0.25], [0, 0, 1, 1]),  # of which one is the whole picture
    ([0.5, 0.25, 0.25, 0.5], [0.1, 0.2, 0, 0.1]),
])  # fmt: skip
def test_boxes_as_fractions_of_the_picture_are_an_error(coco: Coco, boxes: Sequence[list[float]]) -> None:
    for bbox in boxes:
        coco.add(bbox)
    for skip_bad in (False, True):
        message = coco.error(skip_bad=skip_bad)
        assert "of less than one each, the first with the corners" in message
        assert "they look like fractions of the picture's width and height" in message


def test_small_boxes_among_others_are_none(coco: Coco) -> None:
    coco.add([10, 10, 0.5, 0.5])
    assert "expected boxes in pixels, got 1 box of less than one each" in coco.error()
    coco.add([0, 0, 1.5, 1])
    assert coco.load().boxes.tolist() == [[10, 10, 10.5, 10.5], [0, 0, 1.5, 1]]


def test_a_category_that_groups_others_is_no_class_unless_it_has_objects(coco: Coco) -> None:
    coco.content["categories"] = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
        {"id": 2, "name": "white", "supercategory": "cells"},
    ]
    coco.add([1, 2, 3, 4], category_id=2)
    index = coco.load()
    assert (index.class_names, index.category_ids, index.labels.tolist()) == (("red", "white"), (1, 2), [1])
    assert index.notes[0].endswith("category 'cells' has no objects and others belong to it: a group, not a class")
    coco.add([1, 2, 3, 4], category_id=0)
    assert coco.load().class_names == ("cells", "red", "white")


def test_a_category_of_its_own_supercategory_is_a_class(coco: Coco) -> None:
    coco.content["categories"] = [
        {"id": i, "name": name, "supercategory": "cat"} for i, name in enumerate(("cat", "lynx"))
    ]
    coco.add([1, 2, 3, 4], category_id=1)
    assert coco.load().class_names == ("cat", "lynx")


def test_classes_that_differ_in_case_are_one(coco: Coco) -> None:
    coco.content["categories"] = [
        {"id": i, "name": name} for i, name in enumerate(("Traffic Light", "A", "traffic_light", "a"), start=1)
    ]
    for category_id in (1, 2, 3, 4, 1):
        coco.add([1, 2, 3, 4], category_id=category_id)
    index = coco.load()
    assert (index.class_names, index.category_ids) == (("traffic_light", "A", "a"), (3, 2, 4))
    assert index.labels.tolist() == [0, 1, 0, 2, 0]
    assert [(p.kind, p.detail) for p in index.problems] == [
        ("other-spelling", "'Traffic Light' is taken for 'traffic_light' (2 objects)")
    ]
    apart = coco.load(classes=["traffic_light", "Traffic Light"])
    assert (apart.labels.tolist(), apart.problems) == ([1, 0, 1], ())


def test_all_spellings_of_a_detectors_class_are_scored(coco: Coco) -> None:
    coco.content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "Person"}]
    coco.add([1, 2, 3, 4], category_id=1)
    coco.add([1, 2, 3, 4], category_id=2)
    assert coco.load(classes=["person", "car"], allow_absent=True).labels.tolist() == [0, 0]


def test_an_annotation_for_an_unknown_image_or_category_is_named(coco: Coco) -> None:
    coco.add([1, 1, 5, 5], image_id=99)
    coco.add([1, 1, 5, 5], category_id=5)
    coco.add([1, 1, 5, 5])
    message = coco.error()
    assert "2 of its images or annotations cannot be used" in message
    assert "annotation 1: is for image id 99, which `images` does not have" in message
    assert "annotation 2: is of category id 5, which `categories` does not have" in message
    assert coco.load(skip_bad=True).problem_counts() == {"bad-annotation": 2}


def test_every_unusable_image_is_named_in_one_error_or_skipped(coco: Coco) -> None:
    (coco.images / "a.jpg").unlink()
    (coco.images / "b.jpg").write_bytes(b"\xff\xd8 no picture")
    coco.content["images"][2]["height"] = 100
    for image_id in (10, 20, 30):
        coco.add([1, 1, 5, 5], image_id=image_id)
    message = coco.error()
    assert "3 of its images or annotations" in message
    assert f"{coco.images / 'a.jpg'}: no such image file" in message
    assert f"{coco.images / 'b.jpg'}: cannot be read as an image" in message
    assert f"{coco.images / 'c.jpg'}: the annotations say 64 x 100 pixels, the file has 64 x 48" in message
    assert len(coco.load(skip_bad=True)) == 0


def test_skipping_an_image_skips_its_objects_and_moves_the_others(coco: Coco) -> None:
    (coco.images / "b.jpg").unlink()
    for i, image_id in enumerate((10, 20, 30)):
        coco.add([1, 1, 5 + i, 5], image_id=image_id)
    index = coco.load(skip_bad=True)
    assert index.image_ids.tolist() == [10, 30]
    assert index.record(0).boxes.tolist() == [[1, 1, 6, 6]]
    assert index.record(1).boxes.tolist() == [[1, 1, 8, 6]]
    assert index.problem_counts() == {"bad-image": 1}


def test_an_error_with_many_causes_shows_the_first_and_counts_the_rest(coco: Coco) -> None:
    for _ in range(12):
        coco.add([1, 1, 5, 5], image_id=99)
    message = coco.error()
    assert "12 of its images or annotations cannot be used" in message
    assert "... and 7 more" in message
    assert "annotation 5:" in message
    assert "annotation 6:" not in message


@pytest.mark.parametrize(("annotated", "box"), [
    ((64, 48), [44, 16, 48, 48]),  # as stored, 64 x 48: the box is turned with the picture
    ((48, 64), [16, 0, 48, 4]),
])  # fmt: skip
def test_a_rotated_picture_may_be_annotated_upright_or_as_stored(
    coco: Coco, annotated: tuple[int, int], box: list[float]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(coco.images / "a.jpg", exif=exif)
    width, height = annotated
    coco.content["images"][0].update(width=width, height=height)
    coco.add([16, 0, 32, 4])
    index = coco.load()
    assert index.sizes[0].tolist() == [64, 48]
    assert index.boxes.tolist() == [box]
    assert [note.split(" to be")[0] for note in index.notes] == (["train: 1 picture"] if width == 64 else [])


def test_an_image_without_a_stated_size_takes_that_of_its_file(coco: Coco) -> None:
    del coco.content["images"][0]["width"]
    coco.content["images"][1]["height"] = None
    assert coco.load().sizes.tolist() == [[48, 64]] * 3


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("name", [
    "/etc/passwd", "../secret.jpg", "sub/../../secret.jpg", "..", "C:\\secret.jpg", "..\\secret.jpg", "\\\\host\\a.jpg",
])  # fmt: skip
def test_a_file_name_that_leaves_the_folder_is_always_refused(coco: Coco, name: str, skip_bad: bool) -> None:
    Image.new("RGB", (64, 48)).save(coco.root / "secret.jpg")
    coco.content["images"][1]["file_name"] = name
    with pytest.raises(DataError, match="refused: this image path leads out of"):
        coco.load(skip_bad=skip_bad)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_link_that_leaves_the_folder_is_always_refused(coco: Coco, skip_bad: bool) -> None:
    Image.new("RGB", (64, 48)).save(coco.root / "secret.jpg")
    (coco.images / "b.jpg").unlink()
    (coco.images / "b.jpg").symlink_to("../secret.jpg")
    with pytest.raises(DataError, match=r"b\.jpg: refused: this link leads out of the data folder"):
        coco.load(skip_bad=skip_bad)
    assert len(coco.load(root=coco.root)) == 3


def test_a_linked_directory_that_leaves_the_folder_is_refused(coco: Coco, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (64, 48)).save(outside / "b.jpg")
    (coco.images / "sub").symlink_to(outside)
    coco.content["images"][1]["file_name"] = "sub/b.jpg"
    with pytest.raises(DataError, match="refused: this link leads out of the data folder"):
        coco.load(root=coco.root)


def test_file_names_may_have_folders_and_dots_that_stay_inside(coco: Coco) -> None:
    (coco.images / "sub").mkdir()
    (coco.images / "b.jpg").rename(coco.images / "sub" / "b.jpg")
    coco.content["images"][1]["file_name"] = "sub/b.jpg"
    coco.content["images"][2]["file_name"] = "sub/../c.jpg"
    assert [Path(path).name for path in coco.load().paths] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("name", ["", ".", "a\u0000.jpg", "sub\u0000/a.jpg", "x" * 5000 + "/a.jpg"])
def test_impossible_file_names_are_missing_files(coco: Coco, name: str) -> None:
    coco.content["images"][1]["file_name"] = name
    assert "no such image file" in coco.error()


def test_of_several_folders_the_one_with_the_pictures_is_taken(coco: Coco) -> None:
    other = coco.root / "images"
    other.mkdir()
    Image.new("RGB", (64, 48)).save(other / "a.jpg")
    index = coco.load([coco.root / "none", other, coco.images])
    assert {Path(path).parent for path in index.paths} == {coco.images}
    with pytest.raises(
        DataError, match=r"no image folder: looked for .*none; .*/train has pictures of 3 of these names: --images "
    ):
        coco.load([coco.root / "none"])


@pytest.mark.parametrize(("text", "reason"), [
    ("", "not valid JSON"),
    ('{"images": [', "not valid JSON .*line 1 column"),
    ("[" * 200_000, "nested too deeply"),
    ("[]", "not COCO annotations: Expected `object`, got `array`"),
    ('{"images": [], "categories": []}', "missing required field `annotations`"),
    ('{"images": [], "annotations": []}', "missing required field `categories`"),
    ('{"annotations": [], "categories": []}', "missing required field `images`"),
    ('{"images": {}, "annotations": [], "categories": []}', r"Expected `array`, got `object` - at `\$.images`"),
    ('{"images": [], "annotations": [], "categories": []}', "at least one entry in `categories`"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "missing required field `name`"),
    ('\xff{"images": []}', "not valid JSON"),
])  # fmt: skip
def test_a_file_that_is_not_coco_json_is_one_clear_error(coco: Coco, text: str, reason: str) -> None:
    coco.file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"instances_train\.json: .*{reason}"):
        load_coco(coco.file, coco.images, skip_bad=True)


def test_deep_nesting_inside_an_ignored_field_is_an_error_too(coco: Coco) -> None:
    nested = "[" * 200_000 + "]" * 200_000
    coco.file.write_text('{"info": ' + nested + ', "images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match=r"instances_train\.json: .*nested too deeply"):
        load_coco(coco.file, coco.images)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        load_coco(tmp_path / "none.json", tmp_path)


def test_a_byte_order_mark_is_read_over(coco: Coco) -> None:
    coco.file.write_text(json.dumps(coco.content), encoding="utf-8-sig")
    assert len(load_coco(coco.file, coco.images)) == 3


@pytest.mark.parametrize(("key", "entry", "reason"), [
    ("images", {"id": 10, "file_name": "c.jpg", "width": 64, "height": 48}, "every image id once, got 10 twice"),
    ("categories", {"id": 3, "name": "cow"}, "every category id once, got 3 twice"),
    ("categories", {"id": 4, "name": "cat"}, "every category name once, got 'cat' twice"),
])  # fmt: skip
def test_repeated_ids_and_names_are_errors(coco: Coco, key: str, entry: dict[str, Any], reason: str) -> None:
    coco.content[key] = [*coco.content[key], entry]
    assert reason in coco.error(skip_bad=True)


def test_a_malformed_image_entry_is_named_or_skipped(coco: Coco) -> None:
    coco.content["images"][1]["file_name"] = None
    assert "images[1] (id 20): Expected `str`, got `null` - at `$.file_name`" in coco.error()
    assert coco.load(skip_bad=True).image_ids.tolist() == [10, 30]


def test_lone_surrogates_in_an_entry_are_named_or_skipped(coco: Coco) -> None:
    coco.content["images"][1]["file_name"] = "\ud800.jpg"
    assert "images[1] (id 20): 'utf-8' codec can't encode character '\\ud800'" in coco.error()
    assert coco.load(skip_bad=True).image_ids.tolist() == [10, 30]


def test_lone_surrogates_in_a_class_name_are_an_error(coco: Coco) -> None:
    coco.content["categories"] = [{"id": 1, "name": "\ud800"}]
    assert "not COCO annotations: 'utf-8' codec can't encode character '\\ud800'" in coco.error(skip_bad=True)


def test_a_validation_file_takes_the_training_classes_by_name(coco: Coco, tmp_path: Path) -> None:
    coco.add([1, 1, 5, 5], category_id=3)
    train = coco.load()
    coco.content["categories"] = [{"id": 1, "name": "bus"}, {"id": 3, "name": "dog"}]
    val = coco.load(agree_with=train)
    assert val.class_names == ("cat", "dog", "bus")
    assert val.labels.tolist() == [1]
    assert val.category_ids == (4, 3, 1)


@pytest.mark.parametrize(("split", "images", "objects", "crowds", "sizes", "empty"), [
    ("train2017", 10, 48, 2, [29, 12, 7], ["000000000508.jpg"]),
    ("val2017", 6, 42, 1, [29, 8, 5], ["000000226111.jpg"]),
])  # fmt: skip
def test_real_coco_photographs(
    small_data: Path,
    split: str,
    *,
    images: int,
    objects: int,
    crowds: int,
    sizes: list[int],
    empty: list[str],
) -> None:
    root = small_data / "coco-cc"
    index = load_coco(root / "annotations" / f"instances_{split}.json", root / split)
    assert (len(index), len(index.labels), int(index.ignore.sum())) == (images, objects, crowds)
    assert index.problems == ()
    assert len(index.class_names) == 80
    assert (index.class_names[0], index.class_names[11], index.class_names[79]) == (
        "person", "stop sign", "toothbrush",
    )  # fmt: skip
    assert (index.category_ids[0], index.category_ids[11], index.category_ids[79]) == (1, 13, 90)
    assert np.histogram(index.areas, [0, 32**2, 96**2, 1e10])[0].tolist() == sizes
    without = np.flatnonzero(np.diff(index.offsets) == 0)
    assert [Path(index.paths[i]).name for i in without] == empty
