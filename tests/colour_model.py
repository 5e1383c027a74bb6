"""Exported models that find colours, written by hand: nothing of the exporter is in them."""

from typing import Any

import numpy as np
import onnx

from ssdlite.runtime.contract import (
    OUTPUTS,
    AnchorSpec,
    Contract,
    InputSpec,
    ModelSpec,
    OutputSpec,
    PostprocessSpec,
    Provenance,
    ResizeSpec,
    Variant,
)


def make_colour_model(
    variant: Variant = "decoded", *, file: str = "colours.onnx", **spec: Any
) -> tuple[onnx.ModelProto, Contract]:
    """An ONNX model of variant ``variant`` and its contract, without anything of the exporter in it.

    It finds the classes red, green and blue, all three in the box from (1/4, 1/2) to (3/4, 1) of the input; the score
    of each is that channel's mean / 255. ``spec`` are fields of its ``InputSpec``; the input is 32 high and 48 wide.
    The graph undoes what the contract asks the app to do, so it only answers right if that was done.
    """
    spec = InputSpec(**({"name": "pixels", "type": "uint8", "layout": "NCHW", "height": 32, "width": 48} | spec))
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    constants = {
        "mean": np.array(spec.mean, np.float32).reshape(3, 1, 1),
        "std": np.array(spec.std, np.float32).reshape(3, 1, 1),
        "rgb": np.array([0, 1, 2] if spec.color_order == "RGB" else [2, 1, 0]),
        "threshold": np.array(COLOUR_THRESHOLD, np.float32),
        "box": np.array([[[0.25, 0.5, 0.75, 1.0]]], np.float32).repeat(3 if variant == "nms" else 1, axis=1),
        **{f"c{value}": np.array(value, np.float32) for value in (0, 1, 255)},
        **{f"axis{value}": np.array([value]) for value in (1, 2, 3)},
    }
    make = onnx.helper.make_node
    nodes = [
        make("Cast", ["pixels"], ["float"], to=onnx.TensorProto.FLOAT),
        make("Transpose", ["float"], ["planes"], perm=[0, 1, 2, 3] if spec.layout == "NCHW" else [0, 3, 1, 2]),
        make("Mul", ["planes", "std"], ["scaled"]),
        make("Add", ["scaled", "mean"], ["values"]),
        make("ReduceMean", ["values"], ["means"], axes=[2, 3], keepdims=0),
        make("Gather", ["means", "rgb"], ["colours"], axis=1),
        make("Div", ["colours", "c255"], ["found"]),  # [B, 3]
        make("ReduceMean", ["found"], ["one"], axes=[1], keepdims=1),
        make("Mul", ["one", "c0"], ["nothing"]),  # [B, 1]
        make("Unsqueeze", ["nothing", "axis2"], ["none"]),
        *COLOUR_NODES[variant],
    ]
    rows, batch = constants["box"].shape[1], spec.batch
    shapes: dict[str, tuple[int | None, ...]] = {
        "class_logits": (batch, 1, 4),
        "box_deltas": (batch, 1, 4),
        "scores": (batch, 3) if variant == "nms" else (batch, 1, 3),
        "boxes": (batch, rows, 4),
        "labels": (batch, 3),
        "count": (batch,),
    }
    outputs = tuple(
        OutputSpec(
            name=f"out_{meaning}",
            meaning=meaning,
            shape=shapes[meaning],
            type="int32" if meaning in ("labels", "count") else "float32",
        )
        for meaning in OUTPUTS[variant]
    )
    describe = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "colours",
        [describe("pixels", kinds[spec.type], spec.shape)],
        [describe(output.name, kinds[output.type], output.shape) for output in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    anchors = AnchorSpec(box_code_scales=(10.0, 10.0, 5.0, 5.0), max_log_scale=4.0, values=((0.5, 0.75, 0.5, 0.5),))
    contract = Contract(
        name="colours",
        class_names=("red", "green", "blue"),
        category_ids=(1, 2, 3),
        resize=ResizeSpec(mode="stretch"),
        postprocess=PostprocessSpec(
            score_function="sigmoid",
            score_threshold=COLOUR_THRESHOLD,
            nms_threshold=0.5,
            candidates_per_class=10,
            max_detections=3,
            max_candidates=100,
        ),
        anchors=anchors if variant == "raw" else None,
        models=(ModelSpec(file=file, variant=variant, precision="fp32", outputs=outputs, input=spec),),
        provenance=Provenance(checkpoint="none.pt", checkpoint_sha256="0" * 64, license="Apache-2.0"),
    )
    return model, contract


COLOUR_THRESHOLD = 0.0625
COLOUR_NODES = {
    "decoded": [
        onnx.helper.make_node("Unsqueeze", ["found", "axis1"], ["out_scores"]),
        onnx.helper.make_node("Add", ["none", "box"], ["out_boxes"]),
    ],
    "raw": [
        onnx.helper.make_node("Sub", ["c1", "found"], ["rest"]),
        onnx.helper.make_node("Div", ["found", "rest"], ["odds"]),
        onnx.helper.make_node("Log", ["odds"], ["logits"]),
        onnx.helper.make_node("Concat", ["nothing", "logits"], ["all"], axis=1),
        onnx.helper.make_node("Unsqueeze", ["all", "axis1"], ["out_class_logits"]),
        onnx.helper.make_node("Concat", ["none"] * 4, ["out_box_deltas"], axis=2),
    ],
    "nms": [
        onnx.helper.make_node("TopK", ["found", "axis3"], ["out_scores", "order"], axis=1),
        onnx.helper.make_node("Cast", ["order"], ["out_labels"], to=onnx.TensorProto.INT32),
        onnx.helper.make_node("Add", ["none", "box"], ["out_boxes"]),
        onnx.helper.make_node("Greater", ["found", "threshold"], ["above"]),
        onnx.helper.make_node("Cast", ["above"], ["ones"], to=onnx.TensorProto.INT32),
        onnx.helper.make_node("ReduceSum", ["ones", "axis1"], ["out_count"], keepdims=0),
    ],
}
