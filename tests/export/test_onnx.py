"""Exported graphs against PyTorch, for every preset, on pictures that they were not traced with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

import ssdlite
from ssdlite.anchors import torchvision_anchors
from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.config import PRESETS, override
from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.export.bundle import build_contract
from ssdlite.export.lint.report import examine
from ssdlite.export.onnx import export_onnx, opset_of, pool_globally, set_opset, take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.ncnn import convert_to_ncnn, ncnn_spec
from ssdlite.heads.base import class_scores
from ssdlite.runtime.backends.ncnn import NcnnBackend
from ssdlite.runtime.contract import Provenance
from ssdlite.weights import ImportOptions
from ssdlite.weights.pytorch.ssd import read_torchvision_ssd
from tests.export.detectors import PRESET_SIZE, ExportedPreset

Arrays = dict[str, npt.NDArray[Any]]
SMALL = {"preset": "ssdlite192_mobilenet_v2_050", "num_classes": 3, "width_mult": 0.25, "image_size": 96}


def responsive(**options: Any) -> Detector:
    """A random detector that sees next to nothing in grey, and more the more contrast there is.

    Its norms have the variances of noise pictures and no means. Boxes stay near their anchors: random ones overlap
    so much that rounding alone decides which of them survive.
    """
    torch.manual_seed(1)
    detector = ssdlite.build_detector(**options)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average over the pictures below
    with torch.no_grad():
        detector.train()(torch.stack([noise(detector, contrast=1.0, seed=i) for i in range(4)]))
        for norm in norms:
            norm.running_mean.zero_()  # type: ignore[union-attr]
        for part in detector.head.regression:
            part[-1].weight *= 0.1  # type: ignore[index, operator]
        for part in detector.head.classification:
            part[-1].bias[:: detector.config.num_classes + 1] = 3.0  # type: ignore[index]
            if detector.config.head.score_function == "sigmoid":  # where scores of nearly 1 would be equal
                part[-1].weight *= 0.5  # type: ignore[index, operator]
    return detector.eval()


def noise(detector: Detector, *, contrast: float, seed: int, patch: float = 1.0) -> Tensor:
    """uint8 [3, H, W]: grey, with noise of blocks in the middle ``patch`` of it."""
    height, width = detector.config.input.size
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    values = nn.functional.interpolate(blocks, (height, width), mode="bilinear")[0]
    picture = torch.full((3, height, width), 127.5)
    rows, columns = (slice(int(side * (1 - patch) / 2), int(side * (1 + patch) / 2)) for side in (height, width))
    picture[:, rows, columns] += 255 * contrast * (values[:, rows, columns] - 0.5)
    return picture.round().to(torch.uint8)


def run(model: onnx.ModelProto, images: Tensor) -> Arrays:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))


def largest_difference(found: npt.NDArray[Any], expected: Tensor) -> float:
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max())


def assert_same_detections(found: Arrays, detector: Detector, images: Tensor) -> list[int]:
    """Every detection of PyTorch is there: same class, IoU above 0.99, score within 1e-3, and no other -> counts."""
    expected = detector.detect(images)
    assert found["count"].tolist() == list(map(len, expected))
    height, width = detector.config.input.size
    for i, (count, own) in enumerate(zip(found["count"].tolist(), expected, strict=True)):
        boxes = torch.from_numpy(found["boxes"][i]) * torch.tensor([width, height, width, height])
        same = box_iou(boxes[:count], torch.from_numpy(own.boxes)).numpy() > 0.99
        same &= found["labels"][i, :count, None] == own.labels
        same &= np.abs(found["scores"][i, :count, None] - own.scores) < 1e-3
        assert same.any(axis=0).all() and same.any(axis=1).all()
        assert (found["labels"][i, count:] == -1).all() and not found["scores"][i, count:].any()
        assert not found["boxes"][i, count:].any()
    return [int(count) for count in found["count"]]


def decode(detector: Detector, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores without background and boxes as fractions, by the functions of training and prediction."""
    outputs = detector(images)
    height, width = detector.config.input.size
    boxes = detector.head.box_code.decode(outputs.box_deltas, detector.anchors)
    fractions = (boxes / torch.tensor([width, height, width, height])).clamp(0, 1)
    return class_scores(outputs.class_logits, detector.config.head.score_function), fractions


@torch.no_grad()
def test_outputs_of_every_preset_are_pytorchs(preset: ExportedPreset) -> None:
    detector = preset.detector
    picture = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (1, 3, *PRESET_SIZE), np.uint8))
    scores, boxes = decode(detector, picture)
    decoded = run(preset.decoded, picture)
    assert largest_difference(decoded["scores"], scores) < 1e-4
    assert largest_difference(decoded["boxes"], boxes) < 1e-4

    outputs = detector(picture)
    raw = run(preset.raw, picture)
    assert largest_difference(raw["class_logits"], outputs.class_logits) < 1e-4
    assert largest_difference(raw["box_deltas"], outputs.box_deltas) < 1e-4


@torch.no_grad()
def test_every_preset_suits_the_accelerators_and_ncnn(preset: ExportedPreset, tmp_path: Path) -> None:
    """Decoded, with floats as its input: what docs/deploy.md says to take."""
    detector, model = preset.detector, preset.decoded
    take_floats(model)
    for target in ("ort-mobile", "nnapi", "coreml", "xnnpack"):
        report = examine(model, target)
        if target == "coreml" and preset.has_logarithm:  # one operator of the head's, among the last
            assert (report.taken, report.partitions) == (report.nodes - 1, 2)
            continue
        assert report.clean, report.findings
        if target in ("nnapi", "coreml"):
            assert (report.taken, report.partitions) == (report.nodes, 1)

    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    spec = ncnn_spec(detector, GraphOptions(variant="decoded"), "decoded")
    provenance = Provenance(checkpoint="best.pt", checkpoint_sha256="0", license="MIT")
    convert_to_ncnn(model, spec).save(tmp_path, build_contract(detector, [spec], provenance, 100))
    picture = np.random.default_rng(5).integers(0, 256, (1, 3, *PRESET_SIZE)).astype(np.float32)
    answers = NcnnBackend.open(tmp_path / spec.file, spec, threads=1).run(picture)
    scores, boxes = decode(detector, torch.from_numpy(picture))
    assert scores.max() > 0.6 and scores.min() < 0.01  # worth comparing
    assert largest_difference(answers["out0"], scores) < 1e-4
    assert largest_difference(answers["out1"], boxes) < 1e-4


@pytest.mark.parametrize("name", PRESETS)
def test_nms_of_every_preset_gives_pytorchs_none_one_and_hundreds_of_objects(name: str) -> None:
    detector = responsive(preset=name, num_classes=5)
    nothing = noise(detector, contrast=0.0, seed=0)[None]
    one = noise(detector, contrast=0.02, seed=11, patch=0.4)[None]
    many = noise(detector, contrast=1.0, seed=12)[None]
    best, second = detector.detect(one)[0].scores[:2].tolist()
    assert best > second
    detector.config = override(detector.config, score_threshold=(best + second) / 2)

    options = GraphOptions(variant="nms")
    if detector.config.head.bins:  # noise makes more objects of them than the graph looks at
        options = GraphOptions(variant="nms", max_candidates=detector.config.num_anchors * detector.config.num_classes)
    model = export_onnx(detector, options)

    assert assert_same_detections(run(model, nothing), detector, nothing) == [0]
    assert assert_same_detections(run(model, one), detector, one) == [1]
    assert assert_same_detections(run(model, many), detector, many)[0] >= 150


OF_OTHER_PROJECTS: dict[str, dict[str, Any]] = {
    "linear": {
        "extra_channels": (64, 64, 64, 32),
        "extra_hidden": (128, 64, 64, 32),
        "extra_output": "linear",
        "last_head_conv": "pointwise",
    },
    "plain": {"activation": "relu", "head_conv": "plain", "extra_conv": "plain"},
}


@pytest.mark.parametrize("layout", OF_OTHER_PROJECTS)
@torch.no_grad()
def test_what_other_projects_layouts_need_is_exported(layout: str) -> None:
    """Every option that an importer may set; anchors whose steps do not divide the input."""
    anchors = torchvision_anchors().changed(steps=(16.0, 30.0, 50.0, 50.0, 100.0, 100.0))
    detector = responsive(num_classes=3, width_mult=0.25, image_size=100, anchors=anchors, **OF_OTHER_PROJECTS[layout])
    picture = noise(detector, contrast=0.2, seed=10)[None]
    scores, boxes = decode(detector, picture)
    decoded = run(export_onnx(detector, GraphOptions(variant="decoded")), picture)
    assert largest_difference(decoded["scores"], scores) < 1e-4
    assert largest_difference(decoded["boxes"], boxes) < 1e-4


@torch.no_grad()
def test_v3_with_torchvisions_weights_exports_to_torchvisions_detections() -> None:
    """91 slots, its thresholds (ours are the same), and an untrained network: 27,000 candidates."""
    torch.manual_seed(0)
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of what reaches it; with initial ones all scores are the same
    theirs.train().head(list(theirs.backbone(torch.rand(4, 3, 320, 320) * 2 - 1).values()))
    theirs.eval()
    ours = read_torchvision_ssd(theirs.state_dict(), "torchvision's model", ImportOptions()).checkpoint.build_detector()
    picture = torch.randint(0, 256, (1, 3, 320, 320), generator=torch.Generator().manual_seed(1)).to(torch.uint8)

    (expected,) = theirs([picture[0].float() / 255])
    found = run(export_onnx(ours, GraphOptions(variant="nms")), picture)

    assert found["count"].tolist() == [300] == [len(expected["scores"])]
    same = box_iou(torch.from_numpy(found["boxes"][0]) * 320, expected["boxes"]) > 0.99
    same &= torch.from_numpy(found["labels"][0])[:, None] == expected["labels"] - 1
    same &= (torch.from_numpy(found["scores"][0])[:, None] - expected["scores"]).abs() < 1e-3
    assert same.any(dim=0).all() and same.any(dim=1).all()


@pytest.mark.parametrize(("variant", "opset", "ir_version"), [("raw", 13, 7), ("decoded", 13, 7), ("nms", 16, 8)])
def test_the_lowest_opset_is_taken(golden_bundles: Path, variant: str, opset: int, ir_version: int) -> None:
    lowest = onnx.load(golden_bundles / "stretch" / f"{variant}.uint8_NCHW.onnx")
    assert (opset_of(lowest), lowest.ir_version) == (opset, ir_version)
    assert "allowzero" not in {attribute.name for node in lowest.graph.node for attribute in node.attribute}
    assert {"TopK", "NonMaxSuppression"} & {node.op_type for node in lowest.graph.node} == (
        {"TopK", "NonMaxSuppression"} if variant == "nms" else set()
    )


def test_an_opset_that_is_asked_for(golden_bundles: Path) -> None:
    detector = ssdlite.build_detector(**SMALL)
    higher = export_onnx(detector, GraphOptions(variant="raw", opset=20))
    assert (opset_of(higher), higher.ir_version) == (20, 9)
    with pytest.raises(ExportError, match="opset: expected 13 to 23, got 24"):
        export_onnx(detector, GraphOptions(variant="raw", opset=24))
    nms = onnx.load(golden_bundles / "stretch" / "nms.uint8_NCHW.onnx")
    with pytest.raises(ExportError, match=r"opset 15: this graph needs 16 or newer \(ScatterElements has no attribute"):
        set_opset(nms, 15)


def test_nothing_of_the_machine_is_left_in_the_file(golden_bundles: Path) -> None:
    model = onnx.load(golden_bundles / "stretch" / "decoded.uint8_NCHW.onnx")
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # may hold any three bytes
    content = model.SerializeToString()
    assert b"ssdlite/detector" not in content and b"stack_trace" not in content and b".py" not in content
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert names[0] == "backbone.features.0.0.Conv" and len(set(names)) == len(names)


def test_same_padding_is_inside_the_convolutions() -> None:
    detector = ssdlite.build_detector("ssd300_mobilenet_v2", num_classes=2, width_mult=0.25, image_size=96)
    model = export_onnx(detector, GraphOptions(variant="decoded"))
    assert "Pad" not in {node.op_type for node in model.graph.node}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert next(list(item.ints) for item in first.attribute if item.name == "pads") == [0, 0, 1, 1]


@torch.no_grad()
def test_folding_keeps_the_function_and_leaves_the_original_alone() -> None:
    detector = responsive(**SMALL)
    picture = noise(detector, contrast=0.2, seed=1)[None]
    before = detector(picture)
    folded = fold_batch_norms(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()) == 66
    torch.testing.assert_close(folded(picture).class_logits, before.class_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detector(picture).class_logits, before.class_logits, rtol=0, atol=0)


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
def test_means_over_a_map_are_pooled_and_all_others_left_alone(opset: int, mean: str, expected: str) -> None:
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
