"""Transforms: boxes stay valid whatever comes, and stay on the pixels that they were drawn around."""

import copy

import numpy as np
import pytest
import torch
import torchvision

from ssdlite.datasets import transforms
from ssdlite.datasets.samples import Sample
from ssdlite.datasets.transforms import AUGMENTATIONS, DetectionTransform
from ssdlite.errors import ConfigError

SIZES = [(96, 96), (64, 128)]  # of the input, (height, width)
NAMES = list(AUGMENTATIONS)
ALL = pytest.mark.parametrize("augmentation", NAMES)
RESIZES = pytest.mark.parametrize("resize", ["stretch", "letterbox"])


def make_sample(image: np.ndarray, boxes, labels=None, ignore=None) -> Sample:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes)) if labels is None else np.array(labels)
    ignore = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore, bool)
    return Sample(image, boxes, labels.astype(np.int64), ignore, image_id=17, position=3)


def random_sample(random: np.random.Generator) -> Sample:
    """Images of 1 to 600 pixels a side with up to 6 boxes; some of one pixel, some of the whole image, some ignored."""
    height, width = (int(np.exp(random.uniform(0, np.log(600)))) for _ in range(2))
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    count = int(random.integers(0, 7))
    low = np.stack([random.integers(0, width, count), random.integers(0, height, count)], axis=1)
    sides = np.stack([random.integers(1, width + 1, count), random.integers(1, height + 1, count)], axis=1)
    sides[random.random(count) < 0.3] = 1
    high = np.minimum(low + sides, [width, height])
    return make_sample(image, np.concatenate([low, high], axis=1), ignore=random.random(count) < 0.2)


def assert_valid(sample: Sample, image_size: tuple[int, int]) -> None:
    height, width = image_size
    assert sample.image.shape == (height, width, 3)
    assert sample.image.dtype == np.uint8
    assert sample.image.flags.c_contiguous
    count = len(sample.labels)
    assert sample.boxes.shape == (count, 4)
    assert sample.boxes.dtype == np.float32
    assert sample.labels.shape == sample.ignore.shape == (count,)
    assert sample.labels.dtype == np.int64
    assert sample.ignore.dtype == np.bool_
    assert np.isfinite(sample.boxes).all()
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= [width, height, width, height]).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.image_id, sample.position) == (17, 3)
    assert sample.window is not None
    assert sample.window.size == image_size


@ALL
@RESIZES
@pytest.mark.parametrize("image_size", SIZES)
def test_boxes_stay_valid_and_keep_their_labels(augmentation, resize, image_size):
    transform = DetectionTransform(image_size, resize, augmentation)
    random = np.random.default_rng(0)
    for number in range(24):
        sample = random_sample(random)
        result = transform(sample, np.random.default_rng(number))
        assert_valid(result, image_size)
        assert len(set(result.labels.tolist())) == len(result.labels)  # each label is its box's number
        was_ignored = sample.ignore[result.labels]
        assert result.ignore[was_ignored].all()
        if transform.augmentation.cut_off != "ignore":
            assert np.array_equal(result.ignore, was_ignored)
        if augmentation == "none":
            assert result.labels.tolist() == sample.labels.tolist()


@ALL
@RESIZES
def test_an_image_without_objects(augmentation, resize):
    transform = DetectionTransform((96, 64), resize, augmentation)
    for number in range(10):
        sample = make_sample(np.full((50, 70, 3), 200, np.uint8), [])
        result = transform(sample, np.random.default_rng(number))
        assert_valid(result, (96, 64))
        assert len(result.boxes) == 0


@ALL
def test_an_image_of_nothing_but_ignored_regions(augmentation):
    transform = DetectionTransform((96, 96), "stretch", augmentation)
    sample = make_sample(np.zeros((50, 70, 3), np.uint8), [[0, 0, 70, 50], [5, 5, 20, 20]], ignore=[True, True])
    for number in range(20):
        result = transform(sample, np.random.default_rng(number))
        assert_valid(result, (96, 96))
        assert result.ignore.all()
        assert 0 in result.labels  # the region of the whole image is in every part of it


@ALL
@RESIZES
def test_the_same_generator_gives_the_same_sample(augmentation, resize):
    transform, other = (DetectionTransform((96, 96), resize, augmentation) for _ in range(2))
    samples = [random_sample(np.random.default_rng(number)) for number in range(12)]
    first = [transform(sample, np.random.default_rng(number)) for number, sample in enumerate(samples)]
    np.random.seed(1)  # noqa: NPY002  the global generator must play no part
    again = [other(sample, np.random.default_rng(number)) for number, sample in reversed(list(enumerate(samples)))]
    for a, b in zip(first, reversed(again), strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.boxes, b.boxes)
        assert np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize("augmentation", [name for name in NAMES if name not in ("none", "flip")])
def test_another_generator_gives_another_sample(augmentation):
    transform = DetectionTransform((96, 96), "stretch", augmentation)
    random = np.random.default_rng(0)
    sample = make_sample(random.integers(0, 256, (80, 90, 3), dtype=np.uint8), [[10, 10, 60, 60]])
    seen = {transform(sample, np.random.default_rng(number)).image.tobytes() for number in range(30)}
    assert len(seen) > 15


@ALL
def test_the_sample_itself_is_left_alone(augmentation):
    transform = DetectionTransform((80, 90), "stretch", augmentation)  # of the picture's own size: nothing to resize
    sample = make_sample(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8), [[10, 10, 60, 60]])
    before = copy.deepcopy(sample)
    for number in range(10):
        transform(sample, np.random.default_rng(number))
    assert np.array_equal(sample.image, before.image)
    assert np.array_equal(sample.boxes, before.boxes)


# -- geometry --------------------------------------------------------------------------------------------------------


def find_bright(image: np.ndarray) -> np.ndarray | None:
    """xyxy around the white pixels; colour changes keep them the brightest, well above the grey of the padding."""
    gray = image.mean(axis=2)
    rows, columns = np.nonzero(gray > 0.75 * gray.max())
    if gray.max() < 100 or not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@ALL
@RESIZES
@pytest.mark.parametrize("image_size", SIZES)
def test_boxes_stay_on_their_pixels(augmentation, resize, image_size):
    transform = DetectionTransform(image_size, resize, augmentation)
    random = np.random.default_rng(1)
    compared = 0
    for number in range(60):
        height, width = random.integers(60, 200, 2)
        x0, y0 = int(random.integers(0, width - 30)), int(random.integers(0, height - 30))
        x1, y1 = int(random.integers(x0 + 25, width + 1)), int(random.integers(y0 + 25, height + 1))
        image = np.zeros((height, width, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        result = transform(make_sample(image, [[x0, y0, x1, y1]]), np.random.default_rng(number))
        found = find_bright(result.image)
        if len(result.boxes) and found is not None:
            enlarged = max(result.window.scale)  # a pixel's blur is as wide as the pixel has become
            np.testing.assert_allclose(found, result.boxes[0], atol=1.5 + enlarged / 2)
            compared += 1
    assert compared >= 50


@ALL
@RESIZES
def test_labels_stay_on_their_colors(augmentation, resize):
    """A red, a green and a blue square, labelled 0, 1 and 2: the middle of each box shows its label's channel."""
    transform = DetectionTransform((96, 96), resize, augmentation)
    image = np.zeros((100, 140, 3), np.uint8)
    boxes = [[10, 10, 50, 50], [80, 5, 130, 45], [40, 55, 80, 95]]
    for channel, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1, channel] = 255
    seen = 0
    for number in range(40):
        result = transform(make_sample(image, boxes), np.random.default_rng(number))
        for (x0, y0, x1, y1), label in zip(result.boxes, result.labels, strict=True):
            pixel = result.image[int((y0 + y1) / 2), int((x0 + x1) / 2)]
            assert int(pixel.argmax()) == label
            seen += 1
    assert seen >= 60


def test_no_augmentation_is_the_way_back_of_prediction():
    """What training sees of a picture, evaluation undoes: the window takes the boxes back to where they were."""
    boxes = np.array([[3, 4, 50, 60], [10, 0, 199, 99]], np.float32)
    for resize in ("stretch", "letterbox"):
        sample = make_sample(np.zeros((100, 200, 3), np.uint8), boxes)
        result = DetectionTransform((320, 320), resize)(sample, np.random.default_rng(0))
        np.testing.assert_allclose(result.window.boxes_to_source(result.boxes), boxes, atol=1e-3)


def test_stretching_by_hand():
    sample = make_sample(np.zeros((50, 200, 3), np.uint8), [[20, 10, 100, 50]])
    result = DetectionTransform((100, 100), "stretch")(sample, np.random.default_rng(0))
    assert result.boxes.tolist() == [[10, 20, 50, 100]]


def test_letterboxing_by_hand():
    sample = make_sample(np.full((50, 200, 3), 255, np.uint8), [[20, 10, 100, 50]])
    result = DetectionTransform((100, 100), "letterbox")(sample, np.random.default_rng(0))
    assert result.boxes.tolist() == [[10, 42.5, 50, 62.5]]  # half as large, 37.5 further down
    assert (result.image[:37] == 114).all()
    assert (result.image[63:] == 114).all()


def test_flips_mirror_half_of_the_pictures():
    transform = DetectionTransform((100, 100), "stretch", "ssdlite")
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = 255  # the left half, so that crops show their side too
    mirrored = 0
    for number in range(60):
        result = transform(make_sample(image, []), np.random.default_rng(number))  # no objects: no crop
        left, right = result.image[:, :50].mean(), result.image[:, 50:].mean()
        assert {left, right} == {0, 255}
        mirrored += right > left
    assert 18 <= mirrored <= 42


@pytest.mark.parametrize(("image_size", "symmetries"), [((64, 64), 8), ((64, 96), 4)])
def test_pictures_from_above_come_in_every_symmetry_of_the_input(image_size, symmetries):
    transform = DetectionTransform(image_size, "stretch", "topdown")
    height, width = image_size
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 4, : width // 2] = 255  # a bar lying in a corner: no symmetry of its own
    seen = set()
    for number in range(150):
        generator = np.random.default_rng(number)
        # as an ignored region: there is no object to crop around
        result = transform(make_sample(image, [[0, 0, width // 2, height // 4]], ignore=[True]), generator)
        if (result.window.x0, result.window.y0, result.window.x1, result.window.y1) == (0, 0, width, height):
            seen.add(tuple(np.round(result.boxes[0]).astype(int).tolist()))
    assert len(seen) == symmetries


def test_flips_and_colors_are_drawn_independently():
    """albumentations gives all transforms of a pipeline the same numbers where it is seeded; that must not happen."""
    transform = DetectionTransform((64, 64), "stretch", "ssd")
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = (180, 100, 60)
    outcomes = {(mirrored, colored): 0 for mirrored in (False, True) for colored in (False, True)}
    for number in range(120):
        result = transform(make_sample(image, []), np.random.default_rng(number))
        if result.window.x1 - result.window.x0 > 64:
            continue  # zoomed out
        mirrored = bool(result.image[:, 32:].mean() > result.image[:, :32].mean())
        pixel = result.image[32, 48 if mirrored else 16]
        outcomes[mirrored, pixel.tolist() != [180, 100, 60]] += 1
    assert min(outcomes.values()) >= 5


def test_zooming_out_leaves_room_around_the_picture():
    transform = DetectionTransform((96, 96), "stretch", "ssd")
    image = np.full((96, 96, 3), 255, np.uint8)
    sample = make_sample(image, [])  # no objects: no crop either
    sides = []
    for number in range(60):
        window = transform(sample, np.random.default_rng(number)).window
        assert window.x0 <= 0
        assert window.y0 <= 0
        assert window.x1 >= 96
        assert window.y1 >= 96
        sides.append(window.x1 - window.x0)
    assert max(sides) > 3 * 96
    assert max(sides) <= 4 * 96 + 1
    assert 15 <= sides.count(96) <= 45  # half of them stay as they are


@pytest.mark.parametrize(("factor", "places", "expected"), [
    (2.0, (10, 5), (10, 5, 50, 35)),  # a part of half the sides
    (0.5, (-80, 0), (-80, 0, 80, 120)),  # room for twice the sides, the picture at the right and at the top
    (1.0, (0, 0), (0, 0, 80, 60)),
])  # fmt: skip
def test_windows_of_scaled_pictures_by_hand(factor, places, expected):
    numbers = iter(places)

    class Script:
        def uniform(self, low, high):
            number = next(numbers)
            assert low <= number <= high
            return number

    assert transforms.scaled_region((60, 80), (60, 80), factor, Script()) == expected


@pytest.mark.parametrize(("resize", "span"), [("stretch", (50, 200)), ("letterbox", (200, 200))])
def test_scale_jitter_shows_half_to_twice_the_picture(resize, span):
    """In an input of 100 x 100 a picture of 50 x 200 is stretched, or has 75 rows of padding above and below."""
    transform = DetectionTransform((100, 100), resize, "lsj")
    sample = make_sample(np.zeros((50, 200, 3), np.uint8), [])
    factors, lefts = [], []
    for number in range(200):
        window = transform(sample, np.random.default_rng(number)).window
        for start, end, side, whole in ((window.y0, window.y1, 50, span[0]), (window.x0, window.x1, 200, span[1])):
            assert (start >= 0 and end <= side) or (start <= 0 and end >= side)
            factors.append(whole / (end - start))
        lefts.append(window.x0)
    assert 0.49 < min(factors) < 0.6
    assert 1.8 < max(factors) < 2.1  # windows are whole source pixels
    assert -200 <= min(lefts) < -100  # at half the size the picture is anywhere in a window of 400
    assert 60 < max(lefts) <= 101  # at twice the size a window of 100 is anywhere in it


def test_scale_jitter_ignores_objects_whose_center_it_leaves_out():
    transform = DetectionTransform((96, 96), "stretch", "lsj")
    sample = make_sample(np.zeros((200, 200, 3), np.uint8), [[20, 20, 80, 80], [120, 130, 180, 190]])
    outcomes = set()
    for number in range(80):
        result = transform(sample, np.random.default_rng(number))
        window = result.window
        for label, (x, y, half) in enumerate([(50, 50, 30), (150, 160, 30)]):
            seen = max(abs(x - (window.x0 + window.x1) / 2) - (window.x1 - window.x0) / 2,
                       abs(y - (window.y0 + window.y1) / 2) - (window.y1 - window.y0) / 2)  # fmt: skip
            expected = "object" if seen <= 0 else "ignored" if seen < half else "gone"
            found = result.ignore[result.labels == label].tolist()
            assert found == {"object": [False], "ignored": [True], "gone": []}[expected]
            outcomes.add(expected)
    assert outcomes == {"object", "ignored", "gone"}


def test_crops_keep_an_object_and_drop_those_whose_center_is_outside():
    transform = DetectionTransform((96, 96), "stretch", "ssdlite")
    sample = make_sample(np.zeros((200, 200, 3), np.uint8), [[20, 20, 80, 80], [120, 130, 180, 190]])
    counts = []
    for number in range(80):
        result = transform(sample, np.random.default_rng(number))
        window = result.window
        centers = {0: (50, 50), 1: (150, 160)}
        inside = [
            label for label, (x, y) in centers.items() if window.x0 <= x <= window.x1 and window.y0 <= y <= window.y1
        ]
        assert result.labels.tolist() == inside
        counts.append(len(inside))
    assert set(counts) == {1, 2}


@pytest.mark.parametrize("least", [0.3, 0.5, 0.7])
def test_crops_overlap_an_object_as_much_as_was_drawn(monkeypatch, least):
    monkeypatch.setattr(transforms, "CROP_OVERLAPS", (least,))
    transform = DetectionTransform((96, 96), "stretch", "ssdlite")
    boxes = np.array([[40, 40, 160, 160], [170, 170, 180, 180]], np.float32)
    sample = make_sample(np.zeros((200, 200, 3), np.uint8), boxes)
    overlaps = []
    for number in range(25):
        window = transform(sample, np.random.default_rng(number)).window
        region = torch.tensor([[window.x0, window.y0, window.x1, window.y1]], dtype=torch.float32)
        overlaps.append(torchvision.ops.box_iou(region, torch.from_numpy(boxes)).max().item())
    assert least - 0.02 <= min(overlaps) < least + 0.2  # the window is rounded to whole pixels


def test_crops_keep_what_is_left_of_ignored_regions():
    """A crowd's region cut by a crop must still keep its anchors out of the negatives, wherever its centre is."""
    transform = DetectionTransform((96, 96), "stretch", "ssdlite")
    sample = make_sample(
        np.zeros((200, 200, 3), np.uint8), [[20, 20, 80, 80], [100, 0, 200, 200]], ignore=[False, True]
    )
    for number in range(40):
        result = transform(sample, np.random.default_rng(number))
        assert (1 in result.labels) == (result.window.x1 > 100) or result.window.x1 == 100


def test_a_misspelt_augmentation_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'ssdlite'\?.*topdown"):
        DetectionTransform((96, 96), "stretch", "ssdlight")
