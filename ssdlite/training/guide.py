"""A heavier head that exists in training alone and chooses which anchors answer for which objects.

The assignment guidance module of NanoDet-Plus (github.com/RangiLyu/nanodet, nanodet/model/arch/nanodet_plus.py and
head/simple_conv_head.py; configs/nanodet-plus-m_320.yml). A small network's own predictions are a poor guide while it
learns; these come from the same maps, through plain convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from ssdlite.backbones.base import initialize_classifier
from ssdlite.backbones.layers import ACTIVATIONS
from ssdlite.config import LayerConfig
from ssdlite.detector import Detector
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Outputs
from ssdlite.heads.registry import HEADS

GUIDE_DEPTH = 4  # 3x3 convolutions before the predictors; stacked_convs of simple_conv_head.py
GUIDE_WIDTH = 2  # times the channels of the neck: 192 of nanodet-plus-m with 96
MOST_GUIDE_WIDTH = 256  # SSD's maps have up to 1280 channels
GROUP_WIDTH = 8  # least channels that a norm is of; 32 groups at most, as there
ATTACHED_SHARE = 1 / 30  # of training, in which the neck learns from the guide: detach_epoch 10 of 300
GUIDED_ASSIGNERS = ("simota", "tal")  # which look at predictions


def require_guided_assigner(matcher: str) -> None:
    """Raises ConfigError for an assigner that does not look at predictions, so that a guide would change nothing."""
    if matcher not in GUIDED_ASSIGNERS:
        raise ConfigError(
            f"--assignment-guide: expected an assigner that looks at predictions, {' or '.join(GUIDED_ASSIGNERS)}, got "
            f"{matcher}; ask for one with --matcher"
        )


class AssignmentGuide(nn.Module):
    """The maps of the neck, brought to one width, through convolutions that all maps share, to a head of the detector's
    kind: the same anchors, box code and scores. Unlike in NanoDet-Plus it has no neck of its own, and classes and boxes
    share their convolutions.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        maps, layers = detector.neck.feature_maps, detector.config.layers
        width = min(GUIDE_WIDTH * max(one.channels for one in maps), MOST_GUIDE_WIDTH)
        self.enter = nn.ModuleList(nn.Conv2d(one.channels, width, 1) for one in maps)
        self.tower = nn.Sequential(*(_normalised_conv(width, layers) for _ in range(GUIDE_DEPTH)))
        for part in (self.enter, self.tower):
            initialize_classifier(part)
        wide = [one._replace(channels=width, activated=True) for one in maps]
        self.head = HEADS[detector.config.head.name](wide, detector.config)
        self.head.initialize_weights()

    def forward(self, maps: list[Tensor]) -> Outputs:
        """The neck's maps [B, C_i, H_i, W_i] -> outputs as of the detector's head."""
        outputs: Outputs = self.head([self.tower(enter(one)) for enter, one in zip(self.enter, maps, strict=True)])
        return outputs


def _normalised_conv(width: int, layers: LayerConfig) -> nn.Sequential:
    """Group norm, since statistics of a batch would differ between the maps that share it."""
    groups = next(number for number in range(max(1, min(32, width // GROUP_WIDTH)), 0, -1) if width % number == 0)
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(groups, width),
        ACTIVATIONS[layers.activation](inplace=True),
    )


class GuidedDetector(nn.Module):
    """A detector and its guide as one module, which is what processes share the gradients of."""

    def __init__(self, detector: Detector, guide: AssignmentGuide) -> None:
        super().__init__()
        self.detector = detector
        self.guide = guide

    def forward(self, images: Tensor, attached: bool) -> tuple[Outputs, Outputs]:
        """images as ``Detector.forward`` takes them -> its outputs and the guide's, from which the neck learns while it
        is ``attached``."""
        maps = self.detector.forward_maps(images)
        outputs: Outputs = self.detector.head(maps)
        guided: Outputs = self.guide(maps if attached else [one.detach() for one in maps])
        return outputs, guided
