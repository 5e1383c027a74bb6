"""Which arrays are taken for pictures."""

import numpy as np
import pytest

from ssdlite.images.prediction import to_array


@pytest.mark.parametrize("highest", [0.0, 1.0, 2.0, 255.0])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_whole_numbers_are_pixels_however_dark(kind: type, highest: float) -> None:
    picture = np.zeros((4, 5, 3), kind)
    picture[1, 2] = highest
    array = to_array(picture, 0)
    assert array.dtype == np.uint8
    assert (array[1, 2].tolist(), int(array.sum())) == ([highest] * 3, int(3 * highest))


@pytest.mark.parametrize("values", [(0.5, 0.0), (0.25, 1.0), (1e-3, 0.0)])
def test_fractions_up_to_one_are_refused(values: tuple[float, float]) -> None:
    picture = np.zeros((4, 5, 3), np.float32)
    picture[0, 0, :2] = values
    with pytest.raises(ValueError, match=r"image 7: expected values in 0\.\.255, these look like 0\.\.1; multiply by"):
        to_array(picture, 7)


def test_fractions_beyond_one_are_rounded() -> None:
    picture = np.full((1, 2, 3), 1.5, np.float32)
    picture[0, 1] = 200.4
    assert to_array(picture, 0)[0, :, 0].tolist() == [2, 200]


@pytest.mark.parametrize("value", [-1.0, 255.5, float("nan"), float("inf")])
def test_values_that_no_pixel_has_are_refused(value: float) -> None:
    picture = np.zeros((4, 5, 3), np.float32)
    picture[3, 3, 0] = value
    with pytest.raises(ValueError, match=r"image 0: expected values in 0\.\.255, got"):
        to_array(picture, 0)
