"""Training options by part: what is refused, what earlier versions wrote, and what a resumed run may change."""

import json
from pathlib import Path
from typing import Any

import pytest

from ssdlite.cli import main
from ssdlite.config import PRESETS
from ssdlite.errors import ConfigError
from ssdlite.training.options import DatasetOptions, LossOptions, OptimizationOptions, SystemOptions, TrainOptions
from ssdlite.training.run_config import stored_options
from ssdlite.training.run_folder import Description, RunFolder


def test_a_name_means_the_same_in_python_and_on_the_command_line() -> None:
    by_part = TrainOptions(dataset=DatasetOptions(data="pictures"), optimization=OptimizationOptions(epochs=3))
    assert TrainOptions().override(data="pictures", epochs=3) == by_part
    assert (by_part.get("data"), by_part.get("epochs"), by_part.get("workers")) == ("pictures", 3, 2)
    with pytest.raises(ConfigError, match="unknown option 'epoch'; did you mean 'epochs'"):
        TrainOptions().override(epoch=3)


def test_what_is_stored_is_read_again() -> None:
    options = TrainOptions().override(
        recipe="small-data", classes=("cat", "dog"), weights="a.pt", freeze_stages=2, lr=0.5
    )
    plain = json.loads(json.dumps(options.to_dict()))
    assert (plain["version"], plain["start"]["freeze_stages"], plain["dataset"]["classes"]) == (2, 2, ["cat", "dog"])
    assert TrainOptions.from_dict(plain) == options


def test_the_weight_that_runs_without_a_teacher_had_stored_is_read() -> None:
    """1 was the default until it was 0.5, and every run stores what it has."""
    plain = TrainOptions().to_dict()
    plain["distillation"]["distillation_weight"] = 1.0
    assert TrainOptions.from_dict(plain).distillation.compares_outputs is False


def test_the_flat_options_of_earlier_versions_are_read() -> None:
    flat = {"data": "pictures", "recipe": "ssd", "epochs": 3, "workers": 8, "optimizer": "sgd", "resume": "runs/a"}
    assert TrainOptions.from_dict(flat) == TrainOptions(
        recipe="ssd",
        dataset=DatasetOptions(data="pictures"),
        optimization=OptimizationOptions(epochs=3, optimizer="sgd"),
        system=SystemOptions(workers=8),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "training options: unknown option 'epoch'; did you mean 'epochs'"),
        (
            {"version": 2, "loss": {"losss": "qfl"}},
            "training options: loss: unknown option 'losss'; did you mean 'loss'",
        ),
        (
            {"version": 2, "loss": {"loss": "gfl"}},
            "training options: loss: loss: expected one of multibox, focal, qfl, got 'gfl'",
        ),
        ({"version": 2, "optimization": {"epochs": "3"}}, r"Expected `int \| null`, got `str` - at `\$\.optimization"),
        ({"version": 2, "optimization": {"epochs": 0}}, "--epochs: expected 1 or more, got 0"),
        ({"version": 3}, "training options: version 3; this version of ssdlite reads up to 2"),
        ([], "training options: expected options by name, got list"),
    ],
)
def test_stored_options_that_mean_nothing_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions.from_dict(values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"box_weight": -1.0}, "--box-weight: expected 0 or more, got -1.0"),
        ({"workers": -1}, "--workers: expected 0 or more, got -1"),
        ({"ema_decay": 1.0}, "--ema-decay: expected 0 to below 1, got 1.0"),
        ({"optimizer": "adam"}, "optimizer: expected one of"),
        ({"anchor_budget": 9}, "--anchor-budget goes with --anchors fit"),
        ({"recipe": "smal-data"}, "unknown recipe 'smal-data'; did you mean 'small-data'"),
        ({"weights": "a.pt", "backbone_weights": "imagenet"}, "--backbone-weights does not go with --weights"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_on_construction(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions().override(**given)


@pytest.mark.parametrize("given", [{"freeze_stages": 1}, {"batch_norm": "reestimate"}, {"batch_norm": "frozen"}])
def test_what_keeps_weights_needs_weights(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="go with --weights or --backbone-weights"):
        TrainOptions().override(**given).start.require_weights()


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({}, 6.0),
        ({"box_loss": "smooth_l1"}, None),
        ({"loss": "focal"}, None),
        ({"box_loss": "ciou", "box_weight": 3}, 3),
    ],
)
def test_the_recipes_box_weight_goes_with_its_losses(given: dict[str, Any], weight: float | None) -> None:
    assert TrainOptions().override(recipe="small-data", **given).spelled_out().loss.box_weight == weight


# --- a run stored with values that are none of the defaults


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    options = TrainOptions().override(
        data="pictures", workers=8, device="cuda:1", cache=True, optimizer="sgd", loss="focal", weights="a.pt"
    )
    RunFolder(tmp_path).describe(Description(options.spelled_out(), PRESETS["ssdlite320_mobilenet_v2"], "0" * 64))
    return tmp_path


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[TrainOptions]:
    """Options that ``resume`` was called with."""
    calls: list[TrainOptions] = []
    monkeypatch.setattr("ssdlite.training.runs.resume", lambda folder, options, **_: calls.append(options))
    return calls


def test_what_may_change_on_resuming_changes_also_to_its_default(stored: Path, resumed: list[TrainOptions]) -> None:
    before = stored_options(stored)
    for arguments, changed in (
        ([], {}),
        (["--workers", "2", "--device", "auto"], {"workers": 2, "device": "auto"}),
        (["--no-cache", "--data", "shapes"], {"cache": False, "data": "shapes"}),
        (["--optimizer", "sgd", "--loss", "focal", "-b", "16"], {}),
    ):
        assert main(["train", "--resume", str(stored), *arguments]) == 0
        assert resumed.pop() == before.override(**changed)
    assert (before.system, before.loss) == (
        SystemOptions(workers=8, device="cuda:1", cache=True),
        LossOptions(loss="focal", box_loss="smooth_l1", matcher="ssd"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--optimizer", "adamw"],
            "--optimizer adamw cannot be changed on resuming: the run has sgd; leave",
        ),
        (["--seed", "1"], "--seed 1 cannot be changed on resuming: the run has 0"),
        (["--seed", "1"], "the run has 0; leave --seed out, or begin a new run from its best.pt with --weights"),
        (["-e", "61"], "--epochs 61 cannot be changed on resuming: the run has 60"),
        (["--recipe", "small-data"], "--recipe small-data cannot be changed on resuming: the run has auto"),
        (["--classes", "cat", "dog"], "--classes cat dog cannot be changed on resuming: the run has None"),
        (["--output", "elsewhere"], "--output elsewhere does not go with --resume: a run stays in its folder"),
    ],
)
def test_what_may_not_change_on_resuming_is_refused_by_name(
    arguments: list[str], message: str, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(stored / "last.pt"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in stored.iterdir()] == ["config.json"]
