"""Where a network's time goes in ONNX Runtime, by kind of layer, beside the machine's own limit."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

RUNS, WARM_UP = 30, 5
LARGE_MAP = 38  # from this side on a map of few channels: more bytes than arithmetic


def layer_notes(path: Path, limit: float) -> list[str]:
    """A line for each kind of layer of a float32 model of one input, slowest first.

    ``limit``: multiply-adds a second that the machine reaches in a large product of matrices, on one thread.
    """
    seconds: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    for event in _profile(path):
        kind, multiply_adds = _describe(event["args"])
        seconds[kind] += event["dur"] / 1e6 / RUNS
        work[kind] += multiply_adds / RUNS
    total, all_work = sum(seconds.values()), sum(work.values())
    slowest_first = sorted(seconds, key=lambda kind: -seconds[kind])
    return [
        f"{path.name}, layer by layer: {all_work / total / limit:.0%} of the machine's limit",
        *(
            f"{kind}: {seconds[kind] / total:.0%} of the time for {work[kind] / all_work:.0%} of the multiply-adds, "
            f"{work[kind] / seconds[kind] / limit:.0%} of the limit"
            for kind in slowest_first
        ),
    ]


def _profile(path: Path) -> list[dict[str, Any]]:
    """ONNX Runtime's own record of RUNS runs on one thread, behind some that do not count."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        values = np.random.default_rng(0).random(given.shape, np.float32)
        for _ in range(RUNS + WARM_UP):
            session.run(None, {given.name: values})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    return kernels[len(kernels) // (RUNS + WARM_UP) * WARM_UP :]


def _describe(facts: dict[str, Any]) -> tuple[str, int]:
    """The kind of a layer, and its multiply-adds; ONNX Runtime pads channels to a multiple of 16, which are counted."""
    if facts["op_name"] != "Conv":
        return "all that is no convolution", 0
    (inputs,) = facts["input_type_shape"][0].values()
    (weights,) = facts["input_type_shape"][1].values()
    (outputs,) = facts["output_type_shape"][0].values()
    multiply_adds = math.prod(weights) * math.prod(outputs[2:])
    kernel = f"{weights[2]} x {weights[3]}"
    if weights[1] == 1 and inputs[1] > 1:
        return f"depthwise {kernel}", multiply_adds
    if inputs[1] <= 3:
        return f"the first convolution, {kernel}", multiply_adds
    size = f"maps of {LARGE_MAP} x {LARGE_MAP} and more" if outputs[2] >= LARGE_MAP else "smaller maps"
    return f"{kernel}, {size}", multiply_adds
