"""What a saved Core ML package computes: its specification and its weights file, read here and nowhere else, and run
operator by operator in torch. A value of 16 bits is rounded to them after each operator, as Core ML may do it.

The operators are as https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html says.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Values = Mapping[str, Any]
TYPES = {1: np.bool_, 10: np.float16, 11: np.float32, 21: np.int8, 23: np.int32, 31: np.uint8}  # of MIL.proto


class Program:
    """The ML program of a package, alone or as the first stage of a pipeline."""

    def __init__(self, package: Path) -> None:
        from coremltools.proto import Model_pb2

        data = package / "Data" / "com.apple.CoreML"
        self.specification = Model_pb2.Model.FromString((data / "model.mlmodel").read_bytes())
        self.weights = (data / "weights" / "weight.bin").read_bytes()
        stages = self.specification.pipeline.models
        program = (stages[0] if stages else self.specification).mlProgram
        (self.function,) = program.functions.values()
        (self.block,) = self.function.block_specializations.values()
        self.counts = Counter(one.type for one in self.block.operations if one.type != "const")

    def run(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """An RGB picture [H, W, 3] -> outputs by name."""
        (image,) = self.function.inputs
        values: dict[str, Any] = {image.name: torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]}
        with torch.no_grad():
            for one in self.block.operations:
                inputs = {name: self._argument(given, values) for name, given in (*one.inputs.items(),)}
                inputs |= {name: self._value(given) for name, given in one.attributes.items()}
                (output,) = one.outputs
                values[output.name] = _rounded(OPERATORS[one.type](inputs), output.type.tensorType.dataType)
        return {name: values[name].float().numpy() for name in self.block.outputs}

    def _argument(self, given: Any, values: Values) -> Any:
        found = [
            values[one.name] if one.WhichOneof("binding") == "name" else self._value(one.value)
            for one in given.arguments
        ]
        return found if len(found) > 1 else found[0]

    def _value(self, value: Any) -> Any:
        tensor = value.type.tensorType
        shape = [side.constant.size for side in tensor.dimensions]
        if value.WhichOneof("value") == "blobFileValue":
            assert value.blobFileValue.fileName == "@model_path/weights/weight.bin"
            sentinel, _, size, start = struct.unpack_from("<IIQQ", self.weights, value.blobFileValue.offset)
            assert sentinel == 0xDEADBEEF
            array = np.frombuffer(self.weights, TYPES[tensor.dataType], offset=start, count=math.prod(shape))
            assert array.nbytes == size
            return torch.from_numpy(array.reshape(shape).copy())
        held = value.immediateValue.tensor
        kind = held.WhichOneof("value")
        if kind == "strings":
            return held.strings.values[0]
        content = getattr(held, kind).values
        array = (
            np.frombuffer(content, TYPES[tensor.dataType])
            if kind == "bytes"
            else np.array(content, TYPES[tensor.dataType])
        )
        return torch.from_numpy(array.reshape(shape).copy())


def _rounded(value: Any, kind: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.half().float() if kind == 10 else value


def _numbers(value: Tensor) -> list[int]:
    return [int(number) for number in value.reshape(-1)]


def _convolution(i: Values) -> Tensor:
    assert i["pad_type"] == "custom"
    top, bottom, left, right = _numbers(i["pad"])
    padded = functional.pad(i["x"], (left, right, top, bottom))
    weight, bias = i["weight"].float(), i["bias"].float() if "bias" in i else None
    return functional.conv2d(
        padded, weight, bias, _numbers(i["strides"]), 0, _numbers(i["dilations"]), int(i["groups"])
    )


def _slice(i: Values) -> Tensor:
    begin, end = _numbers(i["begin"]), _numbers(i["end"])
    masks = [_numbers(i[name]) if name in i else [0] * len(begin) for name in ("begin_mask", "end_mask")]
    strides = _numbers(i["stride"]) if "stride" in i else [1] * len(begin)
    parts = (
        slice(None if open_start else start, None if open_end else stop, step)
        for start, stop, step, open_start, open_end in zip(begin, end, strides, *masks, strict=True)
    )
    result: Tensor = i["x"][tuple(parts)]
    return result


def _dequantized(i: Values) -> Tensor:
    values, axis = i["quantized_data"].float(), int(i["axis"])
    sides = [-1 if place == axis else 1 for place in range(values.ndim)]
    return (values - i["zero_point"].float().reshape(sides)) * i["scale"].float().reshape(sides)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Values], Tensor]:
    return lambda i: function(i["x"].float(), i["y"].float())


def _upsampled(i: Values) -> Tensor:
    factors = (int(i["scale_factor_height"]), int(i["scale_factor_width"]))
    result: Tensor = i["x"].repeat_interleave(factors[0], dim=2).repeat_interleave(factors[1], dim=3)
    return result


def _upsampled_between(i: Values) -> Tensor:
    assert not bool(i["align_corners"])
    factors = [float(i["scale_factor_height"]), float(i["scale_factor_width"])]
    return functional.interpolate(i["x"], scale_factor=factors, mode="bilinear", align_corners=False)


def _pooled(i: Values) -> Tensor:
    assert i["pad_type"] == "custom" and not bool(i.get("ceil_mode", False))
    top, bottom, left, right = _numbers(i["pad"])
    padded = functional.pad(i["x"], (left, right, top, bottom), value=-torch.inf)
    return functional.max_pool2d(padded, _numbers(i["kernel_sizes"]), _numbers(i["strides"]))


OPERATORS: dict[str, Callable[[Values], Any]] = {
    "const": lambda i: i["val"],
    "constexpr_affine_dequantize": _dequantized,
    "identity": lambda i: i["x"],
    "cast": lambda i: i["x"].float(),
    "conv": _convolution,
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.div),
    "matmul": _binary(torch.matmul),
    "linear": lambda i: functional.linear(i["x"], i["weight"].float(), i["bias"].float() if "bias" in i else None),
    "greater_equal": _binary(torch.ge),
    "select": lambda i: torch.where(i["cond"], i["a"].float(), i["b"].float()),
    "relu": lambda i: i["x"].relu(),
    "leaky_relu": lambda i: functional.leaky_relu(i["x"], float(i["alpha"])),
    "silu": lambda i: functional.silu(i["x"]),
    "relu6": lambda i: i["x"].clamp(0, 6),
    "clip": lambda i: i["x"].clamp(float(i["alpha"]), float(i["beta"])),
    "exp": lambda i: i["x"].exp(),
    "log": lambda i: (i["x"] + float(i["epsilon"])).log(),
    "sigmoid": lambda i: i["x"].sigmoid(),
    "sigmoid_hard": lambda i: (float(i["alpha"]) * i["x"] + float(i["beta"])).clamp(0, 1),
    "softmax": lambda i: i["x"].softmax(int(i["axis"])),
    "transpose": lambda i: i["x"].permute(_numbers(i["perm"])),
    "reshape": lambda i: i["x"].reshape(_numbers(i["shape"])),
    "squeeze": lambda i: i["x"].squeeze(tuple(_numbers(i["axes"]))),
    "concat": lambda i: torch.cat(i["values"], int(i["axis"])),
    "reduce_mean": lambda i: i["x"].mean(_numbers(i["axes"]), keepdim=bool(i["keep_dims"])),
    "reduce_max": lambda i: i["x"].amax(_numbers(i["axes"]), keepdim=bool(i["keep_dims"])),
    "slice_by_index": _slice,
    "max_pool": _pooled,
    "upsample_bilinear": _upsampled_between,
    "upsample_nearest_neighbor": _upsampled,
}
