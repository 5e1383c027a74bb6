"""A damaged training state is refused as a whole, with what is wrong in it; nothing of it is used before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdlite.datasets.shapes import generate_shapes
from ssdlite.device import choose_device, join_processes
from ssdlite.errors import CheckpointError, ConfigError, ProcessError
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume
from ssdlite.training.trainer import Trainer

RUN = Path(__file__).parents[1] / "data" / "before_parts" / "run"
Damage = Callable[[dict[str, Any]], Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped behind the first of two epochs, beside its data."""
    monkeypatch.chdir(tmp_path)
    generate_shapes(Path("data"), train_images=16, val_images=4)
    shutil.copytree(RUN, "run")
    return Path("run")


def moments(training: dict[str, Any]) -> Any:
    return training["optimizer"]["state"][0]


@pytest.mark.parametrize(("damage", "message"), [
    (lambda t: moments(t).update(exp_avg=torch.zeros(3)), "'exp_avg': expected torch.float32 [8, 3, 3, 3], got torch"),
    (lambda t: moments(t).update(exp_avg_sq=torch.zeros(3)), "'exp_avg_sq': expected torch.float32 [8, 3, 3, 3], got"),
    (lambda t: moments(t).update(exp_avg=None), "'exp_avg': expected torch.float32 [8, 3, 3, 3], got None"),
    (lambda t: moments(t).update(step=torch.zeros(2)), "'step': expected torch.float32 [], got torch.float32 [2]"),
    (lambda t: t["optimizer"]["state"].update({9999: {}}), "state of 9999: there is no such parameter"),
    (lambda t: t["optimizer"]["param_groups"][0].update(lr="fast"), "lr: expected a value like 0.001, got 'fast'"),
    (lambda t: t["optimizer"]["param_groups"][0].update(betas=None), "betas: expected a value like (0.9, 0.999)"),
    (lambda t: t["optimizer"]["param_groups"].pop(), "expected 2 groups of parameters"),
    (lambda t: t["optimizer"]["param_groups"][0]["params"].pop(), "param_groups[0]: expected 63 parameters"),
    (lambda t: t.update(optimizer=[]), "`optimizer`: expected a state dict, got list"),
    (lambda t: t.update(progress={"epoch": "1"}), "Expected `int`, got `str` - at `$.progress.epoch`"),
    (lambda t: t.update(progress=[]), "Expected `object`, got `array` - at `$.progress`"),
    (lambda t: t["progress"].update(epoch=-1), "-1 epochs are finished, 1 are described"),
    (lambda t: t.update(history=[]), "1 epochs are finished, 0 are described"),
    (lambda t: t.update(history=7), "Expected `array`, got `int` - at `$.history`"),
    (lambda t: t.update(frozen_norms=7), "Expected `array`, got `int` - at `$.frozen_norms`"),
    (lambda t: t.pop("frozen_norms"), "missing required field `frozen_norms`"),
    (lambda t: t.update(model={"x": torch.zeros(1)}), "the weights do not fit the detector: missing backbone"),
    (lambda t: t["model"].update(dict.fromkeys(list(t["model"])[:1])), "is no dense tensor"),
    (lambda t: t.update(model=3), "`model`: expected a state dict, got int"),
])  # fmt: skip
def test_a_damaged_state_is_refused(damage: Damage, message: str, run: Path) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    damage(content["training"])
    torch.save(content, run / "last.pt")
    with pytest.raises(CheckpointError) as caught:
        resume(run)
    assert message in str(caught.value)
    assert str(run / "last.pt") in str(caught.value)


def test_best_pt_has_no_training_state(run: Path) -> None:
    shutil.copy(run / "best.pt", run / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt: its training state cannot be resumed: .*missing"):
        resume(run)


@pytest.mark.parametrize("name", ["best.pt", "config.json", "last.pt"])
def test_a_file_of_a_run_stands_for_its_folder(name: str, run: Path) -> None:
    assert stored_options(run / name).run.output == str(run)


def test_what_is_no_run_to_resume_is_told_what_takes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a run folder with a config.json .*; --weights begins a new run"):
        stored_options(tmp_path / "best.pt")


def test_a_config_that_is_nested_deeply_is_refused(run: Path) -> None:
    (run / "config.json").write_text('{"options": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ConfigError, match=r"config\.json"):
        resume(run)


def test_an_undamaged_run_goes_on(run: Path) -> None:
    summary = resume(run)
    assert summary["epochs"] == 2
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_a_stop_during_validation_names_the_epoch_that_is_saved(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume(run)
    assert "ssdlite train --resume run continues after epoch 1" in capsys.readouterr().out


def test_a_device_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'meta' cannot be used here"):
        choose_device("meta")


def test_the_end_of_another_process_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    said = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:34723."
    with pytest.raises(ProcessError) as caught, join_processes("cpu"):
        raise RuntimeError(said)
    expected = "another of the 2 processes has ended, so that process 0 ends too; what that one has printed says why"
    assert str(caught.value) == expected
    with pytest.raises(RuntimeError, match="a fault of ours"), join_processes("cpu"):
        raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_a_device_that_torch_has_no_word_for(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_device(name)
    assert str(caught.value) == f"device: expected auto, cpu, cuda, cuda:1, ..., got {name!r}"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device 'xpu' cannot be used here: torch \S+ finds no GPU; cpu is always"):
        choose_device("xpu")
