"""Operating points: thresholds with the best F1, counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from ssdlite.build import build_detector, load_operating_points
from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.errors import CheckpointError, ContractError
from ssdlite.evaluation import Evaluator
from ssdlite.evaluation.analysis.curves import curve, interpolated
from ssdlite.evaluation.analysis.matching import match
from ssdlite.export.bundle import build_contract
from ssdlite.runtime.contract import Contract, Provenance
from ssdlite.runtime.contract_file import parse_contract
from ssdlite.runtime.operating_points import OperatingPoint, operating_threshold, score_thresholds
from ssdlite.runtime.plain import to_json
from ssdlite.tools import predict
from tests.evaluation.analysis.made import BOX, FAR, NAMES, found, make_index

POINTS = {"cat": {"score_threshold": 0.5, "precision": 0.75, "recall": 0.6, "f1": 2 / 3}}


def test_the_threshold_with_the_best_f1() -> None:
    """Of four cats: found at 0.9 and 0.75, a miss at 0.5 that scores as much as a hit, a miss at 0.25."""
    index = make_index([(i, "cat", BOX, False) for i in range(4)] + [(4, "dog", BOX, False)], 6)
    evaluator = Evaluator(index)
    evaluator.update(0, found(("cat", BOX, 0.875)))
    evaluator.update(1, found(("cat", BOX, 0.75), ("cat", FAR, 0.5)))
    evaluator.update(2, found(("cat", BOX, 0.5)))
    evaluator.update(5, found(("cat", FAR, 0.25), ("owl", BOX, 0.9)))
    # after 0.875: 1 of 1, 1 of 4; after 0.75: 2 of 2, 2 of 4: F1 2/3; after 0.5: 3 of 4, 3 of 4: F1 3/4.
    # The dog is not found, and there is no owl: no operating point.
    metrics = evaluator.compute()
    assert metrics.operating_points == {"cat": OperatingPoint(0.5, 0.75, 0.75, 0.75)}
    assert metrics.to_dict()["operating_points"] == {
        "cat": {"score_threshold": 0.5, "precision": 0.75, "recall": 0.75, "f1": 0.75}
    }


def test_a_curve_and_its_average_precision() -> None:
    one = curve(np.array([0.5, 0.9, 0.5, 0.1]), np.array([True, True, False, False]), 4)
    assert [column.tolist() for column in one] == [[0.9, 0.5, 0.1], [1, 2 / 3, 1 / 2], [1 / 4, 2 / 4, 2 / 4]]
    # 26 recall levels up to 0.25 with precision 1, 25 up to 0.5 with 2/3, none beyond
    assert interpolated(one).mean() == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert interpolated(curve(np.empty(0), np.empty(0, bool), 3)).mean() == 0


def test_ap50_is_that_of_cocoeval() -> None:
    """Random boxes around objects, some of them crowds, by the other implementation that stands beside."""
    rng = np.random.default_rng(0)
    objects, results = [], {}
    for image in range(30):
        corners = rng.integers(0, 60, (6, 2))
        boxes = np.concatenate([corners, corners + rng.integers(25, 40, (6, 2))], axis=1)
        names = rng.choice(NAMES, 6)
        objects += [
            (image, name, box, bool(rng.random() < 0.15)) for name, box in zip(names, boxes.tolist(), strict=True)
        ]
        moved = boxes + rng.normal(0, 3, boxes.shape)
        scores = rng.random(6).round(2)
        results[image] = found(
            *((str(n), b, float(s)) for n, b, s in zip(names, moved.tolist(), scores, strict=True)),
            *((str(n), b, float(s) / 2) for n, b, s in zip(names[::-1], moved.tolist(), scores, strict=True)),
        )
    index = make_index(objects, 30)
    evaluator = Evaluator(index)
    for position, one in results.items():
        evaluator.update(position, one)
    matches = match(index, evaluator.state())
    for label, name in enumerate(NAMES):
        own = matches.where((matches.labels == label) & ~matches.ignored)
        positives = int((~index.ignore & (index.labels == label)).sum())
        # COCOeval ranks equal scores one by one, a curve takes them together: scores differ by their place
        scores = own.scores - np.arange(len(own)) * 1e-9
        ap = interpolated(curve(scores, own.objects >= 0, positives)).mean()
        assert ap == pytest.approx(evaluator.compute().per_class[name].AP50, abs=1e-6)


def test_one_threshold_for_all_classes_is_the_median_of_those_measured() -> None:
    points = {name: OperatingPoint(score, 1, 1, 1) for name, score in (("cat", 0.62), ("dog", 0.25), ("owl", 0.44))}
    assert operating_threshold(points) == (0.44, "measured")
    assert operating_threshold({}) == (0.3, "guess")


def test_detections_above_a_threshold_for_each_class() -> None:
    both = found(("cat", BOX, 0.5), ("dog", BOX, 0.5), ("owl", FAR, 0.2))
    thresholds = score_thresholds(NAMES, {"cat": OperatingPoint(0.6, 1, 1, 1), "dog": OperatingPoint(0.5, 1, 1, 1)})
    assert thresholds.tolist() == [0.6, 0.5, 0.55]
    assert both.above(thresholds).names == ["dog"]
    assert both.above(np.array([0.1, 0.6, 0.2])).names == ["cat", "owl"]
    with pytest.raises(ValueError, match=r"a threshold for each of 3 classes, got \(2,\)"):
        both.above(np.array([0.1, 0.6]))


@pytest.fixture(scope="module")
def detector():
    return build_detector(class_names=NAMES, width_mult=0.25, image_size=64)


def save(path: Path, detector, metrics: dict) -> Path:
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), metrics=metrics), path)
    return path


def test_checkpoints_and_contracts_carry_them(tmp_path: Path, detector) -> None:
    expected = {"cat": OperatingPoint(0.5, 0.75, 0.6, 2 / 3)}
    for name in ("a.pt", "a.safetensors"):
        path = save(tmp_path / name, detector, {"AP": 0.5, "operating_points": POINTS})
        assert load_checkpoint(path).operating_points == load_operating_points(path) == expected
    provenance = Provenance(checkpoint="a.pt", checkpoint_sha256="0", license="MIT")

    def contract(points: dict | None) -> Contract:
        return build_contract(detector, [], provenance, 100, points)

    assert contract(expected).to_dict()["operating_points"] == POINTS
    assert "operating_points" not in contract(None).to_dict() | contract({}).to_dict()
    wrong = contract({"cow": OperatingPoint(0.5, 1, 1, 1)})
    with pytest.raises(ContractError, match="operating_points: 'cow' is not one of the classes"):
        parse_contract(to_json(wrong), "here")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "metrics: operating_points: expected an object, got a list"),
        ({"cow": POINTS["cat"]}, "operating_points: 'cow' is not one of the classes"),
        ({"cat": POINTS["cat"] | {"recall": 2.0}}, "operating_points.cat.recall: expected 0 to 1, got 2.0"),
        ({"cat": {"score_threshold": 0.5}}, "operating_points.cat: 'precision' is missing"),
        ({}, "a.pt: holds no operating points, a score threshold for each class; `ssdlite train` writes them"),
    ],
)
def test_files_without_them_or_with_wrong_ones(
    tmp_path: Path, detector, points: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.pt", detector, {"operating_points": points})
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
        load_operating_points(path)
    (tmp_path / "in.png").write_bytes(b"never read")
    arguments = [tmp_path / "in.png", "--weights", path, "--score-threshold", "auto", "--output", tmp_path / "out"]
    assert predict.main([str(argument) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_detector_that_comes_along_has_none() -> None:
    with pytest.raises(CheckpointError, match="openimages: holds no operating points"):
        load_operating_points("openimages")
