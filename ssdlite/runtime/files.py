"""Exported files on disk: which file of a bundle, where its contract is, and whether the two agree."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssdlite.errors import ContractError
from ssdlite.files import counted, listing
from ssdlite.images.reading import is_picture_name
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.contract import CONTRACT_FILE, METADATA_KEY, Contract, ModelSpec
from ssdlite.runtime.contract_file import parse_contract, read_contract
from ssdlite.runtime.mlpackage import PACKAGE_FILES, is_package

FACTS_OF_ALL = ("class_names", "resize", "boxes", "postprocess", "anchors")
FACTS_OF_ONE = ("variant", "input", "outputs", "boxes")
PREFERENCE = ("nms", "decoded", "anchors", "raw")
WITHOUT_IT = (
    "; here `ssdlite verify BUNDLE` checks all but that, and a file of `ssdlite export CHECKPOINT --target litert` runs"
)
MOST_ENTRIES = 10_000  # of a folder, that are looked at
Opened = tuple[Contract, ModelSpec, Backend]


def is_exported(path: Path) -> bool:
    """Whether ``path`` looks like an exported model or a bundle of them, and not like a checkpoint."""
    return path.is_dir() or _runtime_of(path) is not None


def is_folder(path: Path) -> bool:
    """Whether it is a folder, and not one that is itself a model, as a Core ML package is."""
    return path.is_dir() and not is_package(path)


def run_checkpoint(path: Path) -> Path:
    """Of the folder of a training its best checkpoint; any other path as it is."""
    best = path / "best.pt"
    return best if best.is_file() and not (path / CONTRACT_FILE).exists() else path


def describe_path(path: Path) -> str:
    """What stands at ``path``, which is no bundle, and what to do with it, for an error's message."""
    if not path.exists():
        return "there is no such file or folder"
    checkpoint = run_checkpoint(path)
    if checkpoint != path:
        return (
            f"this is the folder of a training; `ssdlite export {path} --output BUNDLE` makes a bundle of its best.pt"
        )
    if path.is_dir():
        return f"this folder has no {CONTRACT_FILE}"
    if path.is_file() and _begins_as_zip(path):
        return f"this is a PyTorch file; of a checkpoint `ssdlite export {path} --output BUNDLE` makes a bundle"
    if (path.parent / CONTRACT_FILE).is_file():
        return f"this is a file in one: give its folder, {path.parent}, and for this file alone --model {path.name}"
    return "this is a file"


def describe_folder(folder: Path) -> str:
    """What lies in it: ``12 pictures (a.jpg, ...) and the folder labels``."""
    try:
        entries = sorted(itertools.islice(os.scandir(folder), MOST_ENTRIES), key=lambda entry: entry.name)
    except OSError as error:
        return f"what cannot be read ({error.strerror})"
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [entry.name for entry in shown if Path(entry).is_dir()]  # unlike the entry's own, never an error
    names = [entry.name for entry in shown if not Path(entry).is_dir()]
    pictures = [name for name in names if is_picture_name(name)]
    others = [name for name in names if not is_picture_name(name)]
    kinds = {"picture": pictures, "other file" if pictures else "file": others, "folder": folders}
    parts = [f"{counted(len(found), kind)} ({listing(found, 3)})" for kind, found in kinds.items() if found]
    return " and ".join(parts) or "nothing"


def runtime_problem(name: str) -> str:
    """Why models of this runtime cannot be run here; empty where they can."""
    backend = BACKENDS[name]
    if backend.unsupported or find_spec(backend.package) is not None:
        return backend.unsupported
    return f"{name} is not installed (pip install {needed_package(name)})"


def needed_package(name: str) -> str:
    """What pip installs to run models of this runtime, quoted for a shell."""
    return "onnxruntime" if BACKENDS[name].package == "onnxruntime" else f'"ssdlite[{name}]"'


def installed_runtimes() -> dict[str, str]:
    """Name and version of each runtime that runs here, its package being installed."""
    return {name: version(backend.package) for name, backend in BACKENDS.items() if not runtime_problem(name)}


def open_model(path: Path, model: str | None, threads: int | None) -> Opened:
    """The contract, the model in it and what runs that; see ``ssdlite.runtime.load_model``."""
    try:
        if is_folder(path):
            return _open_in_bundle(path, model, threads)
        if model is not None and model != path.name:
            raise ContractError(f"{path}: is one model; {model!r} can be chosen in a bundle, which is a folder")
        if path.is_file() and _begins_as_zip(path):
            advice = f"{describe_path(path)}, and ssdlite.load_detector loads it"
            raise ContractError(f"{path}: expected a bundle or an exported file: {advice}")
        runtime = _runtime_of(path) or next(iter(BACKENDS))
        if not BACKENDS[runtime].carries_contract:
            return _open_in_bundle(path.parent, path.name, threads)
        return _open_file(path, runtime, threads)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def _begins_as_zip(path: Path) -> bool:
    """As PyTorch's files do; ``zipfile`` also finds the labels behind a LiteRT file."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def open_backend(bundle: Path, model: ModelSpec, threads: int | None) -> Backend:
    """What runs this model of the bundle; whether it has the promised inputs and outputs is not checked.

    Raises:
        ContractError: a file is missing, damaged, or a link out of the bundle.
    """
    for name in model.files:
        inner_file(bundle, name, f"{CONTRACT_FILE} lists it")
    return BACKENDS[model.runtime].open(bundle / model.file, model, threads)


def choose_model(contract: Contract, name: str | None) -> ModelSpec:
    """The model called ``name``, or the one to use where nobody says which.

    Raises:
        ContractError: no such model; the message names those there are.
    """
    if name is not None:
        return contract.for_model(name).models[0]
    runtimes = list(BACKENDS)
    return min(
        contract.models,
        key=lambda model: (
            runtimes.index(model.runtime),
            PREFERENCE.index(model.variant),
            model.precision != "fp32",
        ),
    )


def read_bundle(bundle: Path) -> Contract:
    """The contract of a bundle's folder. Raises ContractError where there is none, or a damaged one."""
    if not bundle.is_dir() or run_checkpoint(bundle) != bundle:
        raise ContractError(
            f"{bundle}: expected the folder of a bundle, as `ssdlite export` writes it: {describe_path(bundle)}"
        )
    holds = "" if (bundle / CONTRACT_FILE).is_file() else f"; this folder holds {describe_folder(bundle)}"
    inner_file(bundle, CONTRACT_FILE, f"a bundle has to have it; make one with `ssdlite export`{holds}")
    return read_contract(bundle)


def stored_bytes(bundle: Path, model: ModelSpec) -> int:
    """The size of the model's files together."""
    paths = [bundle / name for name in model.files]
    files = [
        file for path in paths for file in ([path / name for name in PACKAGE_FILES] if is_package(path) else [path])
    ]
    return sum(file.stat().st_size for file in files)


def inner_file(folder: Path, name: str, reason: str) -> Path:
    """The regular file ``name`` in ``folder``; a Core ML package is a folder itself.

    Raises:
        ContractError: it is missing, no file, or a link that leads out of the folder.
    """
    path = folder / name
    if not (path.is_dir() if is_package(path) else path.is_file()):
        raise ContractError(f"{path}: no such file; {reason}")
    if path.resolve().parent != folder.resolve():
        raise ContractError(f"{path}: a link that leads out of the bundle is not followed")
    return path


def _runtime_of(path: Path) -> str | None:
    """The runtime whose file this is, by its name."""
    return next((name for name, one in BACKENDS.items() if path.name.lower().endswith(one.suffixes)), None)


def _open_in_bundle(bundle: Path, name: str | None, threads: int | None) -> Opened:
    contract = read_bundle(bundle)
    model = choose_model(contract, name)
    try:
        backend = open_backend(bundle, model, threads)
    except ContractError as error:
        if BACKENDS[model.runtime].unsupported or not runtime_problem(model.runtime):
            raise
        raise ContractError(f"{error}{_that_runs_here(contract)}") from None
    backend.check(model)
    _require_support(model.runtime, bundle / model.file, contract)
    own = _own_contract(backend, str(bundle / model.file))
    if own is not None:
        _check_agreement(contract, own, bundle / model.file)
    return contract, model, backend


def _open_file(path: Path, runtime: str, threads: int | None) -> Opened:
    """A file of a runtime whose files carry their contract; where this one does not, the folder's."""
    backend = BACKENDS[runtime].open(path, None, threads)
    own = _own_contract(backend, str(path))
    if own is not None:
        contract, model = own, own.models[0]
    elif (path.parent / CONTRACT_FILE).is_file():
        inner_file(path.parent, CONTRACT_FILE, "it describes the model")
        contract = read_contract(path.parent)
        model = choose_model(contract, path.name)
    else:
        raise ContractError(
            f"{path}: has no contract (no {METADATA_KEY!r} in its metadata, no {CONTRACT_FILE} beside it): nothing "
            "describes its input and outputs; export the checkpoint with `ssdlite export`"
        )
    if model.runtime != runtime:
        raise ContractError(f"{path}: its contract says that it runs in {model.runtime}")
    backend.check(model)
    _require_support(runtime, path, contract)
    return contract, model, backend


def _require_support(runtime: str, path: Path, contract: Contract) -> None:
    """Raises ContractError where the file is right, and this system is not one that can run it."""
    if BACKENDS[runtime].unsupported:
        raise ContractError(f"{path}: {BACKENDS[runtime].unsupported}{_that_runs_here(contract) or WITHOUT_IT}")


def _that_runs_here(contract: Contract) -> str:
    """Which of the contract's models to take in place of one that does not run here, for an error's message."""
    models = tuple(model for model in contract.models if not runtime_problem(model.runtime))
    return f"; --model {choose_model(replace(contract, models=models), None).file} runs here" if models else ""


def _own_contract(backend: Backend, name: str) -> Contract | None:
    """What the file's metadata say of it."""
    text = backend.metadata.get(METADATA_KEY)
    if text is None:
        return None
    contract = parse_contract(text, f"the contract in {name}")
    if len(contract.models) != 1:
        raise ContractError(
            f"{name}: expected the contract of this file alone, got one of {len(contract.models)} models"
        )
    return contract


def _check_agreement(contract: Contract, own: Contract, path: Path) -> None:
    """The file's own contract does not contradict its bundle's about how to run it. Raises ContractError."""
    promised = contract.for_model(path.name)
    pairs: list[tuple[Any, Any, str]] = [(promised, own, name) for name in FACTS_OF_ALL]
    pairs += [(promised.models[0], own.models[0], name) for name in FACTS_OF_ONE]
    for document, inside, name in pairs:
        if getattr(document, name) != getattr(inside, name):
            raise ContractError(f"{path}: {CONTRACT_FILE} and the file's own metadata differ about its {name}")
