"""Which arrays are taken for pictures."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssdlite.detections import Detections
from ssdlite.errors import DataError
from ssdlite.images.geometry import InputTransform
from ssdlite.images.prediction import predict_pictures, to_array


@pytest.mark.parametrize(
    "picture",
    [
        torch.nested.nested_tensor([torch.zeros(2, 2), torch.zeros(3, 3)]),
        torch.zeros(3, 4, 5, device="meta"),
        torch.zeros(3, 4, 5).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(3, 4, 5), 1.0, 0, torch.quint8),
    ],
)
def test_a_tensor_without_plain_numbers_is_refused_by_its_place(picture: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^image 5: expected a dense tensor \[3, H, W\] of numbers, not a sparse"):
        to_array(picture, 5)


def test_a_view_of_negated_numbers_is_a_picture() -> None:
    conjugate = torch.complex(torch.zeros(3, 1, 1), torch.full((3, 1, 1), -7.0)).conj()
    assert to_array(conjugate.imag, 0).tolist() == [[[7, 7, 7]]]


def test_a_truncated_or_closed_pil_image_is_named_by_its_place() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(file, "JPEG")
    truncated = Image.open(io.BytesIO(file.getvalue()[:2000]))
    closed = Image.open(file)
    closed.close()
    for picture in (truncated, closed):
        with pytest.raises(DataError, match=r"^image 2: this PIL image cannot be decoded"):
            to_array(picture, 2)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((4, 5), "np.stack([image] * 3, axis=-1)"),
        ((4, 5, 1), "np.repeat(image, 3, axis=2)"),
        ((4, 5, 4), "image[:, :, :3]"),
        ((3, 4, 5), "image.transpose(1, 2, 0)"),
        ((2, 4, 5, 3), "list(batch)"),
    ],
)
def test_another_form_of_array_is_told_how_it_becomes_rgb(shape: tuple[int, ...], remedy: str) -> None:
    with pytest.raises(ValueError, match=r"image 0: expected RGB \[H, W, 3\], got shape") as error:
        to_array(np.zeros(shape, np.uint8), 0)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (b"\xff\xd8", {}, "expected a picture or a sequence of pictures, got bytes; Image.open(io.BytesIO(data))"),
        (memoryview(np.zeros((4, 5, 3), np.uint8)), {}, "got memoryview; Image.open(io.BytesIO(data))"),
        ([b"\xff\xd8"], {}, "image 0: expected a path, PIL image, array [H, W, 3] or tensor [3, H, W], got bytes; Im"),
        ({"a.png": 1}, {}, "expected a picture or a sequence of pictures, got dict"),
        ([], {"score_threshold": 1.5}, "score_threshold: expected 0 to 1, got 1.5"),
        ([], {"batch_size": 2.5}, "batch_size: expected 1 or more, got 2.5"),
    ],
)
def test_what_is_no_picture_is_said(images: Any, options: dict[str, Any], message: str) -> None:
    model: Any = SimpleNamespace(input_transform=None)
    with pytest.raises((TypeError, ValueError)) as error:
        predict_pictures(model, images, **{"score_threshold": 0.3, "batch_size": 16, **options})
    assert message in str(error.value)


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


def test_the_score_threshold_comes_before_suppression_not_behind_it() -> None:
    """What post-processing costs is what it lets in."""
    asked = []

    def postprocess(outputs: int, score_threshold: float) -> list[Detections]:
        asked.append(score_threshold)
        return [Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())] * outputs

    model: Any = SimpleNamespace(
        input_transform=InputTransform((4, 4), "stretch"), infer_batch=len, postprocess=postprocess
    )
    predict_pictures(model, [np.zeros((5, 5, 3), np.uint8)] * 3, 0.625, 2)
    assert asked == [0.625, 0.625]
