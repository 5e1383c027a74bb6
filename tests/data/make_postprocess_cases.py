"""Write postprocess_cases.jsonl: what post-processing makes of small outputs, by brute force.

    python tests/data/make_postprocess_cases.py > tests/data/postprocess_cases.jsonl

Every implementation in this repository has to agree with that table; so nothing of them is used here: plain loops, with
numbers of 50 digits and exact fractions. The rules:

1. The score of class k at anchor a is column k + 1 of the softmax over the anchor's logits (column 0: background), or
   the sigmoid of that logit alone; in float32.
2. A pair of an anchor and a class is a candidate where its score is above ``score_threshold``. Equal is not above, and
   what is not a number is not either.
3. Candidates stand in the order of their scores, the best first; equal ones in that of their anchors, then classes.
4. Of each class the first ``candidates_per_class`` take part, the others do not count any more.
5. A box is its anchor, moved and scaled by its deltas (x, y, width, height; each divided by its ``box_code_scales``):
   centre + delta * side, side * exp(delta), the last delta at most log(1000 / 16). Where ``box_code`` is ``distances``,
   its corners lie so many sides of the anchor left, above, right and below the anchor's centre. Then it is clipped to
   the input.
6. In order, a candidate is left out where it overlaps one of its class that stays by an IoU above ``nms_threshold``.
   Equal is not above; boxes without area overlap nothing.
7. The first ``max_detections`` that are left are the result, without those that score less than ``asked_threshold``:
   a caller's, in float32. Equal stays.

Boxes are x0, y0, x1, y1 in pixels of an input of ``input_size`` (height, width). Numbers that JSON has not are strings.
No case hangs on a rounding: scores and overlaps are equal to what they are compared with, or clearly apart from it.
"""

import json
import math
import random
import struct
from collections.abc import Iterator
from decimal import Decimal, getcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

getcontext().prec = 50
MAX_GROWTH = (Decimal(1000) / Decimal(16)).ln()
CLEAR_SCORE, CLEAR_IOU = 1e-4, 1e-3

Case = dict[str, Any]
PLAIN: Case = {
    "input_size": [64, 64], "score_function": "softmax", "score_threshold": 0.25, "nms_threshold": 0.5,
    "candidates_per_class": 10, "max_detections": 10, "box_code_scales": [10.0, 10.0, 5.0, 5.0],
    "asked_threshold": 0.0, "box_code": "center_size",
}  # fmt: skip
SETTINGS = {
    "plain": PLAIN,
    "sigmoid": PLAIN | {"score_function": "sigmoid", "score_threshold": 0.5, "nms_threshold": 0.25},
    "no thresholds": PLAIN | {"score_threshold": 0.0, "nms_threshold": 0.0},
    "everything": PLAIN | {"nms_threshold": 1.0, "candidates_per_class": 50, "max_detections": 100},
    "no thresholds, sigmoid": PLAIN | {"score_function": "sigmoid", "score_threshold": 0.0, "nms_threshold": 0.0},
    "few": PLAIN | {"candidates_per_class": 2, "max_detections": 3},
    "single": PLAIN | {"candidates_per_class": 1, "max_detections": 2},
    "crowded": PLAIN
    | {"score_threshold": 0.1, "nms_threshold": 0.125, "candidates_per_class": 12, "max_detections": 20},
    "wide": PLAIN | {"input_size": [32, 64], "box_code_scales": [1.0, 2.0, 4.0, 8.0], "nms_threshold": 0.25},
    "distances": PLAIN
    | {"input_size": [32, 64], "score_function": "sigmoid", "box_code": "distances", "box_code_scales": [1.0] * 4},
}


class UnclearError(Exception):
    """A decision that the last digit of a float could change."""


def float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def exp(value: float) -> Decimal:
    return Decimal(0) if value == -math.inf else Decimal(value).exp()


def scores_of(logits: list[float], function: str) -> list[float]:
    if function == "sigmoid":
        return [math.nan if math.isnan(x) else float32(float(1 / (1 + exp(-x)))) if x < math.inf else 1.0
                for x in logits[1:]]  # fmt: skip
    highest = max(logits)
    if any(math.isnan(x) for x in logits) or math.isinf(highest):
        return [math.nan] * (len(logits) - 1)
    powers = [exp(x - highest) for x in logits]
    return [float32(float(power / sum(powers))) for power in powers[1:]]


def box_of(anchor: list[float], deltas: list[float], case: Case) -> list[Fraction]:
    height, width = case["input_size"]
    low, high = [], []
    for axis, limit in ((0, width), (1, height)):
        start, end = Decimal(anchor[axis]), Decimal(anchor[axis + 2])
        centre, side = (start + end) / 2, end - start
        first, second = (Decimal(deltas[i]) / Decimal(case["box_code_scales"][i]) for i in (axis, axis + 2))
        if case["box_code"] == "distances":
            corners = centre - first * side, centre + second * side
        else:
            half = side / 2 * min(second, MAX_GROWTH).exp()
            corners = centre + first * side - half, centre + first * side + half
        for ends, value in zip((low, high), corners, strict=True):
            ends.append(min(max(Fraction(value), Fraction(0)), Fraction(limit)))
    return low + high


def iou_of(one: list[Fraction], other: list[Fraction]) -> Fraction:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, Fraction(0)) * max(height, Fraction(0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared / union if union else Fraction(0)


def is_above(value: float | Fraction, threshold: float, clear: float) -> bool:
    if value != threshold and abs(value - threshold) < clear:
        raise UnclearError(f"{float(value)} and {threshold}")
    return value > threshold


def reaches(score: float, threshold: float) -> bool:
    return score == threshold or is_above(score, threshold, CLEAR_SCORE)


def detect(case: Case) -> dict[str, list[Any]]:
    """What a case's outputs become, by the rules above."""
    candidates = []
    for a, logits in enumerate(case["class_logits"]):
        for k, score in enumerate(scores_of(logits, case["score_function"])):
            if is_above(score, float32(case["score_threshold"]), CLEAR_SCORE):
                candidates.append((-score, a, k))
    candidates.sort()
    for (one, a, _), (other, b, _) in pairwise(candidates):
        is_same_row = a == b or case["class_logits"][a] == case["class_logits"][b] or one == -1
        if abs(one - other) < CLEAR_SCORE and not (one == other and is_same_row):
            raise UnclearError(f"scores {one} and {other}")
    seen: dict[int, int] = {}
    kept: list[tuple[list[Fraction], float, int]] = []
    for negative, a, k in candidates:
        seen[k] = seen.get(k, 0) + 1
        if seen[k] > case["candidates_per_class"]:
            continue
        box = box_of(case["anchors"][a], case["box_deltas"][a], case)
        overlaps = [iou_of(other, box) for other, _, label in kept if label == k]
        if not sum(is_above(overlap, case["nms_threshold"], CLEAR_IOU) for overlap in overlaps):
            kept.append((box, -negative, k))
    asked = float32(case["asked_threshold"])
    kept = [one for one in kept[: case["max_detections"]] if reaches(one[1], asked)]
    return {
        "boxes": [[round(float(side), 5) for side in box] for box, _, _ in kept],
        "scores": [round(score, 8) for _, score, _ in kept],
        "labels": [label for _, _, label in kept],
    }


def logs(*probabilities: float) -> list[float]:
    """Logits whose softmax is ``probabilities``, to a few digits."""
    return [float32(round(math.log(value), 4)) if value else -100.0 for value in probabilities]


BACKGROUND = [20.0, 0, 1]
# Boxes of 16 x 16. The second overlaps the first by 12 of 16 columns (IoU 0.6), the third stands apart.
NEAR = [[8.0, 8, 24, 24], [12.0, 8, 28, 24], [40.0, 40, 56, 56]]
HALF = [[0.0, 0, 16, 32], [0.0, 0, 16, 16]]  # IoU of exactly 1/2
QUARTER = [[0.0, 0, 32, 32], [0.0, 0, 16, 16]]
APART = [[0.0, 0, 16, 16], [16.0, 0, 32, 16], [32.0, 0, 48, 16], [48.0, 0, 64, 16]]
EVEN, TWO = [0.0, 0.0], [-9.0, 2.0, 2.0]
P60, P70, P80, P90 = (logs(1 - score, score) for score in (0.6, 0.7, 0.8, 0.9))
INFINITE, NAN = math.inf, math.nan

# What it shows, the kind of settings, anchors, logits, and deltas where the boxes are not the anchors.
# fmt: off
BY_HAND: list[tuple[Any, ...]] = [
    # -- the box code
    ("distances to the sides, one of them behind the centre, one beyond the input", "distances",
     [[16.0, 8, 32, 24]], [[0.0, 4]], [[0.25, 1.5, -0.125, 0.5]]),
    # -- thresholds of the score
    ("a softmax score equal to the threshold", "plain", APART[:1], [[1.0] * 4]),
    ("softmax scores next to the threshold", "plain", APART[:2], [[1.0, 1, 1.0078125, 1], [0.0, 0.5, 1, 0.5]]),
    ("a sigmoid score equal to the threshold, and two next to it", "sigmoid", APART[:3],
     [EVEN, [0.0, 0.0009765625], [0.0, -0.0009765625]]),
    ("a threshold of 0, and a score that is too small for float32", "no thresholds", APART[:2],
     [[0.0, -200.0], [0.0, -5.0]]),

    # -- nothing to find
    ("background everywhere", "plain", APART, [logs(0.98, 0.01, 0.01)] * 4),
    ("background everywhere but at one anchor", "plain", APART, [BACKGROUND, BACKGROUND, [0.0, 3, 1], BACKGROUND]),
    ("one anchor and one class", "plain", APART[3:], [P80]),

    # -- order
    ("the best first, whatever their classes and anchors", "plain", APART,
     [logs(0.5, 0.4, 0.1), logs(0.3, 0.1, 0.6), logs(0.1, 0.9, 0), logs(0.5, 0, 0.5)]),
    ("several classes on one anchor", "plain", APART[:1], [logs(0, 0.31, 0.36, 0.33)]),
    ("equal scores of several classes on one anchor", "no thresholds", APART[:1], [[1.0] * 4]),
    ("equal scores on several anchors", "plain", APART, [P80] * 4),
    ("equal scores: anchors in turn, and on each its classes", "plain", APART[:3], [TWO] * 3),
    ("equal scores cut by the limit of detections", "few", APART[:2], [TWO] * 2),
    ("equal scores cut by the limit of each class", "single", APART[:3], [TWO] * 3),
    ("equal scores behind a better one, cut by both limits", "few", APART, [TWO, TWO, TWO, [0.0, 9, 3]]),
    ("of equal scores the first anchor suppresses", "plain", NEAR, [P80] * 3),
    ("sigmoid scores so high that float32 has 1 for all", "sigmoid", APART,
     [[0.0, 40], [0.0, 90], [0.0, 2], [0.0, 50]]),

    # -- suppression
    ("classes do not suppress one another", "plain", NEAR,
     [logs(0.1, 0.5, 0.4), logs(0.2, 0.6, 0.2), logs(0.65, 0.0499, 0.3001)]),
    ("an overlap equal to the threshold, of a half", "plain", HALF, [P80, P60]),
    ("an overlap above the threshold, of 17 in 32", "plain", [[0.0, 0, 16, 32], [0.0, 0, 16, 17]], [P80, P60]),
    ("an overlap below the threshold, of 15 in 32", "plain", [[0.0, 0, 16, 32], [0.0, 0, 16, 15]], [P60, P80]),
    ("an overlap equal to the threshold, of a quarter", "sigmoid", QUARTER, [[0.0, 1], [0.0, 2]]),
    ("boxes that are the same, the best on the last anchor", "plain", [APART[1]] * 3, [P60, P70, P80]),
    ("a threshold of 1 keeps boxes that are the same", "everything", [APART[1]] * 2, [P60, P80]),
    ("a threshold of 0 keeps boxes that touch, and no others", "no thresholds", [*APART[:2], [15.0, 0, 31, 16]],
     [P80, P70, P60]),
    ("what is suppressed does not suppress", "plain", [[4.0 * i, 0, 4.0 * i + 16, 16] for i in range(4)],
     [P90, P80, P70, P60]),
    ("a small box in a large one", "plain", [[0.0, 0, 64, 64], [24.0, 24, 40, 40]], [P80, P60]),

    # -- limits
    ("the limit of each class comes before suppression", "few", NEAR, [P80, P70, P60]),
    ("a higher limit of each class leaves the third", "plain", NEAR, [P80, P70, P60]),
    ("one candidate for each class", "single", APART,
     [logs(0.2, 0.2, 0.6), logs(0.1, 0.53, 0.37), logs(0.29, 0.41, 0.3), logs(0.15, 0.35, 0.5)]),
    ("the limit of detections takes the best of all classes", "single", NEAR,
     [logs(0, 0.55, 0.1, 0.35), logs(0.2, 0, 0.7, 0.1), logs(0, 0.3, 0.1, 0.6)]),
    ("the limit of detections counts what is left alone", "few", NEAR,
     [logs(0.1, 0.9, 0), logs(0, 0.5, 0.5), [*P80, 0.5]]),
    ("more room than pairs", "everything", APART[:2], [P80, P60]),

    # -- boxes
    ("deltas that move and scale", "plain", NEAR[:1], [P80], [[10.0, 5, 3.5, -2.5]]),
    ("other scales of the box code", "wide", [[16.0, 8, 32, 24]], [P80], [[0.5, -0.25, 2, -4]]),
    ("growth has a limit: 1000 pixels for an anchor of 16, 62.5 for one of 1", "plain", [[31.5, 31.5, 32.5, 32.5]],
     [P80], [[0.0, 0, 30, 1000]]),
    ("deltas beyond all measure", "plain", NEAR[:1], [P80], [[0.0, 0, 1e30, 1e30]]),
    ("a box that shrinks to nothing", "plain", NEAR[:1], [P80], [[0.0, 0, -1e30, 0]]),
    ("a box that leaves the input to the right has no area, and stays", "plain", NEAR[:1], [P80], [[100.0, 0, 0, 0]]),
    ("a box that leaves the input upwards", "plain", NEAR[:1], [P80], [[0.0, -1e6, 0, 0]]),
    ("anchors that reach out of the input", "plain", [[-8.0, -8, 8, 8], [48.0, 56, 80, 72]], [P80, P60]),
    ("boxes are clipped to height and width", "wide", [[-16.0, -16, 80, 80], [16.0, 24, 96, 40]], [P80, P60]),
    ("boxes that differ out of the input alone suppress one another", "plain",
     [[56.0, 0, 150, 10], [56.0, 0, 66, 10]], [P80, P60]),
    ("boxes without area do not", "plain", [[8.0, 8, 8, 24]] * 2 + [[70.0, 8, 80, 24]] * 2, [P80, P70, P60, P90]),
    ("boxes without area count for the limits", "few", [[70.0, 8, 80, 24]] * 2 + APART[:1], [P80, P70, P60]),

    # -- logits beyond all measure
    ("large logits", "plain", APART[:2], [[10000.0, 10001, 9000], [-30000.0, -30002, -29999]]),
    ("sigmoid does not look at background", "sigmoid", APART[:3],
     [[500.0, 2, 1], [-500.0, -1, 0.5], [0.0, -500, -500]]),
    ("a softmax of minus infinity is 0", "no thresholds", APART[:2], [[0.0, -INFINITE, 1], [-INFINITE, 1, 2.5]]),
    ("a softmax with infinity is no number", "no thresholds", APART[:3],
     [[INFINITE, 0, 1], [0.0, 1, INFINITE], [0.0, 1, -2]]),
    ("a softmax with what is no number is none", "no thresholds", APART[:3],
     [[NAN, 0, 1], [0.0, 1, NAN], [0.0, 1, -2]]),
    ("a sigmoid of infinity is 1, of minus infinity 0", "sigmoid", APART[:2],
     [[0.0, -INFINITE, 1], [0.0, INFINITE, -1]]),
    ("a sigmoid of what is no number leaves the other classes alone", "sigmoid", APART[:3],
     [[0.0, NAN, 1], [NAN, 2, -1], [0.0, NAN, NAN]]),
    ("nothing but what is no number", "plain", APART[:2], [[NAN] * 3] * 2),
]

# What it shows, the threshold that is asked for, the kind of settings, anchors and logits.
ASKED: list[tuple[Any, ...]] = [
    ("a softmax score equal to the asked threshold, and two next to it", 0.5, "plain", APART[:3],
     [EVEN, [0.0, 0.0009765625], [0.0, -0.0009765625]]),
    ("a sigmoid score equal to the asked threshold", 0.5, "no thresholds, sigmoid", APART[:3],
     [EVEN, [0.0, 0.0009765625], [0.0, -0.0009765625]]),
    ("asked for the threshold of the settings: equal is still not above", 0.5, "sigmoid", APART[:2],
     [EVEN, [0.0, 0.0009765625]]),
    ("asked for less than the threshold of the settings", 0.125, "plain", APART[:3], [P60, P80, logs(0.8, 0.2)]),
    ("asked for more than any score", 0.875, "plain", APART[:3], [P60, P80, P70]),
    ("asked for 1, which a sigmoid reaches", 1.0, "sigmoid", APART, [[0.0, 40], [0.0, 9], [0.0, 90], [0.0, 2]]),
    ("asked for 1, which a softmax reaches", 1.0, "plain", APART[:3], [[0.0, 40, 0], [0.0, 9, 2], [-90.0, 0, -90]]),
    ("what is not asked for is suppressed, and does not suppress", 0.65, "plain",
     [[4.0 * i, 0, 4.0 * i + 16, 16] for i in range(4)], [P90, P80, P70, P60]),
    ("what is asked for is suppressed by what is", 0.65, "plain", NEAR, [P70, P80, P90]),
    ("asked for, in two classes of one anchor", 0.375, "plain", APART[:2],
     [logs(0.1, 0.5, 0.4), logs(0.1, 0.35, 0.55)]),
    ("the limit of each class counts from the best, asked or not", 0.65, "few", APART, [P60, P70, P90, P80]),
    ("the limit of each class counts what is suppressed, asked or not", 0.65, "few", NEAR, [P90, P80, P70]),
    ("equal scores as asked, cut by the limit of detections", 0.75, "few", APART[:3],
     [[-90.0, 90, 90], [90.0, 0, 0], [-90.0, 0, 90]]),
    ("equal scores that are asked for exactly, cut by both limits", 0.5, "few", APART, [EVEN, [0.0, 1], EVEN, EVEN]),
    ("asked of what is no number", 0.5, "no thresholds", APART,
     [[NAN, 0, 1], [0.0, 1, NAN], [INFINITE, 0, 1], [0.0, 4, -INFINITE]]),
    ("a sigmoid of what is no number, asked or not, leaves the other classes alone", 0.75, "sigmoid", APART[:3],
     [[0.0, NAN, 2], [NAN, 1, 3], [0.0, NAN, NAN]]),
]
# fmt: on


def crowd(seed: int, kind: str, classes: int, asked: float = 0.0) -> Case:
    """Random boxes that overlap, none of whose scores or overlaps is decided by a last digit."""
    while True:
        draw = random.Random(seed)
        case = SETTINGS[kind] | {"asked_threshold": asked, "anchors": [], "class_logits": [], "box_deltas": []}
        for _ in range(24):
            x, y = (float(draw.randrange(-8, limit - 8)) for limit in reversed(case["input_size"]))
            case["anchors"].append([x, y, x + draw.choice((16, 24)), y + draw.choice((16, 24))])
            case["class_logits"].append([draw.randrange(-160, 160) / 64 for _ in range(classes + 1)])
            least = 16 if case["box_code"] == "distances" else -16
            case["box_deltas"].append(
                [draw.randrange(least, least + 33) / 64 * scale for scale in case["box_code_scales"]]
            )
        try:
            detect(case)
            return case
        except UnclearError:
            seed += 100


def all_cases() -> Iterator[tuple[str, Case]]:
    for name, kind, anchors, logits, *deltas in BY_HAND:
        boxes = deltas[0] if deltas else [[0.0] * 4] * len(anchors)
        yield name, SETTINGS[kind] | {"anchors": anchors, "class_logits": logits, "box_deltas": boxes}
    for seed, (kind, classes) in enumerate(
        (("plain", 3), ("sigmoid", 2), ("everything", 2), ("crowded", 3), ("wide", 3), ("distances", 3))
    ):
        yield f"a crowd, {kind}", crowd(seed, kind, classes)
    for name, asked, kind, anchors, logits in ASKED:
        outputs = {"anchors": anchors, "class_logits": logits, "box_deltas": [[0.0] * 4] * len(anchors)}
        yield name, SETTINGS[kind] | {"asked_threshold": asked} | outputs
    for seed, (kind, classes, asked) in enumerate(
        (("plain", 3, 0.5), ("sigmoid", 2, 0.7), ("few", 3, 0.4), ("crowded", 3, 0.3), ("wide", 3, 0.6)), start=50
    ):
        yield f"a crowd, {kind}, asked for {asked}", crowd(seed, kind, classes, asked)


def to_json(case: Case) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(own) for name, own in value.items()}
        if isinstance(value, list):
            return [plain(own) for own in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value).replace("inf", "Infinity").replace("nan", "NaN")
        return int(value) if isinstance(value, float) and value == int(value) and abs(value) < 1e6 else value

    return json.dumps(plain(case), allow_nan=False)


def main() -> None:
    for name, case in all_cases():
        values = [x for field in ("anchors", "class_logits", "box_deltas") for row in case[field] for x in row]
        assert all(math.isnan(x) or float32(x) == x for x in values if abs(x) < 1e30), name
        print(to_json({"name": name} | case | {"expected": detect(case)}))


if __name__ == "__main__":
    main()
