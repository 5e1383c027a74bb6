"""What runs an exported network, whichever runtime does it: one class for each, registered in ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.runtime.contract import ModelSpec

Array = npt.NDArray[Any]
MAX_MODEL_BYTES = 1 << 30


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
        carries_contract: whether its files have room for their contract, in ``metadata``. Those that have none are
            opened in their bundle alone.
        metadata: what the file says of itself, by name.
    """

    suffixes: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
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
