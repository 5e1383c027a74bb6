"""Literal findings on hand-made graphs; the partitions against ONNX Runtime's own count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssdlite.errors import ConfigError, DataError
from ssdlite.export.lint.graph import GraphFacts
from ssdlite.export.lint.report import LintFinding, LintReport, examine, partition_sizes
from ssdlite.export.lint.rules import oldest_runtime
from ssdlite.files import write_json
from ssdlite.runtime.backends.litert import LiteRtBackend
from ssdlite.runtime.contract import Contract, InputSpec, ModelSpec, OutputSpec, PostprocessSpec, Provenance, ResizeSpec
from ssdlite.tools import lint_model

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
ACCELERATED = ("nnapi", "coreml", "xnnpack")


def make_model(
    nodes: Sequence[NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = (1, 3, 8, 8),
    kind: int = FLOAT,
    out_kind: int = FLOAT,
    opset: int = 13,
    ir_version: int = 7,
) -> onnx.ModelProto:
    """``nodes`` from the input ``x`` to the output ``y``."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", out_kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    names = outputs.split()
    return helper.make_node(op_type, inputs.split(), names, name=f"{op_type}_{names[0]}", **attributes)


def conv_model(**options: Any) -> onnx.ModelProto:
    """Convolution, Clip to 0..6, and a Softmax over the last axis."""
    nodes = [
        node("Conv", "x w b", "a", kernel_shape=[3, 3]),
        node("Clip", "a low high", "c"),
        node("Softmax", "c", "y", axis=-1),
    ]
    constants = {"w": np.ones((4, 3, 3, 3), np.float32), "b": np.zeros(4, np.float32)}
    limits = {"low": np.float32(0), "high": np.float32(6)}
    return make_model(nodes, constants | limits, **options)


def lint(model: onnx.ModelProto, target: str) -> list[LintFinding]:
    return examine(model, target).findings


def whys(model: onnx.ModelProto, target: str, kind: str = "cpu") -> list[tuple[str, str]]:
    return [(finding.operator, finding.why) for finding in lint(model, target) if finding.kind == kind]


@pytest.mark.parametrize("target", ["ort-mobile", "nnapi", "coreml", "xnnpack", "openvino", "executorch", "ncnn"])
def test_nothing_to_say_about_a_plain_network(target: str) -> None:
    report = examine(conv_model(), target)
    assert report == LintReport(
        target=target,
        nodes=3,
        taken=3,
        partitions=1 if target in ("nnapi", "coreml") else None,
        needs={
            "ncnn": "ncnn",
            "openvino": "OpenVINO 2024.6 or newer",
            "executorch": "ExecuTorch 1.5 or newer",
        }.get(target, "ONNX Runtime 1.6 or newer"),
        findings=[],
    )
    assert report.clean


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'nnap'; did you mean 'nnapi'\? Known: ort-mobile, nnapi"):
        lint(conv_model(), "nnap")


def test_selection_of_boxes_is_left_to_the_cpu_and_the_remedy_is_the_decoded_variant() -> None:
    model = make_model([node("TopK", "x k", "y i")], {"k": np.array([2])})
    for target in ("nnapi", "coreml"):
        (finding,) = lint(model, target)
        assert (finding.kind, finding.operator, finding.count, finding.nodes) == ("cpu", "TopK", 1, ("TopK_y",))
        assert finding.why.startswith("not among the operators of")
        assert finding.remedy.startswith("--variant decoded")
    assert lint(model, "ncnn")[0].kind == "refused"
    assert [finding.kind for finding in lint(model, "xnnpack")] == ["note"]
    assert lint(model, "ort-mobile") == []


def test_executorch_lacks_selection_and_integers_and_leaves_what_xnnpack_lacks() -> None:
    selection = make_model([node("TopK", "x k", "y i")], {"k": np.array([2])})
    (finding,) = lint(selection, "executorch")
    assert (finding.kind, finding.operator, finding.nodes) == ("refused", "TopK", ("TopK_y",))
    assert finding.remedy.startswith("--variant decoded")
    cast = make_model([node("Cast", "x", "f", to=FLOAT), node("Relu", "f", "y")], kind=UINT8)
    assert [(one.kind, one.operator, one.remedy) for one in lint(cast, "executorch")] == [
        ("cpu", "Cast", "--input-type float32")
    ]
    scales = {"s": np.float32(0.1), "z": np.uint8(0)}
    integers = make_model([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")], scales)
    assert {(one.kind, one.remedy) for one in lint(integers, "executorch")} == {("refused", "--precision fp32")}
    gates = make_model([node("HardSigmoid", "x", "a"), node("Erf", "a", "y")])
    assert [(one.kind, one.operator, one.nodes) for one in lint(gates, "executorch")] == [
        ("cpu", "Erf", ("Erf_y",)),
        ("note", "HardSigmoid", ("HardSigmoid_a",)),
    ]
    (free,) = lint(conv_model(shape=("batch", 3, 8, 8)), "executorch")
    assert (free.kind, free.remedy) == ("refused", "--batch 1")


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed (the extra ssdlite[openvino])")
def test_openvino_takes_what_it_reads() -> None:
    assert lint(make_model([node("TopK", "x k", "y i")], {"k": np.array([2])}), "openvino") == []
    model = make_model([node("Relu", "x", "y", domain="my.ops")])
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    found = [(one.kind, one.operator) for one in lint(model, "openvino")]
    assert found == [("refused", ""), ("refused", "Relu")]


def test_only_the_cast_of_a_uint8_input_stays_behind() -> None:
    nodes = [node("Cast", "x", "f", to=FLOAT), node("Relu", "f", "y")]
    model = make_model(nodes, kind=UINT8)
    for target, why in (("nnapi", "NNAPI does not do this on uint8"), ("coreml", "CoreML does not do this on uint8")):
        report = examine(model, target)
        assert report.findings == [LintFinding("cpu", why, "--input-type float32", "Cast", 1, ("Cast_f",))]
        assert (report.nodes, report.taken, report.partitions) == (2, 1, 1)
    assert lint(model, "ncnn")[0].why == "ncnn has no uint8 tensors"
    assert "ssdlite export --target ncnn" in lint(model, "ncnn")[0].remedy


def test_free_batch() -> None:
    model = conv_model(shape=("batch", 3, 8, 8))
    (first, *others) = lint(model, "nnapi")
    assert (first.why, first.remedy) == ("NNAPI takes fixed shapes alone, and an input's is not", "--batch 1")
    assert [finding.operator for finding in (first, *others)] == ["Conv", "Clip", "Softmax"]
    (slow,) = lint(model, "coreml")
    assert (slow.kind, slow.operator, slow.remedy) == ("note", "", "--batch 1")
    assert lint(model, "xnnpack") == []  # it wants channels and sides alone
    (refused,) = lint(model, "ncnn")
    assert (refused.kind, refused.remedy) == ("refused", "--batch 1")


def test_xnnpack_wants_fixed_sides() -> None:
    found = whys(conv_model(shape=(1, 3, "height", 8)), "xnnpack")
    assert found == [("Conv", "XNNPACK does this on [B, C, H, W] with fixed C, H and W")]


@pytest.mark.parametrize(("low", "high", "taken"), [(0, 6, True), (-1, 1, True), (0, 1, False), (-2, 2, False)])
def test_nnapi_clips_to_two_ranges_alone(low: float, high: float, taken: bool) -> None:
    limits = {"low": np.float32(low), "high": np.float32(high)}
    model = make_model([node("Clip", "x low high", "y")], limits)
    why = f"NNAPI clips to 0..6 and -1..1 alone, not to {low}..{high}"
    assert whys(model, "nnapi") == ([] if taken else [("Clip", why)])
    assert lint(model, "coreml") == []


def test_form_of_inputs() -> None:
    unequal = make_model([node("Split", "x parts", "y z", axis=1)], {"parts": np.array([1, 2])})
    assert whys(unequal, "nnapi") == [("Split", "NNAPI splits into equal parts alone")]
    assert lint(unequal, "coreml") == []
    old = make_model([node("Split", "x", "y z w", axis=1)], opset=12)
    assert whys(old, "coreml") == [("Split", "CoreML takes Split from opset 13 on, this is 12")]
    shapes = [node("Shape", "x", "s"), node("Reshape", "x s", "y")]
    assert ("Reshape", "input 1 has to be a constant here") in whys(make_model(shapes), "coreml")
    axis = make_model([node("Softmax", "x", "y", axis=1)])
    assert whys(axis, "xnnpack") == [("Softmax", "XNNPACK does Softmax over the last axis alone")]
    pooled = make_model([node("GlobalAveragePool", "x", "y")], shape=(1, 3, 8))
    assert whys(pooled, "nnapi") == [("GlobalAveragePool", "NNAPI does this on [B, C, H, W] alone")]


def test_shapes_beyond_the_limits() -> None:
    five = make_model([node("Relu", "x", "y")], shape=(1, 2, 3, 4, 5))
    assert whys(five, "nnapi") == [("Relu", "NNAPI takes tensors of up to 4 axes")]
    assert lint(five, "coreml") == []
    six = make_model([node("Relu", "x", "y")], shape=(1, 1, 2, 3, 4, 5))
    assert whys(six, "coreml") == [("Relu", "CoreML takes tensors of up to 5 axes")]
    long = make_model([node("Relu", "x", "y")], shape=(1, 16385))
    assert whys(long, "coreml") == [("Relu", "CoreML takes sides of up to 16384")]
    assert lint(make_model([node("Relu", "x", "y")], shape=(1, 16384)), "coreml") == []


def test_half_precision() -> None:
    model = make_model([node("Mul", "x w", "y")], {"w": np.ones(1, np.float16)}, kind=TensorProto.FLOAT16, out_kind=10)
    (finding,) = lint(model, "nnapi")
    assert (finding.why, finding.remedy) == ("NNAPI does not do this on float16", "--precision fp32")
    assert lint(model, "coreml") == []
    assert [finding.kind for finding in lint(model, "ort-mobile")] == ["note"]


def test_hard_swish_and_padding_name_what_ssdlite_writes_instead() -> None:
    model = make_model([node("HardSwish", "x", "y")], opset=14)
    for target in ("nnapi", "coreml"):
        (finding,) = lint(model, target)
        assert finding.operator == "HardSwish"
        assert finding.remedy == "ssdlite export: it writes this in Add, Clip, Mul and Conv"
    pads = make_model([node("Pad", "x p", "y")], {"p": np.array([0, 0, 0, 0, 0, 0, 1, 1])})
    assert lint(pads, "nnapi") == []
    assert whys(pads, "coreml") == [("Pad", "not among the operators of CoreML's execution provider")]


def quantised_conv(activation: type, weight: type) -> onnx.ModelProto:
    """QuantizeLinear, DequantizeLinear, convolution with one scale per channel, QuantizeLinear, DequantizeLinear."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w ws wz", "wd", axis=0),
        node("Conv", "d wd", "a", kernel_shape=[1, 1]),
        node("QuantizeLinear", "a s z", "qa"),
        node("DequantizeLinear", "qa s z", "y"),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": activation(3),
        "w": np.ones((4, 3, 1, 1), weight),
        "ws": np.full(4, 0.02, np.float32),
        "wz": np.zeros(4, weight),
    }
    return make_model(nodes, constants)


def test_quantised_convolutions() -> None:
    mixed, signed = quantised_conv(np.uint8, np.int8), quantised_conv(np.int8, np.int8)
    assert lint(mixed, "nnapi") == []  # per-channel weights and all
    assert {finding.remedy for finding in lint(signed, "nnapi")} == {"--activation-type uint8"}
    assert sum(finding.count for finding in lint(signed, "nnapi")) == 5  # all but the weights
    assert whys(signed, "xnnpack") == []
    assert whys(mixed, "xnnpack") == [("Conv", "XNNPACK has no convolution of uint8 activations with int8 weights")]
    for model in (mixed, signed):
        found = {finding.operator: (finding.count, finding.remedy) for finding in lint(model, "coreml")}
        assert found["QuantizeLinear"] == (2, "--precision fp32 or fp16")
        assert found["DequantizeLinear"] == (3, "--precision fp32 or fp16")
        assert {finding.kind for finding in lint(model, "ncnn")} == {"refused"}
        assert lint(model, "ort-mobile") == []


def test_coreml_note_names_what_the_default_format_lacks() -> None:
    (finding,) = lint(make_model([node("Exp", "x", "y")]), "coreml")
    assert finding.kind == "note" and finding.why.endswith("has no Exp")
    assert finding.remedy == "make the session with ModelFormat MLProgram"


@pytest.mark.parametrize("target", ["ort-mobile", *ACCELERATED])
def test_what_onnx_runtime_does_not_load_is_refused(target: str) -> None:
    future = lint(conv_model(opset=99), target)[0]
    assert (future.kind, future.operator, future.remedy) == ("refused", "", "--opset 13")
    newer = lint(conv_model(ir_version=99), target)[0]
    assert newer.kind == "refused" and "IR version" in newer.why


def test_a_node_without_its_inputs_is_examined_like_any_other() -> None:
    """ONNX Runtime does not load it; the rules say what they can."""
    model = make_model([node("Where", "x", "y")])
    found = [(one.kind, one.operator) for one in lint(model, "coreml")]
    assert found == [("refused", ""), ("cpu", "Where"), ("note", "")]


def test_operators_of_others_are_refused() -> None:
    model = make_model([node("Special", "x", "y", domain="com.example")])
    kinds = [(finding.kind, finding.operator) for finding in lint(model, "ort-mobile")]
    assert kinds == [("refused", ""), ("refused", "Special")]


@pytest.mark.parametrize(
    ("opset", "ir_version", "release"),
    [(13, 7, "1.6"), (13, 8, "1.9"), (17, 8, "1.12"), (19, 8, "1.15"), (19, 9, "1.16"), (21, 10, "1.18")],
)
def test_oldest_runtime(opset: int, ir_version: int, release: str) -> None:
    assert oldest_runtime(opset, ir_version) == f"ONNX Runtime {release} or newer"
    assert oldest_runtime(24, 11) == "an ONNX Runtime newer than 1.18"


def test_constants_are_not_counted() -> None:
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2)))
    nodes = [constant, node("HardSigmoid", "k", "h"), node("Mul", "x h", "y")]
    report = examine(make_model(nodes), "nnapi")
    assert (report.nodes, report.taken, report.findings) == (1, 1, [])


def test_partitions_are_those_that_onnx_runtime_counts() -> None:
    """Two branches that meet again, with operators that the target lacks in both."""
    from onnxruntime.tools.mobile_helpers.usability_checker import check_partitioning

    class Listed:
        def is_op_supported(self, node: NodeProto) -> bool:
            return node.op_type != "Mish"

        def get_caveats(self) -> list[str]:
            return []

    nodes = [
        node("Relu", "x", "a"),
        node("Mish", "a", "b"),
        node("Relu", "b", "c"),
        node("Sigmoid", "a", "d"),
        node("Exp", "d", "e"),
        node("Add", "c e", "f"),
        node("Mish", "f", "g"),
        node("Tanh", "g", "y"),
    ]
    model = make_model(nodes, opset=18)
    theirs = check_partitioning(model.graph, Listed(), require_fixed_input_sizes=False)
    sizes = partition_sizes(GraphFacts(model), [entry.op_type != "Mish" for entry in nodes])
    assert sizes == [len(group) for group in theirs.supported_groups] == [3, 2, 1]
    assert examine(model, "nnapi").partitions == 3


def save(model: onnx.ModelProto, path: Path) -> str:
    onnx.save(model, str(path))
    return str(path)


def test_command_prints_tables_and_strict_sets_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = save(conv_model(), tmp_path / "clean.onnx")
    casting = [node("Cast", "x", "f", to=FLOAT), node("Relu", "f", "y")]
    pixels = save(make_model(casting, kind=UINT8), tmp_path / "pixels.onnx")
    assert lint_model.main([clean, pixels, "--target", "nnapi", "coreml"]) == 0
    printed = capsys.readouterr().out
    assert "clean.onnx on nnapi: takes 3 of 3 operators, in 1 piece" in printed
    assert "pixels.onnx on coreml: takes 1 of 2 operators, in 1 piece" in printed
    assert (
        "  left to the CPU: Cast 1 (such as Cast_f)\n    why: NNAPI does not do this on uint8\n"
        "    what to do: --input-type float32\n"
    ) in printed
    assert lint_model.main([clean, "--target", "nnapi", "--strict"]) == 0
    assert lint_model.main([pixels, "--target", "nnapi", "--strict"]) == 1
    assert lint_model.main([pixels, "--target", "xnnpack", "--strict"]) == 0  # notes are no failure


def test_what_is_refused_sets_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = onnx.helper.make_node("Foreign", ["x"], ["y"], name="y", domain="example")
    path = save(make_model([foreign]), tmp_path / "foreign.onnx")
    assert lint_model.main([path, "--target", "ncnn"]) == 1
    assert "foreign.onnx on ncnn: refused" in capsys.readouterr().out
    clean = save(conv_model(), tmp_path / "clean.onnx")
    assert lint_model.main([clean, path, "--target", "ort-mobile", "--json"]) == 1
    assert lint_model.main([clean, "--target", "ort-mobile"]) == 0


def test_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(make_model([node("Mish", "x", "y")], opset=18), tmp_path / "mish.onnx")
    assert lint_model.main([path, "--target", "nnapi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "model": path,
            "target": "nnapi",
            "nodes": 1,
            "taken": 0,
            "partitions": 0,
            "needs": "ONNX Runtime 1.14 or newer",
            "findings": [
                {
                    "kind": "cpu",
                    "why": "not among the operators of NNAPI's execution provider",
                    "remedy": "another operator in the network, or the CPU",
                    "operator": "Mish",
                    "count": 1,
                    "nodes": ["Mish_y"],
                }
            ],
        }
    ]


@pytest.mark.parametrize("content", [b"", b"\x00\xffnot a model", b"plain text"])
def test_command_refuses_what_is_no_model(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert lint_model.main([str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("ssdlite lint: error: ") and "model.onnx" in errors and errors.count("\n") == 1


def test_command_refuses_unknown_targets_and_folders_that_are_no_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(conv_model(), tmp_path / "model.onnx")
    assert lint_model.main([path, "--target", "android"]) == 2
    assert "unknown target 'android'" in capsys.readouterr().err
    assert lint_model.main([path, "--target", "litert-gpu"]) == 2
    assert "error: --target litert-gpu: is for .tflite files; given: model.onnx\n" in capsys.readouterr().err
    assert lint_model.main([str(tmp_path)]) == 2
    assert "contract.json" in capsys.readouterr().err
    assert lint_model.main([str(tmp_path / "gone.onnx")]) == 2
    assert "no such model file" in capsys.readouterr().err


def bundle_with(folder: Path, *models: ModelSpec) -> Path:
    contract = Contract(
        name="two circles",
        class_names=("circle",),
        category_ids=(1,),
        resize=ResizeSpec(mode="stretch"),
        postprocess=PostprocessSpec(
            score_function="softmax",
            score_threshold=0.01,
            nms_threshold=0.5,
            candidates_per_class=10,
            max_detections=10,
            max_candidates=10,
        ),
        models=models,
        provenance=Provenance(checkpoint="best.pt", checkpoint_sha256="0" * 64, license="not stated"),
    )
    write_json(folder / "contract.json", contract.to_dict())
    return folder


def test_onnx_files_of_a_bundle_are_examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = OutputSpec(name="scores", meaning="scores", shape=(1, 6, 1))
    boxes = OutputSpec(name="boxes", meaning="boxes", shape=(1, 6, 4))
    entry = ModelSpec(
        file="decoded.onnx",
        variant="decoded",
        precision="fp32",
        outputs=(scores, boxes),
        input=InputSpec(name="x", type="float32", layout="NCHW", batch=1, height=32, width=32),
    )
    bundle = bundle_with(tmp_path, entry)
    save(conv_model(), bundle / "decoded.onnx")
    assert lint_model.print_findings(bundle, ["nnapi", "coreml"])
    assert "decoded.onnx on coreml: takes 3 of 3 operators, in 1 piece" in capsys.readouterr().out
    bundle_with(tmp_path, replace(entry, file="decoded.ort"))
    with pytest.raises(DataError, match=r"expected a bundle with an \.onnx file.*; it has decoded\.ort$"):
        lint_model.print_findings(bundle, ["nnapi"])


def bundle_for(folder: Path, **runtimes: str) -> Path:
    """With entries of models of these runtimes, by the endings of their files; the ONNX file is one."""
    scores = OutputSpec(name="scores", meaning="scores", shape=(1, 6, 1))
    boxes = OutputSpec(name="boxes", meaning="boxes", shape=(1, 6, 4))
    side = InputSpec(name="x", type="float32", layout="NCHW", batch=1, height=32, width=32)
    entry = ModelSpec(file="a", variant="decoded", precision="fp32", outputs=(scores, boxes), input=side)
    bundle_with(folder, *(replace(entry, file=f"a.{ending}", runtime=name) for ending, name in runtimes.items()))
    if "onnx" in runtimes:
        save(conv_model(), folder / "a.onnx")
    return folder


def test_a_target_that_judges_none_of_the_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is of ``export --lint``; it was ignored, and other rules were printed."""
    bundle = str(bundle_for(tmp_path, tflite="litert", mlpackage="coreml"))
    for target, endings in (("nnapi", ".onnx and .html"), ("openvino", ".onnx and .html and .xml")):
        assert lint_model.main([bundle, "--target", target]) == 2
        said = f"error: --target {target}: is for {endings} files; given: a.tflite, a.mlpackage\n"
        assert said in capsys.readouterr().err
    assert lint_model.main([str(tmp_path / "a.tflite"), "--target", "nnapi"]) == 2
    assert "--target nnapi: is for .onnx and .html files; given: a.tflite\n" in capsys.readouterr().err
    bundle_for(tmp_path, onnx="onnxruntime", mlpackage="coreml")
    assert lint_model.main([bundle, "--target", "nnapi", "litert-gpu"]) == 2
    assert "--target litert-gpu: is for .tflite files; given: a.onnx\n" in capsys.readouterr().err
    assert lint_model.main([bundle, "--target", "nnapi", "--json"]) == 0
    assert [one["target"] for one in json.loads(capsys.readouterr().out)] == ["nnapi"]


def test_files_of_a_runtime_that_is_not_here_are_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``benchmark`` does; the first one stopped the command."""
    monkeypatch.setattr(LiteRtBackend, "package", "a_package_that_nobody_has")
    bundle = str(bundle_for(tmp_path, tflite="litert", onnx="onnxruntime"))
    assert lint_model.main([bundle, "--target", "nnapi", "litert-gpu", "--json"]) == 0
    said = capsys.readouterr()
    assert [one["target"] for one in json.loads(said.out)] == ["nnapi"]
    assert said.err == 'left out: a.tflite: litert is not installed (pip install "ssdlite[litert]")\n'
    bundle_for(tmp_path, tflite="litert")
    assert lint_model.main([bundle]) == 2
    assert capsys.readouterr().err.endswith(': litert is not installed (pip install "ssdlite[litert]")\n')


def test_lint_imports_no_torch(tmp_path: Path) -> None:
    """Nor anything of training."""
    program = (
        "import sys; from ssdlite.tools.lint_model import main; status = main(sys.argv[1:]); "
        "loaded = [name for name in sys.modules if name == 'torch' or name.startswith('ssdlite.training')]; "
        "assert not loaded, loaded; sys.exit(status)"
    )
    path = save(conv_model(), tmp_path / "clean.onnx")
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
