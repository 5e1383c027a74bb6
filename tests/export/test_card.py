"""The model card says what the contract says: literal lines, and no fact left out."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssdlite.console import code
from ssdlite.export.card import write_model_card
from ssdlite.export.platforms import PLATFORMS, shipments
from ssdlite.export.targets import TARGETS
from ssdlite.runtime.contract import (
    AccuracyFigure,
    AnchorSpec,
    BoxSpec,
    Contract,
    InputSpec,
    LatencyFigure,
    ModelSpec,
    OutputSpec,
    PostprocessSpec,
    Provenance,
    QuantizationFacts,
    ResizeSpec,
)
from ssdlite.runtime.contract_file import parse_contract
from ssdlite.runtime.operating_points import OperatingPoint
from ssdlite.runtime.plain import to_json

UINT8 = InputSpec(name="images", type="uint8", layout="NCHW", batch=1, height=96, width=128)
FLOAT = InputSpec(
    name="pixels",
    type="float32",
    layout="NHWC",
    batch=None,
    height=96,
    width=128,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
RAW = ModelSpec(
    file="raw_fp32.onnx",
    variant="raw",
    precision="fp32",
    input=UINT8,
    outputs=(
        OutputSpec(name="class_logits", meaning="class_logits", shape=(1, 2, 3)),
        OutputSpec(name="box_deltas", meaning="box_deltas", shape=(1, 2, 4)),
    ),
    opset=13,
    ir_version=7,
    difference_from_pytorch=1.2e-5,
    accuracy=AccuracyFigure(AP=0.61239, AP50=0.8877, AP_drop=0.00019, data="bccd", split="test", images=36),
    latency=LatencyFigure(median_ms=7.25, threads=1, runs=50, runtime="onnxruntime 1.20.0", processor="Example CPU"),
)
NMS = ModelSpec(
    file="nms_int8.onnx",
    variant="nms",
    precision="int8",
    input=FLOAT,
    outputs=(
        OutputSpec(name="boxes", meaning="boxes", shape=(None, 50, 4)),
        OutputSpec(name="scores", meaning="scores", shape=(None, 50)),
        OutputSpec(name="labels", meaning="labels", shape=(None, 50), type="int32"),
        OutputSpec(name="count", meaning="count", shape=(None,), type="int32"),
    ),
    opset=15,
    ir_version=8,
    quantization=QuantizationFacts(
        activation_type="uint8",
        calibration_method="minmax",
        calibration_images=64,
        calibration_data="bccd train",
        quantized_layers=60,
        total_layers=62,
        float_layers=("backbone.features.0.0", "head.classification.0.1"),
    ),
)
CONTRACT = Contract(
    name="ssdlite128x96_mobilenet_v2",
    class_names=("red cell", "a|b"),
    category_ids=(7, 9),
    resize=ResizeSpec(mode="letterbox"),
    postprocess=PostprocessSpec(
        score_function="softmax",
        score_threshold=0.001,
        nms_threshold=0.55,
        candidates_per_class=300,
        max_detections=50,
        max_candidates=1024,
    ),
    anchors=AnchorSpec(
        box_code_scales=(10.0, 10.0, 5.0, 5.0),
        max_log_scale=4.135166556742356,
        values=((0.25, 0.5, 0.125, 0.75), (0.75, 0.5, 0.625, 0.375)),
    ),
    models=(RAW, NMS),
    provenance=Provenance(
        checkpoint="best.pt",
        checkpoint_sha256="ab" * 32,
        license="Apache-2.0",
        metrics={"AP": 0.6125},
        versions={"torch": "2.9.0", "onnxruntime": "1.23.0"},
    ),
)

LETTERBOX_STEP = (
    "2. Resize it to fit into 128 x 96 (width x height) pixels, its shape kept (letterbox), and put it in the center; "
    "the rest is 114 in all channels."
)
BY_THE_GRAPH = "none: the graph does it (mean 0, std 1 outside)"
FLOAT_ROW = (
    "| `nms_int8.onnx` | `(value - mean) / std` with mean 123.675, 116.28, 103.53 and std 58.395, 57.12, 57.375 | "
    "`pixels`: float32, NHWC, [N, 96, 128, 3] (any batch) |"
)
BOXES_ROW = (
    "| `boxes` | boxes | float32 | [N, 50, 4] | x0, y0, x1, y1 (xyxy) as fractions of the input's width and height "
    "(fraction), padded with 0 |"
)
QUANTISED_LINE = (
    "`nms_int8.onnx`: 60 of 62 layers are computed in integers, with uint8 activations; calibrated (minmax) on "
    "64 pictures of bccd train."
)
ANDROID_LINE = (
    "| Android | `raw_fp32.onnx` | `com.microsoft.onnxruntime:onnxruntime-android` | app/src/main/assets/ | "
    "runs every operator on any phone's CPU; the app decodes and selects boxes, by code to copy |"
)
INT8_LINE = (
    "int8 (`nms_int8.onnx`) is the smaller download. Whether it is the faster one is a matter of the processor: "
    "measure it on the phone. In WebAssembly it takes 1.5 to 2.5 times as long as fp32: there, take it for the "
    "download only."
)
GUESS_LINE = (
    "3. **Show only detections with a score of at least 0.3**: most of the 50 score less. It is a guess: nobody has "
    "measured one; `ssdlite eval` on your pictures does."
)


@pytest.mark.parametrize("line", [
    "# ssdlite128x96_mobilenet_v2",
    "| 0 | `red cell` | 7 |",
    r"| 1 | `a\|b` | 9 |",
    "| file | runtime | variant | precision | AP | AP50 | AP drop | ms | opset | IR | differs by |",
    "| `raw_fp32.onnx` | onnxruntime | raw | fp32 | 0.6124 | 0.8877 | +0.0002 | 7.25 | 13 | 7 | 1.2e-05 |",
    "| `nms_int8.onnx` | onnxruntime | nms | int8 |  |  |  |  | 15 | 8 |  |",
    "AP: bccd, test, 36 images; the drop is PyTorch's AP less the file's.",
    "ms: median of 50 runs of one image, 1 thread, Example CPU; onnxruntime 1.20.0.",
    "3. Resizing is bilinear, with half-pixel centres and without antialiasing, as OpenCV's INTER_LINEAR.",
    "5. Feed them as the file takes them:",
    f"| `raw_fp32.onnx` | {BY_THE_GRAPH} | `images`: uint8, NCHW, [1, 3, 96, 128] (batch 1) |",
    FLOAT_ROW,
    ANDROID_LINE,
    "| `class_logits` | class_logits | float32 | [1, 2, 3] | logits of each anchor, column 0 is background |",
    LETTERBOX_STEP,
    BOXES_ROW,
    QUANTISED_LINE,
    INT8_LINE,
    GUESS_LINE,
    "In float, the most sensitive first: `backbone.features.0.0`, `head.classification.0.1`.",
    "- Licence of the weights: Apache-2.0",
    f"- Checkpoint: `best.pt`, SHA-256 `{'ab' * 32}`",
    "- What training noted in the checkpoint, on the data it validated on: AP 0.6125",
    "- torch: 2.9.0",
    "- Accuracy was measured on bccd, test, 36 images. Other pictures were not tried.",
    "- The accuracy of `nms_int8.onnx` was not measured.",
    "- At most 50 objects are found in a picture.",
])  # fmt: skip
def test_a_line_of_the_card(line: str) -> None:
    assert line in write_model_card(CONTRACT).splitlines()


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in leaves(item, f"{path}.{name}")]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item, path)]
    return [(path, value)]


def test_every_fact_of_the_contract_is_in_the_card() -> None:
    """All but the list of anchors, of which the card gives the number."""
    card = write_model_card(CONTRACT)
    words = {word.rstrip(".") for word in re.split(r"[\s|,;:()\[\]`]+", card)}
    rounded = {".models.accuracy.AP", ".models.accuracy.AP50", ".models.accuracy.AP_drop"}
    for path, value in leaves(CONTRACT.to_dict()):
        if path == ".anchors.values" or value is None or isinstance(value, bool):
            continue  # true and false stand in the card as "with" and "without"
        if isinstance(value, float):
            texts = {f"{value:.4f}", f"{value:+.4f}"} if path in rounded else {f"{value:g}", f"{value:.9g}"}
            assert texts & words, f"{path} {value}"
        elif isinstance(value, int):
            assert str(value) in words, f"{path} {value}"
        else:
            assert value in card or code(value) in card, f"{path} {value!r}"
    assert "The 2 anchors (cxcywh, fraction of the input) are in `contract.json`." in card


def test_the_example_is_a_valid_contract() -> None:
    assert parse_contract(to_json(CONTRACT), "the example") == CONTRACT


def test_steps_are_those_of_the_files_there_are() -> None:
    rule = (
        "scores above 0.001 are kept; of each class the 300 best enter non-maximum suppression (NMS), which drops a "
        "box whose IoU with a better one of its class is more than 0.55; of all classes the 50 best remain"
    )
    inside = "inside the graph, for the 1024 best pairs of anchor and class. Take the first `count` rows."
    by_app = "To keep at once only the scores of step 3 gives the same sooner."

    def step(*models: ModelSpec) -> str:
        card = write_model_card(replace(CONTRACT, models=models)).splitlines()
        return next(line for line in card if line.startswith("2. ") and "scores" in line)

    assert step(NMS) == f"2. `nms`: {rule}, {inside}"
    assert step(RAW) == f"2. `raw`: {rule}. {by_app}"
    assert step(RAW, NMS) == f"2. `raw`: {rule}. {by_app} `nms`: the same, {inside}"


VISION = replace(NMS, file="nms_fp16.mlpackage", runtime="coreml", precision="fp16", quantization=None)


def test_of_litert_files_alone_the_selection_is_theirs() -> None:
    """They have no limit to what enters NMS; the card stated two, and that there is none."""
    card = write_model_card(replace(CONTRACT, models=(LITERT,)))
    selecting = next(line for line in card.splitlines() if line.startswith("2. `nms`"))
    assert selecting == (
        "2. `nms`: scores above 0.001 are kept; all of them enter non-maximum suppression (NMS), which drops a box "
        "whose IoU with a better one of its class is more than 0.55; of all classes the 50 best remain, inside the "
        "graph. Take the first `count` rows."
    )
    mixed = write_model_card(replace(CONTRACT, models=(RAW, LITERT)))
    assert "`nms`: the same, inside the graph. Take the first `count` rows. In LiteRT's files all scores" in mixed
    assert "1024" not in mixed


def test_how_many_objects_vision_finds_has_no_limit() -> None:
    """Core ML's ``nonMaximumSuppression`` has none (docs/deploy.md)."""
    card = write_model_card(replace(CONTRACT, models=(VISION,)))
    assert "- How many objects `nms_fp16.mlpackage` finds in a picture has no limit.\n" in card
    assert "At most" not in card and "most of the" not in card
    card = write_model_card(replace(CONTRACT, models=(RAW, VISION)))
    assert "- At most 50 objects are found in a picture, but for `nms_fp16.mlpackage`.\n" in card


def test_nothing_scores_less_than_the_threshold_that_was_asked_for() -> None:
    spec = replace(
        CONTRACT.postprocess, score_threshold=0.5, operating_threshold=0.5, operating_threshold_source="score_threshold"
    )
    card = write_model_card(replace(CONTRACT, postprocess=spec))
    assert (
        "3. **Show only detections with a score of at least 0.5**. It is the score threshold that these files were "
        "exported with: below it they find nothing.\n"
    ) in card


def test_figures_of_training_name_their_split() -> None:
    card = write_model_card(replace(CONTRACT, provenance=replace(CONTRACT.provenance, val_split="test")))
    assert "- What training noted in the checkpoint, on the split `test`, which it validated on: AP 0.6125\n" in card


def test_the_command_that_needs_a_mac_says_so() -> None:
    card = write_model_card(replace(CONTRACT, models=(VISION,)))
    assert "--weights .     # boxes, names and scores; needs coremltools on a Mac\n" in card
    card = write_model_card(replace(CONTRACT, models=(VISION, LITERT)))
    assert "--weights .     # boxes, names and scores; needs ai-edge-litert\n" in card


def test_what_no_app_does_is_not_among_its_steps() -> None:
    page = replace(RAW, file="decoded.html", runtime="web", variant="decoded", outputs=RAW.outputs)
    card = write_model_card(replace(CONTRACT, models=(RAW, VISION, page)))
    assert "| iOS | `nms_fp16.mlpackage` | Vision and Core ML, parts of the system | the Xcode project |" in card
    assert "| Web | `decoded.html` | any browser | any web server or disk |" in card
    feeding, answers = (
        card.split(f"## {name}\n")[1].split("\n## ")[0] for name in ("How to feed it", "What it answers")
    )
    before, after = feeding.split("Everywhere else:")
    assert "- `nms_fp16.mlpackage` in Vision: give `VNCoreMLRequest` the picture" in before
    assert "- `decoded.html` is the whole app: open it." in before
    assert "| `raw_fp32.onnx` |" in after and after.count("1. Decode") == 1
    assert not re.search("mlpackage|html", after + answers)

    card = write_model_card(replace(CONTRACT, models=(VISION,)))
    assert "for each object from 0.3 on" in card and "1. Decode" not in card and "Everywhere else" not in card
    assert "## What it answers\n\n**Show only detections with a score of at least 0.3**" in card

    package = replace(VISION, file="decoded_fp16.mlpackage", variant="decoded", outputs=page.outputs)
    card = write_model_card(replace(CONTRACT, models=(package,)))
    assert "`pixels`: a `CVPixelBuffer` or `CGImage` of this size" in card
    assert "| iOS | `decoded_fp16.mlpackage` | Core ML, a part of the system | the Xcode project |" in card


def test_mediapipe_and_litert_take_one_file_in_two_ways() -> None:
    card = write_model_card(replace(CONTRACT, models=(LITERT,)))
    assert (
        "- `nms.tflite` in MediaPipe's ObjectDetector: give it the upright picture, and the score threshold 0.3" in card
    )
    assert "| `nms.tflite` | `(value - mean) / std`" in card.split("Everywhere else:")[1]


def test_ids_that_nobody_gave_have_no_column() -> None:
    card = write_model_card(replace(CONTRACT, category_ids=()))
    assert "| label | name |\n" in card and "not known" not in card


def shipped(*models: tuple[str, str, str]) -> dict[str, str]:
    """By platform the file to ship of models of these (runtime, variant, precision)."""
    specs = [replace(NMS, runtime=one, variant=v, precision=p, file=f"{v}_{p}.{one}") for one, v, p in models]
    return {one.platform: one.model.file if one.model else one.why for one in shipments(specs)}


def test_on_each_platform_the_file_that_works_everywhere_and_leaves_the_least_to_do() -> None:
    onnx = [("onnxruntime", "nms", "int8"), ("onnxruntime", "decoded", "fp32"), ("onnxruntime", "nms", "fp32")]
    everywhere = ("Android", "iOS", "Web", "Desktop")
    assert shipped(*onnx) == dict.fromkeys(everywhere, "nms_fp32.onnxruntime")
    assert shipped(onnx[0]) == dict.fromkeys(everywhere, "nms_int8.onnxruntime")
    assert {use.runtime for uses in PLATFORMS.values() for use in uses} == set(TARGETS), "no target without a platform"
    ncnn = dict.fromkeys(("Android", "iOS", "Desktop"), "decoded_fp16.ncnn")
    assert shipped(("ncnn", "decoded", "fp16")) == ncnn | {"Web": "export with --target web or onnxruntime or litert"}
    assert shipped(*onnx, ("web", "decoded", "fp32"))["Web"] == "decoded_fp32.web"
    assert shipped(("litert", "nms", "fp32"))["Web"] == "nms_fp32.litert", "MediaPipe is there in browsers, too"
    assert shipped(("litert", "decoded", "fp32"))["Web"] == "export with --target web or onnxruntime or litert"


LITERT_OUTPUTS = tuple(replace(one, type="float32") for one in NMS.outputs)
LITERT = replace(
    NMS, file="nms.tflite", runtime="litert", precision="fp32", boxes=BoxSpec(format="yxyx"), outputs=LITERT_OUTPUTS
)


def test_what_is_otherwise_in_litert_files_is_said() -> None:
    card = write_model_card(replace(CONTRACT, models=(RAW, LITERT)))
    boxes = "y0, x0, y1, x1 (yxyx) as fractions of the input's width and height (fraction), padded with 0"
    assert f"| `boxes` | boxes | float32 | [N, 50, 4] | {boxes} |" in card and "(xyxy)" not in card
    assert "| `labels` | labels | float32 | [N, 50] | 0..K-1, padded with 0 |" in card
    assert "In `nms.tflite` outputs stand in another order, that of MediaPipe: find them by their names." in card
    assert "In LiteRT's files all scores above the threshold enter NMS, however many." in card
    deltas = OutputSpec(name="box_deltas", meaning="box_deltas", shape=(1, 2, 4))
    anchors = replace(LITERT, file="anchors.tflite", variant="anchors", outputs=(deltas,))
    assert "| dy, dx, dh, dw of each anchor" in write_model_card(replace(CONTRACT, models=(anchors,)))
    assert "stand in another order" not in write_model_card(CONTRACT)


def test_what_int8_costs_in_browsers_is_said_of_files_that_run_there() -> None:
    for_macs = replace(NMS, runtime="coreml", file="nms_int8.mlpackage")
    card = write_model_card(replace(CONTRACT, models=(for_macs,)))
    assert "int8 (`nms_int8.mlpackage`) is the smaller download." in card and "WebAssembly" not in card


def test_the_python_example_has_the_file_for_the_desktop_and_what_to_install() -> None:
    card = write_model_card(replace(CONTRACT, models=(RAW, LITERT, NMS)))
    assert 'load_model(".", "raw_fp32.onnx")' in card and "# numpy, onnxruntime, Pillow, OpenCV; no torch" in card
    card = write_model_card(replace(CONTRACT, models=(replace(LITERT, variant="raw", file="raw.tflite"), LITERT)))
    assert 'load_model(".", "nms.tflite")' in card and "# numpy, ai-edge-litert, Pillow, OpenCV; no torch" in card
    card = write_model_card(replace(CONTRACT, models=(replace(RAW, runtime="executorch", file="raw.pte"),)))
    assert "# numpy, executorch, torch, Pillow, OpenCV\n" in card


def test_float_input_that_the_graph_normalizes_is_left_as_it_is() -> None:
    ncnn = replace(RAW, runtime="ncnn", input=replace(UINT8, type="float32"))
    card = write_model_card(replace(CONTRACT, models=(ncnn,)))
    assert f"| `raw_fp32.onnx` | {BY_THE_GRAPH} | `images`: float32, NCHW, [1, 3, 96, 128] (batch 1) |" in card


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / RAW.file).write_bytes(bytes(1_230_000))
    (tmp_path / NMS.file).write_bytes(bytes(456_000))
    lines = write_model_card(CONTRACT, tmp_path).splitlines()
    assert any(line.startswith("| `raw_fp32.onnx` | onnxruntime | raw | fp32 | 1.23 |") for line in lines)
    assert any(line.startswith("| `nms_int8.onnx` | onnxruntime | nms | int8 | 0.46 |") for line in lines)


def test_what_is_not_known_is_said() -> None:
    model = replace(RAW, accuracy=None, latency=None)
    provenance = replace(CONTRACT.provenance, license="not stated")
    card = write_model_card(replace(CONTRACT, models=(model,), provenance=provenance))
    assert "- The accuracy of these files was not measured when they were exported." in card
    assert "- The licence of the weights is not stated: ask who made them before you pass them on." in card
    assert "Times were measured" not in card
    assert "## Quantisation" not in card


@pytest.mark.parametrize(("text", "expected"), [
    ("plain", "`plain`"),
    ("two\nlines", "`two lines`"),
    ("a`b", "``a`b``"),
    ("`", "`` ` ``"),
    ("x|y", r"`x\|y`"),
])  # fmt: skip
def test_code_spans(text: str, expected: str) -> None:
    assert code(text) == expected


def fields_of(kind: type) -> set[str]:
    """The names of all fields of a contract, whatever they are nested in."""
    names = set()
    for field in dataclasses.fields(kind):
        names.add(field.name)
        for inner in (InputSpec, ResizeSpec, BoxSpec, AnchorSpec, PostprocessSpec, OutputSpec, AccuracyFigure,
                      LatencyFigure, QuantizationFacts, ModelSpec, Provenance):  # fmt: skip
            if inner.__name__ in str(field.type):
                names |= fields_of(inner)
    return names


def test_every_field_of_the_contract_is_explained_in_the_documents() -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
    explained = set(re.findall(r"`(\w+)`", document))
    assert {"AP_drop", "float_layers", "max_log_scale", "color_order"} < fields_of(Contract)
    assert fields_of(Contract) - explained == set()


def test_thresholds_that_were_measured_stand_beside_the_classes() -> None:
    points = {CONTRACT.class_names[0]: OperatingPoint(0.4375, 0.75, 0.6, 2 / 3)}
    spec = replace(CONTRACT.postprocess, operating_threshold=0.4375, operating_threshold_source="measured")
    card = write_model_card(replace(CONTRACT, operating_points=points, postprocess=spec))
    assert "3. **Show only detections with a score of at least 0.4375**" in card
    assert "It was measured: the median of the classes' thresholds" in card and "guess" not in card
    assert "| best threshold | precision | recall |" in " ".join(card.split())
    assert "| 0.438 | 0.750 | 0.600 |" in " ".join(card.split())
    assert "best threshold" not in write_model_card(CONTRACT)
