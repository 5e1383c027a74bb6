"""Exported files on disk: which file of a bundle, where its contract is, and whether the two agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssdlite.errors import ContractError
from ssdlite.files import listing
from ssdlite.runtime.backends.onnxruntime import Backend, OnnxBackend, TensorInfo
from ssdlite.runtime.contract import CONTRACT_FILE, METADATA_KEY, Contract, ModelSpec
from ssdlite.runtime.contract_file import parse_contract, read_contract

EXPORTED_SUFFIXES = (".onnx", ".ort", ".param")
FACTS_OF_ALL = ("class_names", "resize", "boxes", "postprocess", "anchors")
FACTS_OF_ONE = ("variant", "input", "outputs")
PREFERENCE = ("nms", "decoded", "raw")
SHOWN = 6  # names in a message
Opened = tuple[Contract, ModelSpec, Backend]


def is_exported(path: Path) -> bool:
    """Whether ``path`` looks like an exported model or a bundle of them, and not like a checkpoint."""
    return path.is_dir() or path.suffix.lower() in EXPORTED_SUFFIXES


def open_model(path: Path, model: str | None, threads: int | None) -> Opened:
    """The contract, the model in it and what runs that; see ``ssdlite.runtime.model.load_model``."""
    try:
        if path.is_dir():
            return _open_in_bundle(path, model, threads)
        if model is not None and model != path.name:
            raise ContractError(f"{path}: is one model; {model!r} can be chosen in a bundle, which is a folder")
        if path.suffix.lower() == ".param":
            return _open_in_bundle(path.parent, path.name, threads)
        return _open_file(path, threads)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def choose_model(contract: Contract, name: str | None) -> ModelSpec:
    """The model called ``name``, or the one to use where nobody says which.

    Raises:
        ContractError: no such model; the message names those there are.
    """
    if name is not None:
        return contract.for_model(name).models[0]
    for variant in PREFERENCE:
        own = [model for model in contract.models if model.variant == variant and model.runtime == "onnxruntime"]
        if own:
            return next((model for model in own if model.precision == "fp32"), own[0])
    return contract.models[0]


def read_bundle(bundle: Path) -> Contract:
    """The contract of a bundle's folder. Raises ContractError where there is none, or a damaged one."""
    inner_file(bundle, CONTRACT_FILE, "a bundle has to have it; make one with `ssdlite export`")
    return read_contract(bundle)


def _open_in_bundle(bundle: Path, name: str | None, threads: int | None) -> Opened:
    contract = read_bundle(bundle)
    model = choose_model(contract, name)
    path = inner_file(bundle, model.file, f"{CONTRACT_FILE} lists it")
    if model.runtime == "ncnn":
        from ssdlite.runtime.backends.ncnn import NcnnBackend

        weights = inner_file(bundle, str(model.weights_file), f"{CONTRACT_FILE} lists it")
        return contract, model, NcnnBackend(path, weights, model, threads)
    backend = OnnxBackend(path, threads)
    _check_session(backend, model)
    _check_metadata(backend, contract, model)
    return contract, model, backend


def _open_file(path: Path, threads: int | None) -> Opened:
    backend = OnnxBackend(path, threads)
    own = _own_contract(backend)
    if own is not None:
        contract, model = own, own.models[0]
    elif (path.parent / CONTRACT_FILE).is_file():
        inner_file(path.parent, CONTRACT_FILE, "it describes the model")
        contract = read_contract(path.parent)
        model = choose_model(contract, path.name)
    else:
        raise ContractError(
            f"{path}: has no contract (no {METADATA_KEY!r} in its metadata, no {CONTRACT_FILE} beside it): nothing "
            "says how to feed it or what it answers; export the checkpoint with `ssdlite export`"
        )
    if model.runtime != "onnxruntime":
        raise ContractError(f"{path}: its contract says that it runs in {model.runtime}")
    _check_session(backend, model)
    return contract, model, backend


def _own_contract(backend: OnnxBackend) -> Contract | None:
    """What the file's metadata say of it."""
    text = backend.metadata.get(METADATA_KEY)
    if text is None:
        return None
    contract = parse_contract(text, f"the contract in {backend.name}")
    if len(contract.models) != 1:
        raise ContractError(
            f"{backend.name}: expected the contract of this file alone, got one of {len(contract.models)} models"
        )
    return contract


def inner_file(folder: Path, name: str, reason: str) -> Path:
    """The regular file ``name`` in ``folder``.

    Raises:
        ContractError: it is missing, no file, or a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():
        raise ContractError(f"{path}: no such file; {reason}")
    if path.resolve().parent != folder.resolve():
        raise ContractError(f"{path}: a link that leads out of the bundle is not followed")
    return path


def _check_session(backend: OnnxBackend, model: ModelSpec) -> None:
    """The file's own inputs and outputs are those that the contract promises."""
    spec = model.input
    promised = TensorInfo(spec.name, spec.type, spec.shape)
    if backend.inputs != [promised]:
        raise ContractError(
            f"{backend.name}: the contract promises one input, {_show(promised)}; the file has "
            f"{'; '.join(map(_show, backend.inputs[:SHOWN])) or 'none'}"
        )
    own = {output.name: output for output in backend.outputs}
    names = {output.name for output in model.outputs}
    if own.keys() != names:
        raise ContractError(
            f"{backend.name}: the contract promises outputs {_list(sorted(names))}; the file has {_list(sorted(own))}"
        )
    for output in model.outputs:
        wanted = TensorInfo(output.name, output.type, output.shape)
        got = own[output.name]
        if got.type != wanted.type or not _shapes_agree(got.shape, wanted.shape):
            raise ContractError(f"{backend.name}: the contract promises {_show(wanted)}; the file has {_show(got)}")


def _check_metadata(backend: OnnxBackend, contract: Contract, model: ModelSpec) -> None:
    """The file's metadata, where it has any, do not contradict the bundle's contract about how to run it."""
    own = _own_contract(backend)
    if own is None:
        return
    pairs: list[tuple[Any, Any, str]] = [(contract.for_model(model.file), own, name) for name in FACTS_OF_ALL]
    pairs += [(model, own.models[0], name) for name in FACTS_OF_ONE]
    for document, inside, name in pairs:
        if getattr(document, name) != getattr(inside, name):
            raise ContractError(f"{backend.name}: {CONTRACT_FILE} and the file's own metadata differ about its {name}")


def _shapes_agree(own: tuple[int | None, ...], promised: tuple[int | None, ...]) -> bool:
    """A side that the file leaves open is checked when it has run."""
    if len(own) != len(promised):
        return False
    return all(side is None or side == wanted for side, wanted in zip(own, promised, strict=True))


def _show(tensor: TensorInfo) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in tensor.shape)
    return f"{tensor.name[:60]!r} {tensor.type} [{sides}]"


def _list(names: list[str]) -> str:
    return listing([repr(name[:60]) for name in names], SHOWN)
