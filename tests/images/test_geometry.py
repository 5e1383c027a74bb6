"""From source pixels to input pixels and back, and resizing without OpenCV to OpenCV's bits."""

import cv2
import numpy as np
import pytest

from ssdlite.images.geometry import CropWindow, _import, fit_window, resize_bilinear, resize_with_numpy


def test_stretching_maps_the_whole_image() -> None:
    window = fit_window((100, 200), (320, 320), "stretch")
    assert window == CropWindow(0, 0, 200, 100, (320, 320))
    boxes = np.array([[0, 0, 200, 100], [50, 25, 100, 50]], np.float32)
    assert window.boxes_to_input(boxes).tolist() == [[0, 0, 320, 320], [80, 80, 160, 160]]


def test_letterboxing_keeps_the_aspect_ratio() -> None:
    window = fit_window((100, 200), (320, 320), "letterbox")
    assert window == CropWindow(0, -50, 200, 150, (320, 320))
    boxes = np.array([[0, 0, 200, 100]], np.float32)
    np.testing.assert_allclose(window.boxes_to_input(boxes), [[0, 80, 320, 240]], atol=1e-4)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("image_size", [(1, 1), (3, 500), (500, 3), (481, 639), (320, 320)])
def test_boxes_come_back(resize: str, image_size: tuple[int, int]) -> None:
    window = fit_window(image_size, (320, 256), resize)
    boxes = np.array([[0, 0, image_size[1], image_size[0]], [0.25, 0.5, 0.75, 1]], np.float32)
    np.testing.assert_allclose(window.boxes_to_source(window.boxes_to_input(boxes)), boxes, atol=1e-3)


def test_rendering_fills_what_is_outside_the_image() -> None:
    image = np.full((10, 20, 3), 200, np.uint8)
    rendered = fit_window((10, 20), (40, 40), "letterbox").render(image)
    assert rendered.shape == (40, 40, 3)
    assert (rendered[:10] == 114).all()
    assert (rendered[10:30] == 200).all()
    assert (rendered[30:] == 114).all()


def test_rendering_a_view_beside_the_image_is_all_fill() -> None:
    rendered = CropWindow(100, 100, 120, 120, (8, 8)).render(np.zeros((10, 20, 3), np.uint8))
    assert (rendered == 114).all()


def test_rendering_a_crop_at_its_own_size_copies_its_pixels() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(CropWindow(1, 2, 5, 4, (2, 4)).render(image), image[2:4, 1:5])


# -- resizing


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def test_numpy_resizes_to_the_same_bits_as_opencv():
    random = np.random.default_rng(0)
    for number, sizes in enumerate(random.integers(1, 160, (250, 4)).tolist()):
        image = noise(sizes[0], sizes[1], number)
        assert np.array_equal(resize_with_numpy(image, *sizes[2:]), with_opencv(image, *sizes[2:])), sizes


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((64, 96), (32, 48)),  # OpenCV goes other ways for a half, a quarter and whole factors
        ((128, 96), (32, 24)),
        ((64, 96), (32, 96)),
        ((64, 96), (64, 48)),
        ((63, 99), (21, 33)),
        ((63, 99), (126, 198)),
        ((1, 1), (7, 9)),
        ((1, 50), (20, 20)),
        ((50, 1), (20, 20)),
        ((2, 2), (1, 1)),
        ((480, 640), (320, 320)),
        ((3000, 17), (320, 320)),
        ((17, 3000), (300, 301)),
        ((720, 1280), (180, 320)),
    ],
)
def test_numpy_resizes_to_the_same_bits_where_opencv_is_special(source: tuple[int, int], target: tuple[int, int]):
    for image in (noise(*source), np.full((*source, 3), 255, np.uint8), (noise(*source) > 127).astype(np.uint8) * 255):
        assert np.array_equal(resize_with_numpy(image, *target), with_opencv(image, *target))


def test_resizing_takes_the_way_that_is_there(monkeypatch: pytest.MonkeyPatch):
    image = noise(50, 70)
    expected = with_opencv(image, 32, 32)
    assert np.array_equal(resize_bilinear(image, 32, 32), expected)
    monkeypatch.setattr("ssdlite.images.geometry.find_opencv", lambda: None)
    assert np.array_equal(resize_bilinear(image, 32, 32), expected)
    assert np.array_equal(resize_bilinear(image[:, ::-1], 50, 70), image[:, ::-1])
    assert np.array_equal(resize_bilinear(image[::2, ::-1], 31, 29), with_opencv(image[::2, ::-1].copy(), 31, 29))


def test_a_ramp_is_resized_to_what_one_calculates():
    """Four pixels to eight: centres at -0.25, 0.25, 0.75 ... of the source, the outermost repeat the edge."""
    image = np.repeat(np.array([[0, 40, 80, 120]], np.uint8)[:, :, None], 3, axis=2)
    assert resize_with_numpy(image, 1, 8)[0, :, 0].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]
    assert resize_with_numpy(image, 1, 2)[0, :, 0].tolist() == [20, 100]


def test_a_module_that_is_not_there_is_none():
    assert _import("no_such_module_anywhere") is None
