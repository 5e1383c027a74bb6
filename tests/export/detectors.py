"""Random detectors whose answers are worth comparing, and every preset as one, in ONNX."""

from __future__ import annotations

from functools import cached_property

import onnx
import torch
from torch import nn

import ssdlite
from ssdlite.detector import Detector
from ssdlite.export.options import GraphOptions
from tests.made_once import Trace

PRESET_SIZE = (100, 128)  # height and width; the steps of the anchors do not divide the height


def lively(detector: Detector) -> Detector:
    """``detector`` with statistics and predictions spread as a trained one's, so that differences show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        is_sigmoid = detector.config.head.score_function == "sigmoid"  # with which most places are to be background
        for head, std, mean in (
            (detector.head.classification, 1.0 if is_sigmoid else 0.36, -3.0 if is_sigmoid else 0.0),
            (detector.head.regression, 0.24, 0.0),
        ):
            for predictor in head:
                *_, weight, bias = predictor.parameters()
                weight.mul_(std / weight.std())
                bias.normal_(mean, 1, generator=generator)
    return detector.eval()


class ExportedPreset:
    """Of four classes and ``PRESET_SIZE``. Its graphs take uint8 planes, one picture at a time."""

    def __init__(self, name: str, trace: Trace) -> None:
        torch.manual_seed(0)
        self.detector = lively(ssdlite.build_detector(name, num_classes=4, image_size=PRESET_SIZE))
        self._trace = trace

    @cached_property
    def raw(self) -> onnx.ModelProto:
        return self._trace(self.detector, GraphOptions(variant="raw"))

    @cached_property
    def decoded(self) -> onnx.ModelProto:
        return self._trace(self.detector, GraphOptions(variant="decoded"))
