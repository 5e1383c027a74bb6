"""What is drawn on pictures, and the curves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.index import Record
from ssdlite.detections import Detections
from ssdlite.images import drawing
from ssdlite.images.drawing import (
    IGNORED_COLOR,
    INK,
    Outline,
    Style,
    add_caption,
    add_legend,
    class_color,
    contact_sheet,
    draw_boxes,
    draw_detections,
    draw_ground_truth,
    plot_curves,
    side_by_side,
)

RED = (255, 0, 0)
STYLE = Style(line=3, font_size=14, padding=3)


def gray(height: int, width: int, value: int = 60) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def detections(boxes, labels, names=("cat", "dog")) -> Detections:
    scores = np.linspace(0.9, 0.5, len(labels)).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(labels, np.int64), names)


def record(boxes, labels, ignore) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Record(1, "a.jpg", (200, 300), boxes, np.array(labels, np.int64), areas, np.array(ignore, np.bool_))


def drawn(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(rows, columns) of the pixels of exactly this colour."""
    return np.argwhere((image == np.array(color)).all(axis=2))


def test_a_box_is_drawn_on_its_own_outermost_pixels() -> None:
    # [50, 80, 150, 180] covers the pixels 50..149 and 80..179; the caption is above it and narrower.
    image = draw_boxes(gray(200, 300), np.array([[50, 80, 150, 180]], np.float32), ["x"], [RED])
    pixels = drawn(image, RED)
    assert pixels[:, 1].min() == 50 and pixels[:, 1].max() == 149
    assert pixels[:, 0].max() == 179
    assert (image[81:, 60:140] == RED).all(axis=2).any()
    assert (image[100:160, 70:130] == 60).all(), "the inside stays as it was"


def test_the_given_image_is_left_alone_and_the_size_kept() -> None:
    image = gray(100, 120)
    result = draw_detections(image, detections([[10, 10, 60, 60]], [1]))
    assert (image == 60).all()
    assert result.shape == (100, 120, 3) and result.dtype == np.uint8
    assert len(drawn(result, class_color(1))) > 100


def test_nothing_detected_draws_nothing() -> None:
    assert (draw_detections(gray(50, 50), detections([], [])) == 60).all()


@pytest.mark.parametrize("box", [[-50, -50, 400, 400], [299.6, 0, 300, 200], [0, 0, 0, 0], [10, 10, 10.2, 10.2]])
def test_boxes_at_and_beyond_the_border_and_without_size(box: list[float]) -> None:
    result = draw_detections(gray(200, 300), detections([box], [0]))
    assert result.shape == (200, 300, 3)
    assert len(drawn(result, class_color(0))) > 0


def test_captions_stay_inside_the_picture() -> None:
    # A box at the very top right: there is no room above it, nor to the right of its left edge.
    image = draw_boxes(gray(200, 300), np.array([[280, 0, 300, 20]], np.float32), ["a long caption"], [RED])
    pixels = drawn(image, RED)
    assert pixels[:, 1].min() < 280, "the caption was moved left"
    assert pixels[:, 0].min() == 0 and pixels[:, 1].max() == 299


def test_captions_do_not_cover_each_other() -> None:
    # Two boxes with the same corner: 8 rows apart, less than a caption's height.
    boxes = np.array([[40, 60, 200, 150], [40, 68, 200, 158]], np.float32)
    one = draw_boxes(gray(200, 300), boxes[:1], ["cat 0.90"], [RED])
    both = draw_boxes(gray(200, 300), boxes, ["cat 0.90", "dog 0.80"], [RED, (0, 255, 0)])
    caption = one[44:60, 40:95]
    assert len(drawn(caption, RED)) > 200
    assert np.array_equal(both[44:60, 40:95], caption)


@pytest.mark.parametrize(("side", "thinnest", "tallest"), [(200, 1, 20), (4000, 10, 140)])
def test_lines_and_letters_grow_with_the_picture(side: int, thinnest: int, tallest: int) -> None:
    box = np.array([[side * 0.25, side * 0.25, side * 0.75, side * 0.75]], np.float32)
    image = draw_boxes(gray(side, side), box, ["x"], [RED])
    row = (image[side // 2] == RED).all(axis=1)
    assert thinnest <= row[: side // 2].sum() <= 3 * thinnest
    caption_height = side // 4 - drawn(image, RED)[:, 0].min()
    assert max(10, side // 50) <= caption_height <= tallest


def test_letters_stand_out_from_their_ground_and_classes_from_each_other() -> None:
    colors = [class_color(label) for label in range(200)]
    assert len(set(colors)) == 200
    first = np.array(colors[:12], float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + np.eye(12) * 999
    assert distances.min() > 60
    for color in colors:
        image = draw_boxes(gray(100, 200), np.array([[20, 40, 190, 90]], np.float32), ["MMMM"], [color])
        caption = image[28:39, 20:60].reshape(-1, 3).astype(float)
        luma = caption @ [0.299, 0.587, 0.114]
        assert luma.max() - luma.min() > 90


def test_ground_truth_shows_ignored_objects_in_gray() -> None:
    truth = record([[10, 50, 100, 150], [120, 50, 280, 150]], [1, 0], [False, True])
    image = draw_ground_truth(gray(200, 300), truth, ("cat", "dog"))
    assert len(drawn(image[:, :110], class_color(1))) > 100
    assert len(drawn(image, class_color(0))) == 0
    assert len(drawn(image[:, 115:], IGNORED_COLOR)) > 100


def test_side_by_side_is_ground_truth_then_detections() -> None:
    truth = record([[10, 50, 100, 150]], [1], [False])
    panes = (
        draw_ground_truth(gray(200, 300), truth, ("cat", "dog")),
        draw_detections(gray(200, 300), detections([[10, 50, 100, 150]], [0])),
    )
    image = side_by_side([add_caption(pane, "a title") for pane in panes])
    assert image.shape[0] > 200 and 600 < image.shape[1] < 650
    assert len(drawn(image[:, :300], class_color(1))) > 100
    assert len(drawn(image[:, :300], class_color(0))) == 0
    assert len(drawn(image[:, 300:], class_color(0))) > 100
    assert (image[:4] == 255).all(), "the captions stand on white"


def test_a_dashed_line_shows_on_any_ground() -> None:
    for ground in (10, 250):
        image = draw_boxes(
            gray(200, 300, ground), np.array([[50, 80, 250, 180]], np.float32), ["x"], [Outline(RED, (12, 6))], STYLE
        )
        row = image[179, 50:250]  # the outermost pixels of the box, below its caption
        assert [tuple(row[i].tolist()) for i in (0, 11, 12, 17, 18)] == [RED, RED, INK, INK, RED]
        assert (image[81:177, 53:247] == ground).all(axis=2).mean() > 0.9, "the inside stays as it was"


def test_a_legend_has_a_sample_of_each_line_and_wraps() -> None:
    entries = {
        "first": Outline(RED),
        "a longer second one": Outline((0, 255, 0), (4, 4)),
        "third": Outline((0, 0, 255)),
    }
    wide, narrow = (add_legend(gray(20, width), "what the lines mean", entries, STYLE) for width in (600, 200))
    assert wide.shape[0] - 20 == 2 * 2 * 14, "a row for the title, and one for all entries"
    assert narrow.shape[0] - 20 == 4 * 2 * 14, "an entry a row"
    for color in (RED, (0, 255, 0), (0, 0, 255)):
        assert len(drawn(wide, color)) > 40 and len(drawn(narrow, color)) > 40


def test_a_caption_that_is_too_wide_is_shortened() -> None:
    image = add_caption(gray(50, 60), "a caption much wider than the picture")
    assert image.shape[1] == 60
    assert (image[-50:] == 60).all()


def test_contact_sheet_keeps_the_proportions() -> None:
    images = [gray(100, 200, 10), gray(200, 100, 20), gray(50, 50, 30), gray(30, 60, 40)]
    sheet = contact_sheet(images, columns=2, cell=120)
    # Two cells and three gaps of 2; the rows are as high as their highest: 120 and 120.
    assert sheet.shape == (2 * 120 + 3 * 2, 2 * 120 + 3 * 2, 3)
    for value, shape in ((10, (60, 120)), (20, (120, 60)), (30, (120, 120)), (40, (60, 120))):
        pixels = drawn(sheet, (value,) * 3)
        assert tuple(pixels.max(axis=0) - pixels.min(axis=0) + 1) == shape


def test_contact_sheet_of_fewer_images_than_columns_and_of_none() -> None:
    assert contact_sheet([gray(10, 10)], columns=5, cell=100).shape == (104, 104, 3)
    assert contact_sheet([], columns=3).size > 0
    with pytest.raises(ValueError, match="at least one column"):
        contact_sheet([gray(10, 10)], columns=0)


def test_curves(tmp_path: Path) -> None:
    history = [
        {"epoch": 1, "loss": 5.0, "class_loss": 3.0, "other_loss": 1.0, "AP": None, "AP50": None, "lr": 0.1},
        {"epoch": 2, "loss": 4.0, "class_loss": 2.0, "other_loss": 1.0, "AP": 0.1, "AP50": 0.3, "lr": 0.1},
    ]
    plot_curves(history, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colors  # three lines, in matplotlib's colours


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "loss": 2.0}], [{"loss": 1.0, "AP": 0.5}]])
def test_curves_of_next_to_nothing(history: list[dict], tmp_path: Path) -> None:
    plot_curves(history, tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_drawing_loads_neither_matplotlib_nor_torch() -> None:
    code = "import sys, ssdlite.images.drawing; print({'matplotlib', 'torch'} & {m for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_plotting_leaves_matplotlibs_global_state_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from ssdlite.images.drawing import plot_curves; "
        f"plot_curves([{{'loss': 1.0}}], {str(tmp_path / 'c.png')!r}); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_letters_beyond_ascii_are_drawn_and_others_named_by_their_numbers() -> None:
    assert drawing.drawable("Größe Жук 0.9") == "Größe Жук 0.9"
    assert drawing.drawable("类别 a") == "U+7C7B U+522B  a"
    assert drawing.drawable("\ud800") == "U+D800 "
    empty = np.zeros((60, 200, 3), np.uint8)
    box = np.array([[10, 30, 150, 55]], np.float32)
    captions = ["größe", "类别", "\U0010fffd\U0010fffc"]
    pictures = [drawing.draw_boxes(empty, box, [caption], [(255, 255, 0)]).tobytes() for caption in captions]
    assert len(set(pictures)) == 3
