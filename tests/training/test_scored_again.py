"""``ssdlite eval RUN``: what the run validated on is known again, also where it was divided off."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ssdlite
from ssdlite import cli
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.datasets.from_python import as_data_path
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.tools import eval_det, train_det
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import train

NAMES = ("AP", "AP50", "AP75")
SMALL = {"preset": "ssdlite192_mobilenet_v2_050", "width_mult": 0.25, "image_size": 64, "epochs": 1, "workers": 0}
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on data without a validation split."""
    folder = tmp_path_factory.mktemp("run")
    generate_shapes(folder / "data", train_images=20, val_images=1, seed=3)
    (folder / "data" / "annotations" / "instances_val.json").unlink()
    train(TrainOptions().override(**SMALL, data=str(folder / "data"), output=str(folder / "run")))
    return folder


def test_the_pictures_that_were_divided_off_are_scored(run: Path, tmp_path: Path) -> None:
    assert eval_det.main([str(run / "run"), "--json", str(tmp_path / "figures.json"), "--workers", "0"]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["split"]) == (4, "data/train (to validate)")
    (row,) = map(json.loads, (run / "run" / "metrics.jsonl").read_text().splitlines())
    assert {name: figures[name] for name in ("AP", "AP50", "AP75")} == {
        name: row[name] for name in ("AP", "AP50", "AP75")
    }


def test_a_split_of_the_runs_data_is_scored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained with renamed classes beside a test split, which the end of training names."""
    shutil.copytree(run / "data", tmp_path / "data")
    annotations = tmp_path / "data" / "annotations"
    train_file = json.loads((annotations / "instances_train.json").read_text())
    few = [image["id"] for image in train_file["images"][:3]]
    boxes = [box for box in train_file["annotations"] if box["image_id"] in few]
    test_file = {**train_file, "images": train_file["images"][:3], "annotations": boxes}
    (annotations / "instances_test.json").write_text(json.dumps(test_file))
    (tmp_path / "data" / "test").symlink_to(tmp_path / "data" / "train")
    given = {"data": str(tmp_path / "data"), "rename": ("circle=round",), "report": False}
    train(TrainOptions().override(**SMALL, **given, output=str(tmp_path / "my run")))
    said = f"to score it on what it has not seen: ssdlite eval '{tmp_path / 'my run'}' --split test\n"
    assert said in capsys.readouterr().out
    figures = tmp_path / "figures.json"
    assert eval_det.main([str(tmp_path / "my run"), "--split", "test", "--json", str(figures), "--workers", "0"]) == 0
    scored = json.loads(figures.read_text())
    assert (scored["split"], scored["images"], scored["objects"]) == ("data/test", 3, len(boxes))
    assert list(scored["per_class"]) == ["round", "square", "triangle"]


def test_changed_data_are_not_scored_in_its_place(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "run", tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    content = json.loads(config.read_text())
    content["data"]["val"]["sha256"] = "0" * 64
    config.write_text(json.dumps(content))
    assert eval_det.main([str(tmp_path / "run")]) == 2
    assert "data/train (to validate): expected 4 images with" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "--data: expected a data set to score openimages on"),
    (["--split", "a"], "--data: expected a data set to score openimages on, of which --split a is one"),
])  # fmt: skip
def test_without_a_run_the_data_are_asked_for(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_det.main(["openimages", *arguments]) == 2
    assert capsys.readouterr().err == f"ssdlite eval: error: {message}; it lies in no folder of a run\n"


def test_classes_are_renamed_as_in_training(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``ssdlite train DIR``; then scored on data that are named."""
    arguments = [str(run / "data"), "--rename", "circle=round", "--epochs", "1", "--image-size", "64", "--workers", "0"]
    arguments += ["--preset", "ssdlite192_mobilenet_v2_050", "--output", str(tmp_path / "run"), "--no-report"]
    assert train_det.main(arguments) == 0
    capsys.readouterr()
    assert eval_det.main([str(tmp_path / "run"), "--data", str(run / "data"), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "classes are renamed as in training: --rename circle=round" in printed
    assert "no objects of round" not in printed


def test_other_commands_rename_classes_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A detector of cats that was trained on pictures of kittens, which no class of its own is called."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pixels = [np.full((20, 20, 3), 40 * number, np.uint8) for number in range(3)]
    data = str(as_data_path([(one, [[2, 3, 12, 13]], ["kitten"]) for one in pixels]))
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", class_names=["cat"], width_mult=0.1, image_size=32)
    training = {"options": {"dataset": {"rename": ["kitten=cat"]}}}
    file = tmp_path / "cats.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), training=training), file)
    bundle = ["--output", str(tmp_path / "bundle"), "--variant", "decoded", "--golden-images", "1"]
    assert cli.main(["export", str(file), "--data", data, *bundle]) == 0, capsys.readouterr().err
    timing = ["--runs", "1", "--no-memory"]
    assert cli.main(["benchmark", str(file), "--data", data, *timing]) == 0, capsys.readouterr().err
    assert cli.main(["benchmark", str(file), "--data", data, *timing, "--rename", "cat=kitten"]) == 2
    assert "--rename: no class 'cat'; known, nearest first: kitten" in capsys.readouterr().err
