"""What a runtime makes of a file of its own: it has been converted already, so what is left over can be counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ssdlite.errors import DataError
from ssdlite.export.lint.report import NEEDS, LintFinding, LintReport
from ssdlite.runtime.backends.executorch import ExecuTorchBackend
from ssdlite.runtime.backends.openvino import OpenVinoBackend
from ssdlite.runtime.files import open_model

CAST_OF_BYTES = "dim_order_ops::_to_dim_order_copy"


def examine_lowered(path: Path) -> LintReport:
    """Of a file of OpenVINO or ExecuTorch, which is opened for it.

    Raises:
        ContractError: it is damaged, the package of its runtime is missing, or it is refused there.
    """
    _, _, backend = open_model(path, None, 1)
    if isinstance(backend, OpenVinoBackend):  # which opens nothing that it does not compute
        return LintReport("openvino", backend.nodes, backend.nodes, None, NEEDS["openvino"], [])
    if isinstance(backend, ExecuTorchBackend):
        return _examine_program(path.read_bytes())
    raise DataError(f"{path}: expected a file for OpenVINO or ExecuTorch")


def _examine_program(content: bytes) -> LintReport:
    """ExecuTorch's own kernels beside the delegates."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    (plan,) = deserialize_pte_binary(content).program.execution_plan
    calls = [one.instr_args for chain in plan.chains for one in chain.instructions]
    own = Counter(plan.operators[call.op_index].name for call in calls if hasattr(call, "op_index"))
    findings = [
        LintFinding(
            "cpu",
            "outside XNNPACK: ExecuTorch's own kernels do it",
            "--input-type float32" if operator == CAST_OF_BYTES else "another operator in the network",
            operator,
            count,
        )
        for operator, count in own.items()
    ]
    delegates = sum(hasattr(call, "delegate_index") for call in calls)
    return LintReport("executorch", delegates + own.total(), delegates, delegates, NEEDS["executorch"], findings)
