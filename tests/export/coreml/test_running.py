"""What an app finds with a Core ML package: suppression, and verify and predict, here and, with a stand-in for Core ML,
as on a Mac."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssdlite
from ssdlite.benchmark.detectors import find_candidates
from ssdlite.errors import CheckpointError, ContractError
from ssdlite.export.graphs import build_graph
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.coreml import pick_top
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.report import format_report
from ssdlite.runtime import load_model
from ssdlite.runtime.backends import coreml
from tests.export.coreml.fake_coreml import Array, FakeCoreMl, documented_suppression
from tests.export.coreml.packages import golden_pixels, needs_coreml, steps

ELSEWHERE = "Core ML runs on Apple's systems only"


def test_what_vision_gives_is_what_we_find_with_one_class_an_anchor(small_data: Path) -> None:
    """On photographs at the default threshold: the names, boxes and scores of the same detector's ``predict``.

    What differs: an anchor has its best class alone there, and ours has every class of it that scores enough: on these
    pictures two boxes more, each in the place of a better one of another class.
    """
    detector = ssdlite.load_detector("openimages")
    graph = build_graph(detector, GraphOptions())
    spec = SimpleNamespace(score_threshold=0.3, nms_threshold=detector.config.postprocess.nms_threshold)
    total = further = 0
    for path in sorted((small_data / "coco-cc" / "val2017").glob("*.jpg"))[:4]:
        picture = np.array(Image.open(path).convert("RGB").resize((300, 300)))
        with torch.no_grad():
            scores, boxes = (one[0].numpy() for one in graph(torch.from_numpy(picture).permute(2, 0, 1)[None]))
        centers = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        confidence, coordinates = documented_suppression(scores, centers, spec.nms_threshold, spec.score_threshold)
        (all_ours,) = detector.predict(picture, score_threshold=0.3)
        first = [
            all(np.abs(box - better).max() > 0.01 for better in all_ours.boxes[:i])
            for i, box in enumerate(all_ours.boxes)
        ]
        ours = all_ours[np.array(first, bool)]
        further += len(all_ours) - len(ours)
        assert confidence.argmax(axis=1).tolist() == ours.labels.tolist()
        np.testing.assert_allclose(confidence.max(axis=1, initial=0), ours.scores, atol=1e-5)
        half = coordinates[:, 2:] / 2
        corners = np.concatenate([coordinates[:, :2] - half, coordinates[:, :2] + half], axis=1)
        np.testing.assert_allclose(300 * corners, ours.boxes, atol=0.01)
        total += len(ours)
        stand_in = pick_top(scores, boxes, spec)  # type: ignore[arg-type]
        np.testing.assert_allclose(stand_in["coordinates"], coordinates, atol=1e-6)
    assert (total, further) == (20, 2)


def test_an_anchor_has_its_best_class_alone() -> None:
    scores = np.array([[0.9, 0.8], [0.7, 0.1], [0.05, 0.6], [0.29, 0.1]], np.float32)
    boxes = np.array([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.38], [0, 0, 0.4, 0.36], [0.6, 0.6, 1, 1]], np.float32)
    spec: Any = SimpleNamespace(score_threshold=0.3, nms_threshold=0.5)
    found = pick_top(scores, boxes, spec)
    # The second overlaps the first, of its class; the third does too, but is of the other class, in which the first,
    # with 0.8, has no part; the fourth scores too little.
    np.testing.assert_allclose(found["confidence"], [[0.9, 0], [0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(found["coordinates"], [[0.2, 0.2, 0.4, 0.4], [0.2, 0.18, 0.4, 0.36]], atol=1e-6)


@needs_coreml
def test_the_saved_pipeline_finds_what_the_reference_vectors_say(bundle: Path) -> None:
    """The float32 program evaluated, then the documented suppression, both independent of what wrote the vectors."""
    for number in range(2):
        found = FakeCoreMl(bundle / "nms_fp32.mlpackage").predict(
            {"image": Image.fromarray(golden_pixels(bundle, number)), "confidenceThreshold": 0.001}
        )
        stem = bundle / "golden" / f"image_{number}.nms_fp32.mlpackage"
        count = int(np.fromfile(f"{stem}.count.bin", np.int32)[0])
        assert count == min(len(found["confidence"]), 300) and count > 20
        scores = np.fromfile(f"{stem}.scores.bin", np.float32)[:count]
        np.testing.assert_allclose(found["confidence"].max(axis=1)[:count], scores, atol=1e-4)
        assert (
            np.fromfile(f"{stem}.labels.bin", np.int32)[:count] == found["confidence"].argmax(axis=1)[:count]
        ).mean() > 0.97
        assert np.count_nonzero(found["confidence"], axis=1).max() == 1


# --- verify, predict and others.


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml.CoreMlBackend, "unsupported", "")
    monkeypatch.setattr(coreml, "_load", FakeCoreMl)


@needs_coreml
def test_verify_checks_here_what_needs_no_core_ml(bundle: Path) -> None:
    report = verify_bundle(bundle)
    assert report.passed and report.missing == ("coreml",) and "coreml" not in report.runtimes
    for model in report.models:
        assert {one.step for one in model.steps if one.status == "skipped"} == {"outputs"}
        assert next(one.text for one in model.steps if one.step == "outputs") == ELSEWHERE
    lines = "\n".join(format_report(report))
    assert f"{ELSEWHERE}: its models were not run" in lines


@needs_coreml
def test_verify_finds_a_changed_package(copy: Path) -> None:
    file = copy / "nms_fp16.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"nms_threshold":0.45', b'"nms_threshold":0.55'))
    report = verify_bundle(copy, model="nms_fp16.mlpackage")
    (model,) = report.models
    assert model.steps[0].status == "fail" and "nms_threshold" in model.steps[0].text
    assert model.notes == ("nms_fp16.mlpackage: not the file that the reference vectors were made with (SHA-256)",)


@needs_coreml
def test_verify_on_a_mac_passes_and_finds_faults(
    bundle: Path, second: Path, on_a_mac: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = ((bundle, "nms_fp32.mlpackage"), (second, "decoded_fp16.mlpackage"))
    for folder, file in packages:
        report = verify_bundle(folder, model=file)
        assert report.passed and set(steps(report, file).values()) == {"pass"}, "\n".join(format_report(report))
    monkeypatch.setattr(FakeCoreMl, "predict", swap_sides(FakeCoreMl.predict))
    for folder, file in packages:
        found = steps(verify_bundle(folder, model=file), file)
        assert {step for step, status in found.items() if status == "fail"} == {"outputs"}


def swap_sides(predict: Any) -> Any:
    def wrong(self: FakeCoreMl, values: dict[str, Any]) -> dict[str, Array]:
        return {
            n: v[..., [1, 0, 3, 2]] if n in ("coordinates", "boxes") else v for n, v in predict(self, values).items()
        }

    return wrong


@needs_coreml
def test_predict_on_a_mac_finds_what_the_detector_finds(
    bundle: Path, second: Path, checkpoint: Path, on_a_mac: None
) -> None:
    picture = golden_pixels(bundle, 0)
    (ours,) = ssdlite.load_detector(checkpoint).predict(picture, score_threshold=0.3)
    for path, tolerance in ((second / "decoded_fp16.mlpackage", 0.02), (bundle / "nms_fp32.mlpackage", 1e-4)):
        model = load_model(path)  # by its own contract
        (found,) = pickle.loads(pickle.dumps(model)).predict(picture, score_threshold=0.3)
        assert found.scores[0] == pytest.approx(ours.scores[0], abs=tolerance)
        assert found.labels[0] == ours.labels[0]
        np.testing.assert_allclose(found.boxes[0], ours.boxes[0], atol=100 * tolerance)
        assert len(found) > 10 and (found.scores[:-1] >= found.scores[1:]).all()


@needs_coreml
def test_what_runs_models_says_why_it_cannot(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = (
        "here `ssdlite verify BUNDLE` checks all but that, and a file of `ssdlite export CHECKPOINT --target litert` "
    )
    remedy += "runs"
    with pytest.raises(ContractError, match=rf"nms_fp16\.mlpackage: {ELSEWHERE}; {remedy}$"):
        load_model(bundle / "nms_fp16.mlpackage")
    with pytest.raises(ContractError, match=rf"nms_fp32\.mlpackage: {ELSEWHERE}; {remedy}$"):
        load_model(bundle)
    with pytest.raises(ContractError, match=ELSEWHERE):
        find_candidates([bundle])
    with pytest.raises(CheckpointError, match="expected a checkpoint file, this is an exported model"):
        ssdlite.load_detector(bundle / "nms_fp16.mlpackage")
    monkeypatch.setattr(coreml.CoreMlBackend, "unsupported", "")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    model = load_model(bundle / "nms_fp16.mlpackage")
    with pytest.raises(ContractError, match=r'running it needs coremltools: pip install "ssdlite\[coreml\]"'):
        model.predict(golden_pixels(bundle, 0))
