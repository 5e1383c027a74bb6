"""Boxes that a whole split has in another unit or order than its format's, and sound ones that only look odd."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_split
from ssdlite.errors import DataError

Corners = tuple[int, int, int, int]
# In two pictures of 200 x 100 pixels, four boxes each, in every part of them.
BOXES: list[Corners] = [
    (10, 10, 30, 40), (150, 60, 190, 95), (80, 30, 120, 70), (120, 5, 160, 25),
    (20, 70, 60, 90), (170, 10, 195, 50), (90, 50, 110, 60), (5, 5, 15, 15),
]  # fmt: skip


def pictures(root: Path, size: tuple[int, int] = (200, 100)) -> None:
    for name in "ab":
        Image.new("RGB", size).save(root / f"{name}.png")


def coco(root: Path, numbers: list[list[float]]) -> DetectionIndex:
    pictures(root)
    images = [{"id": i, "file_name": f"{'ab'[i]}.png", "width": 200, "height": 100} for i in (0, 1)]
    annotations = [{"id": 7 + i, "image_id": i % 2, "category_id": 1, "bbox": bbox} for i, bbox in enumerate(numbers)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ace"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return load_split(root)


def yolo(root: Path, numbers: list[list[float]]) -> DetectionIndex:
    pictures(root)
    (root / "classes.txt").write_text("ace\n")
    for i in (0, 1):
        lines = [f"0 {' '.join(f'{value:.6f}' for value in row)}\n" for row in numbers[i::2]]
        (root / f"{'ab'[i]}.txt").write_text("".join(lines))
    return load_split(root)


def csv(root: Path, numbers: list[list[float]], header: str = "xmin,ymin,xmax,ymax") -> DetectionIndex:
    pictures(root)
    rows = [f"{'ab'[i % 2]}.png,ace,{','.join(f'{value:g}' for value in row)}\n" for i, row in enumerate(numbers)]
    (root / "boxes.csv").write_text(f"filename,class,{header}\n" + "".join(rows))
    return load_split(root)


def imagefolder(root: Path, numbers: list[list[float]]) -> DetectionIndex:
    pictures(root)
    rows = [
        {"file_name": f"{'ab'[i]}.png", "objects": {"bbox": numbers[i::2], "category": ["ace"] * len(numbers[i::2])}}
        for i in (0, 1)
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_split(root)


def as_size(box: Corners) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def as_center(box: Corners) -> list[float]:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]


def in_fractions(box: list[float] | Corners) -> list[float]:
    return [value / side for value, side in zip(box, (200, 100, 200, 100), strict=True)]


def sizes(root: Path, numbers: list[list[float]]) -> DetectionIndex:
    return csv(root, numbers, "x,y,width,height")


COCO_CORNERS = (
    "labels.json: expected boxes as x, y of the upper left corner, width, height, got what looks like the corners "
    "x1, y1, x2, y2: 5 of 8 boxes do not fit their pictures as they stand, the first 150, 60, 190, 95 in a picture of "
    "200 x 100 (annotation 8 (ace) of b.png); read so, 8 of 8 fit. Correct the annotations: write width = x2 - x1 and "
    "height = y2 - y1"
)
YOLO_CORNERS = (
    "classes.txt (all): expected boxes as x, y of the center, width, height, got what looks like the corners "
    "x1, y1, x2, y2: 5 of 8 boxes do not fit their pictures as they stand, the first 0.05, 0.1, 0.15, 0.4 (a.txt, line "
    "1 (ace)); read so, 8 of 8 fit. Correct the annotations: write the center ((x1 + x2) / 2, (y1 + y2) / 2), then "
    "width = x2 - x1 and height = y2 - y1"
)
EXCHANGED = (
    "boxes.csv: expected boxes as xmin, ymin, xmax, ymax, got what looks like xmin and xmax exchanged: 8 of 8 boxes do "
    "not fit their pictures as they stand, the first 30, 10, 10, 40 in a picture of 200 x 100 (line 2 (ace)); read so, "
    "8 of 8 fit. Correct the annotations: exchange them, or the names of their columns"
)
TURNED = (
    "got what looks like x and y exchanged: 5 of 8 boxes do not fit their pictures as they stand, the first 30, 80, "
    "70, 120 in a picture of 200 x 100 (line 4 (ace)); read so, 8 of 8 fit. Correct the annotations: exchange them, or "
    "the names of their columns; where it is the pictures that EXIF turns, say --exif-boxes stored"
)


@pytest.mark.parametrize(("write", "numbers", "message"), [
    (coco, [list(box) for box in BOXES], COCO_CORNERS),
    (coco, [list(box) for box in BOXES[1:6]], "x1, y1, x2, y2: 4 of 5 boxes do not fit their pictures as they stand"),
    (imagefolder, [list(box) for box in BOXES], "metadata.jsonl: expected boxes as x, y of the upper left corner"),
    (sizes, [list(box) for box in BOXES], "got what looks like the corners x1, y1, x2, y2: 5 of 8 boxes"),
    (yolo, [in_fractions(box) for box in BOXES], YOLO_CORNERS),
    (yolo, [in_fractions(as_size(box)) for box in [(10, 60, 70, 90), (10, 20, 100, 30)] * 4],
     "got what looks like x, y of the upper left corner, width, height: 8 of 8 boxes"),
    (csv, [[x1, y0, x0, y1] for x0, y0, x1, y1 in BOXES], EXCHANGED),
    (csv, [[x0, y1, x1, y0] for x0, y0, x1, y1 in BOXES], "got what looks like ymin and ymax exchanged: 8 of 8"),
    (csv, [[x1, y1, x0, y0] for x0, y0, x1, y1 in BOXES], "looks like the minima and the maxima exchanged: 8 of 8"),
    (csv, [[y0, x0, y1, x1] for x0, y0, x1, y1 in BOXES], TURNED),
    (csv, [as_size(box) for box in BOXES], "got what looks like x, y of the upper left corner, width, height: "),
])  # fmt: skip
def test_boxes_in_another_form_are_one_error(
    tmp_path: Path, write: Callable[..., DetectionIndex], numbers: list[list[float]], message: str
) -> None:
    with pytest.raises(DataError) as error:
        write(tmp_path, numbers)
    assert message in str(error.value)
    with pytest.raises(DataError, match="got what looks like"):
        load_split(tmp_path, options=LoadOptions(skip_bad=True))


SOUND: dict[str, list[Corners]] = {
    "everywhere": BOXES,
    "the whole picture": [(0, 0, 200, 100)] * 12,
    "nearly the whole picture": [(3, 2, 198, 99)] * 12,
    "tiny": [(7 * i, 3 * i, 7 * i + 2, 3 * i + 2) for i in range(20)],
    "at the right lower corner": [(180 + i, 80 + i, 200, 100) for i in range(12)],
    "at the left upper corner": [(0, 0, 5 + i, 5 + i) for i in range(12)],
    "one": [(150, 60, 190, 95)],
    "in the left upper quarter": [(x, y, x + 30, y + 20) for x in (5, 40, 60) for y in (5, 15, 25)],
}


@pytest.mark.parametrize("boxes", SOUND.values(), ids=SOUND)
def test_sound_boxes_are_read_wherever_they_are(tmp_path: Path, boxes: list[Corners]) -> None:
    expected = sorted(map(list, boxes))
    for write, numbers in (
        (coco, [as_size(box) for box in boxes]),
        (imagefolder, [as_size(box) for box in boxes]),
        (yolo, [in_fractions(as_center(box)) for box in boxes]),
        (csv, [list(box) for box in boxes]),
        (sizes, [as_size(box) for box in boxes]),
    ):
        (folder := tmp_path / write.__name__).mkdir()
        found = write(folder, numbers)
        assert sorted(map(list, found.boxes.round(2).tolist())) == expected
        assert not found.problem_counts()


def test_single_boxes_that_do_not_fit_are_counted_as_before(tmp_path: Path) -> None:
    """Four corners among 16 sizes, four boxes alone, and one exchanged pair are mistakes of those who drew them."""
    (tmp_path / "coco").mkdir()
    mixed = [as_size(box) for box in BOXES * 2] + [[150, 60, 190, 95]] * 4
    assert coco(tmp_path / "coco", mixed).problem_counts() == {"clipped": 4}
    (tmp_path / "few").mkdir()
    assert coco(tmp_path / "few", [list(box) for box in BOXES[2:6]]).problem_counts() == {"clipped": 3}
    (tmp_path / "csv").mkdir()
    found = csv(tmp_path / "csv", [*map(list, BOXES), [40, 10, 20, 30]])
    assert (found.problem_counts(), len(found.labels)) == ({"zero-size": 1}, 8)


def test_boxes_drawn_beyond_the_pictures_are_clipped_as_before(tmp_path: Path) -> None:
    """Objects that go on outside, on all sides: in no other way do they fit."""
    beyond = [[-40, 10, 30, 40], [150, 60, 260, 95], [80, 30, 120, 170], [-20, -20, 220, 120], [120, -30, 160, 25]]
    assert csv(tmp_path, beyond * 3).problem_counts() == {"clipped": 15}


def test_boxes_that_go_on_beyond_one_side_are_no_centers(tmp_path: Path) -> None:
    """As centers all of them would fit: a shift takes everything back that reaches out to the right."""
    beyond = [[60.0 + i, 40.0, 40.0, 20.0] for i in range(45)] + [[170.0 + i, 40.0, 44.0, 20.0] for i in range(5)]
    assert coco(tmp_path, beyond).problem_counts() == {"clipped": 5}


# --- Labels of YOLO that are something else line by line.


def labels(root: Path, *lines: str, names: tuple[str, ...] = ("ace", "king")) -> Path:
    """Half of the lines in each of two files."""
    pictures(root)
    (root / "data.yaml").write_text(f"names: [{', '.join(names)}]\n")
    for i in (0, 1):
        (root / f"{'ab'[i]}.txt").write_text("".join(f"{line}\n" for line in lines[i::2]))
    return root


PIXELS = ["0 60 50 40 20", "1 150 40 20 30", "0 20 20 10 10", "1 0.5 50 1 20", "0 100 50 200 100", "1 30 80 10 5"]
TRACKS = [f"0 0.5 0.4 0.3 0.2 0.{90 - i} {i}" for i in range(1, 7)]
FROM_ONE = [f"{number} 0.5 0.4 0.3 0.2" for number in (1, 2, 1, 1, 2, 1)]


IN_PIXELS = (
    "data.yaml (all): expected fractions of the picture from 0 to 1 (x, y of the center, width, height), got what "
    "looks like pixels in 6 of 6 labels, the first 0 60 50 40 20 (a.txt, line 1). Divide x and width by the "
    "picture's width, y and height by its height"
)
WITH_TRACKS = (
    "expected a class and the 4 numbers of a box, or points, got what looks like class, box, score and track in 6 of 6 "
    "labels, the first 0 0.5 0.4 0.3 0.2 0.89 1 (a.txt, line 1); as points they would be triangles. Delete the last "
    "two numbers of such lines, or export without tracks"
)
NUMBERED_FROM_ONE = (
    "expected classes from 0 to 1 (2 names in {root}/data.yaml), got what looks like numbers from 1: none of 6 labels "
    "is of class 0 and 2 of class 2, the first 2 0.5 0.4 0.3 0.2 (a.txt, line 3). Subtract 1 from each, or number the "
    "names from 1 in data.yaml (names: {{1: ..., 2: ...}}); if the list lacks its last name instead, add it"
)


@pytest.mark.parametrize(("lines", "message"), [
    (PIXELS, IN_PIXELS),
    ([f"0 {10 * i} 50 10 20" for i in range(1, 9)], "got what looks like pixels or percent in 8 of 8 labels"),
    (["0 10 10 20 10 20 30 10 30"] * 6, "got what looks like pixels or percent in 6 of 6 labels"),
    (TRACKS, WITH_TRACKS),
    (["1 0.5 0.4 0.3 0.2 0.5 1"] * 5 + ["0 0.5 0.5 0.2 0.2"], "class, box, score and track in 5 of 6 labels"),
    (FROM_ONE, NUMBERED_FROM_ONE),
])  # fmt: skip
def test_labels_of_yolo_that_are_something_else_are_one_error(tmp_path: Path, lines: list[str], message: str) -> None:
    labels(tmp_path, *lines)
    for skip_bad in (False, True):
        with pytest.raises(DataError) as error:
            load_split(tmp_path, options=LoadOptions(skip_bad=skip_bad))
        assert message.format(root=tmp_path) in str(error.value)


def test_names_numbered_from_1_are_read(tmp_path: Path) -> None:
    labels(tmp_path, *FROM_ONE)
    (tmp_path / "data.yaml").write_text("names: {1: ace, 2: king}\n")
    assert load_split(tmp_path).object_counts() == {"ace": 4, "king": 2}


@pytest.mark.parametrize(("lines", "count"), [
    (["1 0.5 0.5 0.2 0.2"] * 9, 9),  # no class 0, and none behind the last
    (["0 0.5 0.1 0.1 0.9 1 1"] * 9, 9),  # triangles that end at a corner
    (["0 0.2 0.6 0.9 0.1 0.5 1"] * 9, 9),  # and at an edge
    ([f"0 0.{i} 0.4 0.3 0.2 0.7 0.5" for i in range(2, 9)], 7),
    (["0 1 1 1 1 1 0"] * 9, 0),
])  # fmt: skip
def test_sound_labels_of_yolo_that_look_odd_are_read(tmp_path: Path, lines: list[str], count: int) -> None:
    assert len(load_split(labels(tmp_path, *lines)).labels) == count


@pytest.mark.parametrize("line", ["0 100 50 20 20", "0 0.5 0.4 0.3 0.2 0.5 7", "2 0.5 0.4 0.3 0.2", "0 0 0 1.9 1"])
def test_single_labels_of_yolo_that_are_wrong_are_what_they_were(tmp_path: Path, line: str) -> None:
    labels(tmp_path, *["1 0.5 0.5 0.2 0.2"] * 7, line)
    with pytest.raises(DataError, match=r"1 of its images or annotations cannot be used:\n.*b.txt: line 4: expected"):
        load_split(tmp_path)
    found = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert (found.problem_counts(), len(found.labels)) == ({"bad-annotation": 1}, 7)
