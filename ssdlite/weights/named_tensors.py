"""Weights as a dict of named arrays, from files that nothing here reads, or made floats where they were quantised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig
from ssdlite.errors import CheckpointError, quote
from ssdlite.files import listing
from ssdlite.weights.api import as_options
from ssdlite.weights.paddle.picodet import is_picodet, read_picodet
from ssdlite.weights.pytorch.nanodet import is_nanodet_plus, read_nanodet_plus
from ssdlite.weights.pytorch.ssd import (
    is_pytorch_ssd,
    is_torchvision_ssd,
    read_pytorch_ssd,
    read_torchvision_ssd,
)
from ssdlite.weights.pytorch.yolox import is_yolox, read_yolox
from ssdlite.weights.raw_tensors import RawTensor
from ssdlite.weights.source import AnchorOrder
from ssdlite.weights.tensorflow.files import TensorFlowFile
from ssdlite.weights.tensorflow.ssd import read_tensorflow_ssd

if TYPE_CHECKING:
    from ssdlite.weights.mapping import Imported

NamedTensors = Mapping[str, Tensor | npt.NDArray[Any]]
STATE_DICTS: tuple[tuple[Callable[[Collection[str]], bool], Callable[..., Imported]], ...] = (
    (is_torchvision_ssd, read_torchvision_ssd),
    (is_pytorch_ssd, read_pytorch_ssd),
    (is_yolox, read_yolox),
    (is_nanodet_plus, read_nanodet_plus),
    (is_picodet, read_picodet),
)
TENSORFLOW_SCOPES = ("FeatureExtractor/", "BoxPredictor_")


def from_tensors(
    tensors: NamedTensors,
    *,
    name: str = "tensors",
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    pictures: str | Path | None = None,
    anchor_order: AnchorOrder | None = None,
    anchors: AnchorConfig | None = None,
) -> Imported:
    """Another project's detector from its arrays by name; ``.checkpoint`` of the result is ours.

    Names and axes are those of a file that ``import_weights`` reads: of torchvision's SSDLite, of pytorch-ssd, of
    YOLOX, of NanoDet-Plus, of PicoDet, or of the TensorFlow Object Detection API
    (``FeatureExtractor/MobilenetV1/Conv2d_0/weights``, HWIO), whose layers may have a ``convolution_bn_offset`` in
    place of a batch norm that was folded into their filters.

    Args:
        tensors: floats; what was quantised as ``scale * (values - zero_point)``. May be views of one another.
        name: what errors call them.
        class_names, image_size, pictures, anchor_order, anchors: see ``import_weights``.

    Raises:
        CheckpointError: of no known layout, or one that fits only in part; tensors are named.
        ConfigError: an option that there is no use for.
    """
    options = as_options(class_names, image_size, pictures, anchor_order, anchors)
    state = {key: _as_tensor(key, value, name) for key, value in dict(tensors).items()}
    for fits, read in STATE_DICTS:
        if fits(state):
            return read(state, name, options)
    if any(key.startswith(TENSORFLOW_SCOPES) for key in state):
        return read_tensorflow_ssd(_as_tensorflow(state, name), options)
    raise CheckpointError(
        f"{name}: expected tensors by the names of torchvision's SSDLite, of pytorch-ssd, of YOLOX, of NanoDet-Plus, "
        f"of PicoDet or of the TensorFlow Object Detection API, got {listing(map(str, state), 3) or 'none'}"
    )


def _as_tensor(key: object, value: object, name: str) -> Tensor:
    """A dense one with memory of its own.

    Raises:
        CheckpointError: it is no tensor or array, or of whole numbers where weights are floats.
    """
    if not isinstance(key, str):
        raise CheckpointError(f"{name}: expected names of tensors, got {quote(key)}")
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise CheckpointError(f"{name}: {key}: expected an array or a dense tensor of floats, got a {kind}")
    if value.dim() and not value.is_floating_point():
        raise CheckpointError(
            f"{name}: {key}: expected floats, got {str(value.dtype).removeprefix('torch.')}; give what was quantised "
            "as scale * (values - zero_point)"
        )
    return value.detach().cpu().float().contiguous() if value.is_floating_point() else value.cpu()


def _as_tensorflow(state: Mapping[str, Tensor], name: str) -> TensorFlowFile:
    arrays = {key: tensor.numpy() for key, tensor in state.items() if tensor.is_floating_point()}
    variables = {
        key: RawTensor(key, array.shape, np.dtype("<f4"), memoryview(array.astype("<f4").tobytes()), key)
        for key, array in arrays.items()
    }
    return TensorFlowFile(name, sum(array.nbytes for array in arrays.values()), variables)
