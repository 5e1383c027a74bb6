"""Runs that start from weights: what they train, what they keep, and that they resume exactly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from ssdlite import build_detector, evaluate
from ssdlite.backbones import Backbone, build_backbone
from ssdlite.backbones.base import group_by_stride
from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.datasets.loading import load_data
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.device import join_processes
from ssdlite.errors import CheckpointError, ConfigError, DataError
from ssdlite.heads.losses import LOSSES, DetectionLoss, FocalLoss, MultiBoxLoss
from ssdlite.images.reading import read_image
from ssdlite.training.decide import Decided
from ssdlite.training.finetune import Freezing, reestimate_norms, stage_layers, transfer_weights
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume, train
from ssdlite.training.setup import build_for_run, claim_folder, start_run
from ssdlite.training.sources import read_weights
from ssdlite.training.trainer import Trainer

PRESET = "ssdlite192_mobilenet_v2_050"
TRAINED_ON_SHAPES = Path(__file__).parents[1] / "data" / "before_parts" / "shapes_detector.pt"
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures to train on, 8 to validate on; circles, squares and triangles."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=24, val_images=8, seed=3)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random detector of the same classes, with sigmoid scores."""
    return write_source(tmp_path_factory.mktemp("weights"), ("circle", "square", "triangle"))


def write_source(folder: Path, class_names: tuple[str, ...]) -> Path:
    torch.manual_seed(5)
    detector = build_detector(
        PRESET, class_names=class_names, width_mult=0.25, image_size=96, score_function="sigmoid", norm_eps=1e-5
    )
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), folder / "source.pt")
    return folder / "source.pt"


def options(shapes: Path, source: Path, output: Path, **changes: Any) -> TrainOptions:
    given = {"data": str(shapes), "weights": str(source), "output": str(output), "workers": 0, "batch_size": 8}
    given |= {"recipe": "ssd", "epochs": 1, "loss": "focal", "box_loss": "smooth_l1", "matcher": "ssd"}
    return TrainOptions().override(**{**given, **changes})


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> bool:
    names = [name for name in a if name.startswith(prefix)]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


def test_other_classes_anchors_and_input_size(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path, ("Hexagon", "CIRCLE"))
    run = tmp_path / "run"
    train(options(shapes, source, run, image_size=128, anchors="fit", loss=None, recipe=None))
    printed, log = capsys.readouterr().out, (run / "log.txt").read_text()
    for line in ("predictors, stride 128", "classes kept: 1 (circle)", "classes new: 2 (square, triangle)"):
        assert line in log and line not in printed
    assert "classes unused: 1 (Hexagon)" in log
    assert f"the detector of {source}: 128 x 128 px, 3 classes (known to it: circle); 1 epoch of " in printed
    assert f"run folder: {run} (log.txt there says more)\n" in printed
    config = load_checkpoint(run / "last.pt").config
    assert (config.class_names, config.input.size) == (("circle", "square", "triangle"), (128, 128))
    assert (config.backbone.width_mult, config.layers.norm_eps, config.head.score_function) == (0.25, 1e-5, "sigmoid")
    stored = json.loads((run / "config.json").read_text())
    assert stored["detector"]["anchors"]["levels"] != load_checkpoint(source).config.to_dict()["anchors"]["levels"]


def test_a_rate_of_zero_ends_where_the_weights_were(shapes: Path, source: Path, tmp_path: Path) -> None:
    train(options(shapes, source, tmp_path / "run", lr=0.0, batch_norm="frozen"))
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "run" / "last.pt")
    assert before.weights.keys() == after.weights.keys()
    assert same(before.weights, after.weights, "")
    assert same(before.weights, after.training["model"], "")


def test_best_is_the_start_where_training_makes_it_worse(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a detector that finds these classes already, trained at a rate that ruins it."""
    source, run = TRAINED_ON_SHAPES, tmp_path / "run"
    expected = evaluate(source, shapes, split="val").AP
    train(options(shapes, source, run, loss="multibox", batch_norm="train", lr=0.05, epochs=2))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[0]["AP"] == pytest.approx(expected, abs=1e-9) and rows[0]["AP"] > 0.2 > max(
        rows[1]["AP"], rows[2]["AP"]
    )
    best, before = load_checkpoint(run / "best.pt"), load_checkpoint(source)
    assert same(best.weights, before.weights, "") and best.metrics["AP"] == rows[0]["AP"]
    assert "best.pt: epoch 0" in capsys.readouterr().out
    assert resume(run)["epochs"] == 2


def test_frozen_stages_stay_and_the_rest_learns(shapes: Path, source: Path, tmp_path: Path) -> None:
    train(options(shapes, source, tmp_path / "run", freeze_stages=2))
    before, after = load_checkpoint(source).weights, load_checkpoint(tmp_path / "run" / "last.pt").weights
    for layer in range(4):
        assert same(before, after, f"backbone.features.{layer}.")
    for name in ("backbone.features.4.conv.0.0.weight", "backbone.features.4.conv.0.1.running_mean", "head."):
        assert not same(before, after, name)


def test_frozen_statistics_stay_and_all_weights_learn(shapes: Path, source: Path, tmp_path: Path) -> None:
    train(options(shapes, source, tmp_path / "run", batch_norm="frozen"))
    before, after = load_checkpoint(source).weights, load_checkpoint(tmp_path / "run" / "last.pt").weights
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert len(statistics) == 3 * (52 + 6 + 8)  # norms of backbone, extra layers, predictors
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not same(before, after, "backbone.features.0.0.weight")
    assert not same(before, after, "backbone.features.0.1.weight")


def test_statistics_measured_anew_are_those_of_the_pictures(shapes: Path, source: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(source)
    index = load_data(shapes).train
    detector = checkpoint.build_detector().eval()
    report = transfer_weights(detector, checkpoint)
    pictures = [torch.from_numpy(read_image(Path(path))).permute(2, 0, 1)[None].float() for path in index.paths]
    small = torch.cat([torch.nn.functional.interpolate(picture, (96, 96), mode="area") for picture in pictures])
    with torch.no_grad():
        before = detector(small)
        stem = detector.backbone.features[0][0](detector.normalise(small))

    reestimate_norms(detector, index, options(shapes, source, tmp_path, batch_size=8), report)
    norm = detector.backbone.features[0][1]
    assert torch.allclose(norm.running_mean, stem.mean(dim=(0, 2, 3)), atol=0.01)
    assert torch.allclose(norm.running_var, stem.var(dim=(0, 2, 3)), atol=0.005)  # the run resamples otherwise
    with torch.no_grad():
        after = detector(small)
    assert torch.allclose(after.class_logits, before.class_logits, atol=1e-4)
    assert torch.allclose(after.box_deltas, before.box_deltas, atol=1e-4)


def test_frozen_stages_and_new_layers_are_not_measured(shapes: Path, source: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(source)
    detector = build_detector(
        "ssd300_mobilenet_v2", class_names=("circle",), width_mult=0.25, image_size=96, norm_eps=1e-5
    )
    report = transfer_weights(detector, checkpoint)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    settings = options(shapes, source, tmp_path, freeze_stages=1)
    reestimate_norms(detector, load_data(shapes).train, settings, report)
    after = detector.state_dict()
    for part in ("backbone.features.0.", "backbone.features.1.", "neck.", "head."):
        assert same(before, after, part)
    assert not same(before, after, "backbone.features.2.")


def test_the_average_begins_with_the_statistics_measured_anew(shapes: Path, source: Path, tmp_path: Path) -> None:
    train(options(shapes, source, tmp_path / "run", lr=0.0, batch_norm="reestimate"))
    after = load_checkpoint(tmp_path / "run" / "last.pt")
    assert same(after.weights, after.training["model"], "backbone.")
    assert not same(after.weights, load_checkpoint(source).weights, "backbone.features.0.1.weight")


def test_a_broken_run_resumes_exactly_without_its_weights(
    shapes: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "freeze_stages": 2, "backbone_lr": 0.1, "batch_norm": "reestimate"}
    train(options(shapes, source, tmp_path / "whole", **settings))

    copy = tmp_path / "copy.pt"
    copy.write_bytes(source.read_bytes())
    finish = Trainer._finish_epoch

    def stop_behind_the_first(trainer: Trainer, *arguments: Any) -> None:
        finish(trainer, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_finish_epoch", stop_behind_the_first)
        with pytest.raises(KeyboardInterrupt):
            train(options(shapes, copy, tmp_path / "broken", **settings))
    copy.unlink()
    resume(tmp_path / "broken")
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "broken"))
    assert same(whole.weights, resumed.weights, "")
    assert same(whole.training["model"], resumed.training["model"], "")
    rates = [group["lr_factor"] for group in resumed.training["optimizer"]["param_groups"]]
    assert rates == [0.1, 0.1, 1.0, 1.0]
    assert same(load_checkpoint(source).weights, resumed.weights, "backbone.features.3.")


def stop_before_the_first_checkpoint(settings: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            train(settings)


@pytest.fixture(scope="module")
def torchvision_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's mobilenet_v2 of a quarter's width, random."""
    path = tmp_path_factory.mktemp("torchvision") / "v2.pth"
    torch.manual_seed(2)
    torch.save(torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=10).state_dict(), path)
    return path


@pytest.mark.parametrize("kind", ["weights", "backbone_weights"])
def test_a_run_stopped_before_its_first_checkpoint_starts_from_the_same_weights(
    kind: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings: dict[str, Any] = {"freeze_stages": 2, "anchors": "fit", "resize": "letterbox", "overfit": 8}
    if kind == "weights":
        start = request.getfixturevalue("source")
    else:
        start = request.getfixturevalue("torchvision_backbone")
        settings |= {"weights": None, kind: str(start), "preset": PRESET, "width_mult": 0.25, "image_size": 96}
    train(options(shapes, start, tmp_path / "whole", **settings))
    stop_before_the_first_checkpoint(options(shapes, start, tmp_path / "stopped", **settings), monkeypatch)
    resume(tmp_path / "stopped")
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "stopped"))
    assert resumed.config == whole.config
    assert same(whole.weights, resumed.weights, "")
    assert resumed.training["history"][-1]["loss"] == whole.training["history"][-1]["loss"]


def test_a_run_whose_weights_have_changed_does_not_begin_again(
    shapes: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, run = tmp_path / "start.pt", tmp_path / "run"
    start.write_bytes(source.read_bytes())
    stop_before_the_first_checkpoint(options(shapes, start, run), monkeypatch)
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    checkpoint = load_checkpoint(source)
    checkpoint.weights["backbone.features.0.0.weight"][0, 0, 0, 0] += 1e-4
    save_checkpoint(checkpoint, start)
    with pytest.raises(ConfigError, match=r"start\.pt are not known to be those that it began with"):
        resume(run)
    start.unlink()
    with pytest.raises(
        CheckpointError, match=r"start\.pt: no such checkpoint file.* have moved, --weights NEWPLACE names"
    ):
        resume(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    moved = tmp_path / "moved.pt"
    save_checkpoint(checkpoint, moved)
    with pytest.raises(ConfigError, match=r"moved\.pt are not known to be those that it began with"):
        resume(run, stored_options(run).override(weights=str(moved)))

    start.write_bytes(source.read_bytes())
    description = json.loads((run / "config.json").read_text())
    del description["source_sha256"]  # as earlier versions wrote it
    (run / "config.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match=r"expected None, got [0-9a-f]{64}"):
        resume(run)


def test_an_identical_copy_of_weights_and_data_at_another_place_is_taken(
    shapes: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, run, data = tmp_path / "start.pt", tmp_path / "run", tmp_path / "data"
    shutil.copyfile(source, start)
    shutil.copytree(shapes, data)
    stop_before_the_first_checkpoint(options(data, start, run, overfit=8, epochs=1), monkeypatch)
    shutil.move(start, tmp_path / "moved.pt")
    shutil.move(data, tmp_path / "moved")
    moved = {"weights": str(tmp_path / "moved.pt"), "data": str(tmp_path / "moved")}
    with pytest.raises(DataError, match="where the data of the run have moved, --data NEWPLACE names them"):
        resume(run, stored_options(run).override(weights=moved["weights"]))
    assert resume(run, stored_options(run).override(**moved))["epochs"] == 1
    (tmp_path / "moved.pt").rename(tmp_path / "again.pt")  # its checkpoint has the weights; a name is still compared
    moved["weights"] = str(tmp_path / "again.pt")
    assert resume(run, stored_options(run).override(**moved))["epochs"] == 1


def test_a_backbone_of_torchvision_begins_with_its_normalisation(
    shapes: Path, torchvision_backbone: Path, tmp_path: Path
) -> None:
    theirs = torch.load(torchvision_backbone, weights_only=True)
    given = {"weights": None, "backbone_weights": str(torchvision_backbone), "preset": PRESET, "width_mult": 0.25}
    settings = options(shapes, tmp_path, tmp_path / "run", image_size=96, freeze_stages=5, **given)
    train(settings)
    after = load_checkpoint(tmp_path / "run" / "last.pt")
    assert (after.config.layers.norm_eps, after.config.input.mean) == (1e-5, pytest.approx((123.675, 116.28, 103.53)))
    backbone = {f"backbone.{name}": tensor for name, tensor in theirs.items() if name.startswith("features.")}
    assert same(backbone, after.weights, "")
    row = next(line for line in (tmp_path / "run" / "log.txt").read_text().splitlines() if "backbone " in line)
    assert row.replace("│", " ").split() == ["backbone", "260", "-", "-", "2"]


def test_layers_without_weights_are_not_frozen(shapes: Path, tmp_path: Path) -> None:
    torch.save(torchvision.models.mobilenet_v3_large(num_classes=2).state_dict(), tmp_path / "v3.pth")
    given = {"weights": None, "backbone_weights": str(tmp_path / "v3.pth"), "preset": "ssdlite320_mobilenet_v3_large"}
    settings = options(shapes, tmp_path, tmp_path / "run", image_size=96, freeze_stages=5, **given)
    with pytest.raises(ConfigError, match=r"--freeze-stages 5: not all of backbone\.features\.13, .*16 came with"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_norms_of_new_layers_are_not_frozen(shapes: Path, source: Path, tmp_path: Path) -> None:
    train(options(shapes, source, tmp_path / "run", finest_stride=8, batch_norm="frozen"))
    before, after = load_checkpoint(source).weights, load_checkpoint(tmp_path / "run" / "last.pt").weights
    assert same({name: tensor for name, tensor in before.items() if "running_" in name}, after, "backbone.")
    assert int(after["head.classification.0.0.1.num_batches_tracked"]) > 0  # of the map that is new
    assert int(after["head.classification.1.0.1.num_batches_tracked"]) == 0

    resume(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["frozen_norms"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenet_v1", [0, 2, 4, 6, 12, 14]),
        ("mobilenet_v2", [0, 2, 4, 7, 14, 19]),
        ("mobilenet_v3_large", [0, 2, 4, 7, 13, 17]),
    ],
)
def test_a_stage_ends_before_the_next_stride(name: str, layers: list[int]) -> None:
    backbone = build_backbone(name, 0.25, num_classes=None)
    assert [len(stage_layers(backbone, count)) for count in range(6)] == layers


class Branches(nn.Module):
    """Two convolutions of stride 2 side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)


def test_parallel_branches_are_frozen_as_one_stage() -> None:
    backbone = Backbone()
    backbone.features = nn.Sequential(Branches(), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2))
    backbone.stages = group_by_stride([2, 2, 2])
    detector = nn.Module()
    detector.backbone = backbone
    Freezing(detector, 2)  # type: ignore[arg-type]
    learning = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert learning == {"backbone.features.2.weight", "backbone.features.2.bias"}


def test_what_cannot_be_fine_tuned_is_refused_before_the_run_begins(shapes: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--freeze-stages: expected 0 to 5 \(all of the backbone\), got 6"):
        train(options(shapes, source, tmp_path / "run", freeze_stages=6))
    with pytest.raises(ConfigError, match=r"source\.pt: they have the backbone mobilenet_v2 of width 0\.25, this"):
        train(options(shapes, source, tmp_path / "run", preset="ssdlite320_mobilenet_v2"))
    with pytest.raises(ConfigError, match="--backbone-lr does not go with --freeze-stages 5"):
        train(options(shapes, source, tmp_path / "run", freeze_stages=5, backbone_lr=0.5))
    with pytest.raises(ConfigError, match="these are of a backbone alone; --backbone-weights imagenet takes them"):
        train(options(shapes, Path("imagenet"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [MultiBoxLoss, FocalLoss])
def test_the_loss_decides_the_score_function_whatever_its_name(
    kind: type[DetectionLoss], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new detector, and of one that starts from the weights of another."""
    monkeypatch.setitem(LOSSES, "qfl", type("OwnLoss", (kind,), {}))
    source = write_source(tmp_path, ("circle", "square", "triangle"))
    for number, weights in enumerate((None, str(source))):
        given = options(shapes, source, tmp_path / f"run{number}", loss="qfl", weights=weights)
        with join_processes("cpu") as processes:
            start = start_run(Decided(given, (), read_weights(given)), claim_folder(given, processes))
            detector, _ = build_for_run(start, load_data(shapes).train)
        assert detector.config.head.score_function == ("softmax" if kind is MultiBoxLoss else "sigmoid")
