"""Training runs as processes and as calls, on a handful of generated pictures."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from ssdlite.build import load_detector
from ssdlite.checkpoint import load_checkpoint
from ssdlite.cli import main
from ssdlite.console import Interval
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.errors import ConfigError, DataError, TrainingError
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume, train

TRAIN_DET = Path(__file__).parents[2] / "tools" / "train_det.py"
EVAL_DET = TRAIN_DET.with_name("eval_det.py")
SMALL = {"preset": "ssdlite192_mobilenet_v2_050", "width_mult": 0.25, "image_size": 96, "batch_size": 8}
RUN_FILES = {"config.json", "log.txt", "metrics.jsonl", "summary.json", "best.pt", "last.pt"}
RUN_FILES |= {"curves.png", "samples.jpg"}
REPORT = {"report.html", "report.json"}
TENSORBOARD = {"tensorboard"} if importlib.util.find_spec("tensorboard") else set()
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=24, val_images=8, seed=3)
    return folder


def options(shapes: Path, output: Path, **changes: Any) -> TrainOptions:
    given = {**SMALL, "data": str(shapes), "output": str(output), "workers": 0, "epochs": 2}
    return TrainOptions().override(**{**given, **changes})


def command(shapes: Path, output: Path, *more: str) -> list[str]:
    return [
        str(TRAIN_DET), "--data", str(shapes), "--output", str(output), "--preset", SMALL["preset"],
        "--width-mult", "0.25", "--image-size", "96", "--batch-size", "8", "--workers", "1", *more,
    ]  # fmt: skip


def test_a_run_leaves_its_files_and_a_checkpoint_that_needs_nothing_else(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # with its pictures
    summary = train(options(shapes, tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES | REPORT | TENSORBOARD
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert {"AP", "AP50", "AP75", "per_class", "images_seen", "seconds"} <= summary.keys()
    assert summary["images_seen"] == 48
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["options"]["detector"]["image_size"], config["detector"]["input"]["size"]) == (96, [96, 96])
    detector = load_detector(tmp_path / "run" / "last.pt")
    assert detector.class_names == ("circle", "square", "triangle")
    assert detector.config.input.size == (96, 96)


def test_the_report_is_of_the_best_weights_and_the_same_of_a_resumed_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    folder = tmp_path / "my run"
    train(options(shapes, folder, epochs=1))
    assert capsys.readouterr().out.endswith(
        f"to use it: ssdlite predict PICTURES --weights '{folder}'\nto put it on a phone: ssdlite export '{folder}'\n"
    )
    best = load_checkpoint(folder / "best.pt")
    report = (folder / "report.json").read_text()
    values = json.loads(report)
    assert values["checkpoint"] == str(folder / "best.pt") and values["images"] == 8
    assert {name: values[name] for name in best.metrics} == best.metrics
    assert "<h1>" in (folder / "report.html").read_text()
    for name in REPORT:
        (folder / name).unlink()
    resume(folder)  # nothing is left to train; best.pt is scored again
    said = "resuming after epoch 1: the run is complete, nothing is left to train; a new run goes on from it with"
    assert f"{said} --weights '{folder / 'best.pt'}'\n" in capsys.readouterr().out
    assert (folder / "report.json").read_text() == report
    for name in REPORT:
        (folder / name).unlink()
    resume(folder, stored_options(folder).override(report=False))
    assert not any((folder / name).exists() for name in REPORT)


def test_the_bar_moves_by_time_while_training_and_by_images_while_validating(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr("ssdlite.console.console", terminal)
    clock = iter(range(100))  # a second for each look at it: a step of three must show, whatever its number
    monkeypatch.setattr("ssdlite.training.trainer.Interval", lambda seconds: Interval(seconds, lambda: next(clock)))
    rates: list[str] = []
    totals: list[float | None] = []
    update, remove = Progress.update, Progress.remove_task

    def record_update(progress: Progress, task: TaskID, **fields: Any) -> None:
        rates.extend([fields["rate"]] if fields.get("rate") else [])
        update(progress, task, **fields)

    def record_removed(progress: Progress, task: TaskID) -> None:
        (removed,) = (one for one in progress.tasks if one.id == task)
        totals.extend([removed.completed, removed.total])
        remove(progress, task)

    monkeypatch.setattr(Progress, "update", record_update)
    monkeypatch.setattr(Progress, "remove_task", record_removed)
    train(options(shapes, tmp_path / "run", epochs=1))
    assert len(rates) == 3 and all(re.fullmatch(r"[0-9.]+ images/s", rate) for rate in rates)
    assert totals == [8, 8]


def test_a_few_pictures_are_learned_by_heart(shapes: Path, tmp_path: Path) -> None:
    summary = train(
        options(
            shapes,
            tmp_path / "run",
            overfit=8,
            batch_size=4,
            epochs=100,
            eval_interval=100,
            width_mult=0.5,
            image_size=128,
            augment="none",
            anchors="fit",
            amp="off",
        )
    )
    assert summary["AP50"] > 0.9


def test_same_seed_same_weights_whatever_the_workers(shapes: Path, tmp_path: Path) -> None:
    for name, workers, seed in (("a", 0, 1), ("b", 2, 1), ("c", 0, 2)):
        train(options(shapes, tmp_path / name, workers=workers, seed=seed, epochs=1, augment="ssd"))
    a, b, c = (load_checkpoint(tmp_path / name / "last.pt").weights for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("kill_after_lines", [0, 2])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    shapes: Path, tmp_path: Path, kill_after_lines: int, unbroken_run: Path
) -> None:
    folder = tmp_path / "broken"
    process = subprocess.Popen(
        [sys.executable, *command(shapes, folder, "--epochs", "4")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for_epochs(process, folder, kill_after_lines)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()
    assert not (folder / "summary.json").exists(), "the run was over before it could be killed"

    resume(folder)
    resumed, whole = load_checkpoint(folder / "last.pt"), load_checkpoint(unbroken_run / "last.pt")
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    assert resumed.metrics == whole.metrics
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def unbroken_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(options(shapes, folder, epochs=4, workers=1))
    return folder


def wait_for_epochs(process: subprocess.Popen[bytes], folder: Path, lines: int) -> None:
    """Until the run has written that many lines of metrics (0: until it has begun)."""
    deadline = time.monotonic() + 120
    metrics = folder / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        written = metrics.read_text().count("\n") if metrics.exists() else 0
        if (folder / "config.json").exists() and written >= lines:
            return
        time.sleep(0.005)
    raise AssertionError(f"no {lines} epochs within the time; exit status {process.poll()}")


IN_TWO_PROCESSES = """
import sys
from torch import distributed
from ssdlite.cli import main

data, run, *more = sys.argv[1:]
distributed.init_process_group("gloo")
assert main(["train", "--data", data, "--output", run, *more]) == 0
assert distributed.is_initialized()  # the caller's own stays
distributed.destroy_process_group()
"""


def test_two_processes_train_as_one_writer_and_score_the_same(shapes: Path, tmp_path: Path) -> None:
    """Training in a group that the caller has initialised, scoring in the one that torchrun describes."""
    train(options(shapes, tmp_path / "teacher", epochs=1))
    folder, script = tmp_path / "two", tmp_path / "script.py"
    script.write_text(IN_TWO_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    detector = ["--preset", SMALL["preset"], "--width-mult", "0.25", "--image-size", "96", "--amp", "off"]
    length = ["--batch-size", "8", "--epochs", "3", "--workers", "0", "--teacher", str(tmp_path / "teacher")]
    done = subprocess.run(
        [*launcher, str(script), str(shapes), str(folder), *detector, *length],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scoring = [str(EVAL_DET), f"{folder}/last.pt", "--data", str(shapes), "--json", f"{folder}/eval.json"]
    scored = subprocess.run([*launcher, *scoring], env=environment, capture_output=True, text=True, check=False)
    assert scored.returncode == 0, scored.stderr
    assert {path.name for path in folder.iterdir()} == RUN_FILES | REPORT | TENSORBOARD | {"eval.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images_seen"] == 72
    assert done.stdout.count("epoch 3/3") == 1

    assert main(["eval", f"{folder}/last.pt", "--data", str(shapes), "--json", f"{tmp_path}/alone.json"]) == 0
    together, alone = (json.loads(path.read_text()) for path in (folder / "eval.json", tmp_path / "alone.json"))
    assert {**together, "seconds": 0} == {**alone, "seconds": 0}
    for name in ("AP", "AP50", "AR100"):
        assert alone[name] == pytest.approx(summary[name], abs=1e-6)


def test_resuming_refuses_what_would_make_it_another_run(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(options(shapes, folder, epochs=1))
    with pytest.raises(ConfigError, match="--epochs 9 cannot be changed on resuming: the run has 1; leave --epochs"):
        resume(folder, stored_options(folder).override(epochs=9))
    with pytest.raises(ConfigError, match=r"expected a run folder with a config.json"):
        resume(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds a run already"):
        train(options(shapes, folder))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ of epoch \d.*\.(jpg|png)"):
        train(
            options(shapes, tmp_path / "run", lr=1e9, optimizer="sgd", clip_norm=0, amp="off", epochs=5, batch_size=2)
        )


def test_weights_that_the_last_step_of_an_epoch_broke_stop_the_run(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"epoch \d ended with weights that cannot be used: .* NaN or infinity in \d+ of"
    ):
        train(
            options(
                shapes, tmp_path / "run", recipe="ssd", lr=1e9, optimizer="sgd", clip_norm=0, amp="off", overfit=2,
                batch_size=2,
            )
        )  # fmt: skip
    last = tmp_path / "run" / "last.pt"
    assert not last.exists() or load_checkpoint(last).training["progress"]["epoch"] == 1


def test_an_image_that_breaks_during_training(shapes: Path, tmp_path: Path) -> None:
    broken = tmp_path / "shapes"
    generate_shapes(broken, train_images=16, val_images=4, seed=3)
    victim = sorted((broken / "train").glob("*.*"))[0]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])  # the header stays readable
    with pytest.raises(DataError, match=victim.name):
        train(options(broken, tmp_path / "run"))
    summary = train(options(broken, tmp_path / "run2", skip_bad=True, mosaic=0.0))
    assert summary["skipped_images"] == 2  # once in each of two epochs
    assert summary["images_seen"] == 30


def test_empty_images_train_but_not_they_alone(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    generate_shapes(folder, train_images=8, val_images=4, seed=3)
    for file in (folder / "annotations").glob("instances_*.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DataError, match="expected objects of circle, square, triangle to train on, found none in 8 im"):
        train(options(folder, tmp_path / "none"))
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    one = {"id": 1, "image_id": content["images"][0]["id"], "category_id": 1, "bbox": [5, 5, 40, 40], "iscrowd": 0}
    file.write_text(json.dumps({**content, "annotations": [one]}))
    summary = train(options(folder, tmp_path / "run", epochs=2))
    assert summary["AP"] is None
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < losses[1] < losses[0]


def test_weights_of_another_run_are_a_start(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(options(shapes, tmp_path / "first", epochs=1))
    train(options(shapes, tmp_path / "second", epochs=1, weights=str(tmp_path / "first" / "best.pt")))
    assert "3 classes (known to it: circle, square, triangle); 1 epoch of 3 steps on cpu\n" in capsys.readouterr().out
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "loaded" in log and "\nclasses kept: 3 (circle, square, triangle)\nclasses new: none\n" in log
    resume(tmp_path / "second")
    assert (tmp_path / "second" / "log.txt").read_text().startswith(log), "a start adds to it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "ssdlite320_mobilenet_v4"], "did you mean 'ssdlite320_mobilenet_v"),
        (["--data", "nowhere"], "nowhere"),
        (["--augment", "sdd"], "did you mean 'ssd'"),
        (["--epochs", "0"], "--epochs: expected 1 or more, got 0"),
        (["--lr", "nan"], "--lr: expected 0 or more, got nan"),
        (["--device", "abacus"], "abacus"),
        (["--weights", "no.pt"], "no.pt: no such checkpoint"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    shapes: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "--data", str(shapes), "--output", str(tmp_path / "run"), *arguments]
    try:
        status = main(given)
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error


def test_resuming_on_other_data_is_refused_and_leaves_the_run_as_it_was(shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(options(shapes, folder, epochs=1))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=r"was trained on the classes circle, square, triangle; .* has circle"):
        resume(folder / "last.pt", stored_options(folder).override(data=str(fewer_classes(shapes, tmp_path / "other"))))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_resuming_on_changed_data_is_refused(shapes: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(shapes, data)
    train(options(data, folder, epochs=1))
    assert resume(folder, stored_options(folder).override(data=str(shapes)))["epochs"] == 1  # the same elsewhere
    file = data / "annotations" / "instances_train.json"
    original = file.read_text()
    elsewhere = stored_options(folder).override(data=str(data))
    for change, message in CHANGES_OF_DATA:
        content = json.loads(original)
        change(content)
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        file.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=f"--resume .*the data have changed: data/train: {message}.*--weights"):
            resume(folder, elsewhere)
    description = json.loads((folder / "config.json").read_text())
    del description["data"]  # as earlier versions wrote it
    (folder / "config.json").write_text(json.dumps(description))
    assert resume(folder, elsewhere)["epochs"] == 1


CHANGES_OF_DATA: list[tuple[Any, str]] = [
    (lambda c: c.update(images=c["images"][:20]), "expected 24 images with 88 objects, .*, got 20 images with"),
    (lambda c: c["annotations"].pop(), "expected 24 images with 88 objects, .*, got 24 images with 87 objects;"),
    (lambda c: c["annotations"][0]["bbox"].__setitem__(2, 9), "expected .*, got 24 images with 88 objects, of other"),
]


def fewer_classes(shapes: Path, folder: Path) -> Path:
    shutil.copytree(shapes, folder)
    for file in (folder / "annotations").glob("instances_*.json"):
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:1]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1]
        file.write_text(json.dumps(content))
    return folder


def test_one_image_a_batch_is_refused_and_costs_no_folder(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"norm needs at least 2 images .* 1 image for 1 .*: use --batch-size 2 or more$"
    ):
        train(options(shapes, tmp_path / "run", batch_size=1))
    with pytest.raises(ConfigError, match=r"1 process: use --overfit 2 or more$"):
        train(options(shapes, tmp_path / "run", overfit=1))
    generate_shapes(tmp_path / "two", train_images=2, val_images=1, seed=3)
    (tmp_path / "two" / "annotations" / "instances_val.json").unlink()
    message = r"two/train \(to train\) has 1 image: add pictures, or train and validate on all .* --val-split train$"
    with pytest.raises(ConfigError, match=message):
        train(options(tmp_path / "two", tmp_path / "run"))
    assert train(options(tmp_path / "two", tmp_path / "both", val_split="train", epochs=1))["images_seen"] == 2
    with pytest.raises(ConfigError, match="unknown preset"):
        train(options(shapes, tmp_path / "run", preset="ssd_mobilenet"))
    assert not (tmp_path / "run").exists()


def test_coco_photographs_with_crowds_grey_and_empty_pictures_need_no_option(small_data: Path, tmp_path: Path) -> None:
    summary = train(options(small_data / "coco-cc", tmp_path / "run", epochs=1))
    assert summary["images_seen"] == 8  # a batch of 8 of the 10
    assert len(summary["per_class"]) == 80
    assert summary["per_class"]["zebra"]["AP"] is None  # in no picture
