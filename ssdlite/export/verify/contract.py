"""The first step of verifying a model: its files are there, and say of themselves what contract.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssdlite.errors import ContractError
from ssdlite.export.verify.report import StepResult
from ssdlite.export.verify.vectors import Golden, model_hashes
from ssdlite.files import listing
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.contract import CONTRACT_FILE, METADATA_KEY, Contract, ModelSpec
from ssdlite.runtime.contract_file import parse_contract
from ssdlite.runtime.files import inner_file

SHOWN = 3  # of the facts that differ


def check_contract(
    bundle: Path, contract: Contract, model: ModelSpec, backend: Backend | None, golden: Golden
) -> StepResult:
    """``backend`` is None where the file could not be loaded, or its runtime is not there."""
    try:
        for name in model.files:
            inner_file(bundle, name, f"{CONTRACT_FILE} lists it")
    except ContractError as error:
        return _fail(str(error))
    if not golden.has(model):
        return _fail(f"{model.file} has no golden vectors: golden.json does not know it")
    if not BACKENDS[model.runtime].carries_contract:
        return StepResult(step="contract", status="pass", text="file is there; it has no metadata of its own")
    if backend is None:
        return StepResult(step="contract", status="skipped", text="file cannot be loaded")
    return _compare_metadata(backend.metadata.get(METADATA_KEY), contract, model)


def changed_files(bundle: Path, model: ModelSpec, golden: Golden) -> list[str]:
    """Those of the model's files that are not what they were when the golden vectors were made."""
    now = model_hashes(bundle, model)
    return [name for name, value in now.items() if golden.index.sha256.get(name) not in (None, value)]


def _compare_metadata(text: str | None, contract: Contract, model: ModelSpec) -> StepResult:
    if text is None and model.file.lower().endswith(".ort"):
        return StepResult(step="contract", status="pass", text="file is there; this one carries no contract of its own")
    if text is None:
        return _fail(f"no contract in the file's metadata ({METADATA_KEY})")
    try:
        inside = parse_contract(text, f"the contract in {model.file}").to_dict()
    except ContractError as error:
        return _fail(str(error))
    differences = _differences(contract.for_model(model.file).to_dict(), inside, "")
    if not differences:
        return StepResult(step="contract", status="pass", text=f"the file's own metadata equals {CONTRACT_FILE}")
    return _fail(f"{CONTRACT_FILE} and the file's own metadata differ: {listing(differences, SHOWN, '; ')}")


def _differences(document: Any, inside: Any, where: str) -> list[str]:
    """``path: value in contract.json, in the file value`` for each fact that differs."""
    if isinstance(document, dict) and isinstance(inside, dict):
        names = list(dict.fromkeys([*document, *inside]))
        return [
            text
            for name in names
            for text in _differences(document.get(name), inside.get(name), f"{where}.{name}" if where else name)
        ]
    if isinstance(document, list) and isinstance(inside, list) and len(document) == len(inside):
        pairs = enumerate(zip(document, inside, strict=True))
        return [text for i, (one, other) in pairs for text in _differences(one, other, f"{where}[{i}]")]
    return [] if document == inside else [f"{where}: {_show(document)}, in the file {_show(inside)}"]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fail(text: str) -> StepResult:
    return StepResult(step="contract", status="fail", text=text)
