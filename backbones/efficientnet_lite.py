"""EfficientNet-Lite0: EfficientNet-B0 (arXiv 1905.11946, table 1) for phones and INT8.

TensorFlow's lite variant (tpu/models/official/efficientnet/lite) has ReLU6 in place of swish and no
squeeze-and-excitation. It is a row of inverted residuals, as MobileNetV2 is, with kernels of 3 and 5.
"""

from collections.abc import Mapping
from typing import ClassVar

from ssdlite.backbones.base import Stage
from ssdlite.backbones.mobilenet_v2 import MobileNetV2


class EfficientNetLite0(MobileNetV2):
    """Block k of the published code is ``features[k + 1]``."""

    block_stages = (
        Stage(expansion=1, channels=16, repeats=1, stride=1),
        Stage(expansion=6, channels=24, repeats=2, stride=2),
        Stage(expansion=6, channels=40, repeats=2, stride=2, kernel_size=5),
        Stage(expansion=6, channels=80, repeats=3, stride=2),
        Stage(expansion=6, channels=112, repeats=3, stride=1, kernel_size=5),
        Stage(expansion=6, channels=192, repeats=4, stride=2, kernel_size=5),
        Stage(expansion=6, channels=320, repeats=1, stride=1),
    )
    tapped_blocks: ClassVar[Mapping[int, int]] = {
        8: 6,
        16: 12,
    }  # stride -> the block that leaves it, tapped at its expansion
