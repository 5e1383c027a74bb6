"""Which layers of an ncnn file have Vulkan shaders. ncnn itself is asked, kind by kind, which takes no GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ssdlite.errors import ContractError
from ssdlite.export.lint.report import NEEDS, LintFinding, LintReport
from ssdlite.runtime.backends.ncnn import import_ncnn, read_layers

NO_WORK = ("Input",)
WITH_SHADER = "Convolution"  # in every build for Vulkan


def examine_on_vulkan(path: Path) -> LintReport:
    """Of a .param file. A layer may still decline to use its shader for shapes that it does not cover.

    Raises:
        ContractError: it is damaged, ncnn is not installed, or is built without Vulkan.
    """
    ncnn = import_ncnn(str(path))
    if not ncnn.create_layer(WITH_SHADER).support_vulkan:
        raise ContractError(f"{path}: the ncnn installed here is built without Vulkan, and cannot say what it takes")
    kinds = Counter(kind for kind in read_layers(path) if kind not in NO_WORK)
    findings = [
        finding
        for kind, count in kinds.items()
        if (finding := _finding(kind, ncnn.create_layer(kind), count)) is not None
    ]
    left = sum(finding.count for finding in findings)
    return LintReport("ncnn-vulkan", kinds.total(), kinds.total() - left, None, NEEDS["ncnn-vulkan"], findings)


def _finding(kind: str, layer: Any, count: int) -> LintFinding | None:
    if layer is None:
        return LintFinding("refused", "ncnn has no such layer", "another operator in the network", kind, count)
    if not layer.support_vulkan:
        why = "no Vulkan shader: the CPU does it, and data are copied there and back"
        return LintFinding("cpu", why, "another operator in the network", kind, count)
    return None
