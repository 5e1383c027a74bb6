"""The comparisons of docs/performance.md: ``python -m benchmarks``."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from benchmarks import COMPARISONS, BenchmarksOptions
from benchmarks.__main__ import compare
from benchmarks.coco_scale import write_coco
from benchmarks.selection import made_up_outputs, selection
from ssdlite.benchmark.comparison import run
from ssdlite.config import PRESETS
from ssdlite.datasets.loading import load_split
from ssdlite.errors import ConfigError


def test_every_name_is_a_function_of_its_module() -> None:
    for name, module in COMPARISONS.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), name))


def test_made_up_data_are_coco(tmp_path: Path) -> None:
    assert write_coco(tmp_path, 40) == round(40 * 860_000 / 118_000)
    index = load_split(tmp_path, "train2017")
    content = json.loads((tmp_path / "annotations" / "instances_train2017.json").read_text())
    assert len(index) == len(content["images"]) == 40
    assert len(index.labels) == len(content["annotations"]) == 292
    assert len(index.class_names) == 80 and not index.problems


def test_losses_are_compared_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(BenchmarksOptions(names=("loss", "litert", "candidate_bound"), rounds=1, threads=1, output=tmp_path))
    report = json.loads((tmp_path / "performance.json").read_text())
    (result,) = report["results"]
    assert [line["name"] for line in result["lines"]] == ["torchvision", "ours"]
    assert (result["rounds"], result["lines"][1]["target"]) == (1, 1.0)
    theirs, ours = result["notes"][0].removeprefix("losses: ").split(" and ")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)
    assert "| ours |" in (tmp_path / "performance.md").read_text()
    said = capsys.readouterr().out
    assert "litert: left out, it needs --tflite FILE" in said
    assert "candidate_bound: left out, it needs --checkpoint FILE --data FOLDER" in said


def test_all_ways_of_selecting_find_the_same_in_made_up_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.selection.CALLS", 1)
    outputs, _ = made_up_outputs(PRESETS["ssdlite192_mobilenet_v2_050"])
    scores = outputs.class_logits.softmax(dim=-1)[..., 1:]
    assert 9_000 < int((scores > 0.001).sum()) < 10_000
    assert int((scores > 0.3).sum()) == 40
    comparisons = selection(BenchmarksOptions())
    comparison = next(comparisons)
    names = [contestant.name for contestant in comparison.contestants]
    assert names[:3] == ["numpy, all", "numpy, from 0.3", "torch, from logits, all"]
    assert all(line.minimum > 0 for line in run(comparison, 1).lines)
    (note,) = comparison.notes
    assert set(ast.literal_eval(note.removeprefix("detections from 0.3: ")).values()) == {34}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("traning",)}, "unknown comparison 'traning'; did you mean 'training'?"),
        ({"rounds": 0}, "--threads and --rounds: expected 1 or more"),
        ({"bounds": (0,)}, r"--bounds: expected numbers of 1 or more, got \(0,\)"),
        ({"tflite": Path("none.tflite")}, "--tflite none.tflite: no such file"),
        ({"checkpoint": Path("none.pt")}, "--checkpoint none.pt: no such file"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(BenchmarksOptions(**options))
