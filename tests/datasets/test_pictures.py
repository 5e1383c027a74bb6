"""Sizes and orientations of pictures, and boxes turned upright with those that are stored on their side."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.options import ExifBoxes
from ssdlite.datasets.formats.pictures import read_pictures, turn_boxes
from ssdlite.images.reading import read_image

STORED, UPRIGHT = (20, 40), (40, 20)


def save(path: Path, orientation: int, size: tuple[int, int] = (40, 20)) -> str:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_stay_on_their_objects_when_the_picture_is_turned(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[3:8, 25:37] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    box = turn_boxes(np.array([[25.0, 3, 37, 8]]), np.array([orientation]), np.array([image.shape[:2]], np.int32))
    rows, columns = np.nonzero(image[:, :, 0])
    assert box.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_a_picture_on_its_side_has_a_box_of_hand() -> None:
    box = turn_boxes(np.array([[2.0, 3, 10, 8]]), np.array([6]), np.array([[40, 20]], np.int32))
    assert box.tolist() == [[12, 2, 17, 10]]  # the stored left side is on top, the stored top at the right


@pytest.mark.parametrize(("exif_boxes", "turns"), [
    ("auto", [6, 6, 3, 1, 6, 1]),
    ("upright", [1, 1, 1, 1, 1, 1]),
    ("stored", [6, 6, 3, 6, 6, 1]),
])  # fmt: skip
def test_the_annotated_size_tells_and_most_decide_where_it_does_not(
    tmp_path: Path, exif_boxes: ExifBoxes, turns: list[int]
) -> None:
    files = [
        (save(tmp_path / "0.jpg", 6), STORED),
        (save(tmp_path / "1.jpg", 6), STORED),
        (save(tmp_path / "2.jpg", 3), STORED),  # half a turn: of one size
        (save(tmp_path / "3.jpg", 6), UPRIGHT),
        (save(tmp_path / "4.jpg", 6), None),
        (save(tmp_path / "5.jpg", 1), STORED),
    ]
    paths, sizes = zip(*files, strict=True)
    found = read_pictures(paths, sizes, "set", exif_boxes)
    assert found.positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.sizes.tolist() == [[40, 20], [40, 20], [20, 40], [40, 20], [40, 20], [20, 40]]
    assert found.turns.tolist() == turns
    assert bool(found.notes) == (exif_boxes != "upright")
    if exif_boxes == "auto":
        assert found.notes[0].startswith(
            "set: 4 pictures to be turned by EXIF with boxes drawn on the pixels as stored"
        )


def test_where_no_size_tells_boxes_are_upright(tmp_path: Path) -> None:
    found = read_pictures([save(tmp_path / "0.jpg", 8), save(tmp_path / "1.jpg", 6, (30, 30))], [None, (30, 30)], "set")
    assert found.turns.tolist() == [1, 1]


def test_another_annotated_size_is_an_error(tmp_path: Path) -> None:
    found = read_pictures([save(tmp_path / "a.png", 1)], [UPRIGHT], "set")
    assert found.errors == {0: "the annotations say 20 x 40 pixels, the file has 40 x 20"}
    assert len(found.positions) == 0
