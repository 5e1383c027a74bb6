"""ssdlite benchmark: times by stage, memory and accuracy of several models."""

import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.benchmark.comparison import Comparison, Contestant, Stages, summarise
from ssdlite.benchmark.detectors import Candidate, Load, Pipeline, Row, cells, compare, find_candidates, peak_memory
from ssdlite.benchmark.timing import own_peak
from ssdlite.detections import Detections
from ssdlite.errors import ContractError
from ssdlite.export.measure import Accuracy
from ssdlite.images.geometry import InputTransform
from ssdlite.runtime.backends.coreml import CoreMlBackend
from ssdlite.runtime.backends.litert import LiteRtBackend
from ssdlite.tools import benchmark

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("thing",))


class Sleeper:
    """Takes 40 ms a batch in the network and 80 ms behind it, and remembers what it saw."""

    class_names = ("thing",)
    input_transform = InputTransform((32, 48), "stretch")

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def infer_batch(self, images: np.ndarray) -> int:
        self.seen.append(images)
        time.sleep(0.04)
        return len(images)

    def postprocess(self, outputs: int, score_threshold: float = 0.0) -> list[Detections]:
        time.sleep(0.08)
        return [NOTHING] * outputs


def test_stages_are_milliseconds_of_a_batch(tmp_path: Path) -> None:
    paths = [tmp_path / f"{value}.png" for value in (10, 20, 30)]
    for path in paths:
        Image.new("RGB", (60, 40), (int(path.stem), 0, 0)).save(path)
    model = Sleeper()
    pipeline = Pipeline(model, paths, batch_size=2, threads=1)  # type: ignore[arg-type]
    times = [pipeline() for _ in range(3)]
    assert [[int(image[0, 0, 0]) for image in batch] for batch in model.seen] == [[10, 20], [30, 10], [20, 30]]
    assert model.seen[0].shape == (2, 3, 32, 48)
    for one in times:
        assert list(one) == ["decode", "resize", "network", "postprocess"]
        assert 40 <= one["network"] < one["postprocess"] - 20
        assert one["postprocess"] >= 80
        assert 0 < one["resize"] < 40


def test_a_row_is_made_of_medians_and_ranks(tmp_path: Path) -> None:
    names = ("decode", "resize", "network", "postprocess")
    slow = [Stages(zip(names, (1.0, 2.0, float(i), 3.0), strict=True)) for i in (5, 1, 3, 2, 100)]
    fast = [Stages(zip(names, (1.0, 1.0, 1.0, 1.5), strict=True))] * 5
    contestants = [Contestant(name, lambda: None) for name in ("a.onnx", "b.onnx")]
    first, second = summarise(Comparison("load", contestants, reference="a.onnx"), [slow, fast]).lines
    row = Row(first, Load(2, 4), 2.5, memory=99.6, accuracy=Accuracy(0.25, 0.5))
    assert row.to_dict() == {
        "name": "a.onnx", "stages": {"decode": 1, "resize": 2, "network": 3, "postprocess": 3},
        "minimum": 7, "median": 9, "p95": 106, "megabytes": 2.5, "memory": 99.6,
        "threads": 2, "batch_size": 4, "AP": 0.25, "AP50": 0.5,
    }  # fmt: skip
    assert cells(row) == ["a.onnx", "1", "2", "3", "3", "7", "9", "106", "1.00", "100", "2.50", "0.250", "0.500"]
    cheaper = Row(second, Load(2, 4), 2.5)
    assert cells(cheaper) == ["b.onnx", "1", "1", "1", "1.5", "4.5", "4.5", "4.5", "0.50", "", "2.50", "", ""]


def test_two_files_of_one_name_keep_their_own_accuracy(colour_bundle: Path, colour_pictures: Path) -> None:
    copy = colour_bundle.with_name("copy")
    copy.mkdir()
    (copy / "nms.onnx").write_bytes((colour_bundle / "nms.onnx").read_bytes())
    rows = compare(
        [Candidate(folder / "nms.onnx") for folder in (colour_bundle, copy)],
        [colour_pictures / "val2017" / "1.png"],
        [Load(1, 1)],
        runs=1,
        memory=False,
        accuracies=[Accuracy(0.1, 0.2), Accuracy(0.3, 0.4)],
    )
    assert [(row.name, row.accuracy) for row in rows] == [("nms.onnx", (0.1, 0.2)), ("nms.onnx", (0.3, 0.4))]


def test_every_file_of_a_bundle_is_a_candidate(colour_bundle: Path) -> None:
    found = find_candidates([colour_bundle, colour_bundle / "nms.onnx"])
    assert [one.name for one in found] == ["bundle/nms.onnx", "bundle/raw.onnx", "nms.onnx"]
    assert found[0].megabytes == found[2].megabytes == (colour_bundle / "nms.onnx").stat().st_size / 1e6


def test_what_cannot_be_run_here_is_left_out_aloud(
    colour_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((colour_bundle / "contract.json").read_text())
    raw = next(model for model in document["models"] if model["file"] == "raw.onnx")
    document["models"] += [{**raw, "file": "raw.tflite", "runtime": "litert"}]
    document["models"] += [{**raw, "file": "raw.mlpackage", "runtime": "coreml"}]
    (colour_bundle / "contract.json").write_text(json.dumps(document))
    monkeypatch.setattr(LiteRtBackend, "package", "a_package_that_nobody_has")
    monkeypatch.setattr(CoreMlBackend, "unsupported", "Core ML runs on Apple's systems only")
    assert benchmark.main([str(colour_bundle), "--runs", "1", "--no-memory"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")] == [
        'left out: bundle/raw.tflite: litert is not installed (pip install "ssdlite[litert]")',
        "left out: bundle/raw.mlpackage: Core ML runs on Apple's systems only",
    ]
    document["models"] = document["models"][-2:]
    (colour_bundle / "contract.json").write_text(json.dumps(document))
    with pytest.raises(ContractError, match=r"litert is not installed \(.*\); Core ML runs on Apple's systems only$"):
        find_candidates([colour_bundle])


def test_the_detector_that_comes_along_is_a_candidate_by_its_name() -> None:
    (found,) = find_candidates([Path("openimages")])
    assert (found.name, found.megabytes) == ("openimages", 10.209896)


def test_memory_is_that_of_a_process_of_its_own(colour_bundle: Path, colour_pictures: Path) -> None:
    ours = own_peak()
    pictures = [colour_pictures / "val2017" / "1.png"]
    ballast = np.ones(200_000_000, np.uint8)
    theirs = peak_memory(Candidate(colour_bundle / "nms.onnx"), pictures, Load(1, 1))
    assert ours is not None and theirs is not None
    assert 20 < theirs < 400
    assert (own_peak() or 0) >= max(ours, len(ballast) / 1e6)
    assert peak_memory(Candidate(colour_bundle / "none.onnx"), pictures, Load(1, 1)) is None


def test_the_tool(
    colour_bundle: Path, colour_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(colour_bundle), "--data", str(colour_pictures), "--runs", "2", "--no-memory"]
    assert benchmark.main([*arguments, "--batch-sizes", "1", "2", "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    rows = report["rows"]
    assert [(row["name"], row["batch_size"]) for row in rows] == [
        ("bundle/nms.onnx", 1),
        ("bundle/raw.onnx", 1),
        ("bundle/nms.onnx", 2),
        ("bundle/raw.onnx", 2),
    ]
    for row in rows:
        assert (row["AP"], row["AP50"]) == (pytest.approx(1), pytest.approx(1))
        assert 0 < row["minimum"] <= row["median"] <= row["p95"]
        assert row["memory"] is None
    assert (report["runs"], report["pictures"]) == (2, 2)
    assert report["ai-edge-litert"] == version("ai-edge-litert"), "of every runtime that is installed"
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "Threads: 1, batch size: 2:" in text and "| `bundle/raw.onnx` |" in text
    assert Image.open(tmp_path / "out" / "benchmark.png").size[0] > 500
    assert "scoring bundle/raw.onnx on data/val2017, 2 images" in capsys.readouterr().out


def test_data_are_read_as_the_options_say(
    colour_bundle: Path, colour_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (colour_pictures / "annotations").iterdir()
    file.write_text(file.read_text().replace('"red"', '"crimson"'))
    arguments = [str(colour_bundle / "nms.onnx"), "--data", str(colour_pictures), "--runs", "1", "--no-memory"]
    assert benchmark.main([*arguments, "--data-format", "voc"]) == 2
    assert "no annotations found" in capsys.readouterr().err
    assert benchmark.main([*arguments, "--rename", "crimson=red", "--output", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"]
    assert row["AP"] == pytest.approx(1)


def test_made_up_pictures_and_stages_drawn(colour_bundle: Path, tmp_path: Path) -> None:
    assert benchmark.main([str(colour_bundle), "--runs", "1", "--no-memory", "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["pictures"] == 8 and "AP" not in report["rows"][0]
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected checkpoints, exported files or bundles, got none"),
        (["bundle", "--runs", "0"], "--runs: expected 1 or more, got 0"),
        (["bundle", "--threads", "0"], "--threads: expected numbers of 1 or more, got (0,)"),
        (["bundle", "--batch-sizes", "1", "-2"], "--batch-sizes: expected numbers of 1 or more, got (1, -2)"),
        (["bundle", "--split", "val"], "--split goes with --data"),
        (["bundle", "--pictures", "nowhere"], "--pictures nowhere: no such file or folder"),
        (["bundle", "--pictures", "bundle"], "--pictures bundle: no pictures in it"),
        (["none.onnx"], "none.onnx: no such model file"),
        (["none.pt"], "none.pt: no such checkpoint file"),
        (["data"], "data/contract.json: no such file"),
    ],
)
@pytest.mark.usefixtures("colour_bundle", "colour_pictures")
def test_mistakes_are_named_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(arguments) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1
