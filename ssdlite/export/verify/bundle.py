"""Replaying a bundle's reference vectors, or comparing an app's own results with them, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdlite.errors import ContractError, quote
from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.report import STEPS, ModelResult, Status, StepResult, VerifyReport, worst_of
from ssdlite.export.verify.steps import PictureSteps
from ssdlite.export.verify.vectors import (
    GOLDEN_FOLDER,
    GoldenIndex,
    Vectors,
    file_names,
    load_index,
    model_hashes,
)
from ssdlite.files import listing
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.contract import CONTRACT_FILE, LABELS_KEY, METADATA_KEY, Contract, ModelSpec
from ssdlite.runtime.contract_file import parse_contract
from ssdlite.runtime.files import (
    inner_file,
    installed_runtimes,
    needed_package,
    open_backend,
    read_bundle,
    runtime_problem,
)

MAX_SHOWN_FACTS = 3


def verify_bundle(bundle: Path | str, *, dump: Path | str | None = None, model: str | None = None) -> VerifyReport:
    """Replay the reference vectors of ``bundle``, or compare the results of an app that are in the folder ``dump``.

    Args:
        bundle: a folder that an export wrote.
        dump: files named as in the bundle's ``golden``, any of them.
        model: only this file of the bundle.

    Raises:
        ContractError: contract or reference vectors are missing, damaged or hostile; nothing in ``dump`` can be
            compared; or no runtime is there for any of the models.
    """
    bundle = Path(bundle)
    contract = read_bundle(bundle)
    index = load_index(bundle, contract)
    models = contract.models if model is None else contract.for_model(model).models
    runtimes = installed_runtimes()
    needed = {spec.runtime for spec in models}
    missing = tuple(sorted(needed - set(runtimes)))
    absent = [name for name in missing if not BACKENDS[name].unsupported]  # which could be installed
    verification = Verification(bundle, contract, index, None if dump is None else Path(dump))
    notes: tuple[str, ...] = ()
    if verification.dump is not None:
        results, notes = verification.compare(verification.dump, models)
    elif len(absent) == len(needed):
        listed = ", ".join(absent)
        needs = " ".join(map(needed_package, absent))
        raise ContractError(f"{bundle}: cannot be replayed, since {listed} is not installed: pip install {needs}")
    else:
        results = tuple(verification.replay(spec) for spec in models)
    return VerifyReport(
        bundle=str(bundle),
        dump=None if dump is None else str(dump),
        runtimes=runtimes,
        missing=missing,
        models=results,
        notes=notes,
    )


@dataclass(frozen=True)
class Verification:
    """A bundle, and what an app made of it, if anything."""

    bundle: Path
    contract: Contract
    index: GoldenIndex
    dump: Path | None

    def replay(self, model: ModelSpec) -> ModelResult:
        backend, problem = self._open(model)
        first = self._check_contract(model, backend)
        notes: tuple[str, ...] = ()
        if not (self.bundle / model.file).exists() or model.file not in self.index.sha256:
            return _model_result(model, (first,))
        now = model_hashes(self.bundle, model)
        changed = [name for name, value in now.items() if self.index.sha256.get(name) not in (None, value)]
        if changed:
            notes = (f"{', '.join(changed)}: not the file that the reference vectors were made with (SHA-256)",)
        try:
            reference = Reference(self.contract, model, None if problem else backend)
        except ContractError as error:
            return _model_result(model, (_contract_result("fail", str(error)),), notes)
        return _model_result(model, (first, *self._over_images(reference, problem)), notes)

    def compare(self, dump: Path, models: tuple[ModelSpec, ...]) -> tuple[tuple[ModelResult, ...], tuple[str, ...]]:
        """The results of those ``models`` that the dump is about, and notes."""
        golden = self.bundle / GOLDEN_FOLDER
        if not dump.is_dir():
            raise ContractError(f"{dump}: no such folder; expected one with files named as in {golden}")
        present = {path.name for path in dump.iterdir() if path.is_file()}
        names = file_names(self.contract, self.index)
        unknown = sorted(present - names)
        named = [spec for spec in models if any(f".{spec.file}." in name for name in present & names)]
        results = []
        for spec in named or models[:1]:
            backend, problem = self._open(spec)
            steps = self._over_images(Reference(self.contract, spec, None if problem else backend), problem)
            found = tuple(result for result in steps if result.status != "skipped")
            if found:
                results.append(_model_result(spec, found))
        if not results:
            raise ContractError(
                f"{dump}: nothing to compare; expected files named as in {golden}, such as "
                f"{', '.join(sorted(names)[-3:])}; got {', '.join(unknown[:5]) or 'none'}"
            )
        note = f"not compared, since golden/ has no file of that name: {', '.join(unknown[:10])}"
        return tuple(results), (note,) if unknown else ()

    def _open(self, model: ModelSpec) -> tuple[Backend | None, str]:
        """What runs the model and "", or why it cannot; a file of a runtime that this system has not is opened all
        the same, for what it says of itself."""
        problem = runtime_problem(model.runtime)
        if problem and not BACKENDS[model.runtime].unsupported:
            return None, problem
        try:
            return open_backend(self.bundle, model, threads=1), problem
        except ContractError as error:
            return None, str(error)

    def _over_images(self, reference: Reference, problem: str) -> Iterator[StepResult]:
        """Every step but the first, on all pictures."""
        golden = Vectors(self.bundle / GOLDEN_FOLDER, self.contract, reference.model)
        dump = None if self.dump is None else Vectors(self.dump, self.contract, reference.model, is_dump=True)
        results = []
        for image in self.index.images:
            picture = PictureSteps(
                image=image,
                golden=golden,
                dump=dump,
                reference=reference,
                score_threshold=self.index.score_threshold,
                problem=problem,
            )
            results.append([picture.run(step) for step in STEPS[1:]])
        for of_step in zip(*results, strict=True):
            yield worst_of([result for result in of_step if result.status != "skipped"] or of_step[:1])

    def _check_contract(self, model: ModelSpec, backend: Backend | None) -> StepResult:
        """Whether the files of the model are there, and say of themselves what contract.json says."""
        try:
            for name in model.files:
                inner_file(self.bundle, name, f"{CONTRACT_FILE} lists it")
            if model.file not in self.index.sha256:
                raise ContractError(f"{model.file} has no reference vectors: golden.json does not know it")
            if not BACKENDS[model.runtime].carries_contract:
                return _contract_result("pass", "file is there; it has no metadata of its own")
            if backend is None:
                return _contract_result("skipped", "file cannot be loaded")
            text = backend.metadata.get(METADATA_KEY)
            if text is None and model.file.lower().endswith(".ort"):
                return _contract_result("pass", "file is there; this one carries no contract of its own")
            if text is None:
                raise ContractError(f"no contract in the file's metadata ({METADATA_KEY})")
            inside = parse_contract(text, f"the contract in {model.file}").to_dict()
        except ContractError as error:
            return _contract_result("fail", str(error))
        differences = _differences(self.contract.for_model(model.file).to_dict(), inside, "")
        labels, names = backend.metadata.get(LABELS_KEY), list(self.contract.class_names)
        if labels is not None and labels.splitlines() != names:
            differences += _differences(
                names, labels.splitlines() or None, f"{LABELS_KEY}, where MediaPipe reads names"
            )
        if differences:
            shown = listing(differences, MAX_SHOWN_FACTS, "; ")
            return _contract_result("fail", f"{CONTRACT_FILE} and the file's own metadata differ: {shown}")
        return _contract_result("pass", f"the file's own metadata equals {CONTRACT_FILE}")


def _contract_result(status: Status, text: str) -> StepResult:
    return StepResult(step="contract", status=status, text=text)


def _model_result(model: ModelSpec, steps: tuple[StepResult, ...], notes: tuple[str, ...] = ()) -> ModelResult:
    return ModelResult(
        file=model.file,
        variant=model.variant,
        precision=model.precision,
        runtime=model.runtime,
        steps=steps,
        notes=notes,
    )


def _differences(document: Any, inside: Any, where: str) -> list[str]:
    """``path: value in contract.json, in the file value`` for each fact that differs."""
    if isinstance(document, dict) and isinstance(inside, dict):
        names = dict.fromkeys([*document, *inside])
        parts = [(document.get(name), inside.get(name), f"{where}.{name}" if where else name) for name in names]
    elif isinstance(document, list) and isinstance(inside, list) and len(document) == len(inside):
        parts = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(document, inside, strict=True))]
    else:
        return [] if document == inside else [f"{where}: {quote(document)}, in the file {quote(inside)}"]
    return [text for part in parts for text in _differences(*part)]
