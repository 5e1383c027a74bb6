"""Mosaics: every pixel and box where it belongs, the same ones on every run, none at the end of a training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ssdlite.datasets.dataset import DetectionDataset, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.samples import BadSample, Sample
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.datasets.transforms import DetectionTransform, Mosaic, MosaicLayout, Tile, build_mosaic
from ssdlite.errors import ConfigError
from ssdlite.images.geometry import CropWindow
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import train


class Script:
    """In place of a random generator: the numbers of a list, which must lie where they were asked for."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)

    def uniform(self, low: float, high: float) -> float:
        number = next(self.numbers)
        assert low <= number <= high
        return number


def make_sample(image: np.ndarray, boxes, labels=None, ignore=None, position: int = 0) -> Sample:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes)) if labels is None else np.array(labels)
    ignore = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore, bool)
    return Sample(image, boxes, labels.astype(np.int64), ignore, image_id=10 + position, position=position)


def numbered(number: int, height: int, width: int) -> np.ndarray:
    """A picture whose pixels say where they are from: (50 x number, 10 x row, 10 x column)."""
    rows, columns = np.indices((height, width))
    return np.stack([np.full_like(rows, 50 * number), 10 * rows, 10 * columns], axis=2).astype(np.uint8)


def make_mosaic(image_size=(8, 8), resize="stretch", probability=1.0, epochs=10) -> Mosaic:
    return Mosaic(image_size, resize, probability, epochs)


# -- layout ----------------------------------------------------------------------------------------------------------


def test_four_tiles_around_a_junction():
    """Of 100 rows and 200 columns at scale 1: the junction is the middle plus the drawn share of the sides."""
    layout = make_mosaic((100, 200)).draw_layout(0, Script(0.3, 1.0, 0.1, -0.25))
    assert layout == MosaicLayout(
        1.0, (Tile(0, 0, 120, 25), Tile(120, 0, 200, 25), Tile(0, 25, 120, 100), Tile(120, 25, 200, 100))
    )


@pytest.mark.parametrize(("shares", "tiles"), [
    ((0.4, 0.0), [(0, 0, 80, 32), (0, 32, 80, 64)]),  # 0.5 + 1.5 * 0.4 is right of the input: two, one over the other
    ((0.0, -0.4), [(0, 0, 40, 64), (40, 0, 80, 64)]),
    ((-0.5, 0.5), [(0, 0, 80, 64)]),
])  # fmt: skip
def test_tiles_that_are_not_in_the_input_are_left_out(shares, tiles):
    layout = make_mosaic((64, 80)).draw_layout(0, Script(0.0, 1.5, *shares))
    assert layout == MosaicLayout(1.5, tuple(Tile(*tile) for tile in tiles))


def test_tiles_fill_any_input_without_overlap():
    for seed in range(100):
        random = np.random.default_rng(seed)
        height, width = (int(side) for side in random.integers(1, 40, 2))
        layout = make_mosaic((height, width)).draw_layout(0, random)
        assert 0.5 <= layout.scale <= 1.5
        covered = np.zeros((height, width), int)
        for x0, y0, x1, y1 in layout.tiles:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            covered[y0:y1, x0:x1] += 1
        assert (covered == 1).all()


def test_a_share_of_the_samples_and_none_in_the_last_epochs():
    mosaic = make_mosaic(probability=0.25, epochs=8)
    made = [mosaic.draw_layout(epoch, np.random.default_rng(i)) is not None for epoch in (0, 7) for i in range(400)]
    assert 150 <= sum(made) <= 250
    assert not any(mosaic.draw_layout(epoch, np.random.default_rng(i)) for epoch in (8, 9) for i in range(50))


@pytest.mark.parametrize(("epochs", "with_mosaics"), [(60, 51), (10, 8), (3, 3), (1, 1)])
def test_the_last_15_percent_of_the_epochs_have_none(epochs, with_mosaics):
    transform = DetectionTransform((64, 96), "letterbox", "ssdlite")
    assert build_mosaic(transform, 0.5, epochs) == Mosaic((64, 96), "letterbox", 0.5, with_mosaics)


def test_a_share_of_nothing_is_no_mosaics():
    assert build_mosaic(DetectionTransform((64, 64), "stretch", "ssd"), 0.0, 10) is None


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match=f"--mosaic: expected a share of the samples, 0 to 1, got {share}"):
        TrainOptions().override(mosaic=share)


# -- pixels and boxes ------------------------------------------------------------------------------------------------


def test_each_tile_shows_its_part_of_its_picture_pixel_for_pixel():
    pictures = [numbered(number, 8, 8) for number in range(4)]
    samples = [make_sample(picture, [[2, 1, 5, 6]], [i], position=i) for i, picture in enumerate(pictures)]
    layout = MosaicLayout(1.0, (Tile(0, 0, 3, 5), Tile(3, 0, 8, 5), Tile(0, 5, 3, 8), Tile(3, 5, 8, 8)))
    # left and top of the four windows, of 3 x 5, 5 x 5, 3 x 3 and 5 x 3 pixels
    result = make_mosaic().join(samples, layout, Script(2, 1, 0, 3, 5, 0, 3, 5))
    assert result.image.dtype == np.uint8
    assert np.array_equal(result.image[0:5, 0:3], pictures[0][1:6, 2:5])
    assert np.array_equal(result.image[0:5, 3:8], pictures[1][3:8, 0:5])
    assert np.array_equal(result.image[5:8, 0:3], pictures[2][0:3, 5:8])
    assert np.array_equal(result.image[5:8, 3:8], pictures[3][5:8, 3:8])
    # the box fills the first window, is cut by the second and the fourth (which has not its centre), not in the third
    assert result.boxes.tolist() == [[0, 0, 3, 5], [5, 0, 8, 3], [3, 5, 5, 6]]
    assert result.labels.tolist() == [0, 1, 3]
    assert result.ignore.tolist() == [False, False, True]
    assert (result.image_id, result.position) == (10, 0)
    assert result.window == CropWindow(0, 0, 8, 8, (8, 8))


def test_at_half_the_size_four_pictures_are_whole():
    pictures = [numbered(number, 4, 4).repeat(2, axis=0).repeat(2, axis=1) for number in range(4)]
    samples = [make_sample(picture, [[0, 2, 8, 6]]) for picture in pictures]
    layout = MosaicLayout(0.5, (Tile(0, 0, 4, 4), Tile(4, 0, 8, 4), Tile(0, 4, 4, 8), Tile(4, 4, 8, 8)))
    result = make_mosaic().join(samples, layout, Script(*[0] * 8))
    for number, (x, y) in enumerate([(0, 0), (4, 0), (0, 4), (4, 4)]):
        assert np.array_equal(result.image[y : y + 4, x : x + 4], numbered(number, 4, 4))
        assert result.boxes[number].tolist() == [x, y + 1, x + 4, y + 3]


def test_a_picture_smaller_than_its_tile_lies_somewhere_in_it_on_gray():
    samples = [make_sample(np.full((8, 8, 3), 200, np.uint8), [[0, 0, 8, 8]]) for _ in range(4)]
    layout = MosaicLayout(0.5, (Tile(0, 0, 2, 2), Tile(2, 0, 8, 2), Tile(0, 2, 2, 8), Tile(2, 2, 8, 8)))
    # windows of 4 x 4, 12 x 4, 4 x 12 and 12 x 12 source pixels, of which the picture has 8 x 8
    result = make_mosaic().join(samples, layout, Script(4, 4, -4, 0, 0, 0, -2, -4))
    expected = np.full((8, 8), 114)
    expected[0:2, 0:2] = expected[0:2, 4:8] = expected[2:6, 0:2] = expected[4:8, 3:7] = 200
    assert np.array_equal(result.image, expected[:, :, None].repeat(3, axis=2))
    assert result.boxes[3].tolist() == [3, 4, 7, 8]


def test_what_is_left_of_cut_objects():
    boxes = [
        [1, 1, 4, 4],  # not cut
        [2, 0, 6, 2],  # its centre is on the edge: what is left of it stays an object
        [3, 2, 6, 4],  # its centre is outside: what is left is ignored
        [5, 0, 7, 8],  # outside
        [0, 4, 8, 8],  # was ignored
        [3, 5, 8, 8],  # was ignored, and is
    ]
    sample = make_sample(np.zeros((8, 8, 3), np.uint8), boxes, ignore=[False] * 4 + [True] * 2)
    empty = make_sample(np.zeros((8, 8, 3), np.uint8), [])
    layout = MosaicLayout(1.0, (Tile(0, 0, 4, 8), Tile(4, 0, 8, 8)))
    result = make_mosaic().join([sample, empty], layout, Script(0, 0, 0, 0))
    assert result.labels.tolist() == [0, 1, 2, 4, 5]
    assert result.boxes.tolist() == [[1, 1, 4, 4], [2, 0, 4, 2], [3, 2, 4, 4], [0, 4, 4, 8], [3, 5, 4, 8]]
    assert result.ignore.tolist() == [False, False, True, True, True]


def test_objects_below_a_pixel_are_dropped_and_ignored_regions_kept():
    sample = make_sample(np.zeros((8, 8, 3), np.uint8), [[0, 0, 1, 8], [2, 0, 4, 2], [5, 0, 6, 8]], ignore=[0, 0, 1])
    result = make_mosaic().join([sample], MosaicLayout(0.5, (Tile(0, 0, 8, 8),)), Script(0, 0))
    assert result.labels.tolist() == [1, 2]
    assert result.boxes.tolist() == [[1, 0, 2, 1], [2.5, 0, 3, 4]]


@pytest.mark.parametrize(("resize", "left", "expected"), [
    ("letterbox", -1, [114, 0, 10, 20, 30, 114, 114, 114]),  # a square picture keeps its shape in a lying input
    ("letterbox", -4, [114, 114, 114, 114, 0, 10, 20, 30]),
    ("stretch", 0, [0, 2, 7, 12, 17, 22, 27, 30]),  # quarters between the columns, to the nearest, as OpenCV rounds
])  # fmt: skip
def test_letterboxed_and_stretched_pictures_in_an_input_that_is_not_square(resize, left, expected):
    sample = make_sample(numbered(0, 4, 4), [[1, 0, 3, 4]])
    result = make_mosaic((4, 8), resize).join([sample], MosaicLayout(1.0, (Tile(0, 0, 8, 4),)), Script(left, 0))
    np.testing.assert_allclose(result.image[2, :, 2], expected, atol=1)
    x0, x1 = (1 - left, 3 - left) if resize == "letterbox" else (2, 6)
    assert result.boxes.tolist() == [[x0, 0, x1, 4]]


def test_pictures_of_one_pixel():
    sample = make_sample(np.full((1, 1, 3), 200, np.uint8), [[0, 0, 1, 1]])
    layout = MosaicLayout(0.5, (Tile(0, 0, 8, 6), Tile(0, 6, 8, 8)))
    # windows of 2 x 1.5 and 2 x 0.5 pixels; places are whole source pixels
    result = make_mosaic().join([sample, sample], layout, Script(-0.4, -0.3, -0.9, 0.2))
    assert result.boxes.tolist() == [[0, 0, 4, 6], [4, 6, 8, 8]]
    expected = np.full((8, 8), 114)
    expected[:6, :4] = expected[6:, 4:] = 200
    assert np.array_equal(result.image[:, :, 0], expected)


# -- data sets -------------------------------------------------------------------------------------------------------


def make_index(folder: Path, sizes: list[tuple[int, int]]) -> DetectionIndex:
    """Black pictures of (height, width) ``sizes`` with a red, green or blue rectangle in the middle, labels 0, 1, 2.

    Every fourth has no object, and of every fifth the object is to be ignored.
    """
    boxes, offsets = [], [0]
    for i, (height, width) in enumerate(sizes):
        image = np.zeros((height, width, 3), np.uint8)
        if i % 4 != 3:
            x0, y0, x1, y1 = width // 4, height // 4, width - width // 4, height - height // 4
            image[y0:y1, x0:x1, i % 3] = 255
            boxes.append([x0, y0, x1, y1])
        offsets.append(len(boxes))
        Image.fromarray(image).save(folder / f"{i}.png")
    owners = [i for i in range(len(sizes)) if i % 4 != 3]
    return DetectionIndex(
        name="colours",
        class_names=("red", "green", "blue"),
        category_ids=(1, 2, 3),
        paths=tuple(str(folder / f"{i}.png") for i in range(len(sizes))),
        image_ids=np.arange(len(sizes)),
        sizes=np.array(sizes, np.int32),
        offsets=np.array(offsets),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array([i % 3 for i in owners], np.int64),
        areas=np.ones(len(boxes), np.float32),
        ignore=np.array([i % 5 == 4 for i in owners], bool),
    )


SIZES = [(60, 80), (80, 60), (1, 1), (50, 50), (90, 30), (1, 40), (64, 64), (33, 47), (200, 150), (40, 120)]


def make_dataset(
    folder: Path, *, image_size=(64, 64), resize="stretch", augmentation="topdown", mosaic=1.0, sizes=SIZES
) -> DetectionDataset:
    transform = DetectionTransform(image_size, resize, augmentation)
    return DetectionDataset(make_index(folder, sizes), transform, seed=7, mosaic=build_mosaic(transform, mosaic, 100))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("image_size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("augmentation", ["none", "lsj", "topdown"])
def test_boxes_are_valid_and_on_their_colors(tmp_path, image_size, resize, augmentation):
    dataset = make_dataset(tmp_path, image_size=image_size, resize=resize, augmentation=augmentation)
    height, width = image_size
    objects = 0
    for epoch in range(6):
        dataset.set_epoch(epoch)
        for position in range(len(dataset)):
            sample = dataset[position]
            assert sample.image.shape == (height, width, 3)
            assert sample.image.dtype == np.uint8
            assert sample.image.flags.c_contiguous
            assert sample.boxes.dtype == np.float32
            assert sample.labels.dtype == np.int64
            assert sample.ignore.dtype == np.bool_
            assert (sample.boxes >= 0).all()
            assert (sample.boxes <= [width, height, width, height]).all()
            assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
            assert sample.position == position
            for (x0, y0, x1, y1), label in zip(
                sample.boxes[~sample.ignore], sample.labels[~sample.ignore], strict=True
            ):
                assert int(sample.image[int((y0 + y1) / 2), int((x0 + x1) / 2)].argmax()) == label
                objects += 1
    assert objects > 40


def load_all(dataset: DetectionDataset, workers: int, order: list[int]) -> dict[int, Sample]:
    settings = {"multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(dataset, 3, sampler=order, num_workers=workers, collate_fn=list, **settings)
    return {sample.position: sample for batch in loader for sample in batch}


def test_the_same_mosaics_whatever_the_workers_and_the_order(tmp_path):
    dataset = make_dataset(tmp_path, mosaic=0.5)
    positions = list(range(len(dataset)))
    seen = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        first = load_all(dataset, 0, positions)
        for workers in (1, 2):
            again = load_all(make_epoch(tmp_path, epoch), workers, positions[::-1])
            for position in positions:
                assert np.array_equal(first[position].image, again[position].image)
                assert np.array_equal(first[position].boxes, again[position].boxes)
                assert np.array_equal(first[position].labels, again[position].labels)
                assert np.array_equal(first[position].ignore, again[position].ignore)
        seen.append(first)
    assert sum(not np.array_equal(seen[0][i].image, seen[1][i].image) for i in positions) >= 8


def make_epoch(folder: Path, epoch: int) -> DetectionDataset:
    dataset = make_dataset(folder, mosaic=0.5)
    dataset.set_epoch(epoch)
    return dataset


def test_the_last_epochs_show_one_picture_each(tmp_path):
    dataset = make_dataset(tmp_path, augmentation="none", sizes=[(64, 64)] * 4)
    dataset.set_epoch(85)  # of 100
    for position in range(4):
        assert np.array_equal(dataset[position].image, np.asarray(Image.open(tmp_path / f"{position}.png")))


def test_recipes_without_mosaics_draw_the_numbers_they_always_drew(tmp_path):
    index = make_index(tmp_path, SIZES)
    transform = DetectionTransform((64, 64), "stretch", "topdown")
    sample = DetectionDataset(index, transform, 7, mosaic=build_mosaic(transform, 0.0, 10))[0]
    expected = transform(DetectionDataset(index)[0], np.random.default_rng([7, 0, 0]))
    assert np.array_equal(sample.image, expected.image)


@pytest.mark.parametrize("size", [(60, 80), (1, 1)])
def test_a_data_set_of_one_picture(tmp_path, size):
    dataset = make_dataset(tmp_path, sizes=[size])
    for epoch in range(20):
        dataset.set_epoch(epoch)
        assert dataset[0].image.shape == (64, 64, 3)
        assert set(dataset[0].labels.tolist()) <= {0}


def test_pictures_without_objects(tmp_path):
    index = make_index(tmp_path, SIZES)
    empty = index.subset([3, 7])
    transform = DetectionTransform((64, 64), "stretch", "ssd")
    sample = DetectionDataset(empty, transform, mosaic=build_mosaic(transform, 1.0, 10))[1]
    assert (sample.boxes.shape, sample.labels.shape, sample.ignore.shape) == ((0, 4), (0,), (0,))
    assert collate([sample]).boxes.shape == (1, 0, 4)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no picture")])
def test_an_unreadable_picture_in_a_mosaic_is_reported_under_its_own_name(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    dataset = make_dataset(tmp_path, sizes=[(60, 80)] * 3)
    spoil(tmp_path / "2.png")
    samples = []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        samples.append(dataset[0])
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    assert 0 < len(bad) < 8
    for sample in bad:
        assert sample.position == 2
        assert str(tmp_path / "2.png") in sample.error
    batch = collate(samples)
    assert (len(batch), len(batch.windows), batch.bad) == (8 - len(bad), 8 - len(bad), tuple(bad))


@pytest.mark.usefixtures("without_pictures")
def test_a_training_has_mosaics_but_for_its_last_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    draw = Mosaic.draw_layout

    def note(mosaic: Mosaic, epoch: int, generator: np.random.Generator) -> MosaicLayout | None:
        layout = draw(mosaic, epoch, generator)
        if layout is not None:
            epochs.append(epoch)
        return layout

    monkeypatch.setattr(Mosaic, "draw_layout", note)
    generate_shapes(tmp_path / "shapes", train_images=16, val_images=2, seed=3)
    options = TrainOptions().override(
        data=str(tmp_path / "shapes"), output=str(tmp_path / "run"), preset="ssdlite192_mobilenet_v2_050",
        width_mult=0.25, image_size=64, batch_size=8, workers=0, epochs=4, eval_interval=4, mosaic=0.5,
    )  # fmt: skip
    train(options)
    assert set(epochs) == {0, 1, 2}  # the last 15 % of four epochs are one
    assert 12 <= len(epochs) <= 36  # half of 3 x 16
