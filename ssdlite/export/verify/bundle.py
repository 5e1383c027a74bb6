"""Replaying a bundle's golden vectors, or comparing an app's own results with them, one step at a time.

Every step is fed with the golden result of the step before, or with the app's own where that is in its dump, so that
a mistake shows in the step that makes it and in no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssdlite.errors import ContractError
from ssdlite.export.verify.contract import changed_files, check_contract
from ssdlite.export.verify.dump import DumpSteps
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.replay import ReplaySteps
from ssdlite.export.verify.report import STEPS, ModelResult, Report, Step, StepResult, worst_of
from ssdlite.export.verify.vectors import Golden, Vectors
from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.runtime.contract_file import read_contract
from ssdlite.runtime.files import installed_runtimes, open_backend


def verify_bundle(
    bundle: Path | str, *, dump: Path | str | None = None, model: str | None = None, threads: int | None = 1
) -> Report:
    """Replay the golden vectors of ``bundle``, or compare the results of an app that are in the folder ``dump``.

    Args:
        bundle: a folder that an export wrote.
        dump: files named as in the bundle's ``golden``, any of them.
        model: only this file of the bundle.

    Raises:
        ContractError: contract or golden vectors are missing, damaged or hostile; nothing in ``dump`` can be
            compared; or no runtime is there for any of the models.
    """
    bundle = Path(bundle)
    contract = read_contract(bundle)
    golden = Golden(bundle, contract)
    models = contract.models if model is None else contract.for_model(model).models
    runtimes = installed_runtimes()
    missing = tuple(sorted({spec.runtime for spec in models} - set(runtimes)))
    if dump is None:
        if len(missing) == len({spec.runtime for spec in models}):
            raise ContractError(f"{bundle}: cannot be replayed, since {', '.join(missing)} is not installed")
        results = [_replay(bundle, contract, spec, golden) for spec in models]
        notes: tuple[str, ...] = ()
    else:
        results, notes = _compare_dump(bundle, contract, models, golden, Path(dump))
    return Report(
        bundle=str(bundle),
        dump=None if dump is None else str(dump),
        runtimes=runtimes,
        missing=missing,
        models=tuple(results),
        notes=notes,
    )


def _replay(bundle: Path, contract: Contract, model: ModelSpec, golden: Golden) -> ModelResult:
    backend, problem, notes = _open(bundle, model)
    first = check_contract(bundle, contract, model, backend, golden)
    there = (bundle / model.file).is_file() and golden.has(model)
    if not there:
        return _result(model, [first], notes)
    changed = changed_files(bundle, model, golden)
    if changed:
        notes.append(f"{', '.join(changed)}: not the file that the golden vectors were made with (SHA-256)")
    try:
        steps = ReplaySteps(golden, Reference(contract, model, backend), problem)
    except ContractError as error:
        return _result(model, [StepResult(step="contract", status="fail", text=str(error))], notes)
    return _result(model, [first, *(_over_images(steps, step, golden) for step in STEPS[1:])], notes)


def _compare_dump(
    bundle: Path, contract: Contract, models: Sequence[ModelSpec], golden: Golden, folder: Path
) -> tuple[list[ModelResult], tuple[str, ...]]:
    if not folder.is_dir():
        raise ContractError(f"{folder}: no such folder; expected one with files named as in {golden.folder}")
    present = {path.name for path in folder.iterdir() if path.is_file()}
    known = present & golden.file_names
    strange = sorted(present - golden.file_names)
    own = [spec for spec in models if any(f".{spec.file}." in name for name in known)]
    results = []
    for spec in own or models[:1]:
        backend, problem, notes = _open(bundle, spec)
        steps = DumpSteps(golden, Vectors(folder, contract), Reference(contract, spec, backend), problem)
        found = [result for step in STEPS[1:] if (result := _over_images(steps, step, golden)).status != "skipped"]
        if found:
            results.append(_result(spec, found, notes))
    if not results:
        raise ContractError(
            f"{folder}: nothing to compare; expected files named as in {golden.folder}, such as "
            f"{', '.join(sorted(golden.file_names)[-3:])}; got {', '.join(strange[:5]) or 'none'}"
        )
    notes_ = (f"not compared, since golden/ has no file of that name: {', '.join(strange[:10])}",) if strange else ()
    return results, notes_


def _open(bundle: Path, model: ModelSpec) -> tuple[Backend | None, str, list[str]]:
    """(what runs the model, or None and why not, notes)."""
    if model.runtime not in installed_runtimes():
        return None, f"{model.runtime} is not installed", []
    try:
        return open_backend(bundle, model, threads=1), "", []
    except ContractError as error:
        return None, str(error), []


def _over_images(steps: ReplaySteps | DumpSteps, step: Step, golden: Golden) -> StepResult:
    """One step on all pictures; an explanation is looked for only where it failed."""
    results = [steps.run(step, image) for image in golden.index.images]
    done = [result for result in results if result.status != "skipped"]
    return worst_of(done) if done else results[0]


def _result(model: ModelSpec, steps: list[StepResult], notes: list[str]) -> ModelResult:
    return ModelResult(
        file=model.file,
        variant=model.variant,
        precision=model.precision,
        runtime=model.runtime,
        steps=tuple(steps),
        notes=tuple(notes),
    )
