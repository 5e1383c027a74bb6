"""Pictures in, detections out: what a checkpoint's detector and an exported model have in common. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from ssdlite.errors import DataError, quote
from ssdlite.images.geometry import CropWindow, ImageArray, InputTransform, Size
from ssdlite.images.reading import MAX_PIXELS, read_image, to_rgb

if TYPE_CHECKING:
    import PIL.Image
    import torch

    from ssdlite.detections import Detections


Picture: TypeAlias = "str | Path | PIL.Image.Image | npt.NDArray[np.uint8] | torch.Tensor"
DEFAULT_SCORE_THRESHOLD = 0.3  # of a model whose operating points were never measured
ENCODED = (bytes, bytearray, memoryview)
_ENCODED = "; Image.open(io.BytesIO(data)) of Pillow makes a picture of an encoded file"


class DetectionModel(Protocol):
    """A detector that can be asked, whatever runs it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""

    @property
    def input_transform(self) -> InputTransform:
        """How a picture becomes the input."""

    @property
    def operating_threshold(self) -> float:
        """The score from which on ``predict`` gives detections; see ``ssdlite.runtime.operating_points``."""

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[Detections]:
        """Detect in pictures of any size; see ``Detector.predict``."""

    def infer_batch(self, images: npt.NDArray[np.uint8]) -> Any:
        """images [B, 3, H, W] RGB of the input's size -> the network's outputs, whatever they are."""

    def postprocess(self, outputs: Any, score_threshold: float = 0.0) -> list[Detections]:
        """Outputs of ``infer_batch`` -> what was found in each image, in input pixels, from ``score_threshold`` on."""


def predict_pictures(
    model: DetectionModel, images: Picture | Iterable[Picture], score_threshold: float | None, batch_size: int
) -> list[Detections]:
    """The work of every ``predict``: read, resize, detect in batches, and give what reaches ``score_threshold``, by
    default the model's operating threshold.

    Raises:
        DataError: a file is missing or not a picture, or a PIL image cannot be decoded.
        TypeError, ValueError: something else than a picture, or an array of another shape or type.
    """
    if score_threshold is None:
        score_threshold = model.operating_threshold
    if not isinstance(score_threshold, Real) or not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold: expected 0 to 1, got {quote(score_threshold)}")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {quote(batch_size)}")
    pictures = _as_list(images)
    input_transform = model.input_transform
    results: list[Detections] = []
    for start in range(0, len(pictures), batch_size):
        arrays = (to_array(picture, start + i) for i, picture in enumerate(pictures[start : start + batch_size]))
        found = detect_batch(model, build_input_batch(arrays, input_transform), float(score_threshold))
        for one, picture in zip(found, pictures[start : start + batch_size], strict=True):
            path = str(picture) if isinstance(picture, (str, Path)) else None
            results.append(replace(one, path=path))
    return results


class InputBatch(NamedTuple):
    """Pictures as the network takes them, and the way back."""

    images: npt.NDArray[np.uint8]  # [B, 3, H, W] RGB, of the input's size
    windows: Sequence[CropWindow]  # what of each picture the input shows
    sizes: Sequence[Size]  # of the pictures

    def to_pictures(self, found: Iterable[Detections]) -> list[Detections]:
        """From input pixels to those of each picture."""
        return [own.to_picture(window, size) for own, window, size in zip(found, self.windows, self.sizes, strict=True)]


def build_input_batch(pictures: Iterable[ImageArray], input_transform: InputTransform) -> InputBatch:
    """RGB pictures [H, W, 3] of any sizes, at least one -> one batch. Of a generator's, one is in memory at a time."""
    sizes, windows, rendered = [], [], []
    for picture in pictures:
        sizes.append((picture.shape[0], picture.shape[1]))
        windows.append(input_transform.window(sizes[-1]))
        rendered.append(windows[-1].render(picture, input_transform.fill))
        del picture  # before the next one is decoded
    return InputBatch(np.stack(rendered).transpose(0, 3, 1, 2), windows, sizes)


def detect_batch(model: DetectionModel, batch: InputBatch, score_threshold: float = 0.0) -> list[Detections]:
    """One result for each picture, in its own pixels, from ``score_threshold`` on."""
    return batch.to_pictures(model.postprocess(model.infer_batch(batch.images), score_threshold))


def to_array(picture: Picture, position: int) -> ImageArray:
    """Any picture as uint8 RGB [H, W, 3]; ``position`` is its place in what was given, for messages."""
    if isinstance(picture, (str, Path)):
        return read_image(picture, max_pixels=MAX_PIXELS)
    if isinstance(picture, np.ndarray):
        return _check_array(picture, position, channels_axis=2)
    if _is_pillow(picture):
        return _check_array(_pillow_pixels(picture, position), position, channels_axis=2)
    if _is_tensor(picture):
        planes = _check_array(_tensor_values(picture, position), position, channels_axis=0)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    raise TypeError(
        f"image {position}: expected a path, PIL image, array [H, W, 3] or tensor [3, H, W], "
        f"got {type(picture).__name__}{_ENCODED if isinstance(picture, ENCODED) else ''}"
    )


def _pillow_pixels(picture: PIL.Image.Image, position: int) -> ImageArray:
    """A picture that was opened is decoded only here, and its file may be truncated, or closed by now."""
    try:
        return to_rgb(picture)
    except Exception as error:  # a decoder raises whatever its format led it to
        raise DataError(f"image {position}: this PIL image cannot be decoded ({error})") from error


def _tensor_values(picture: torch.Tensor, position: int) -> npt.NDArray[Any]:
    try:
        values = picture.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy(force=True)  # numpy knows no bfloat16
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"image {position}: expected a dense tensor [3, H, W] of numbers, not a sparse, nested, quantized or meta "
            f"one ({str(error).partition('. ')[0]})"
        ) from None


def _as_list(images: Picture | Iterable[Picture]) -> list[Picture]:
    if isinstance(images, (str, Path, np.ndarray)) or _is_pillow(images) or _is_tensor(images):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, (*ENCODED, Mapping)):
        hint = _ENCODED if isinstance(images, ENCODED) else ""
        raise TypeError(f"expected a picture or a sequence of pictures, got {type(images).__name__}{hint}")
    return list(images)


def _is_pillow(value: object) -> TypeGuard[PIL.Image.Image]:
    return _is_a(value, "PIL.Image", "Image")


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    return _is_a(value, "torch", "Tensor")


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of a class whose module may not be there, or need not be loaded for it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _remedy(shape: tuple[int, ...]) -> str:
    """What makes an array of a usual other form RGB."""
    if 0 in shape:
        return ""
    if len(shape) == 2:
        return "; of a grey one, np.stack([image] * 3, axis=-1) makes RGB"
    if len(shape) == 3 and shape[2] == 1:
        return "; of a grey one, np.repeat(image, 3, axis=2) makes RGB"
    if len(shape) == 3 and shape[2] == 4:
        return "; image[:, :, :3] leaves out alpha"
    if len(shape) == 4:
        return "; list(batch) makes single pictures of a batch"
    return "; image.transpose(1, 2, 0) puts the channels last" if len(shape) == 3 and shape[0] == 3 else ""


def _check_array(array: npt.NDArray[Any], position: int, channels_axis: int) -> ImageArray:
    form = "[3, H, W]" if channels_axis == 0 else "[H, W, 3]"
    if array.ndim != 3 or array.shape[channels_axis] != 3 or 0 in array.shape:
        raise ValueError(f"image {position}: expected RGB {form}, got shape {array.shape}{_remedy(array.shape)}")
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"image {position}: expected uint8 or floats in 0..255, got {array.dtype}")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
        raise ValueError(f"image {position}: expected values in 0..255, got {array.min()} to {array.max()}")
    rounded = np.rint(array)
    if array.max() <= 1 and (array != rounded).any():  # whole numbers alone may well be a very dark picture
        raise ValueError(f"image {position}: expected values in 0..255, these look like 0..1; multiply by 255")
    return np.asarray(rounded, np.uint8)
