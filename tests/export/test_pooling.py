"""Means over a map's rows and columns as GlobalAveragePool, and all other means left alone."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from ssdlite.export.onnx import pool_globally


@pytest.mark.parametrize(
    ("opset", "mean", "expected"),
    [
        (13, "ReduceMean<axes = [2, 3], keepdims = 1>(maps)", "GlobalAveragePool"),
        (13, "ReduceMean<axes = [-1, -2]>(maps)", "GlobalAveragePool"),
        (13, "ReduceMean<axes = [1, 2], keepdims = 1>(maps)", "ReduceMean"),
        (13, "ReduceMean<axes = [2], keepdims = 1>(maps)", "ReduceMean"),
        (18, "ReduceMean<keepdims = 1>(maps, axes)", "GlobalAveragePool"),
        (18, "ReduceMean<keepdims = 0>(maps, axes)", "ReduceMean"),
        (18, "ReduceMean(maps)", "ReduceMean"),
    ],
)
def test_pooling(opset: int, mean: str, expected: str) -> None:
    shape = "a, b" if "keepdims = 0" in mean else "a, b, c, d"
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        made (float[2, 3, 5, 7] images) => (float[{shape}] found) <int64[2] axes = {{2, 3}}> {{
            maps = Relu(images)
            means = {mean}
            found = Neg(means)
        }}"""
    )
    if opset == 13:
        del model.graph.initializer[:]
    images = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0]
    pool_globally(model)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.node[1].op_type == expected
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0]
    assert after.shape == before.shape
    assert np.abs(after - before).max() < 1e-6
