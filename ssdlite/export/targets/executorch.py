"""For ExecuTorch: .pte files lowered to XNNPACK, which is what it computes with on the CPUs of phones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch._ops import OpOverload

from ssdlite.errors import ExportError
from ssdlite.export.graphs import build_graph, model_spec, use_plain_activations
from ssdlite.export.onnx import TORCH_TYPES
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import listing, write_atomically
from ssdlite.runtime.backends.base import first_line, quiet
from ssdlite.runtime.backends.executorch import (
    CAST_OF_BYTES,
    ExecuTorchBackend,
    importing_exporter,
    operators_with_kernels,
)
from ssdlite.runtime.contract import Contract, ModelSpec

CHECK_TOLERANCE = 1e-3  # on a random image, as a part of the largest value or of 1
SHOWN_OPERATORS = 6  # in a message


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """The decoded and the raw graph in float32.

    XNNPACK takes all of it but the cast of a uint8 input: its hard-sigmoid is written in what XNNPACK has. int8 is not
    among the precisions: with executorch 1.5.1 the quantised program is written but does not load.
    """
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for executorch")
        spec = model_spec(job.detector, options, f"{options.variant}_{options.precision}.pte")
        graph = build_graph(job.detector, options).eval()
        use_plain_activations(graph, (nn.Hardsigmoid,))
        artifact, left = lower_to_xnnpack(graph, replace(spec, runtime="executorch"))
        others = [one for one in left if one.operator != CAST_OF_BYTES]
        if len(others) < len(left):
            job.notify(
                "  one operator stays outside XNNPACK, the cast of the bytes, a pass over the input; --input-type "
                "float32 leaves it to the app"
            )
        if others:
            job.notify(f"  outside XNNPACK, in ExecuTorch's own slower kernels: {_listing(others)}")
        artifacts.append(artifact)
    return artifacts


class LeftOperator(NamedTuple):
    """An operator that XNNPACK does not take, and the module that uses it."""

    operator: str
    module: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.module})"


def lower_to_xnnpack(graph: nn.Module, spec: ModelSpec) -> tuple[Artifact, list[LeftOperator]]:
    """The file that ``spec`` names, and what of it XNNPACK leaves to ExecuTorch's own kernels.

    Raises:
        ExportError: executorch is not installed, has no such operator, or answers something else than torch.
    """
    lower, partitioner = _import_exporter()
    shape = [side or 1 for side in spec.input.shape]
    example = torch.zeros(shape, dtype=TORCH_TYPES[spec.input.type])
    with quiet("torch.export", "executorch", "torch.utils._pytree"), torch.no_grad():
        program = torch.export.export(graph, (example,))
        try:
            _refuse([one for one in _operators(program.graph) if not one.operator.startswith("aten::")])
            lowered = lower(program, partitioner=[partitioner()])
            left = _operators(lowered.exported_program().graph)
            kernels = operators_with_kernels()
            _refuse([one for one in left if one.operator not in kernels])
            content = bytes(lowered.to_executorch().buffer)
        except ExportError:
            raise
        except Exception as error:  # the exporter has no base class of its own
            _refuse(_named_in(str(error), _operators(program.graph)))
            raise ExportError(f"{spec.file}: ExecuTorch cannot lower the graph: {first_line(error)}") from None
    _compare(graph, ExecuTorchBackend(content, spec), spec)
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(replace(spec, sha256={spec.file: digest}), partial(_save, content)), left


def _save(content: bytes, folder: Path, contract: Contract) -> None:
    write_atomically(folder / contract.models[0].file, lambda file: file.write(content))


def _operators(graph: torch.fx.Graph) -> list[LeftOperator]:
    """All of a graph that is no call of a delegate."""
    found = []
    for node in graph.nodes:
        target = node.target
        if not isinstance(target, OpOverload):
            target = getattr(target, "_op", None)  # ExecuTorch wraps torch's own
        if isinstance(target, OpOverload):
            scopes = [scope for scope, _ in node.meta.get("nn_module_stack", {}).values() if scope]
            path = scopes[-1].removeprefix("network.").removeprefix("detector.") if scopes else "graph"
            found.append(LeftOperator(target._schema.name, path))
    return found


def _refuse(operators: Sequence[LeftOperator]) -> None:
    if operators:
        raise ExportError(f"ExecuTorch has no {_listing(operators)}")


def _named_in(message: str, operators: Sequence[LeftOperator]) -> list[LeftOperator]:
    """Those that a message is about, which may name what one of them is written in: linalg_inv_ex of linalg_inv."""
    named = [one for one in operators if one.operator.replace("::", ".") in message]
    longest = max((one.operator for one in named), key=len, default="")
    return [one for one in named if one.operator == longest]


def _listing(operators: Sequence[LeftOperator]) -> str:
    return listing(list(dict.fromkeys(map(str, operators))), SHOWN_OPERATORS)


def _compare(graph: nn.Module, backend: ExecuTorchBackend, spec: ModelSpec) -> None:
    """Raises ExportError where ExecuTorch answers something else than torch on a random image."""
    backend.check(spec)
    values = np.random.default_rng(0).uniform(0, 255, [side or 1 for side in spec.input.shape])
    mean, std = (np.array(part).reshape(3, 1, 1) for part in (spec.input.mean, spec.input.std))
    image = ((values - mean) / std).astype(spec.input.type)
    with torch.no_grad():
        expected = graph(torch.from_numpy(image))
    answers = backend.run(image)
    for output, right in zip(spec.outputs, expected, strict=True):
        error = float(np.abs(answers[output.name] - right.numpy()).max() / max(1.0, float(right.abs().max())))
        if not error <= CHECK_TOLERANCE:  # NaN is no agreement
            raise ExportError(f"ExecuTorch's {output.meaning} differ from torch's by {error:.2g} on a random image")


def _import_exporter() -> tuple[Callable[..., Any], Any]:
    """The function that lowers, and the partitioner. Raises ExportError."""
    with importing_exporter():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ImportError:
            raise ExportError('executorch is not installed: pip install "ssdlite[executorch]"') from None
    return to_edge_transform_and_lower, XnnpackPartitioner
