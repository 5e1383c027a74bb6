"""``.ort`` files: the format of ONNX Runtime Mobile, which reduced builds of ONNX Runtime load, and only that."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from ssdlite.errors import ExportError
from ssdlite.files import write_atomically, write_text

Optimisation = Literal["fixed", "runtime"]
QUIET = 3  # errors alone


def to_ort_format(onnx_path: Path, ort_path: Path, *, optimisation: Optimisation | None = None) -> None:
    """Convert an ONNX file; its metadata, and so the contract, comes along.

    No optimisation is applied that belongs to the processor at hand, so the file runs on any.

    Args:
        optimisation: as ``--optimization_style`` of ONNX Runtime's own converter. ``fixed`` writes the graph as the
            CPU wants it, with fused operators; ``runtime`` leaves the operators as they are, so that NNAPI, CoreML
            and XNNPACK find theirs, and notes what the CPU may fuse, which it does where the app sets
            ``session.enable_saved_runtime_optimizations``. By default ``fixed`` for quantised models, whose integer
            kernels come from fusing and run twice as fast, and ``runtime`` for all others.

    Raises:
        ExportError: ONNX Runtime does not take the model.
    """
    import onnxruntime

    style = optimisation or ("fixed" if _is_quantised(onnx_path) else "runtime")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.ort")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.optimized_model_filepath = str(written)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.add_session_config_entry("session.qdqisint8allowed", "1")  # signed integers stay so: ARM likes them
        if style == "runtime":
            options.add_session_config_entry("optimization.minimal_build_optimizations", "save")
        try:
            onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen kinds, without a common base
            raise ExportError(f"{onnx_path}: cannot be converted to .ort: {error}") from None
        write_atomically(ort_path, lambda file: file.write(written.read_bytes()))


def write_required_operators(onnx_paths: Sequence[Path], config_path: Path) -> None:
    """The operators, operator sets and types that the .ort files of these models need: for a build of just these.

    Both optimisation styles are covered. The file goes to ONNX Runtime's
    ``build.sh --include_ops_by_config FILE --enable_reduced_operator_type_support``.

    Raises:
        ExportError: ONNX Runtime does not take a model.
    """
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # it announces each file
    styles: tuple[Optimisation, ...] = ("fixed", "runtime")
    with tempfile.TemporaryDirectory() as folder:
        converted = [Path(folder, f"{i}.{style}.ort") for i in range(len(onnx_paths)) for style in styles]
        for path, (source, style) in zip(converted, itertools.product(onnx_paths, styles), strict=True):
            to_ort_format(source, path, optimisation=style)
        written = Path(folder, "operators.config")
        create_config_from_models(converted, written, enable_type_reduction=True)
        lines = [line for line in written.read_text("utf-8").splitlines() if not line.startswith("#")]
    names = ", ".join(path.name for path in onnx_paths)
    write_text(config_path, "\n".join([f"# operators of {names}", *lines, ""]))


def _is_quantised(onnx_path: Path) -> bool:
    graph = onnx.load(str(onnx_path), load_external_data=False).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)
