"""int8 for every target: calibrated on the data, with as many layers in float as the accuracy demands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import onnx

from ssdlite.errors import ExportError
from ssdlite.export.graphs import model_spec
from ssdlite.export.int8.calibration import Calibration, NarrowRangeError, calibrate, calibration_inputs
from ssdlite.export.int8.quantize import quantization_facts, quantize
from ssdlite.export.int8.saturation import integers_saturate
from ssdlite.export.int8.sensitivity import choose_float_layers, rank_layers
from ssdlite.export.onnx import opset_of
from ssdlite.export.options import GraphOptions
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import ActivationType, ModelSpec, QuantizationFacts
from ssdlite.runtime.model import RuntimeDetector

if TYPE_CHECKING:
    from ssdlite.export.targets.job import ExportJob  # which holds one of these

RANKING_IMAGES = 8  # that tell sensitive layers from others


def onnx_spec(job: ExportJob, options: GraphOptions, model: onnx.ModelProto) -> ModelSpec:
    """What the contract says of ``model``, of these options, as an .onnx file."""
    spec = model_spec(job.detector, options, f"{options.variant}_{options.precision}.onnx")
    return replace(spec, opset=opset_of(model), ir_version=model.ir_version)


def open_unsaved(job: ExportJob, options: GraphOptions, model: onnx.ModelProto) -> RuntimeDetector:
    """``model``, of these options, runnable before it is a file."""
    spec = onnx_spec(job, options, model)
    as_written = options.precision == "int8" and integers_saturate()
    return RuntimeDetector(job.contract([spec]), spec, OnnxBackend(model.SerializeToString(), as_written=as_written))


@dataclass
class Quantizer:
    """Makes int8 models of several variants of one network, which share the layers to keep in float."""

    job: ExportJob
    activation_type: ActivationType
    float_layers: tuple[str, ...] | None = field(default=None, init=False)
    calibration: Calibration | None = field(default=None, init=False)  # the last one; variants often share tensors

    def quantize(self, model: onnx.ModelProto, options: GraphOptions) -> tuple[onnx.ModelProto, QuantizationFacts]:
        """The float32 ``model`` in integers, and what became of it.

        Raises:
            ExportError: nothing to calibrate on, or too much accuracy is lost whatever is kept in float.
        """
        calibration = self._calibrate(model, options)

        def build(float_layers: tuple[str, ...]) -> onnx.ModelProto:
            return quantize(model, calibration, activation_type=self.activation_type, float_layers=float_layers)

        if self.float_layers is None:
            max_drop = self.job.options.max_ap_drop
            if max_drop is None or self.job.reference is None:
                self.float_layers = ()
            else:
                gate = partial(self._measure_drop, options)
                self.float_layers = choose_float_layers(build, gate, self._rank, max_drop=max_drop).float_layers
        result = build(self.float_layers)
        facts = quantization_facts(
            result,
            calibration,
            activation_type=self.activation_type,
            calibration_data=self.job.pictures.calibration_name,
            float_layers=self.float_layers,
        )
        return result, facts

    def _measure_drop(self, options: GraphOptions, model: onnx.ModelProto) -> float:
        assert self.job.reference is not None
        found = self.job.accuracy(open_unsaved(self.job, options, model))
        drop = self.job.reference.AP - found.AP
        self.job.notify(f"  AP {found.AP:.4f}, drop {drop:+.4f}")
        return drop

    def _rank(self) -> list[str]:
        """All convolutions, the most sensitive first, in a variant whose outputs change smoothly."""
        job = self.job
        job.notify("  measuring how sensitive each layer is to int8")
        options = job.options.graph("raw", "fp32")
        model = job.onnx_model(options)
        calibration = self._calibrate(model, options)
        pictures = job.pictures.calibration_arrays(RANKING_IMAGES)
        samples = list(calibration_inputs(open_unsaved(job, options, model), pictures))
        ranking = rank_layers(model, calibration, samples, activation_type=self.activation_type)
        return [item.layer for item in ranking]

    def _calibrate(self, model: onnx.ModelProto, options: GraphOptions) -> Calibration:
        pictures = self.job.pictures
        if not pictures.calibration:
            raise ExportError(f"{pictures.calibration_name}: no pictures to calibrate on")
        if self.calibration is None or self.calibration.missing(model):
            reader = open_unsaved(self.job, options, model)
            try:
                self.calibration = calibrate(model, calibration_inputs(reader, pictures.calibration_arrays()))
            except NarrowRangeError as error:
                self.job.notify(f"  {error}; taking minmax")
                inputs = calibration_inputs(reader, pictures.calibration_arrays())
                self.calibration = calibrate(model, inputs, method="minmax")
        return self.calibration
