"""What the audit says of anchors and boxes that can be worked out by hand, and of the BCCD cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdlite.anchors import AnchorConfig, generate_anchors, tensorflow_anchors, torchvision_anchors
from ssdlite.datasets import anchor_coverage
from ssdlite.datasets.anchor_coverage import AnchorCoverage, InputBoxes, input_boxes, measure_coverage, size_buckets
from ssdlite.datasets.anchor_fitting import fit_anchors
from ssdlite.datasets.loading import load_data
from ssdlite.errors import ConfigError
from ssdlite.heads.assigners import MaxIoUAssigner

STRIDES = (16, 32, 64, 128, 256, 512)
TWO_BY_TWO = AnchorConfig((((0.5, 0.5),),))  # at 64 px: squares of 32 px at (16, 16), (48, 16), (16, 48), (48, 48)


def audit(
    anchors: AnchorConfig,
    boxes: Any,
    *,
    labels: Any = None,
    images: Any = None,
    size: int = 320,
    strides: tuple[int, ...] = STRIDES,
    class_names: tuple[str, ...] = ("cell",),
) -> AnchorCoverage:
    count = len(boxes)
    columns = InputBoxes(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([0] * count if labels is None else labels, np.int64),
        np.array(range(count) if images is None else images, np.int64),
        np.arange(count),
    )
    return measure_coverage(anchors, columns, image_size=(size, size), strides=strides, class_names=class_names)


def squares(side: float, count: int = 300) -> np.ndarray:
    corners = np.random.default_rng(0).uniform(0, 320 - side, (count, 2))
    return np.concatenate([corners, corners + side], 1)


def test_four_anchors_by_hand() -> None:
    boxes = [[0, 0, 32, 32], [8, 0, 40, 32], [16, 16, 48, 48], [0, 0, 8, 8]]
    found = audit(TWO_BY_TWO, boxes, size=64, strides=(32,)).boxes
    # shifted by 8 of 32: 24 * 32 / (2 * 1024 - 768); by 16 on both axes: 256 / (2048 - 256); 64 of 1024
    assert found.best_iou.tolist() == pytest.approx([1, 0.6, 1 / 7, 1 / 16])
    assert found.matches.tolist() == [1, 1, 0, 0]
    assert found.assigned.tolist() == [1, 1, 1, 1]  # the last two by force: every box has its best anchor
    assert found.level.tolist() == [0, 0, 0, 0]
    assert found.too_coarse.tolist() == [True, True, True, True]  # 32 px on a stride of 32


def test_of_two_boxes_in_one_place_the_earlier_loses_its_anchor() -> None:
    boxes = [[0, 0, 32, 32], [0, 0, 30, 32], [32, 32, 64, 64]]
    together = audit(TWO_BY_TWO, boxes, images=[0, 0, 0], size=64, strides=(32,))
    assert together.boxes.matches.tolist() == [1, 1, 1]
    assert together.boxes.assigned.tolist() == [0, 1, 1]
    assert together.total.without_anchor == 1
    apart = audit(TWO_BY_TWO, boxes, images=[0, 1, 1], size=64, strides=(32,))
    assert apart.boxes.assigned.tolist() == [1, 1, 1]


def test_assignment_is_that_of_the_matcher() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(20, 12, 2, generator=generator) * 260
    boxes = torch.cat([corner, corner + 20 + torch.rand(20, 12, 2, generator=generator) * 40], dim=2)
    anchors = tensorflow_anchors()
    grids = tuple((-(-320 // s), -(-320 // s)) for s in STRIDES)
    placed = torch.from_numpy(generate_anchors(anchors, (320, 320), grids))
    matches = MaxIoUAssigner()(placed, boxes, torch.zeros(20, 12, dtype=torch.int64))
    expected = torch.stack([(matches == i).sum(1) for i in range(12)], dim=1).reshape(-1)
    found = audit(anchors, boxes.reshape(-1, 4).numpy(), images=np.repeat(np.arange(20), 12)).boxes
    assert found.assigned.tolist() == expected.tolist()


# The layouts of one network on BCCD, whose cells are about 55 px at 320 px: AP50 0.87 with the first, 0.03 with the
# second, which leaves the cells to the stride-32 map.
GOOD = torchvision_anchors((0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0), (2.0,))
BAD = torchvision_anchors((0.06, 0.14, 0.28, 0.42, 0.56, 0.7, 0.9), (2.0,))


def test_the_bad_layout_is_told_by_its_strides() -> None:
    good, bad = audit(GOOD, squares(55)).total, audit(BAD, squares(55)).total
    assert good.covered > 0.95
    assert good.strides.get(16, 0) > 0.5 * good.boxes
    assert bad.strides.get(16, 0) == 0
    assert bad.strides[32] > 0.95 * bad.boxes
    assert bad.too_coarse == 1
    assert good.too_coarse < 0.5


def test_boxes_that_no_anchor_reaches_are_named() -> None:
    report = audit(tensorflow_anchors(), [[0, 0, 100, 100], [50, 50, 53, 53], [10, 10, 300, 20]])
    assert report.uncovered.tolist() == [1, 2]
    assert report.total.covered == pytest.approx(1 / 3, abs=1e-4)


def test_groups_of_class_and_size() -> None:
    boxes = [[0, 0, 15, 15], [0, 0, 16, 16], [0, 0, 20, 20], [0, 0, 130, 130]]
    report = audit(tensorflow_anchors(), boxes, labels=[0, 0, 2, 0], class_names=("a", "b", "c"))
    groups = [(g.class_name, g.size, g.boxes) for g in report.groups]
    assert groups == [
        ("a", "< 16", 1), ("a", "16-32", 1), ("a", ">= 128", 1), ("a", "all", 3),
        ("c", "16-32", 1), ("c", "all", 1),
        ("all", "< 16", 1), ("all", "16-32", 2), ("all", ">= 128", 1), ("all", "all", 4),
    ]  # fmt: skip
    assert report.for_class("b") is None
    assert report.for_class("a", ">= 128").strides == {32: 1}
    assert size_buckets(np.array([[8, 32], [64, 64], [128, 128]], np.float32)).tolist() == [1, 3, 4]


def test_memory_is_bounded_without_changing_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.sort(np.random.default_rng(1).integers(0, 40, 300))
    whole = audit(tensorflow_anchors(), squares(50), images=images)
    monkeypatch.setattr(anchor_coverage, "PAIRS_A_CHUNK", 10 * 2034)
    parts = audit(tensorflow_anchors(), squares(50), images=images)
    assert parts.groups == whole.groups
    assert (parts.boxes.assigned == whole.boxes.assigned).all()


def test_no_boxes() -> None:
    report = audit(tensorflow_anchors(), np.empty((0, 4)))
    assert (report.total.boxes, report.total.covered, len(report.uncovered)) == (0, 0.0, 0)


def test_scales_and_ratios_are_described() -> None:
    levels = audit(tensorflow_anchors(), []).levels()
    assert [level["stride"] for level in levels] == list(STRIDES)
    assert levels[0]["shapes"][:2] == [
        {"width": 32.0, "height": 32.0, "scale": 0.1, "ratio": 1.0},
        {"width": 90.5, "height": 45.3, "scale": 0.2, "ratio": 2.0},
    ]
    nothing = InputBoxes(np.empty((0, 4), np.float32), *[np.empty(0, np.int64)] * 3)
    wide = measure_coverage(TWO_BY_TWO, nothing, image_size=(100, 200), strides=(16,), class_names=())
    assert wide.levels()[0]["shapes"] == [{"width": 100.0, "height": 50.0, "scale": 0.5, "ratio": 2.0}]


def test_columns_must_fit_together() -> None:
    with pytest.raises(ConfigError, match="got 2, 1, 2"):
        audit(TWO_BY_TWO, [[0, 0, 9, 9]] * 2, labels=[0], size=64, strides=(32,))
    with pytest.raises(ConfigError, match="in the order of their images"):
        audit(TWO_BY_TWO, [[0, 0, 9, 9]] * 2, images=[1, 0], size=64, strides=(32,))


def test_bccd_platelets_need_fitted_anchors(real_data: Path) -> None:
    data = load_data(real_data / "bccd", train_split="train", val_split="val")
    train, val = (input_boxes(index, (320, 320), "stretch") for index in (data.train, data.val))
    fitted = fit_anchors(train.sides, train.labels, image_size=(320, 320), strides=STRIDES, budget=2034)
    reports = {
        name: audit(anchors, val.boxes, labels=val.labels, images=val.images, class_names=data.val.class_names)
        for name, anchors in (("torchvision", torchvision_anchors()), ("fitted", fitted), ("bad", BAD))
    }
    covered = {name: report.for_class("Platelets").covered for name, report in reports.items()}
    assert covered["torchvision"] < 0.05
    assert covered["fitted"] > 0.5
    cells = reports["fitted"].for_class("RBC")
    assert cells.covered > 0.97
    assert cells.strides[16] == cells.boxes
    assert cells.too_coarse < 0.02
    assert reports["bad"].for_class("RBC").too_coarse > 0.9
    assert reports["fitted"].anchor_count <= 2034
