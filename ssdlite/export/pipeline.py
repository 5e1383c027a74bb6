"""From a checkpoint to a bundle: export for every runtime, compare, score, time, and only then put it in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import override
from ssdlite.errors import ExportError
from ssdlite.export.bundle import BOX_CODE_NAMES, CARD_FILE, exported_provenance, staged_folder, write_contract
from ssdlite.export.card import write_model_card
from ssdlite.export.int8.saturation import as_stated
from ssdlite.export.measure import Accuracy, difference_from_pytorch, find_pictures, measure_latencies
from ssdlite.export.options import ExportOptions, GraphOptions
from ssdlite.export.plan import left_out, plan_graphs
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.export.verify.golden import write_golden
from ssdlite.files import write_text
from ssdlite.images.geometry import ImageArray
from ssdlite.runtime.contract import AccuracyFigure, Contract, ModelSpec, Provenance
from ssdlite.runtime.files import runtime_problem
from ssdlite.runtime.model import load_model


def export_bundle(
    options: ExportOptions,
    notify: Callable[[str], object] = lambda text: None,
    *,
    provenance: Provenance | None = None,
) -> Contract:
    """Export as ``options`` state; ``notify`` is called with a line about each step.

    ``provenance`` is where the weights come from, by default the checkpoint's file.

    Returns the contract of the finished bundle.

    Raises:
        CheckpointError, DataError, ConfigError: what was given cannot be used.
        ExportError: a model cannot be exported as asked, or loses more accuracy than allowed.
    """
    graphs = plan_graphs(options)
    for line in left_out(options, graphs):
        notify(line)
    with staged_folder(options.bundle, overwrite=options.overwrite) as folder:
        checkpoint = load_checkpoint(options.checkpoint)
        origin = provenance or checkpoint.provenance
        assert origin is not None  # of a file
        detector = checkpoint.build_detector().eval()
        detector.config = override(detector.config, **options.thresholds)
        box_code = detector.head.box_code
        raw = any(graph.variant == "raw" for planned in graphs.values() for graph in planned)
        if raw and type(box_code) not in BOX_CODE_NAMES:
            known = " or ".join(kind.__name__ for kind in BOX_CODE_NAMES)
            raise ExportError(
                f"raw: expected a head with the {known}, got {type(box_code).__name__}, which contracts do not "
                "describe; export decoded or nms"
            )
        job = ExportJob(
            options=options,
            detector=detector,
            provenance=exported_provenance(origin, checkpoint.metrics, options.license),
            operating_points=checkpoint.operating_points,
            pictures=find_pictures(
                replace(options, reading=options.reading.as_trained(origin.rename)), detector, origin.val_split
            ),
            folder=folder,
            notify=notify,
        )
        return _write_bundle(job, graphs)


def _write_bundle(job: ExportJob, graphs: Mapping[str, Sequence[GraphOptions]]) -> Contract:
    """The order of work."""
    golden = job.pictures.golden(job.options.golden_images)
    artifacts = _export(job, graphs)
    _save(job, artifacts)
    specs = {one.spec.file: one.spec if one.stand_in else _compared(job, one.spec, golden) for one in artifacts}
    timed = [one.spec.file for one in artifacts if one.timed]
    specs |= {spec.file: spec for spec in _measured(job, list(specs.values()), golden[0], timed)}
    contract = _save(job, [replace(one, spec=specs[one.spec.file]) for one in artifacts])
    job.notify("writing reference vectors and the model card")
    stand_ins = {one.spec.file: one.stand_in for one in artifacts if one.stand_in}
    write_golden(job.folder, contract, golden, stand_ins=stand_ins)
    write_text(job.folder / CARD_FILE, write_model_card(contract, job.folder))
    return contract


def _export(job: ExportJob, graphs: Mapping[str, Sequence[GraphOptions]]) -> list[Artifact]:
    """For each target; the last first, since they can do less, and fail before the long work of the first."""
    exported = {name: TARGETS[name].export(job, graphs[name]) for name in reversed(list(graphs))}
    return [artifact for name in graphs for artifact in exported[name]]


def _save(job: ExportJob, artifacts: Sequence[Artifact]) -> Contract:
    """Write contract.json, and all models with what is known so far of each inside it."""
    contract = job.contract([artifact.spec for artifact in artifacts])
    write_contract(job.folder, contract)
    for artifact in artifacts:
        artifact.save(job.folder, contract.for_model(artifact.spec.file))
    return contract


def _measured(job: ExportJob, specs: Sequence[ModelSpec], picture: ImageArray, timed: Sequence[str]) -> list[ModelSpec]:
    """Those of ``specs`` that run on this system, with their figures; times of the files that are ``timed``."""
    for spec in specs:
        if runtime_problem(spec.runtime):
            job.notify(f"{spec.file}: {runtime_problem(spec.runtime)}: not scored and not timed")
    here = [spec for spec in specs if not runtime_problem(spec.runtime)]
    if here and job.reference is not None:
        here = [_scored(job, spec, job.reference) for spec in here]
        _refuse_inaccurate(job, here)
    return _timed(job, here, picture, [spec.file for spec in here if spec.file in timed])


def _compared(job: ExportJob, spec: ModelSpec, golden: Sequence[ImageArray]) -> ModelSpec:
    options = job.options.graph(spec.variant, spec.precision)
    difference = difference_from_pytorch(load_model(job.folder, spec.file), job.detector, options, golden)
    return replace(spec, difference_from_pytorch=float(f"{difference:.3g}"))


def _scored(job: ExportJob, spec: ModelSpec, reference: Accuracy) -> ModelSpec:
    gate = job.pictures.gate
    assert gate is not None  # the reference was measured on it
    job.notify(f"scoring {spec.file}")
    detector = load_model(job.folder, spec.file)
    found = job.accuracy(detector)
    if (stated := as_stated(detector, job.folder / spec.file)) is not None:
        here = f"{spec.file}: AP {found.AP:.4f} in ONNX Runtime here, where integers overflow (x86 without VNNI)"
        job.notify(f"{here}; scoring it as it is written, as phones compute it")
        found = job.accuracy(stated)
    figure = AccuracyFigure(
        AP=round(found.AP, 5),
        AP50=round(found.AP50, 5),
        AP_drop=round(reference.AP - found.AP, 5),
        data=gate.name.rpartition("/")[0] or gate.name,
        split=gate.name.rpartition("/")[2],
        images=len(gate),
    )
    return replace(spec, accuracy=figure)


def _refuse_inaccurate(job: ExportJob, specs: Sequence[ModelSpec]) -> None:
    limit = job.options.max_ap_drop
    drops = {model.file: model.accuracy.AP_drop for model in specs if model.accuracy is not None}
    failed = {file: drop for file, drop in drops.items() if limit is not None and drop > limit}
    if failed:
        listed = ", ".join(f"{file} {drop:.4f}" for file, drop in failed.items())
        raise ExportError(f"AP drop of {listed}: more than the {limit} allowed; nothing was written")


def _timed(job: ExportJob, specs: Sequence[ModelSpec], picture: ImageArray, files: Sequence[str]) -> list[ModelSpec]:
    """The specs, those of ``files`` with their latency."""
    if files:
        job.notify("timing all files in turns")
    figures = measure_latencies([job.folder / name for name in files], picture)
    return [replace(spec, latency=figures.get(job.folder / spec.file)) for spec in specs]
