"""What an export target is given, and what it gives: the models of a bundle for one runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx

from ssdlite.detector import Detector
from ssdlite.export.bundle import build_contract
from ssdlite.export.int8.quantizer import Quantizer
from ssdlite.export.measure import Accuracy, ExportPictures, measure_accuracy
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import ExportOptions, GraphOptions
from ssdlite.images.prediction import DetectionModel
from ssdlite.predictor import Predictor
from ssdlite.runtime.backends.base import Network
from ssdlite.runtime.contract import ActivationType, Contract, ModelSpec, Provenance
from ssdlite.runtime.operating_points import OperatingPoint


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """The export of one bundle.

    Attributes:
        detector: in evaluation mode, with the thresholds that were asked for.
        folder: of the bundle; a target may put files there that are no models.
        notify: is called with a line about each step.
    """

    options: ExportOptions
    detector: Detector
    provenance: Provenance
    operating_points: dict[str, OperatingPoint]
    pictures: ExportPictures
    folder: Path
    notify: Callable[[str], object]
    _traced: dict[GraphOptions, onnx.ModelProto] = field(default_factory=dict, init=False)
    _quantizers: dict[ActivationType, Quantizer] = field(default_factory=dict, init=False)

    def onnx_model(self, options: GraphOptions) -> onnx.ModelProto:
        """What ``export_onnx`` gives, to be changed at will; int8 is float32 here. Each graph is traced but once."""
        options = replace(options, precision="fp16" if options.precision == "fp16" else "fp32")
        if options not in self._traced:
            self._traced[options] = export_onnx(self.detector, options)
        return copy.deepcopy(self._traced[options])

    def quantizer(self, activation_type: ActivationType) -> Quantizer:
        """The one of all targets: it calibrates, and chooses what stays in float, but once."""
        return self._quantizers.setdefault(activation_type, Quantizer(self, activation_type))

    def contract(self, specs: Sequence[ModelSpec]) -> Contract:
        """The facts about the detector, and these models of it."""
        return build_contract(self.detector, specs, self.provenance, self.options.max_candidates, self.operating_points)

    def accuracy(self, model: DetectionModel) -> Accuracy:
        """Of ``model`` on the split that is scored, which there has to be."""
        assert self.pictures.gate is not None
        return measure_accuracy(model, self.pictures.gate)

    @cached_property
    def reference(self) -> Accuracy | None:
        """PyTorch's, measured when it is first asked for; None where there are no data."""
        gate = self.pictures.gate
        if gate is None:
            return None
        self.notify(f"scoring PyTorch's model on {gate.name}, {len(gate)} images")
        return self.accuracy(Predictor(self.detector))


@dataclass(frozen=True)
class Artifact:
    """One exported model.

    Attributes:
        spec: what the contract says of it, figures apart.
        save: writes its files, of the names in ``spec``, into a folder. It is given the contract of this model alone,
            for formats that carry it, and called again when the figures are known.
        timed: whether its time here tells anything of where it is to run.
        stand_in: computes what the model should, where this system lacks its runtime: the reference vectors are its.
    """

    spec: ModelSpec
    save: Callable[[Path, Contract], None]
    timed: bool = True
    stand_in: Network | None = None
