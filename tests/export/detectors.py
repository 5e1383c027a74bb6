"""Random detectors whose answers are worth comparing, and every network as one, in ONNX."""

from __future__ import annotations

from functools import cached_property

import onnx
import torch
from torch import nn

from ssdlite.anchors import square_anchors
from ssdlite.backbones.base import initialize_classifier
from ssdlite.config import PRESETS, DetectorConfig, HeadConfig, NeckConfig, override
from ssdlite.detector import Detector, detector_from_config
from ssdlite.export.options import GraphOptions
from ssdlite.heads import DistanceHead
from tests.cells import CELLS
from tests.made_once import Trace

PRESET_SIZE = (100, 128)  # height and width; the steps of the anchors do not divide the height
NAMES = ("class_0", "class_1", "class_2", "class_3")
NETWORKS: dict[str, DetectorConfig] = PRESETS | {
    "distances": override(CELLS, width_mult=0.25),
    # of half the width of YOLOX-Nano
    "yolox": override(
        DetectorConfig(),
        backbone="csp_darknet_separable",
        width_mult=0.125,
        neck=NeckConfig(name="csp_pan", channels=()),
        head=HeadConfig(name="decoupled", score_function="sigmoid", box_code_scales=(1, 1, 1, 1)),
        strides=(8, 16, 32),
        anchors=square_anchors((0.08, 0.16, 0.32)).changed(offset=0.0),
        activation="silu",
    ),
}


def lively(detector: Detector) -> Detector:
    """``detector`` with statistics and predictions spread as a trained one's, so that differences show."""
    generator = torch.Generator().manual_seed(1)
    if detector.config.neck.name == "pan":  # begins with weights so short that nothing of the picture arrives
        towers = (getattr(detector.head, name, None) for name in ("towers", "box_towers"))
        for part in (detector.neck, *towers):
            if part is not None:
                initialize_classifier(part)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        is_sigmoid = detector.config.head.score_function == "sigmoid"  # with which most places are to be background
        spread = 1.2 if isinstance(detector.head, DistanceHead) else 1.0
        for head, std, mean in (
            (detector.head.classification, spread if is_sigmoid else 0.36, -3.0 if is_sigmoid else 0.0),
            (detector.head.regression, 0.24, 0.0),
            (getattr(detector.head, "objectness", ()), 1.0, 3.0),
        ):
            for predictor in head:
                *_, weight, bias = predictor.parameters()
                weight.mul_(std / weight.std())
                bias.normal_(mean, 1, generator=generator)
    return detector.eval()


LEAST_VARIANCE = 0.05  # with less of it at many norms, rounding would become large differences


def settle(detector: Detector) -> None:
    """Give its norms the statistics of what noise becomes on its way to them: SiLU would leave nothing to compare."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.randint(0, 256, (8, 3, *PRESET_SIZE), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        detector.train()(images.to(torch.uint8))
    for norm, own in zip(norms, momentum, strict=True):
        norm.momentum = own
        assert norm.running_var is not None
        norm.running_var.clamp_(min=LEAST_VARIANCE)
    detector.eval()


class ExportedPreset:
    """Of four classes and ``PRESET_SIZE``. Its graphs take uint8 planes, one picture at a time."""

    def __init__(self, name: str, trace: Trace) -> None:
        torch.manual_seed(0)
        config = override(NETWORKS[name], class_names=NAMES, image_size=PRESET_SIZE)
        if config.head.bins:  # whose random boxes crowd: fewer than enter suppression, which not all runtimes limit
            config = override(config, score_threshold=0.05)
        self.detector = lively(detector_from_config(config))
        if name not in PRESETS or config.neck.name == "pan":
            settle(self.detector)
        self._trace = trace

    @property
    def has_logarithm(self) -> bool:
        """Which ONNX Runtime's provider for Core ML has not; Core ML itself has."""
        return any(node.op_type == "Log" for node in self.decoded.graph.node)

    @cached_property
    def raw(self) -> onnx.ModelProto:
        return self._trace(self.detector, GraphOptions(variant="raw"))

    @cached_property
    def decoded(self) -> onnx.ModelProto:
        return self._trace(self.detector, GraphOptions(variant="decoded"))
