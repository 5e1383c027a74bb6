"""The int8 files of a bundle: calibrated on the data, with as many layers in float as the accuracy demands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from ssdlite.contract import QuantisationFacts
from ssdlite.errors import ExportError
from ssdlite.export.calibration import Calibration, NarrowRangeError, calibrate, calibration_inputs
from ssdlite.export.pictures import ExportPictures
from ssdlite.export.quantise import ActivationType, quantisation_facts, quantise
from ssdlite.export.sensitivity import SAMPLES, choose_float_layers, rank_layers
from ssdlite.runtime import RuntimeDetector

Opener = Callable[[onnx.ModelProto], RuntimeDetector]  # makes a model of the same variant runnable


@dataclass
class Quantiser:
    """Makes int8 models of several variants of one network, which share the layers to keep in float.

    Attributes:
        measure_drop: the AP that a model loses; None where there is no data to measure it on.
        max_drop: what it may lose; None to take it as it comes.
        rankable: the network in a variant whose outputs change smoothly, for ranking layers, and its opener.
    """

    pictures: ExportPictures
    activation_type: ActivationType
    measure_drop: Callable[[RuntimeDetector], float] | None
    max_drop: float | None
    rankable: Callable[[], tuple[onnx.ModelProto, Opener]]
    say: Callable[[str], object]
    float_layers: tuple[str, ...] | None = field(default=None, init=False)
    calibration: Calibration | None = field(default=None, init=False)  # the last one; variants often share tensors

    def quantise(self, model: onnx.ModelProto, open_model: Opener) -> tuple[onnx.ModelProto, QuantisationFacts]:
        """The float32 ``model`` in integers, and what became of it.

        Raises:
            ExportError: nothing to calibrate on, or too much accuracy is lost whatever is kept in float.
        """
        calibration = self._calibrate(model, open_model)

        def build(float_layers: tuple[str, ...]) -> onnx.ModelProto:
            return quantise(model, calibration, activation_type=self.activation_type, float_layers=float_layers)

        if self.float_layers is None:
            self.float_layers = self._choose(build, open_model)
        result = build(self.float_layers)
        facts = quantisation_facts(
            result,
            calibration,
            activation_type=self.activation_type,
            calibration_data=self.pictures.calibration_name,
            float_layers=self.float_layers,
        )
        return result, facts

    def _choose(self, build: Callable[[tuple[str, ...]], onnx.ModelProto], open_model: Opener) -> tuple[str, ...]:
        measure = self.measure_drop
        if measure is None or self.max_drop is None:
            return ()
        chosen = choose_float_layers(
            build, lambda model: measure(open_model(model)), self._rank, max_drop=self.max_drop
        )
        return chosen.float_layers

    def _rank(self) -> list[str]:
        model, open_model = self.rankable()
        calibration = self._calibrate(model, open_model)
        samples = list(calibration_inputs(open_model(model), self.pictures.calibration_arrays(SAMPLES)))
        return [item.layer for item in rank_layers(model, calibration, samples, activation_type=self.activation_type)]

    def _calibrate(self, model: onnx.ModelProto, open_model: Opener) -> Calibration:
        if not self.pictures.calibration:
            raise ExportError(f"{self.pictures.calibration_name}: no pictures to calibrate on")
        if self.calibration is None or self.calibration.missing(model):
            reader = open_model(model)
            try:
                self.calibration = calibrate(model, calibration_inputs(reader, self.pictures.calibration_arrays()))
            except NarrowRangeError as error:
                self.say(f"  {error}; taking minmax")
                inputs = calibration_inputs(reader, self.pictures.calibration_arrays())
                self.calibration = calibrate(model, inputs, method="minmax")
        return self.calibration
