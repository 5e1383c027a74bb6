"""An exported model in ExecuTorch, as a .pte file for XNNPACK, through its Python package, which needs torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import (
    Array,
    TensorInfo,
    check_digest,
    check_input,
    check_promises,
    first_line,
    opening,
    quiet,
    read_model_file,
)
from ssdlite.runtime.contract import ModelSpec

METHOD = "forward"
CAST_OF_BYTES = "dim_order_ops::_to_dim_order_copy"  # of a uint8 input: XNNPACK has none
SCALAR_TYPES = {0: "uint8", 3: "int32", 6: "float32"}  # c10/core/ScalarType.h


class ExecuTorchBackend:
    """A .pte file, on the CPU.

    ExecuTorch follows what a file says: a damaged one ends the process, its own verification notwithstanding. So none
    is opened whose SHA-256 is not that of the contract; what comes from strangers is to be trusted as their code would
    be. It also reads an input of another memory layout as if it were dense: here it is made so.

    Args:
        source: the file, or its content.
        model: names the outputs, in the file's order, and states the SHA-256 of a file.
        threads: of ExecuTorch in the whole process, which has one pool of them; by default left as they are. Where
            they change, models of this class are loaded again before they are run; those that others opened in this
            process must not be run any more.

    Raises:
        ContractError: executorch is not installed, or the file is missing, too large, damaged, or cannot be run here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".pte",)
    package: ClassVar[str] = "executorch"
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = False
    carries_contract: ClassVar[bool] = False

    def __init__(self, source: Path | bytes, model: ModelSpec, threads: int | None = None) -> None:
        self.name = str(source) if isinstance(source, Path) else model.file
        self.metadata: dict[str, str] = {}
        self.model = model
        self._threads = threads
        self._opened = (source.absolute() if isinstance(source, Path) else source, model, threads)
        self._bindings = _import_bindings(self.name)
        self._content = source if isinstance(source, bytes) else read_model_file(source)
        if isinstance(source, Path):
            if source.name not in (model.sha256 or {}):
                raise ContractError(f"{self.name}: its contract states no SHA-256, and a damaged file ends the process")
            check_digest(self.name, self._content, model)
        with POOL.lock, opening():
            self._load()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: a program belongs to its process."""
        return ExecuTorchBackend, self._opened

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> ExecuTorchBackend:
        if model is None:
            raise ContractError(f"{path}: ExecuTorch needs a contract that names its outputs")
        return cls(path, model, threads)

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the file has other inputs or outputs than ``model`` says."""
        check_promises(self.name, self.inputs, self.outputs, model)

    def run(self, inputs: Array) -> dict[str, Array]:
        """The one input tensor -> all outputs by name. Raises ContractError: another shape or type, or it fails."""
        check_input(self.name, self.inputs, inputs)
        with POOL.lock:
            if POOL.generation(self._bindings, self._threads) != self._generation:
                with opening():
                    self._load()
            try:
                values = self._module.forward((_as_tensor(inputs),))
            except RuntimeError as error:
                raise ContractError(f"{self.name}: ExecuTorch cannot run it ({first_line(error)})") from None
        return {info.name: value.numpy() for info, value in zip(self.outputs, values, strict=True)}

    def _load(self) -> None:
        """Sets the module, with the pool's threads of now, and what it says of its tensors."""
        self._generation = POOL.generation(self._bindings, self._threads)
        verification = self._bindings.Verification.InternalConsistency
        try:
            self._module = self._bindings._load_for_executorch_from_buffer(
                self._content, program_verification=verification
            )  # it does not hold the content, which it refers to
            meta = self._module.method_meta(METHOD)
        except (RuntimeError, MemoryError) as error:
            raise ContractError(f"{self.name}: ExecuTorch cannot load it ({first_line(error)})") from None
        inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
        outputs = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
        self.inputs = _tensor_infos([self.model.input.name], inputs)
        self.outputs = _tensor_infos([output.name for output in self.model.outputs], outputs)


def _tensor_infos(names: Sequence[str], found: Sequence[Any]) -> list[TensorInfo]:
    """Of tensors that have no names of their own."""
    names = [*names, *(f"tensor {number}" for number in range(len(names), len(found)))]
    return [
        TensorInfo(name, SCALAR_TYPES.get(one.dtype(), f"type {one.dtype()}"), tuple(one.sizes()))
        for name, one in zip(names, found, strict=False)
    ]


class _Pool:
    """ExecuTorch's pool of threads. What was loaded before it changed refers to the pool that is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changes = 0

    def generation(self, bindings: Any, threads: int | None) -> int:
        """How often the pool has changed, after it has been given ``threads``, if any are asked for."""
        if threads is not None and bindings._threadpool_get_thread_count() != threads:
            with opening():
                bindings._unsafe_reset_threadpool(threads)
            self._changes += 1
        return self._changes


POOL = _Pool()


def operators_with_kernels() -> set[str]:
    """``aten::add`` and so on: what runs outside XNNPACK. Raises ContractError where executorch is not installed."""
    return {name.partition(".")[0] for name in _import_bindings("ExecuTorch")._get_operator_names()}


def _as_tensor(inputs: Array) -> Any:
    import torch

    return torch.from_numpy(np.require(inputs, requirements=("C", "W")))


def _import_bindings(name: str) -> Any:
    """What ``executorch.runtime`` is made of; that one imports the exporter, for seconds, and sets the environment."""
    try:
        import torch  # noqa: F401  which has the libraries that the other needs
        from executorch.extension.pybindings import _C
    except ImportError:
        raise ContractError(f'{name}: running it needs executorch: pip install "ssdlite[executorch]"') from None
    return _C


@contextmanager
def importing_exporter() -> Iterator[None]:
    """In this the exporter is to be imported, or a part of it: that warns, and adds variables to the environment."""
    before = set(os.environ)
    try:
        with quiet("torch.utils._pytree"):
            yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]
