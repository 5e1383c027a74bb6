"""From a checkpoint to a bundle: export for every runtime, compare, score, time, and only then put it in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import override, shipped_file
from ssdlite.errors import ConfigError, ExportError
from ssdlite.export.bundle import CARD_FILE, provenance_of, staged_folder, write_contract
from ssdlite.export.card import write_model_card
from ssdlite.export.measure import Accuracy, difference_from_pytorch, find_pictures, measure_latencies
from ssdlite.export.options import ExportOptions
from ssdlite.export.targets import TARGETS
from ssdlite.export.targets.base import Artifact, ExportJob
from ssdlite.export.verify.golden import write_golden
from ssdlite.files import write_text
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.images.geometry import ImageArray
from ssdlite.runtime.contract import AccuracyFigure, Contract, ModelSpec
from ssdlite.runtime.files import run_checkpoint
from ssdlite.runtime.model import load_model


def export_bundle(options: ExportOptions, notify: Callable[[str], object] = lambda text: None) -> Contract:
    """Export as ``options`` state; ``notify`` is called with a line about each step.

    Returns the contract of the finished bundle.

    Raises:
        CheckpointError, DataError, ConfigError: what was given cannot be used.
        ExportError: a model cannot be exported as asked, or loses more accuracy than allowed.
    """
    options.check()
    unknown = [name for name in options.runtimes if name not in TARGETS]
    if unknown:
        raise ConfigError(f"--runtime: expected one or more of {', '.join(TARGETS)}, got {unknown[0]!r}")
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
        job = ExportJob(
            options=options,
            detector=detector,
            provenance=provenance_of(shipped_file(run_checkpoint(options.checkpoint)), checkpoint, options.license),
            operating_points=checkpoint.operating_points,
            pictures=find_pictures(replace(options, reading=options.reading.as_trained(checkpoint.rename)), detector),
            folder=folder,
            notify=notify,
        )
        return _write_bundle(job)


def _write_bundle(job: ExportJob) -> Contract:
    """The order of work."""
    golden = job.pictures.golden(job.options.golden_images)
    artifacts = _export(job)
    _save(job, artifacts)
    specs = [_compared(job, artifact.spec, golden) for artifact in artifacts]
    if job.reference is not None:
        specs = [_scored(job, spec, job.reference) for spec in specs]
        _refuse_inaccurate(job, specs)
    specs = _timed(job, specs, golden[0])
    contract = _save(job, [replace(one, spec=spec) for one, spec in zip(artifacts, specs, strict=True)])
    job.notify("writing reference vectors and the model card")
    write_golden(job.folder, contract, golden)
    write_text(job.folder / CARD_FILE, write_model_card(contract, job.folder))
    return contract


def _export(job: ExportJob) -> list[Artifact]:
    """For each runtime; the last first, since they can do less, and fail before the long work of the first."""
    names = [name for name in TARGETS if name in job.options.runtimes]
    exported = {name: TARGETS[name].export(job) for name in reversed(names)}
    return [artifact for name in names for artifact in exported[name]]


def _save(job: ExportJob, artifacts: Sequence[Artifact]) -> Contract:
    """Write contract.json, and all models with what is known so far of each inside it."""
    contract = job.contract([artifact.spec for artifact in artifacts])
    write_contract(job.folder, contract)
    for artifact in artifacts:
        artifact.save(job.folder, contract.for_model(artifact.spec.file))
    return contract


def _compared(job: ExportJob, spec: ModelSpec, golden: Sequence[ImageArray]) -> ModelSpec:
    options = job.options.graph(spec.variant, spec.precision)
    difference = difference_from_pytorch(load_model(job.folder, spec.file), job.detector, options, golden)
    return replace(spec, difference_from_pytorch=float(f"{difference:.3g}"))


def _scored(job: ExportJob, spec: ModelSpec, reference: Accuracy) -> ModelSpec:
    gate = job.pictures.gate
    assert gate is not None  # the reference was measured on it
    job.notify(f"scoring {spec.file}")
    found = job.accuracy(load_model(job.folder, spec.file))
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


def _timed(job: ExportJob, specs: Sequence[ModelSpec], picture: ImageArray) -> list[ModelSpec]:
    job.notify("timing all files in turns")
    figures = measure_latencies([job.folder / spec.file for spec in specs], picture)
    return [replace(spec, latency=figures[job.folder / spec.file]) for spec in specs]
