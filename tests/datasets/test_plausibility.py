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
    """Four corners among 16 sizes, and one pair of exchanged columns, are mistakes of those who drew them."""
    (tmp_path / "coco").mkdir()
    mixed = [as_size(box) for box in BOXES * 2] + [[150, 60, 190, 95]] * 4
    assert coco(tmp_path / "coco", mixed).problem_counts() == {"clipped": 4}
    (tmp_path / "csv").mkdir()
    found = csv(tmp_path / "csv", [*map(list, BOXES), [40, 10, 20, 30]])
    assert (found.problem_counts(), len(found.labels)) == ({"zero-size": 1}, 8)


def test_boxes_drawn_beyond_the_pictures_are_clipped_as_before(tmp_path: Path) -> None:
    """Objects that go on outside, on all sides: in no other way do they fit."""
    beyond = [[-40, 10, 30, 40], [150, 60, 260, 95], [80, 30, 120, 170], [-20, -20, 220, 120], [120, -30, 160, 25]]
    assert csv(tmp_path, beyond * 3).problem_counts() == {"clipped": 15}
