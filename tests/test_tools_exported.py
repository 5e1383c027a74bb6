"""ssdlite predict and ssdlite eval with exported models in place of checkpoints."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.build import load_any
from ssdlite.errors import ConfigError
from ssdlite.runtime.backends.litert import LiteRtBackend
from ssdlite.tools import eval_det, predict


@pytest.mark.parametrize("model", [("bundle",), ("bundle", "--model", "raw.onnx"), ("bundle/nms.onnx",)])
def test_predict(colour_bundle: Path, colour_pictures: Path, tmp_path: Path, model: tuple[str, ...]) -> None:
    arguments = [
        str(colour_pictures / "val2017"),
        "--output",
        str(tmp_path / "out"),
        "--weights",
        str(tmp_path / model[0]),
    ]
    assert predict.main([*arguments, *model[1:]]) == 0
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [[found["name"] for found in entry["detections"]] for entry in entries] == [["red"], ["blue"]]
    (found,) = entries[0]["detections"]
    assert found["score"] == pytest.approx(1, abs=1e-5)
    assert found["box"] == pytest.approx([24, 32, 72, 64], abs=1e-3)


@pytest.mark.parametrize("model", [("bundle",), ("bundle", "--model", "raw.onnx"), ("bundle/nms.onnx",)])
def test_eval(colour_bundle: Path, colour_pictures: Path, tmp_path: Path, model: tuple[str, ...]) -> None:
    arguments = [str(tmp_path / model[0]), "--data", str(colour_pictures), "--workers", "0"]
    assert eval_det.main([*arguments, *model[1:], "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["AP"], report["images"], report["objects"]) == (pytest.approx(1), 2, 2)
    assert report["per_class"]["green"]["AP"] is None


def test_eval_takes_thresholds_where_they_are_not_built_in(
    colour_bundle: Path, colour_pictures: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    arguments = [str(colour_bundle), "--data", str(colour_pictures), "--workers", "0", "--coco-results", str(results)]
    raw = [*arguments, "--model", "raw.onnx"]
    for options, count in (([], 2), (["--score-threshold", "1"], 0)):
        assert eval_det.main([*raw, *options]) == 0
        assert len(json.loads(results.read_text())) == count
    assert eval_det.main([*arguments, "--max-detections", "3", "--score-threshold", "0.0625"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundle", "--device", "cuda"], "--device cuda: the exported model bundle runs on the CPU"),
        (["bundle", "--amp", "bfloat16"], "--amp bfloat16: the precision of the exported model bundle is its own"),
        (["bundle", "--amp", "auto"], "--amp auto: the precision"),
        (["bundle", "--model", "best.onnx"], "no model 'best.onnx'; there are nms.onnx, raw.onnx"),
        (["bundle", "--max-detections", "2"], "nms.onnx: max_detections 3 is built into a model of variant nms"),
        (["bundle", "--nms-threshold", "0.4"], "nms.onnx: nms_threshold 0.5 is built into"),
        (["bundle", "--score-threshold", "0.5"], "nms.onnx: score_threshold 0.0625 is built into"),
        (["bundle", "--model", "raw.onnx", "--nms-threshold", "2"], "nms_threshold: expected 0 to 1, got 2"),
        (["none.onnx"], "none.onnx: no such model file"),
        (
            ["data"],
            "data: expected a detector: a checkpoint, the folder of a training or bundle, or an exported file; this",
        ),
    ],
)
@pytest.mark.usefixtures("colour_bundle", "colour_pictures")
def test_eval_names_mistakes_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_det.main([*arguments, "--data", "data", "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ssdlite eval: error: ") and message in err and err.count("\n") == 1


@pytest.mark.usefixtures("colour_bundle", "colour_pictures")
def test_predict_names_mistakes_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (["bundle", "--device", "cuda:1"], "--device cuda:1: the exported model bundle runs on the CPU"),
        (["bundle", "--model", "x"], "no model 'x'; there are nms.onnx, raw.onnx"),
        (["data/val2017/1.png", "--model", "nms.onnx"], "--model nms.onnx: chooses a file of a bundle, and data"),
    ):
        assert predict.main(["data/val2017", "--weights", *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "predictions").exists()


def test_what_a_bundle_has_for_a_runtime_that_is_here_is_named(
    colour_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((colour_bundle / "contract.json").read_text())
    raw = next(model for model in document["models"] if model["file"] == "raw.onnx")
    document["models"] += [{**raw, "file": "raw.tflite", "runtime": "litert"}]
    (colour_bundle / "contract.json").write_text(json.dumps(document))
    monkeypatch.setattr(LiteRtBackend, "package", "numpy")  # which is there
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert predict.main([str(tmp_path / "a.png"), "--weights", str(colour_bundle)]) == 2
    missing = "nms.onnx: running it needs onnxruntime: pip install onnxruntime"
    assert capsys.readouterr().err.endswith(f"{missing}; --model raw.tflite runs here\n")
    monkeypatch.setattr(LiteRtBackend, "package", "a_package_that_nobody_has")
    assert predict.main([str(tmp_path / "a.png"), "--weights", str(colour_bundle)]) == 2
    assert capsys.readouterr().err.endswith(f"{missing}\n")


def test_one_function_loads_both(colour_bundle: Path, tmp_path: Path) -> None:
    from ssdlite.build import build_detector
    from ssdlite.checkpoint import Checkpoint, save_checkpoint

    detector = build_detector("ssdlite192_mobilenet_v2_050", num_classes=2, width_mult=0.25, image_size=(64, 96))
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "small.pt")
    picture = np.zeros((40, 50, 3), np.uint8)
    thresholds = {"score_threshold": None, "max_detections": 3}
    for path, size, count in ((tmp_path / "small.pt", (64, 96), 3), (colour_bundle, (32, 48), 0)):
        model = load_any(path, device="cpu", thresholds=thresholds)
        assert model.input_transform.size == size
        assert len(model.predict(picture, score_threshold=0.0)[0]) == count
    with pytest.raises(ConfigError, match="max_detections: expected 1 to 100000"):
        load_any(tmp_path / "small.pt", thresholds={"max_detections": 0})
