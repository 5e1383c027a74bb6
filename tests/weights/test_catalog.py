"""The weights that come along: they are found by name, offline, and see what is in a photograph."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import MobileNet_V2_Weights, MobileNet_V3_Large_Weights

import ssdlite
from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import SHIPPED
from ssdlite.errors import CheckpointError
from ssdlite.nms import pairwise_iou
from ssdlite.tools import predict as predict_tool

PHOTOGRAPH = Path(__file__).resolve().parents[1] / "data" / "coco-cc" / "train2017" / "000000000086.jpg"
PERSON, MOTORCYCLE = [76, 92, 141, 280], [65, 173, 212, 318]  # as COCO's annotators drew them


def test_the_detector_that_comes_along_finds_who_is_there() -> None:
    (found,) = ssdlite.load_detector("openimages").predict(str(PHOTOGRAPH), score_threshold=0.4)
    assert found.names == ["Person", "Bicycle"]  # it knows no motorcycles
    assert pairwise_iou(found.boxes, np.array([PERSON, MOTORCYCLE], np.float32)).diagonal().min() > 0.65


def test_predict_needs_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict_tool.main([str(PHOTOGRAPH)]) == 0
    (entry,) = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert {"Person", "Bicycle"} <= {found["name"] for found in entry["detections"]}


def test_its_file_is_small_and_holds_what_was_imported() -> None:
    file = SHIPPED["openimages"]
    assert file.stat().st_size < 10.5e6
    assert "Apache License" in (file.parent / "NOTICE").read_text()
    checkpoint = load_checkpoint(file)
    assert checkpoint.config.class_names[:3] == ("Bicycle", "Boot", "Laptop")
    assert checkpoint.config.num_classes == 23
    assert {tensor.dtype for tensor in checkpoint.weights.values()} == {torch.float32, torch.int64}


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("openimages").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        ssdlite.load_detector("openimages")


def test_an_unknown_name_is_answered_with_those_that_are_there() -> None:
    with pytest.raises(CheckpointError, match=r"^open-images: no such checkpoint file, .* come along: openimages$"):
        ssdlite.load_detector("open-images")


def test_the_list() -> None:
    first, *others = ssdlite.list_weights()
    assert (first.name, first.holds, first.license, first.shipped) == ("openimages", "detector", "Apache-2.0", True)
    assert (len(first.classes), first.num_classes, first.megabytes) == (23, 23, 10.2)
    assert [
        (entry.name, entry.network, entry.license) for entry in others if entry.source.startswith("torchvision")
    ] == [
        ("imagenet", "mobilenet_v2", "BSD-3-Clause"),
        ("imagenet", "mobilenet_v3_large", "BSD-3-Clause"),
        ("imagenet", "shufflenet_v2", "BSD-3-Clause"),
        ("imagenet", "shufflenet_v2 1.5", "BSD-3-Clause"),
    ]
    assert not any(entry.shipped for entry in others)
    assert [(entry.network, entry.num_classes, entry.megabytes, entry.figures) for entry in others] == [
        ("mobilenet_v1", 1000, 17.0, "ImageNet top-1 75.38 %, published"),
        ("mobilenet_v1 1.25", 1000, 25.2, "ImageNet top-1 76.92 %, published"),
        ("mobilenet_v2 0.5", 1000, 8.0, "ImageNet top-1 65.95 %, published"),
        ("mobilenet_v2", 1000, 14.3, "ImageNet top-1 72.15 %, published"),
        ("mobilenet_v2 1.4", 1000, 24.7, "ImageNet top-1 76.52 %, published"),
        ("mobilenet_v3_large", 1000, 22.1, "ImageNet top-1 75.27 %, published"),
        ("shufflenet_v2", 1000, 9.2, "ImageNet top-1 69.36 %, published"),
        ("shufflenet_v2 1.5", 1000, 14.2, "ImageNet top-1 73 %, published"),
        ("mobilenet_v4_conv_small", 1000, 15.2, "ImageNet top-1 73.76 %, published"),
        ("lcnet 0.5", 1000, 7.6, "ImageNet top-1 63.12 %, published"),
        ("lcnet 0.75", 1000, 9.5, "ImageNet top-1 68.78 %, published"),
        ("lcnet", 1000, 11.9, "ImageNet top-1 72.1 %, published"),
        ("efficientnet_lite0", 1000, 18.8, "ImageNet top-1 75.1 %, published"),
    ]


def test_sizes_and_figures_are_those_that_are_published() -> None:
    """torchvision's own account of its files, in MiB."""
    for weights, name in [(MobileNet_V2_Weights, "mobilenet_v2"), (MobileNet_V3_Large_Weights, "mobilenet_v3_large")]:
        (entry,) = [one for one in ssdlite.list_weights() if one.network == name]
        meta = weights.IMAGENET1K_V2.meta
        assert entry.megabytes == round(meta["_file_size"] * 2**20 / 1e6, 1)
        assert f"{meta['_metrics']['ImageNet-1K']['acc@1']:.2f} %" in entry.figures
