"""What a run tells its callbacks, and what loggers make of it; repeating a run."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssdlite.cli import main
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.errors import ConfigError
from ssdlite.training import Callback, TrainOptions, train
from ssdlite.training.callbacks import EndEvent, EpochEvent, StartEvent, build_loggers
from ssdlite.training.run_config import options_to_repeat

pytestmark = pytest.mark.usefixtures("without_pictures")


class Recorder(Callback):
    """Writes down the name of what it hears, and figures of it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_start(self, event: Any) -> None:
        self.heard.append(("start", event.folder.name, len(event.history)))

    def on_step(self, event: Any) -> None:
        assert event.loss.item() == pytest.approx(event.class_loss.item() + event.box_loss.item(), rel=1e-4)
        assert event.lr > 0
        self.heard.append(("step", event.epoch, event.step, event.steps))

    def on_epoch(self, event: Any) -> None:
        self.heard.append(("epoch", event.epoch, event.epochs, event.row["epoch"], event.metrics is None))

    def on_checkpoint(self, event: Any) -> None:
        assert event.path.is_file()
        self.heard.append(("checkpoint", event.epoch, event.path.name))

    def on_end(self, event: Any) -> None:
        self.heard.append(("end", event.summary["images_seen"], (event.folder / "summary.json").is_file()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=8, val_images=2, seed=3)
    return folder


def small(data: Path, output: Path, **changes: Any) -> TrainOptions:
    """Two steps an epoch, of a recipe whose losses have a weight of 1."""
    given = {"preset": "ssdlite192_mobilenet_v2_050", "width_mult": 0.25, "image_size": 64, "batch_size": 4}
    options = {**given, "data": str(data), "output": str(output), "workers": 0, "epochs": 2, "recipe": "ssd"}
    return TrainOptions().override(**{**options, **changes})


def test_a_callback_hears_of_everything_in_order(data: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(small(data, tmp_path / "run", eval_interval=2, logger="none"), callbacks=[recorder])
    assert recorder.heard == [
        ("start", "run", 0),
        ("step", 1, 1, 4),
        ("step", 1, 2, 4),
        ("epoch", 1, 2, 1, True),
        ("checkpoint", 1, "last.pt"),
        ("step", 2, 3, 4),
        ("step", 2, 4, 4),
        ("epoch", 2, 2, 2, False),
        ("checkpoint", 2, "last.pt"),
        ("end", 16, True),
    ]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_run_is_repeated_from_its_config(data: Path, tmp_path: Path) -> None:
    train(small(data, tmp_path / "first", epochs=1, seed=5, logger="none"))
    config = tmp_path / "first" / "config.json"
    assert options_to_repeat(config).run.output is None
    assert main(["train", "--config", str(config), "--output", str(tmp_path / "again")]) == 0
    stored = [json.loads((tmp_path / name / "config.json").read_text())["options"] for name in ("first", "again")]
    assert [options["run"].pop("output") for options in stored] == [str(tmp_path / "first"), str(tmp_path / "again")]
    assert stored[0] == stored[1]
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("first", "again")]
    assert rows[0]["loss"] == rows[1]["loss"]


def test_what_is_no_config_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(tmp_path / "none.json")]) == 2
    assert "none.json: expected config.json of a run (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("[]")
    assert main(["train", "--config", str(tmp_path / "other.json")]) == 2
    assert "other.json: expected the options of a run under 'options'" in capsys.readouterr().err
    assert main(["train", "--config", "a", "--resume", "b"]) == 2
    assert "--config begins a new run, and does not go with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"--logger {name} needs .* not installed: pip install 'ssdlite\[{name}\]'"):
        build_loggers(name)
    assert build_loggers("none") == []


ROW = {"epoch": 2, "loss": 1.5, "AP": None}
EVENTS = (
    StartEvent(Path("runs/train-001"), TrainOptions(), [{"epoch": 1, "loss": 2.5}]),
    EpochEvent(2, 2, ROW, None),
    EndEvent(Path("runs/train-001"), {"AP": 0.5, "per_class": {}}),
)


def follow(callback: Callback) -> None:
    start, epoch, end = EVENTS
    callback.on_start(start)
    callback.on_epoch(epoch)
    callback.on_end(end)


@pytest.mark.parametrize("is_open", [False, True])
def test_wandb_is_given_the_epochs(is_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda figures, step: calls.append((step, figures)),
        summary=SimpleNamespace(update=calls.append),
        finish=lambda: calls.append("finish"),
    )
    wandb = SimpleNamespace(run=run if is_open else None, init=lambda **given: calls.append(given["name"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    (logger,) = build_loggers("wandb")
    follow(logger)
    logged = [(2, {"loss": 1.5}), {"AP": 0.5}]
    assert calls == (logged if is_open else ["train-001", (1, {"loss": 2.5}), *logged, "finish"])


@pytest.mark.parametrize("is_open", [False, True])
def test_mlflow_is_given_the_epochs(is_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    mlflow = SimpleNamespace(
        active_run=lambda: object() if is_open else None,
        start_run=lambda **given: calls.append(given["run_name"]),
        log_params=lambda values: calls.append((values["recipe"], values["dataset.data"])),
        log_metrics=lambda figures, step: calls.append((step, figures)),
        end_run=lambda: calls.append("end"),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)  # type: ignore[arg-type]
    (logger,) = build_loggers("mlflow")
    follow(logger)
    logged = [("shapes", "shapes"), (1, {"loss": 2.5}), (2, {"loss": 1.5})]
    assert calls == (logged if is_open else ["train-001", *logged, "end"])
