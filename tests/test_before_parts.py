"""What was written before the configuration had parts is still read: checkpoints, run folders, bundles.

``tests/data/README.md`` says how the files were made.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdlite.build import load_detector
from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.detections import Detections
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.images.reading import read_image
from ssdlite.runtime.model import load_model
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume

BEFORE = Path(__file__).parent / "data" / "before_parts"
GOLDEN = BEFORE / "bundle" / "golden"
CONFIGS = [json.loads(line) for line in (BEFORE / "configs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", CONFIGS, ids=[row["name"] for row in CONFIGS])
def test_a_flat_configuration_is_that_of_the_same_detector(row: dict[str, Any], tmp_path: Path) -> None:
    """Numbers of tensors, of the values in them, of anchors and classes: as they were."""
    content = {"format": "ssdlite-checkpoint", "format_version": 1, "config": row["config"]}
    content |= {"weights": {}, "metrics": {}, "training": {}, "versions": {}}
    torch.save(content, tmp_path / "old.pt")
    config = load_checkpoint(tmp_path / "old.pt").config
    with torch.device("meta"):
        weights = _detector(config).state_dict()
    found = {"weights": len(weights), "values": sum(tensor.numel() for tensor in weights.values())}
    assert found | {"anchors": config.num_anchors, "classes": config.num_classes} == row["expected"]


def _detector(config: Any) -> torch.nn.Module:
    from ssdlite.detector import detector_from_config

    return detector_from_config(config)


def test_a_checkpoint_is_read() -> None:
    checkpoint = load_checkpoint(BEFORE / "run" / "best.pt")
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.metrics["AP50"] == 0.007763871959981928
    detector = load_detector(BEFORE / "run" / "best.pt")
    assert detector.class_names == ("circle", "square", "triangle")
    assert detector.config.num_anchors == 196


def test_a_trained_detector_finds_what_it_found() -> None:
    """The reference detections are those of its export in half precision."""
    (found,) = load_detector(BEFORE / "shapes_detector.pt").predict(read_image(GOLDEN / "image_0.png"))
    assert_found(found, tolerance=2e-3)


@pytest.mark.parametrize("file", ["nms_fp16.onnx", "decoded_fp16.onnx"])
def test_a_bundle_finds_what_it_found(file: str) -> None:
    model = load_model(BEFORE / "bundle", file, threads=1)
    assert model.class_names == ("circle", "square", "triangle")
    (found,) = model.predict(read_image(GOLDEN / "image_0.png"))
    assert_found(found, tolerance=1e-4)


def test_a_bundle_is_verified() -> None:
    report = verify_bundle(BEFORE / "bundle")
    assert report.passed
    assert [model.file for model in report.models] == ["decoded_fp16.onnx", "nms_fp16.onnx"]
    steps = ["contract", "picture", "resize", "input", "outputs", "detections"]
    assert [(one.step, one.status) for one in report.models[1].steps] == [(step, "pass") for step in steps]


def assert_found(found: Detections, tolerance: float) -> None:
    """What the file of reference detections says, to the last score above 0.3."""
    expected = json.loads((GOLDEN / "image_0.nms_fp16.onnx.detections.json").read_text())
    assert len(expected) == 4 and expected[-1]["score"] > 0.35
    assert [found.class_names[label] for label in found.labels] == ["circle", "triangle", "square", "triangle"]
    assert found.scores.tolist() == pytest.approx([one["score"] for one in expected], abs=tolerance)
    np.testing.assert_allclose(found.boxes, [one["box"] for one in expected], atol=100 * tolerance)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """It was stopped behind the first of two epochs; the code that wrote it went on to these losses."""
    shutil.copytree(BEFORE / "run", tmp_path / "run")
    generate_shapes(tmp_path / "data", train_images=16, val_images=8, seed=3)
    summary = resume(tmp_path / "run", stored_options(tmp_path / "run").override(data=str(tmp_path / "data")))
    assert (summary["epochs"], summary["images_seen"]) == (2, 32)
    first, second = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (first["loss"], first["AP50"]) == (1.6449110507965088, 0.007763871959981928)
    assert second["lr"] == pytest.approx(3.806023374435663e-05)
    # JPEG decoders, and a processor's order of adding up, leave their traces.
    assert second["class_loss"] == pytest.approx(0.35396677255630493, rel=2e-3)
    assert second["box_loss"] == pytest.approx(0.6392094492912292, rel=2e-3)
