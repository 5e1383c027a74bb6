"""Post-processing by every implementation, against one table of cases that was worked out by brute force."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig, override
from ssdlite.detections import Detections
from ssdlite.export.graphs import TRANSLATIONS, NmsGraph
from ssdlite.heads import postprocess as heads
from ssdlite.heads.base import Outputs
from ssdlite.heads.boxes import MAX_LOG_SCALE, BoxCode, CenterSizeCode, DistanceCode
from ssdlite.runtime import postprocess as runtime
from ssdlite.runtime.contract import AnchorSpec, PostprocessSpec
from tests.examples.kotlin import Kotlin

TESTS = Path(__file__).parent
TABLE = TESTS / "data" / "postprocess_cases.jsonl"
CASES = [json.loads(line) for line in TABLE.read_text().splitlines()]
SETTINGS = (
    "score_function", "score_threshold", "nms_threshold", "candidates_per_class", "max_detections", "box_code_scales",
    "input_size", "box_code",
)  # fmt: skip

Case: TypeAlias = dict[str, Any]
Found: TypeAlias = dict[str, Any]  # boxes [N, 4], scores [N], labels [N]


def array(rows: list[list[Any]]) -> npt.NDArray[np.float32]:
    """Numbers that JSON has not stand there as strings."""
    return np.array([[float(value) for value in row] for row in rows], np.float32)


def num_classes(case: Case) -> int:
    return len(case["class_logits"][0]) - 1


def config_of(case: Case, classes: int) -> DetectorConfig:
    return override(
        DetectorConfig(class_names=tuple(map(str, range(classes))), anchors=AnchorConfig((((0.1, 0.1),),) * 6)),
        image_size=tuple(case["input_size"]),
        **{name: case[name] for name in SETTINGS[:5]},
        box_code_scales=tuple(case["box_code_scales"]),
    )


def box_code_of(case: Case) -> BoxCode:
    return DistanceCode() if case["box_code"] == "distances" else CenterSizeCode(case["box_code_scales"])


# -- the implementations: every case -> what they find ---------------------------------------------------------------


def by_torch(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    return [vars(find_by_torch(case, *outputs_of(case), case["asked_threshold"])) for case in CASES]


def outputs_of(case: Case) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return array(case["class_logits"]), array(case["box_deltas"])


def find_by_torch(
    case: Case, logits: npt.NDArray[np.float32], deltas: npt.NDArray[np.float32], asked: float
) -> Detections:
    outputs = Outputs(torch.from_numpy(logits)[None], torch.from_numpy(deltas)[None])
    config = config_of(case, logits.shape[1] - 1)
    anchors = torch.from_numpy(array(case["anchors"]))
    (found,) = heads.postprocess(outputs, anchors, config, box_code_of(case), asked)
    return found


def by_torch_little_by_little(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    monkeypatch.setattr(heads, "FIRST_CANDIDATES", 2)
    return by_torch(monkeypatch)


def by_torch_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    monkeypatch.setattr(heads, "_suppress_on_cpu", heads._suppress_at_once)
    return by_torch(monkeypatch)


def by_numpy(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    return [vars(find_by_numpy(case, *outputs_of(case), case["asked_threshold"])) for case in CASES]


def find_by_numpy(
    case: Case, logits: npt.NDArray[np.float32], deltas: npt.NDArray[np.float32], asked: float
) -> Detections:
    corners, (height, width) = array(case["anchors"]).astype(np.float64), case["input_size"]
    low, high = corners[:, :2], corners[:, 2:]
    values = np.concatenate([(low + high) / 2, high - low], axis=1) / [width, height, width, height]
    anchors = AnchorSpec(
        box_code=case["box_code"],
        box_code_scales=tuple(case["box_code_scales"]),
        max_log_scale=MAX_LOG_SCALE,
        values=tuple(map(tuple, values.tolist())),
    )
    spec = PostprocessSpec(max_candidates=2048, **{name: case[name] for name in SETTINGS[:5]})
    likely = runtime.likely_anchors(logits, spec, asked)
    scores = runtime.class_scores(logits[likely], spec.score_function)
    boxes = runtime.decode_boxes(deltas[likely], anchors, (height, width), likely)
    return runtime.select_detections(scores, boxes, spec, tuple(map(str, range(logits.shape[1] - 1))), asked)


def by_numpy_little_by_little(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    monkeypatch.setattr(runtime, "FIRST_CANDIDATES", 2)
    return by_numpy(monkeypatch)


class Answers(torch.nn.Module):
    """Stands for a network: its input is what it answers, logits beside deltas."""

    def __init__(self, config: DetectorConfig, box_code: BoxCode, anchors: npt.NDArray[np.float32]) -> None:
        super().__init__()
        head = SimpleNamespace(box_code=box_code)
        self.detector = SimpleNamespace(config=config, head=head, anchors=torch.from_numpy(anchors))

    def forward(self, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return answers[..., :-4], answers[..., -4:]


def by_onnx(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    """Cases of the same settings share a graph, which takes a second to export: each has its own anchors in it, and
    background at those of the others. One is so large that blocks of pairs are chosen first."""
    results: dict[str, Found] = {}
    for settings, group in groupby(sorted(CASES, key=settings_of), key=settings_of):
        cases = list(group)
        classes = max(map(num_classes, cases))
        anchors = np.concatenate([array(case["anchors"]) for case in cases])
        if is_large := '"max_detections": 20' in settings:
            anchors = np.concatenate([anchors, np.tile(anchors[:1], (1000 - len(anchors), 1))])
        answers = np.zeros((len(cases), len(anchors), classes + 5), np.float32)
        answers[:, :, 1:-4] = -np.inf
        start = 0
        for number, case in enumerate(cases):
            own = slice(start, start := start + len(case["anchors"]))
            answers[number, own, : num_classes(case) + 1] = array(case["class_logits"])
            answers[number, own, -4:] = array(case["box_deltas"])
        answering = Answers(config_of(cases[0], classes), box_code_of(cases[0]), anchors)
        graph = NmsGraph(answering, 90 if is_large else 2048)  # type: ignore[arg-type]
        assert (graph.block > 1) == is_large
        height, width = cases[0]["input_size"]
        for case, boxes, scores, labels, count in zip(cases, *run_in_onnx(graph, answers), strict=True):
            assert not any(part[count:].any() for part in (boxes, scores, labels + 1))
            found = {"boxes": boxes * [width, height, width, height], "scores": scores, "labels": labels}
            asked = scores[:count] >= np.float32(case["asked_threshold"])  # what a graph has built in comes before
            results[case["name"]] = {name: values[:count][asked] for name, values in found.items()}
    return [results[case["name"]] for case in CASES]


def settings_of(case: Case) -> str:
    return json.dumps({name: case[name] for name in SETTINGS})


def run_in_onnx(graph: NmsGraph, answers: npt.NDArray[np.float32]) -> list[Any]:
    program = torch.onnx.export(
        graph.eval(),
        (torch.from_numpy(answers),),
        dynamo=True,
        verbose=False,
        opset_version=18,
        custom_translation_table=TRANSLATIONS,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: answers})


def by_javascript(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which is not installed")
    command = [node, str(TESTS / "examples" / "postprocess_cases.mjs")]
    result = subprocess.run(command, input=TABLE.read_text(), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def by_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Found]:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++, which is not installed")
    program = tmp_path / "cases"
    source = TESTS / "examples" / "postprocess_cases.cpp"
    subprocess.run([compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-o", program, source], check=True)
    lines = []
    for case in CASES:
        rows = zip(case["anchors"], case["class_logits"], case["box_deltas"], strict=True)
        numbers = [case[name] for name in (*SETTINGS[1:5], "asked_threshold")]
        lines += [
            [*case["input_size"], int(case["score_function"] == "sigmoid"), *numbers],
            [len(case["anchors"]), num_classes(case), int(case["box_code"] == "distances"), *case["box_code_scales"]],
            *([*anchor, *logits, *deltas] for anchor, logits, deltas in rows),
        ]
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    result = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    words = iter(result.stdout.split())
    results = []
    for _ in CASES:
        rows = [[float(next(words)) for _ in range(6)] for _ in range(int(next(words)))]
        results.append(
            {"boxes": [row[2:] for row in rows], "scores": [row[1] for row in rows], "labels": [row[0] for row in rows]}
        )
    return results


def by_kotlin(monkeypatch: pytest.MonkeyPatch, kotlin: Kotlin) -> list[Found]:
    said = kotlin.run("ssdlite.PostprocessCases", stdin=TABLE.read_text())
    return [json.loads(line) for line in said.splitlines()]


WAYS: dict[str, Callable[..., list[Found]]] = {
    "torch": by_torch,
    "torch, little by little": by_torch_little_by_little,
    "torch, as on a GPU": by_torch_as_on_a_gpu,
    "numpy": by_numpy,
    "numpy, little by little": by_numpy_little_by_little,
    "onnx": by_onnx,
    "javascript": by_javascript,
    "c++": by_cpp,
    "kotlin": by_kotlin,
}


@pytest.fixture(scope="module", params=WAYS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What one implementation finds, by the name of the case."""
    way = WAYS[request.param]
    more: dict[str, Any] = {}
    if way is by_cpp:
        more = {"tmp_path": tmp_path_factory.mktemp("cpp")}
    elif way is by_kotlin:
        more = {"kotlin": request.getfixturevalue("kotlin")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        results = way(monkeypatch, **more)
    return {case["name"]: one for case, one in zip(CASES, results, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_detections_are_those_of_the_table(found: dict[str, Found], case: Case) -> None:
    own, expected = found[case["name"]], case["expected"]
    assert [int(label) for label in own["labels"]] == expected["labels"]
    np.testing.assert_allclose(own["scores"], expected["scores"], rtol=0, atol=1e-6)
    boxes = [np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (own["boxes"], expected["boxes"])]
    np.testing.assert_allclose(*boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [3, 1024])
@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
@pytest.mark.parametrize("seed", range(8))
def test_a_threshold_asks_for_the_same_before_suppression_as_behind(
    monkeypatch: pytest.MonkeyPatch, seed: int, function: str, first: int
) -> None:
    """Random boxes and scores with ties, limits that cut, thresholds that are some of the scores."""
    for where in (heads, runtime):
        monkeypatch.setattr(where, "FIRST_CANDIDATES", first)
    random = np.random.default_rng(seed)
    corners = random.integers(0, 48, (300, 2))
    case: Case = {
        "score_function": function, "score_threshold": 0.02, "nms_threshold": 0.4, "input_size": [64, 64],
        "candidates_per_class": int(random.integers(1, 60)), "max_detections": int(random.integers(1, 80)),
        "box_code_scales": [10, 10, 5, 5], "box_code": "center_size",
        "anchors": np.hstack([corners, corners + random.integers(4, 32, (300, 2))]),
    }  # fmt: skip
    logits = (random.integers(-12, 12, (300, 5)) * random.choice([0.25, 0.5, 1.5])).astype(np.float32)
    deltas = random.normal(0, 1, (300, 4)).astype(np.float32)
    for find in (find_by_torch, find_by_numpy):
        everything = find(case, logits, deltas, 0.0)
        assert everything.scores.size > 0
        for asked in (0.01, 0.02, 0.3, 1.0, *random.choice(everything.scores, 6).tolist()):
            assert find(case, logits, deltas, asked) == everything.above(asked)


def test_the_table_is_what_its_script_writes() -> None:
    command = [sys.executable, str(TESTS / "data" / "make_postprocess_cases.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == TABLE.read_text()


def test_names_differ_and_every_kind_of_setting_finds_something() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) > 50
    assert all(
        any(case["expected"]["labels"] for case in group)
        for _, group in groupby(sorted(CASES, key=settings_of), key=settings_of)
    )
