"""From a checkpoint to a bundle: export, quantise, convert, compare, score, and only then put it in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import override
from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.export.bundle import CARD_FILE, build_contract, provenance_of, staged_folder, write_contract
from ssdlite.export.card import write_model_card
from ssdlite.export.int8.sensitivity import Opener, Quantiser
from ssdlite.export.measure import Accuracy, difference_from_pytorch, measure_accuracy, measure_latencies
from ssdlite.export.onnx import (
    attach_contract,
    export_onnx,
    input_spec,
    opset_of,
    output_specs,
    to_ort_format,
    write_required_operators,
)
from ssdlite.export.options import ExportOptions
from ssdlite.export.pictures import ExportPictures, find_pictures
from ssdlite.export.verify.golden import write_golden
from ssdlite.files import write_atomically, write_text
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.images.geometry import ImageArray
from ssdlite.predictor import Predictor
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import AccuracyFigure, Contract, ModelSpec, Precision, Provenance, Variant
from ssdlite.runtime.model import RuntimeDetector, load_model

OPERATORS_FILE = "required_operators.config"  # for a reduced build of ONNX Runtime
Notify = Callable[[str], object]


def export_bundle(options: ExportOptions, notify: Notify) -> Contract:
    """Carry out ``options``; ``notify`` is told what is being done.

    Returns the contract of the finished bundle.

    Raises:
        CheckpointError, DataError, ConfigError: what was given cannot be used.
        ExportError: a model cannot be exported as asked, or loses more accuracy than allowed.
    """
    options.check()
    with staged_folder(options.output, overwrite=options.overwrite) as folder:
        checkpoint = load_checkpoint(options.checkpoint)
        detector = checkpoint.build_detector().eval()
        detector.config = override(detector.config, **options.thresholds)
        box_code = detector.head.box_code
        if "raw" in options.variant and not isinstance(box_code, CenterSizeCode):
            raise ExportError(
                f"raw: expected a head with the CenterSizeCode, got {type(box_code).__name__}, which contracts do not "
                "describe; export decoded or nms"
            )
        provenance = provenance_of(options.checkpoint, checkpoint, options.licence)
        return ExportJob(options, folder, detector, provenance, find_pictures(options, detector), notify).run()


@dataclass(frozen=True)
class Artefact:
    """One model of the bundle: what the contract says of it, and for ONNX the graph itself."""

    spec: ModelSpec
    model: onnx.ModelProto | None = None


@dataclass(frozen=True)
class ExportJob:
    """One bundle in the making; ``run`` is the order of work."""

    options: ExportOptions
    folder: Path
    detector: Detector
    provenance: Provenance
    pictures: ExportPictures
    notify: Notify

    def run(self) -> Contract:
        golden = self.pictures.golden(self.options.golden_images)
        for_ncnn = self._export_ncnn()  # first: it can do the least
        reference = self._reference_accuracy()
        artefacts = [*self._export_onnx(reference), *for_ncnn]
        self._write(artefacts)
        specs = [self._compared(artefact.spec, golden) for artefact in artefacts]
        if reference is not None:
            specs = [self._scored(spec, reference) for spec in specs]
            self._refuse_inaccurate(specs)
        specs = self._timed(specs, golden[0])
        contract = self._write([replace(a, spec=spec) for a, spec in zip(artefacts, specs, strict=True)])
        if self.options.ort:
            onnx_files = [self.folder / spec.file for spec in specs if spec.file.endswith(".onnx")]
            write_required_operators(onnx_files, self.folder / OPERATORS_FILE)
        self.notify("writing golden vectors and the model card")
        write_golden(self.folder, contract, golden)
        write_text(self.folder / CARD_FILE, write_model_card(contract, self.folder))
        return contract

    def _reference_accuracy(self) -> Accuracy | None:
        gate = self.pictures.gate
        if gate is None:
            return None
        self.notify(f"scoring PyTorch's model on {gate.name}, {len(gate)} images")
        return measure_accuracy(Predictor(self.detector), gate)

    def _export_onnx(self, reference: Accuracy | None) -> list[Artefact]:
        quantiser = self._quantiser(reference)
        artefacts = []
        for variant in self.options.variant:
            for precision in self.options.precision:
                self.notify(f"exporting {variant}, {precision}")
                options = self.options.graph(variant, precision)
                model = export_onnx(self.detector, options)
                facts = None
                if precision == "int8":
                    model, facts = quantiser.quantise(model, self._opener(variant, precision))
                spec = replace(self._spec(variant, precision, model), quantisation=facts)
                artefacts.append(Artefact(spec, model))
                if self.options.ort:
                    artefacts.append(Artefact(replace(spec, file=f"{Path(spec.file).stem}.ort"), model))
        return artefacts

    def _export_ncnn(self) -> list[Artefact]:
        if not self.options.ncnn:
            return []
        from ssdlite.export.targets.ncnn import export_ncnn

        precisions: list[Precision] = [one for one in self.options.precision if one != "int8"] or ["fp32"]
        artefacts = []
        for precision in precisions:
            self.notify(f"exporting decoded, {precision}, for ncnn")
            options = self.options.graph("decoded", precision)
            artefacts.append(Artefact(export_ncnn(self.detector, options, self.folder, f"decoded_{precision}_ncnn")))
        return artefacts

    def _quantiser(self, reference: Accuracy | None) -> Quantiser:
        gate = self.pictures.gate

        def measure_drop(model: RuntimeDetector) -> float:
            assert reference is not None and gate is not None  # only then is it passed on
            drop = reference.AP - measure_accuracy(model, gate).AP
            self.notify(f"  AP {reference.AP - drop:.4f}, drop {drop:+.4f}")
            return drop

        def rankable() -> tuple[onnx.ModelProto, Opener]:
            self.notify("  finding the layers that suffer most from integers")
            return export_onnx(self.detector, self.options.graph("raw", "fp32")), self._opener("raw", "fp32")

        return Quantiser(
            pictures=self.pictures,
            activation_type=self.options.activations,
            measure_drop=None if reference is None else measure_drop,
            max_drop=self.options.max_ap_drop,
            rankable=rankable,
            notify=self.notify,
        )

    def _opener(self, variant: Variant, precision: Precision) -> Opener:
        """What makes a model of this kind runnable before it is a file."""

        def open_model(model: onnx.ModelProto) -> RuntimeDetector:
            spec = self._spec(variant, precision, model)
            return RuntimeDetector(self._contract([spec]), spec, OnnxBackend(model.SerializeToString(), None))

        return open_model

    def _spec(self, variant: Variant, precision: Precision, model: onnx.ModelProto) -> ModelSpec:
        options = self.options.graph(variant, precision)
        return ModelSpec(
            file=f"{variant}_{precision}.onnx",
            variant=variant,
            precision=precision,
            input=input_spec(self.detector, options),
            outputs=output_specs(self.detector, options),
            opset=opset_of(model),
            ir_version=model.ir_version,
        )

    def _contract(self, specs: Sequence[ModelSpec]) -> Contract:
        return build_contract(self.detector, specs, self.provenance, self.options.max_candidates)

    def _write(self, artefacts: Sequence[Artefact]) -> Contract:
        """Write contract.json, and all ONNX and .ort files with what is known so far of each inside it."""
        contract = self._contract([artefact.spec for artefact in artefacts])
        write_contract(self.folder, contract)
        for artefact in artefacts:
            if artefact.model is not None:
                self._write_model(artefact.model, contract.for_model(artefact.spec.file))
        return contract

    def _write_model(self, model: onnx.ModelProto, contract: Contract) -> None:
        attach_contract(model, contract)
        path = self.folder / contract.models[0].file
        if path.suffix == ".onnx":
            write_atomically(path, lambda file: file.write(model.SerializeToString()))
            return
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "model.onnx")
            source.write_bytes(model.SerializeToString())
            to_ort_format(source, path)

    def _open(self, spec: ModelSpec) -> RuntimeDetector:
        return load_model(self.folder, spec.file)

    def _compared(self, spec: ModelSpec, golden: Sequence[ImageArray]) -> ModelSpec:
        options = self.options.graph(spec.variant, spec.precision)
        difference = difference_from_pytorch(self._open(spec), self.detector, options, golden)
        return replace(spec, difference_from_pytorch=float(f"{difference:.3g}"))

    def _scored(self, spec: ModelSpec, reference: Accuracy) -> ModelSpec:
        gate = self.pictures.gate
        assert gate is not None  # the reference was measured on it
        self.notify(f"scoring {spec.file}")
        found = measure_accuracy(self._open(spec), gate)
        figure = AccuracyFigure(
            AP=round(found.AP, 5),
            AP50=round(found.AP50, 5),
            AP_drop=round(reference.AP - found.AP, 5),
            data=gate.name.rpartition("/")[0] or gate.name,
            split=gate.name.rpartition("/")[2],
            images=len(gate),
        )
        return replace(spec, accuracy=figure)

    def _timed(self, specs: Sequence[ModelSpec], picture: ImageArray) -> list[ModelSpec]:
        self.notify("timing all files in turns")
        figures = measure_latencies([self.folder / spec.file for spec in specs], picture)
        return [replace(spec, latency=figures[self.folder / spec.file]) for spec in specs]

    def _refuse_inaccurate(self, specs: Sequence[ModelSpec]) -> None:
        limit = self.options.max_ap_drop
        drops = {model.file: model.accuracy.AP_drop for model in specs if model.accuracy is not None}
        failed = {file: drop for file, drop in drops.items() if limit is not None and drop > limit}
        if failed:
            listed = ", ".join(f"{file} {drop:.4f}" for file, drop in failed.items())
            raise ExportError(f"AP drop of {listed}: more than the {limit} allowed; nothing was written")
