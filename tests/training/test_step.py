"""Learning rate, weight decay and EMA, in numbers worked out by hand."""

import math

import pytest
from torch import nn

from ssdlite.training.options import TrainOptions
from ssdlite.training.step import WeightAverage, build_optimizer, learning_rate, set_learning_rate


def test_learning_rate_rises_then_falls_as_a_cosine() -> None:
    options = TrainOptions().override(lr=0.4, warmup_steps=4)
    rates = [learning_rate(step, 104, options) for step in (0, 1, 3, 4, 29, 54, 79, 104)]
    half = 0.2
    assert rates == pytest.approx(
        [0.1, 0.2, 0.4, 0.4, half * (1 + math.sqrt(0.5)), half, half * (1 - math.sqrt(0.5)), 0.0], abs=1e-12
    )


def test_warmup_is_at_most_a_tenth_of_a_short_run() -> None:
    options = TrainOptions().override(lr=1.0, warmup_steps=200)
    assert learning_rate(0, 20, options) == 0.5
    assert learning_rate(1, 20, options) == 1.0
    assert learning_rate(0, 5, options) == 1.0


def test_default_rate_follows_the_root_of_the_batch() -> None:
    assert TrainOptions().override(batch_size=64, optimizer="sgd").peak_lr == pytest.approx(
        2 * TrainOptions().override(optimizer="sgd").peak_lr
    )
    assert TrainOptions().override(lr=0.1, batch_size=64).peak_lr == 0.1
    assert TrainOptions().override(weights="x.pt", batch_size=4).peak_lr == 0.0005


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, kept = build_optimizer(model, TrainOptions().override(optimizer=optimizer, weight_decay=0.1)).param_groups  # type: ignore[arg-type]
    assert [list(p.shape) for p in decayed["params"]] == [[4, 3, 3, 3]]
    assert [list(p.shape) for p in kept["params"]] == [[4], [4], [4]]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_average_follows_the_warming_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    average = WeightAverage(model, decay=0.2)
    for value in (3.0, 5.0, 7.0):  # the first update copies; then decays min(0.2, 3/12) = 0.2 and min(0.2, 4/13) = 0.2
        model.weight.data.fill_(value)
        average.update(model)
    expected = 0.2 * (0.2 * 3.0 + 0.8 * 5.0) + 0.8 * 7.0
    assert float(average.model.weight.detach()) == pytest.approx(expected)


def test_average_copies_batch_norm_statistics_and_survives_a_restore() -> None:
    model = nn.BatchNorm2d(1)
    average = WeightAverage(model, decay=0.9)
    average.update(model)
    model.weight.data.fill_(2.0)
    model.running_mean.fill_(5.0)  # type: ignore[union-attr]
    average.update(model)  # the second update: decay 3 / 12
    assert float(average.model.weight.detach()) == pytest.approx(0.25 * 1.0 + 0.75 * 2.0)
    assert float(average.model.running_mean) == 5.0

    other = WeightAverage(nn.BatchNorm2d(1), decay=0.9)
    other.restore(average.model.state_dict(), average.updates)
    for one in (average, other):
        one.update(model)  # the third: decay 4 / 13
    expected = 1.75 * 4 / 13 + 2.0 * 9 / 13
    assert float(average.model.weight.detach()) == float(other.model.weight.detach()) == pytest.approx(expected)


def test_the_backbone_has_a_rate_of_its_own() -> None:
    model = nn.ModuleDict(
        {"backbone": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "head": nn.Conv2d(4, 2, 1)}
    )
    optimizer = build_optimizer(model, TrainOptions().override(lr=0.4, backbone_lr=0.25, weight_decay=0.1))
    set_learning_rate(optimizer, 0.2)
    found = [(len(g["params"]), g["weight_decay"], g["lr"]) for g in optimizer.param_groups]
    assert found == [(1, 0.1, 0.05), (3, 0.0, 0.05), (1, 0.1, 0.2), (1, 0.0, 0.2)]


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Conv2d(4, 2, 1)})
    model["backbone"].requires_grad_(False)
    optimizer = build_optimizer(model, TrainOptions().override(backbone_lr=0.1))
    assert [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups] == [[[2, 4, 1, 1]], [[2]]]
