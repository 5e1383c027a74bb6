"""The evaluator against pycocotools run by hand on files, and against cases small enough to score by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation import coco as coco_scoring
from ssdlite.evaluation.coco import FIGURES, Evaluator


@pytest.fixture(
    autouse=True,
    params=[("faster_coco_eval", 100_000), ("faster_coco_eval", 20), ("pycocotools", 100_000), ("pycocotools", 20)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with both libraries, with all classes at once and in several parts."""
    name, most = request.param
    monkeypatch.setattr(coco_scoring, "MOST_DETECTIONS", most)
    if name == "pycocotools":
        monkeypatch.setattr(coco_scoring, "_has_fast_library", lambda: False)
    else:
        pytest.importorskip(name)


CLASSES = ("cat", "dog", "cow")
CATEGORY_IDS = (7, 3, 90)  # gaps and another order, as COCO's files may have


def make_index(images: list[dict], class_names=CLASSES, category_ids=CATEGORY_IDS) -> DetectionIndex:
    """images: each ``{"id", "boxes", "labels"}`` and, where they matter, ``"areas"`` and ``"ignore"``."""
    counts = [len(image["labels"]) for image in images]
    boxes = np.array([box for image in images for box in image["boxes"]], np.float32).reshape(-1, 4)
    areas = [image.get("areas") for image in images]
    flat_areas = [a for group in areas if group is not None for a in group]
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ignore = [flag for image in images for flag in image.get("ignore", [False] * len(image["labels"]))]
    return DetectionIndex(
        name="made/test",
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        paths=tuple(f"{image['id']}.jpg" for image in images),
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=np.array([[480, 640]] * len(images), np.int32).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([label for image in images for label in image["labels"]], np.int64),
        areas=np.array(flat_areas, np.float32) if flat_areas else box_areas,
        ignore=np.array(ignore, np.bool_),
    )


def make_detections(boxes, scores, labels, class_names=CLASSES) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        class_names,
    )


def score_by_hand(ground_truth: dict, results: list[dict], folder: Path) -> list[float]:
    """The twelve figures as pycocotools' own instructions give them, from two JSON files."""
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "dt.json").write_text(json.dumps(results))
    coco = COCO(str(folder / "gt.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "dt.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


def perturbed(rng: np.random.Generator, boxes: np.ndarray, amount: float) -> np.ndarray:
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.normal(0, amount, boxes.shape) * sides
    return np.concatenate([np.minimum(moved[:, :2], moved[:, 2:] - 1), moved[:, 2:]], 1).astype(np.float32)


def random_images(rng: np.random.Generator, count: int) -> list[dict]:
    images = []
    for _ in range(count):
        n = int(rng.integers(0, 9))
        corners = rng.integers(0, 300, (n, 2))
        sides = rng.integers(8, 180, (n, 2))
        boxes = np.concatenate([corners, corners + sides], 1).astype(float)
        images.append(
            {
                "id": int(rng.integers(10**6)),
                "boxes": boxes.tolist(),
                "labels": rng.integers(0, 2, n).tolist(),  # the third class has no object
                "areas": (sides.prod(1) // 2).tolist(),  # a mask's area, smaller than its box
                "ignore": (rng.random(n) < 0.2).tolist(),
            }
        )
    return images


def ground_truth_json(images: list[dict]) -> dict:
    annotations = []
    for image in images:
        for box, label, area, ignore in zip(
            image["boxes"], image["labels"], image["areas"], image["ignore"], strict=True
        ):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "iscrowd": int(ignore),
                }
            )
    return {
        "images": [{"id": image["id"]} for image in images],
        "categories": [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)],
        "annotations": annotations,
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pycocotools_run_by_hand_on_random_data(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    images = random_images(rng, 25)
    evaluator = Evaluator(make_index(images))
    results = []
    for position, image in enumerate(images):
        truth = np.array(image["boxes"], float).reshape(-1, 4)
        noise = np.concatenate([rng.uniform(0, 300, (4, 2)), rng.uniform(310, 400, (4, 2))], 1)
        boxes = np.concatenate([perturbed(rng, truth, 0.1), perturbed(rng, truth, 0.04), noise]).astype(np.float32)
        labels = np.concatenate([np.tile(np.array(image["labels"], int), 2), rng.integers(0, 3, 4)]).astype(int)
        scores = (rng.integers(1, 20, len(labels)) / 20).astype(np.float32)  # many ties
        evaluator.update(position, make_detections(boxes, scores, labels))
        for box, score, label in zip(boxes.astype(float), scores.tolist(), labels, strict=True):
            bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            results.append({"image_id": image["id"], "category_id": CATEGORY_IDS[label], "bbox": bbox, "score": score})
    expected = score_by_hand(ground_truth_json(images), results, tmp_path)
    metrics = evaluator.compute()
    assert list(metrics.figures()) == list(FIGURES)
    assert 0.2 < expected[0] < 0.8
    assert list(metrics.figures().values()) == pytest.approx(expected, abs=1e-9)
    assert evaluator.coco_results() == results
    assert metrics.per_class["cow"].AP is None
    cat, dog = (metrics.to_dict()["per_class"][name] for name in ("cat", "dog"))
    assert [(cat[key] + dog[key]) / 2 for key in ("AP", "AP50")] == pytest.approx(expected[:2])


def test_equals_pycocotools_run_by_hand_on_coco(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "coco-cc" / "annotations" / "instances_val2017.json"
    ground_truth = json.loads(file.read_text())
    categories = ground_truth["categories"]
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    images = []
    for image in ground_truth["images"]:
        objects = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in objects)]
        images.append(
            {
                "id": image["id"],
                "boxes": boxes,
                "labels": [label_of[a["category_id"]] for a in objects],
                "areas": [a["area"] for a in objects],
                "ignore": [bool(a["iscrowd"]) for a in objects],
            }
        )
    names = [category["name"] for category in categories]
    evaluator = Evaluator(make_index(images, names, [category["id"] for category in categories]))
    rng = np.random.default_rng(0)
    for position, image in enumerate(images):
        truth = np.array(image["boxes"], float).reshape(-1, 4)
        boxes = perturbed(rng, np.concatenate([truth, truth]), 0.07)
        scores = rng.random(len(boxes)).astype(np.float32)
        evaluator.update(position, make_detections(boxes, scores, image["labels"] * 2, names))
    expected = score_by_hand(ground_truth, evaluator.coco_results(), tmp_path)
    assert min(expected) > 0.05
    assert list(evaluator.compute().figures().values()) == pytest.approx(expected, abs=1e-9)


def test_figures_of_a_case_scored_by_hand() -> None:
    # One 40 x 40 "cat" (medium). The best detection misses it, the second has IoU 32 / 40 = 0.8.
    # Precision at every recall is 1/2 for the seven thresholds 0.50 ... 0.80 and 0 for 0.85, 0.90, 0.95.
    evaluator = Evaluator(make_index([{"id": 5, "boxes": [[10, 10, 50, 50]], "labels": [0]}]))
    evaluator.update(0, make_detections([[200, 200, 240, 240], [10, 10, 50, 42]], [0.9, 0.8], [0, 0]))
    metrics = evaluator.compute()
    assert list(metrics.figures().values())[:3] == pytest.approx([0.5 * 7 / 10, 0.5, 0.5])
    assert metrics.AR1 == 0
    assert metrics.AR10 == metrics.AR100 == pytest.approx(0.7)
    assert metrics.AP_medium == pytest.approx(0.35)
    assert metrics.AP_small is None and metrics.AP_large is None and metrics.AR_small is None
    as_json = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert as_json["AP_small"] is None
    assert as_json["per_class"] == {
        "cat": {"AP": pytest.approx(0.35), "AP50": pytest.approx(0.5), "AP75": pytest.approx(0.5)},
        "dog": {"AP": None, "AP50": None, "AP75": None},
        "cow": {"AP": None, "AP50": None, "AP75": None},
    }


def test_detections_inside_a_crowd_are_not_held_against_the_detector() -> None:
    image = {
        "id": 1,
        "boxes": [[0, 0, 50, 50], [100, 100, 300, 300]],
        "labels": [0, 0],
        "ignore": [False, True],
    }
    evaluator = Evaluator(make_index([image]))
    inside = [[110, 110, 140, 140], [150, 150, 180, 180]]
    evaluator.update(0, make_detections([*inside, [0, 0, 50, 50]], [0.9, 0.8, 0.7], [0, 0, 0]))
    assert evaluator.compute().to_dict()["AP"] == pytest.approx(1)


def test_nothing_detected_scores_zero_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = Evaluator(make_index([{"id": 1, "boxes": [[0, 0, 50, 50]], "labels": [0]}]))
    assert evaluator.compute().AP == 0
    evaluator.update(0, make_detections([], [], []))
    assert evaluator.compute().AP == 0
    assert evaluator.coco_results() == []
    assert capsys.readouterr().out == ""


def test_scoring_leaves_standard_output_to_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another thread may print meanwhile, and two may score."""
    original = coco_scoring._within
    monkeypatch.setattr(coco_scoring, "_within", lambda *args: print("another thread") or original(*args))
    Evaluator(make_index([{"id": 1, "boxes": [[0, 0, 50, 50]], "labels": [0]}])).compute()
    assert capsys.readouterr().out == "another thread\n" * 2


def test_no_object_anywhere_is_none_not_minus_one() -> None:
    evaluator = Evaluator(make_index([{"id": 1, "boxes": [], "labels": []}, {"id": 2, "boxes": [], "labels": []}]))
    evaluator.update(1, make_detections([[0, 0, 9, 9]], [0.5], [2]))
    assert set(evaluator.compute().figures().values()) == {None}


def test_no_image_at_all() -> None:
    assert set(Evaluator(make_index([])).compute().figures().values()) == {None}


def test_a_box_with_the_first_annotation_id_counts() -> None:
    # COCOeval takes a match with annotation id 0 for no match: ids must not start there.
    evaluator = Evaluator(make_index([{"id": 0, "boxes": [[0, 0, 50, 50]], "labels": [0]}]))
    evaluator.update(0, make_detections([[0, 0, 50, 50]], [0.5], [0]))
    assert evaluator.compute().to_dict()["AP"] == pytest.approx(1)


def test_merged_processes_equal_one_process() -> None:
    rng = np.random.default_rng(3)
    images = random_images(rng, 7)
    index = make_index(images)
    found = [
        make_detections(
            perturbed(rng, np.array(image["boxes"], float).reshape(-1, 4), 0.05),
            rng.random(len(image["labels"])),
            image["labels"],
        )
        for image in images
    ]
    single, first, second = Evaluator(index), Evaluator(index), Evaluator(index)
    for position, detections in enumerate(found):
        single.update(position, detections)
    for position in (0, 2, 4, 6):
        first.update(position, found[position])
    for position in (1, 3, 5, 0):  # a distributed sampler pads with image 0
        second.update(position, found[position])
    states = [first.state(), second.state()]
    second.merge(states)
    first.merge(states)
    assert first.compute() == second.compute() == single.compute()
    assert first.coco_results() == single.coco_results()


def test_reset_forgets() -> None:
    evaluator = Evaluator(make_index([{"id": 1, "boxes": [[0, 0, 50, 50]], "labels": [0]}]))
    evaluator.update(0, make_detections([[0, 0, 50, 50]], [0.5], [0]))
    evaluator.reset()
    assert evaluator.state() == {}
    assert evaluator.compute().AP == 0


def test_mistakes_are_named() -> None:
    image = {"id": 1, "boxes": [], "labels": []}
    evaluator = Evaluator(make_index([image]))
    with pytest.raises(ValueError, match=r"position in 0\.\.0, got 1"):
        evaluator.update(1, make_detections([], [], []))
    with pytest.raises(ValueError, match=r"'horse'.* are not the index's .*'cow'"):
        evaluator.update(0, make_detections([], [], [], ("cat", "dog", "horse")))
    with pytest.raises(ValueError, match="image ids"):
        Evaluator(make_index([image, image]))


def test_ids_of_any_64_bits_are_scored() -> None:
    first = 1 << 62
    images = [{"id": first + i, "boxes": [[0, 0, 50, 50]], "labels": [0]} for i in (1, 0)]
    evaluator = Evaluator(make_index(images, category_ids=(first, first - 1, -first)))
    evaluator.update(0, make_detections([[0, 0, 50, 50]], [0.5], [0]))
    assert pytest.approx(51 / 101) == evaluator.compute().AP50  # recall 0.5 at most: 51 of the 101 that are looked at
    (result,) = evaluator.coco_results()
    assert (result["image_id"], result["category_id"]) == (4611686018427387905, 4611686018427387904)


def test_thousands_of_classes_are_scored_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """COCOeval's table of 30,000 would take 3 GB: so they take 220 MiB and 4 s, with pycocotools 180 MiB and 15 s."""
    evaluate, parts = coco_scoring._evaluate, []
    monkeypatch.setattr(coco_scoring, "MOST_DETECTIONS", 100_000)
    monkeypatch.setattr(coco_scoring, "_evaluate", lambda *given: (parts.append(given[2:]), evaluate(*given))[1])
    names = tuple(f"class {label}" for label in range(3000))
    boxes = [[10 * j, j, 10 * j + 40, j + 40] for j in range(5)]
    images = [{"id": i, "boxes": boxes, "labels": range(500 * i, 500 * i + 5)} for i in range(6)]
    evaluator = Evaluator(make_index(images, names, range(3000)))
    for i in range(5):
        evaluator.update(i, make_detections(boxes, [0.5] * 5, list(range(500 * i, 500 * i + 5)), names))
    metrics = evaluator.compute()
    assert parts == [(first, first + 250) for first in range(0, 3000, 250)]
    assert pytest.approx(25 / 30) == metrics.AP
    assert pytest.approx(25 / 30) == metrics.AR1
    assert metrics.AP_small is None
    assert [metrics.per_class[f"class {label}"].AP75 for label in (2004, 2500, 2999)] == [pytest.approx(1), 0, None]
