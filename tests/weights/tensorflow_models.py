"""SSD MobileNets as the TensorFlow Object Detection API builds and names them, small, with random weights.

One description (``build_ssd``) and several writers: variables by their published names, a TensorFlow Lite file, and
TensorFlow's own graph. Written from the API's naming rules, not from the importer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EPSILON = 0.001
LEAST_CHANNELS = 16  # the API's min_depth
V1_STRIDES_AND_CHANNELS = (
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512),
    (2, 1024), (1, 1024),
)  # fmt: skip
V2_BLOCKS = (  # expansion, channels, stride
    (1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2), (6, 64, 1), (6, 64, 1),
    (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1), (6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Design:
    version: int  # of MobileNet
    lite: bool
    head_kernel: int = 1
    width: float = 1.0
    size: int = 96
    slots: int = 4
    anchors: tuple[int, ...] = (3, 6, 6, 6, 6, 6)


def build_ssd(b: Any, design: Design) -> tuple[Any, Any]:
    """-> what ``b`` makes of the box encodings [1, A, 4] and class predictions [1, A, slots]."""
    maps, scope = (_mobilenet_v1 if design.version == 1 else _mobilenet_v2)(b, design.width)
    for i, depth in enumerate((512, 256, 256, 128), 2):
        channels = max(int(depth * design.width), 16)
        x = b.conv(maps[-1], f"{scope}_1_Conv2d_{i}_1x1_{channels // 2}", channels // 2)
        name = f"{scope}_2_Conv2d_{i}_3x3_s2_{channels}"
        if design.lite:
            x = b.depthwise(x, f"{name}_depthwise", stride=2)
            maps.append(b.conv(x, name, channels))
        else:
            maps.append(b.conv(x, name, channels, kernel=3, stride=2))
    boxes, classes = [], []
    for i, (x, anchors) in enumerate(zip(maps, design.anchors, strict=True)):
        for kind, columns, found in (("BoxEncodingPredictor", 4, boxes), ("ClassPredictor", design.slots, classes)):
            scope, y = f"BoxPredictor_{i}/{kind}", x
            if design.lite:
                y = b.depthwise(y, f"{scope}_depthwise")
            y = b.conv(
                y, scope, anchors * columns, kernel=1 if design.lite else design.head_kernel, norm=False, relu=False
            )
            found.append(b.reshape(y, columns))
    return b.concat(boxes, "raw_outputs/box_encodings"), b.concat(classes, "raw_outputs/class_predictions")


def _mobilenet_v1(b: Any, width: float) -> tuple[list[Any], str]:
    scope, maps = "FeatureExtractor/MobilenetV1/", []
    x = b.conv(b.input(), f"{scope}Conv2d_0", max(int(32 * width), LEAST_CHANNELS), kernel=3, stride=2)
    for i, (stride, channels) in enumerate(V1_STRIDES_AND_CHANNELS, 1):
        x = b.depthwise(x, f"{scope}Conv2d_{i}_depthwise", stride=stride)
        x = b.conv(x, f"{scope}Conv2d_{i}_pointwise", max(int(channels * width), LEAST_CHANNELS))
        if i in (11, 13):
            maps.append(x)
    return maps, f"{scope}Conv2d_13_pointwise"


def _mobilenet_v2(b: Any, width: float) -> tuple[list[Any], str]:
    scope, maps = "FeatureExtractor/MobilenetV2/", []
    x = b.conv(b.input(), f"{scope}Conv", _divisible(32 * width), kernel=3, stride=2)
    for i, (expansion, channels, stride) in enumerate(V2_BLOCKS):
        name = f"{scope}expanded_conv{f'_{i}' if i else ''}"
        y = x if expansion == 1 else b.conv(x, f"{name}/expand", b.channels(x) * expansion)
        if i == 13:
            maps.append(y)
        y = b.depthwise(y, f"{name}/depthwise", stride=stride)
        y = b.conv(y, f"{name}/project", _divisible(channels * width), relu=False)
        x = b.add(x, y) if stride == 1 and b.channels(x) == b.channels(y) else y
    maps.append(b.conv(x, f"{scope}Conv_1", _divisible(1280 * width)))
    return maps, f"{scope}layer_19"


def _divisible(channels: float) -> int:
    rounded = max(LEAST_CHANNELS, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Variables:
    """Random values under the published names; what flows is (side, channels)."""

    def __init__(self, design: Design, seed: int = 0) -> None:
        self.size = design.size
        self.rng = np.random.default_rng(seed)
        self.values: dict[str, np.ndarray] = {}
        build_ssd(self, design)

    def input(self) -> int:
        return 3

    def channels(self, x: int) -> int:
        return x

    def conv(
        self, x: int, scope: str, out: int, *, kernel: int = 1, stride: int = 1, norm: bool = True, relu: bool = True
    ) -> int:
        self._put(f"{scope}/weights", (kernel, kernel, x, out), np.sqrt(2 / (kernel * kernel * x)))
        if norm:
            self._norm(scope, out)
        else:
            self._put(f"{scope}/biases", (out,), 0.5)
        return out

    def depthwise(self, x: int, scope: str, stride: int = 1) -> int:
        self._put(f"{scope}/depthwise_weights", (3, 3, x, 1), np.sqrt(2 / 9))
        self._norm(scope, x)
        return x

    def add(self, x: int, y: int) -> int:
        return y

    def reshape(self, y: int, columns: int) -> None: ...

    def concat(self, parts: list[Any], name: str) -> None: ...

    def _put(self, name: str, shape: tuple[int, ...], std: float) -> None:
        self.values[name] = (self.rng.standard_normal(shape) * std).astype(np.float32)

    def _norm(self, scope: str, channels: int) -> None:
        for name, low, high in (("gamma", 0.8, 1.2), ("beta", -0.1, 0.3), ("moving_mean", -0.2, 0.2)):
            self.values[f"{scope}/BatchNorm/{name}"] = self.rng.uniform(low, high, channels).astype(np.float32)
        self.values[f"{scope}/BatchNorm/moving_variance"] = self.rng.uniform(0.6, 1.6, channels).astype(np.float32)


def fold(values: dict[str, np.ndarray], scope: str) -> tuple[np.ndarray, np.ndarray]:
    """Filters and bias of a layer, its batch norm folded in as a converter does."""
    depthwise = f"{scope}/depthwise_weights" in values
    filters = values[f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"]
    if f"{scope}/biases" in values:
        return filters, values[f"{scope}/biases"]
    gamma, beta, mean, variance = (
        values[f"{scope}/BatchNorm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    factor = gamma / np.sqrt(variance + np.float32(EPSILON))
    return filters * (factor[:, None] if depthwise else factor), beta - mean * factor


@dataclass
class TfliteWriter:
    """Writes the network as a TensorFlow Lite file; what flows are numbers of tensors.

    ``half``: weights as float16 behind DEQUANTIZE. ``relu_apart``: not fused into the convolutions.
    """

    design: Design
    values: dict[str, np.ndarray]
    half: bool = False
    scores: str | None = None  # LOGISTIC or SOFTMAX behind the classes
    relu_apart: bool = False
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = field(default_factory=list)
    operators: list[tuple[str, list[int], list[int], tuple[str, dict[str, int]] | None, bytes]] = field(
        default_factory=list
    )
    outputs: list[int] = field(default_factory=list)

    def input(self) -> int:
        return self.tensor("normalized_input_image_tensor", (1, self.design.size, self.design.size, 3))

    def channels(self, x: int) -> int:
        return self.tensors[x][1][-1]

    def conv(
        self, x: int, scope: str, out: int, *, kernel: int = 1, stride: int = 1, norm: bool = True, relu: bool = True
    ) -> int:
        filters, bias = fold(self.values, scope)
        return self._convolve(x, scope, filters, bias, stride=stride, relu=relu, kind="CONV_2D")

    def depthwise(self, x: int, scope: str, stride: int = 1) -> int:
        filters, bias = fold(self.values, scope)
        return self._convolve(x, scope, filters, bias, stride=stride, relu=True, kind="DEPTHWISE_CONV_2D")

    def _convolve(
        self, x: int, scope: str, filters: np.ndarray, bias: np.ndarray, *, stride: int, relu: bool, kind: str
    ) -> int:
        side, out = -(-self.tensors[x][1][1] // stride), len(bias)
        filters = filters.transpose(3, 0, 1, 2)  # OHWI, and 1HWC of a depthwise convolution
        inputs = [x, self.constant(f"{scope}/Conv2D;merged/name", filters), self.constant(f"{scope}/Conv2D", bias)]
        fused = relu and not self.relu_apart
        options = {"Padding": 0, "StrideW": stride, "StrideH": stride, "FusedActivationFunction": 3 if fused else 0}
        table = "Conv2DOptions" if kind == "CONV_2D" else "DepthwiseConv2DOptions"
        if kind == "DEPTHWISE_CONV_2D":
            options["DepthMultiplier"] = 1
        options |= {"DilationWFactor": 1, "DilationHFactor": 1}
        y = self.operator(kind, inputs, f"{scope}/Relu6", (1, side, side, out), (table, options))
        return self.operator("RELU6", [y], f"{scope}/Relu6_1", (1, side, side, out)) if relu and not fused else y

    def add(self, x: int, y: int) -> int:
        return self.operator("ADD", [y, x], "add", self.tensors[x][1], ("AddOptions", {"FusedActivationFunction": 0}))

    def reshape(self, y: int, columns: int) -> int:
        _, rows, across, channels = self.tensors[y][1]
        shape = (1, rows * across * channels // columns, columns)
        target = self.tensor("shape", (3,), 2, np.array(shape, np.int32).tobytes())
        return self.operator("RESHAPE", [y, target], "Reshape", shape)

    def concat(self, parts: list[int], name: str) -> int:
        columns = self.tensors[parts[0]][1][2]
        count = sum(self.tensors[part][1][1] for part in parts)
        options = ("ConcatenationOptions", {"Axis": 1, "FusedActivationFunction": 0})
        y = self.operator("CONCATENATION", parts, name, (1, count, columns), options)
        if not self.scores or "class" not in name:
            return y
        options = ("SoftmaxOptions", {"Beta": 1}) if self.scores == "SOFTMAX" else None
        return self.operator(self.scores, [y], "scores", (1, count, columns), options)

    def tensor(self, name: str, shape: tuple[int, ...], kind: int = 0, data: bytes = b"") -> int:
        self.tensors.append((name, shape, kind, data))
        return len(self.tensors) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        if not self.half:
            return self.tensor(name, values.shape, 0, np.ascontiguousarray(values, np.float32).tobytes())
        stored = self.tensor(name, values.shape, 1, np.ascontiguousarray(values, np.float16).tobytes())
        return self.operator("DEQUANTIZE", [stored], f"{name}_dequantize", values.shape)

    def operator(
        self,
        kind: str,
        inputs: list[int],
        name: str,
        shape: tuple[int, ...],
        options: tuple[str, dict[str, int]] | None = None,
    ) -> int:
        y = self.tensor(name, shape)
        self.operators.append((kind, inputs, [y], options, b""))
        return y

    def detections(self, boxes: int, scores: int, anchors: np.ndarray, options: dict[str, float | int | bool]) -> None:
        """TFLite_Detection_PostProcess behind the predictions."""
        from flatbuffers import flexbuffers

        builder = flexbuffers.Builder()
        with builder.Map():
            for name, value in options.items():
                builder.Key(name)
                {bool: builder.Bool, int: builder.Int, float: builder.Float}[type(value)](value)
        count = int(options["max_detections"])
        shapes = ((1, count, 4), (1, count), (1, count), (1,))
        found = [self.tensor(f"TFLite_Detection_PostProcess:{i}", shape) for i, shape in enumerate(shapes)]
        inputs = [boxes, scores, self.constant("anchors", anchors)]
        self.operators.append(("TFLite_Detection_PostProcess", inputs, found, None, bytes(builder.Finish())))
        self.outputs = found

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        import flatbuffers
        import tflite

        builder = flatbuffers.Builder(1 << 20)
        buffers = [b""] + [data for *_, data in self.tensors]
        tensors = [
            _table(
                tflite,
                builder,
                "Tensor",
                Name=builder.CreateString(name),
                Shape=_ints(builder, shape),
                Type=kind,
                Buffer=number + 1,
            )
            for number, (name, shape, kind, _) in enumerate(self.tensors)
        ]
        kinds = list(dict.fromkeys(kind for kind, *_ in self.operators))
        codes = [_code(tflite, builder, kind) for kind in kinds]
        operators = []
        for kind, inputs, outputs, options, custom in self.operators:
            fields: dict[str, int] = {"OpcodeIndex": kinds.index(kind)}
            fields |= {"Inputs": _ints(builder, inputs), "Outputs": _ints(builder, outputs)}
            if options:
                fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, options[0])
                fields["BuiltinOptions"] = _table(tflite, builder, options[0], **options[1])
            if custom:
                fields["CustomOptions"] = builder.CreateByteVector(custom)
            operators.append(_table(tflite, builder, "Operator", **fields))
        graph = _table(
            tflite,
            builder,
            "SubGraph",
            Tensors=_offsets(builder, tensors),
            Inputs=_ints(builder, [0]),
            Outputs=_ints(builder, self.outputs),
            Operators=_offsets(builder, operators),
        )
        data = [
            _table(tflite, builder, "Buffer", **({"Data": builder.CreateByteVector(one)} if one else {}))
            for one in buffers
        ]
        model = _table(
            tflite,
            builder,
            "Model",
            Version=3,
            OperatorCodes=_offsets(builder, codes),
            Subgraphs=_offsets(builder, [graph]),
            Buffers=_offsets(builder, data),
        )
        builder.Finish(model, b"TFL3")
        return bytes(builder.Output())


def _code(tflite: Any, builder: Any, kind: str) -> int:
    builtin = getattr(tflite.BuiltinOperator, kind, tflite.BuiltinOperator.CUSTOM)
    fields = {"DeprecatedBuiltinCode": min(builtin, 127), "BuiltinCode": builtin, "Version": 1}
    if kind in {"DEPTHWISE_CONV_2D", "CONV_2D"}:
        fields["Version"] = 2
    if kind == "DEQUANTIZE":
        fields["Version"] = 3  # the one that takes float16
    if builtin == tflite.BuiltinOperator.CUSTOM:
        fields["CustomCode"] = builder.CreateString(kind)
    return _table(tflite, builder, "OperatorCode", **fields)


def _table(tflite: Any, builder: Any, kind: str, **fields: int) -> int:
    getattr(tflite, f"{kind}Start")(builder)
    for name, value in fields.items():
        getattr(tflite, f"{kind}Add{name}")(builder, value)
    return int(getattr(tflite, f"{kind}End")(builder))


def _ints(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _offsets(builder: Any, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return int(builder.EndVector())


def tflite_ssd(design: Design, values: dict[str, np.ndarray], **options: Any) -> TfliteWriter:
    writer = TfliteWriter(design, values, **options)
    writer.outputs = list(build_ssd(writer, design))
    return writer


def run_tflite(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs that LiteRT gives for uint8 pixels [H, W, 3], normalised as the API does."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None].astype(np.float32) * 2 / 255 - 1)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"])[0] for output in interpreter.get_output_details()]


class TensorFlowGraph:
    """The network in TensorFlow's own operators, in the graph that is the default one; what flows are its tensors."""

    def __init__(self, tensorflow: Any, design: Design, values: dict[str, np.ndarray]) -> None:
        self.tf = tensorflow
        self.v1 = tensorflow.compat.v1
        self.design = design
        self.variables = {
            name: self.v1.get_variable(name, initializer=value, use_resource=False) for name, value in values.items()
        }

    def input(self) -> Any:
        side = self.design.size
        return self.v1.placeholder(self.tf.float32, [1, side, side, 3], "normalized_input_image_tensor")

    def channels(self, x: Any) -> int:
        return int(x.shape[-1])

    def conv(
        self, x: Any, scope: str, out: int, *, kernel: int = 1, stride: int = 1, norm: bool = True, relu: bool = True
    ) -> Any:
        y = self.tf.nn.conv2d(x, self.variables[f"{scope}/weights"], stride, "SAME")
        y = self._norm(y, scope) if norm else y + self.variables[f"{scope}/biases"]
        return self.tf.nn.relu6(y) if relu else y

    def depthwise(self, x: Any, scope: str, stride: int = 1) -> Any:
        filters = self.variables[f"{scope}/depthwise_weights"]
        y = self.tf.nn.depthwise_conv2d(x, filters, [1, stride, stride, 1], "SAME")
        return self.tf.nn.relu6(self._norm(y, scope))

    def _norm(self, x: Any, scope: str) -> Any:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self.variables[f"{scope}/BatchNorm/{name}"] for name in names)
        return self.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=EPSILON, is_training=False)[0]

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def reshape(self, y: Any, columns: int) -> Any:
        return self.tf.reshape(y, [1, -1, columns])

    def concat(self, parts: list[Any], name: str) -> Any:
        return self.tf.concat(parts, 1, name)


@dataclass(frozen=True)
class Written:
    prefix: Path
    frozen: Path
    tflite: Path
    outputs: list[np.ndarray]


def write_with_tensorflow(tensorflow: Any, design: Design, pixels: np.ndarray, folder: Path) -> Written:
    """A checkpoint, a frozen graph and a converted file, and what TensorFlow computes."""
    v1 = tensorflow.compat.v1
    graph = tensorflow.Graph()
    with graph.as_default(), v1.Session() as session:
        network = TensorFlowGraph(tensorflow, design, Variables(design).values)
        outputs = build_ssd(network, design)
        session.run(v1.global_variables_initializer())
        (image,) = (operator.outputs[0] for operator in graph.get_operations() if operator.type == "Placeholder")
        found = session.run(outputs, {image: pixels[None].astype(np.float32) * 2 / 255 - 1})
        v1.train.Saver().save(session, str(folder / "tf" / "model.ckpt"))
        names = [output.op.name for output in outputs]
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), names)
        (folder / "frozen.pb").write_bytes(frozen.SerializeToString())
        converter = v1.lite.TFLiteConverter.from_session(session, [image], list(outputs))
        (folder / "converted.tflite").write_bytes(converter.convert())
    return Written(
        folder / "tf" / "model.ckpt", folder / "frozen.pb", folder / "converted.tflite", [one[0] for one in found]
    )
