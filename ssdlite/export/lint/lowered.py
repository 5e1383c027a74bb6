"""What a runtime makes of a file of its own: it has been converted already, so what is left over can be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ssdlite.export.lint.mlpackage import examine_package
from ssdlite.export.lint.ncnn import examine_on_vulkan
from ssdlite.export.lint.report import NEEDS, LintFinding, LintReport
from ssdlite.export.lint.rules import FILE_TARGETS
from ssdlite.export.lint.tflite import examine_on_gpu, examine_with_xnnpack
from ssdlite.runtime.backends.executorch import CAST_OF_BYTES, ExecuTorchBackend, importing_exporter
from ssdlite.runtime.backends.openvino import OpenVinoBackend
from ssdlite.runtime.files import open_model, runtime_problem


def examine_lowered(path: Path, targets: Sequence[str]) -> list[LintReport]:
    """Of a file of one runtime, which is opened for it: on those of ``targets`` that it is for; without any, on all.

    Raises:
        ContractError: it is damaged, the package of its runtime is missing, or it is refused there.
    """
    own = FILE_TARGETS[path.suffix.lower()]
    return [EXAMINERS[target](path) for target in own if not targets or target in targets]


def missing_runtime(path: Path, runtime: str) -> str:
    """Why a file of this runtime cannot be judged here; empty where it can."""
    asked = [one for one in FILE_TARGETS.get(path.suffix.lower(), ()) if one not in WITHOUT_RUNTIME]
    return runtime_problem(runtime) if asked else ""


def _examine_openvino(path: Path) -> LintReport:
    """OpenVINO opens nothing that it does not compute."""
    backend = open_model(path, None, 1)[2]
    assert isinstance(backend, OpenVinoBackend)  # by the file's name
    return LintReport("openvino", backend.nodes, backend.nodes, None, NEEDS["openvino"], [])


def _examine_program(path: Path) -> LintReport:
    """ExecuTorch's own kernels beside the delegates."""
    assert isinstance(open_model(path, None, 1)[2], ExecuTorchBackend)  # which is strict about damage
    with importing_exporter():
        from executorch.exir._serialize._program import deserialize_pte_binary

    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
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


WITHOUT_RUNTIME = ("coreml-package",)  # which reads the file alone
EXAMINERS: dict[str, Callable[[Path], LintReport]] = {
    "openvino": _examine_openvino,
    "executorch": _examine_program,
    "litert": examine_with_xnnpack,
    "litert-gpu": examine_on_gpu,
    "ncnn-vulkan": examine_on_vulkan,
    "coreml-package": examine_package,
}
