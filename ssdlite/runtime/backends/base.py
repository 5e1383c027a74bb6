"""What runs an exported network, whichever runtime does it: one class for each, registered in ``BACKENDS``."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.files import listing
from ssdlite.runtime.contract import ModelSpec

Array = npt.NDArray[Any]
MAX_MODEL_BYTES = 1 << 30
SHOWN_TENSORS = 6  # names in a message
LONGEST_REASON = 300  # of a runtime's own, in a message


class Network(Protocol):
    """What computes."""

    def run(self, inputs: Array) -> dict[str, Array]:
        """The one input tensor -> all outputs by their names in the file. Raises ContractError when it fails."""


class Backend(Network, Protocol):
    """The network of one exported file, opened for running.

    A runtime is one such class in a module of its own, and one entry of ``ssdlite.runtime.backends.BACKENDS``. The
    module must not import the runtime's package before ``open`` is called.

    Attributes:
        suffixes: the endings of its model files, in small letters.
        package: that has to be installed; its version is stated beside figures and reference vectors.
        has_weights_file: whether a model is two files, the second being ``ModelSpec.weights_file``.
        unsupported: why no package makes it run on this system; empty where one does.
        carries_contract: whether its files have room for their contract, in ``metadata``. Those that have none are
            opened in their bundle alone.
        metadata: what the file says of itself, by name.
    """

    suffixes: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    unsupported: ClassVar[str]
    has_weights_file: ClassVar[bool]
    carries_contract: ClassVar[bool]

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> Backend:
        """The file at ``path``, a weights file being beside it.

        Args:
            model: what the contract says of it; None where the file's own contract is yet to be read.
            threads: that compute one run; by default the runtime's own choice.

        Raises:
            ContractError: the file is missing, too large, damaged, or refers to others; or the package is missing.
        """

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the file has other inputs or outputs than ``model`` promises."""


# --- LiteRT, ExecuTorch and ncnn write lines of their own to standard error while they open a network, with no switch.

Surroundings = Callable[[], AbstractContextManager[object]]
_surroundings: list[Surroundings] = [nullcontext]  # the last one counts


def opening() -> AbstractContextManager[object]:
    """In this a runtime is to be called that writes to standard error."""
    return _surroundings[-1]()


def current_surroundings() -> Surroundings:
    """What ``opening_in`` was given, to be given it again in another process."""
    return _surroundings[-1]


@contextmanager
def opening_in(surroundings: Surroundings) -> Iterator[None]:
    """Networks are opened in these, all threads' ones. A library leaves its process as it is; a program need not."""
    _surroundings.append(surroundings)
    try:
        yield
    finally:
        _surroundings.remove(surroundings)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Only errors of the loggers called ``names``, and no warnings. Errors of the tools come as exceptions anyway."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_model_file(path: Path) -> None:
    """Raises ContractError: no regular file, unreadable, empty, or larger than any detector."""
    try:
        if not path.is_file():
            raise ContractError(f"{path}: no such model file")
        size = path.stat().st_size
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
    if not 0 < size <= MAX_MODEL_BYTES:
        raise ContractError(f"{path}: expected a model of 1 to {MAX_MODEL_BYTES} bytes, got {size}")


def read_model_file(path: Path) -> bytes:
    """Raises ContractError: no regular file, unreadable, empty, or larger than any detector."""
    check_model_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def first_line(error: Exception) -> str:
    """Of what a runtime says, for a message."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


# --- What a file itself declares, beside what its contract promises.


class TensorInfo(NamedTuple):
    """An input or output as the file itself declares it; None is a side left free."""

    name: str
    type: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("any" if side is None else str(side) for side in self.shape)
        return f"{self.name[:60]!r} {self.type} [{sides}]"


def check_promises(name: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], model: ModelSpec) -> None:
    """Raises ContractError where the file ``name`` has other inputs or outputs than ``model`` promises."""
    promised = TensorInfo(model.input.name, model.input.type, model.input.shape)
    if list(inputs) != [promised]:
        found = "; ".join(map(str, inputs[:SHOWN_TENSORS])) or "none"
        raise ContractError(f"{name}: the contract promises one input, {promised}; the file has {found}")
    own = {output.name: output for output in outputs}
    names = {output.name for output in model.outputs}
    if own.keys() != names:
        raise ContractError(f"{name}: the contract promises outputs {_list(names)}; the file has {_list(own)}")
    for output in model.outputs:
        wanted, got = TensorInfo(output.name, output.type, output.shape), own[output.name]
        if got.type != wanted.type or not _shapes_agree(got.shape, wanted.shape):
            raise ContractError(f"{name}: the contract promises {wanted}; the file has {got}")


def _shapes_agree(own: tuple[int | None, ...], promised: tuple[int | None, ...]) -> bool:
    """A side that the file leaves open is checked when it has run."""
    if len(own) != len(promised):
        return False
    return all(side is None or side == wanted for side, wanted in zip(own, promised, strict=True))


def _list(names: Iterable[str]) -> str:
    return listing([repr(name[:60]) for name in sorted(names)], SHOWN_TENSORS)


def check_input(name: str, inputs: Sequence[TensorInfo], value: Array) -> None:
    """Raises ContractError where ``value`` is not what the one of ``inputs`` takes: some runtimes misread that."""
    (info,) = inputs
    if value.dtype != info.type or not _shapes_agree(info.shape, value.shape):
        raise ContractError(f"{name}: expected the input {info}, got {value.dtype} {list(value.shape)}")


def check_digest(path: str, content: bytes, model: ModelSpec) -> None:
    """Raises ContractError where this file of the model has not the SHA-256 that its contract states, if it does."""
    expected = (model.sha256 or {}).get(Path(path).name)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise ContractError(f"{path}: damaged, or not the file that was exported: it has not the contract's SHA-256")
