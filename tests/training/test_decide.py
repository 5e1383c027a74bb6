"""What the plain command decides from the data, and that it never decides what is given."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssdlite.checkpoint import Checkpoint
from ssdlite.config import PRESETS, DetectorConfig
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.errors import ConfigError
from ssdlite.training import duration, sources
from ssdlite.training.decide import decide
from ssdlite.training.duration import fit_epochs
from ssdlite.training.options import TrainOptions, parse_duration
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume, train
from ssdlite.weights import backbones
from ssdlite.weights.backbones import BackboneWeights
from tests.cells import CELLS

SMALL = "ssdlite192_mobilenet_v2_050"
LITEPAN = PRESETS["litepan320_small"]


def pictures(count: int, sides: tuple[float, ...], names: tuple[str, ...] = ("cell",)) -> DetectionIndex:
    """So many pictures of 640 x 480, each with a square object of every side; classes take turns."""
    each = len(sides)
    corners = np.array([[40.0, 40.0, 40 + side, 40 + side] for side in sides] * count, np.float32).reshape(-1, 4)
    return DetectionIndex(
        name="made/train",
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        paths=tuple(f"{i}.jpg" for i in range(count)),
        image_ids=np.arange(count),
        sizes=np.tile(np.array([[480, 640]], np.int32), (count, 1)),
        offsets=np.arange(count + 1) * each,
        boxes=corners,
        labels=np.arange(count * each) % len(names),
        areas=np.ones(count * each, np.float32),
        ignore=np.zeros(count * each, np.bool_),
    )


def decided(index: DetectionIndex, **given: Any) -> TrainOptions:
    return decide(TrainOptions().override(data="pictures", **given), index).options


def test_few_pictures_of_large_objects() -> None:
    options, decisions, _ = decide(TrainOptions().override(data="pictures"), pictures(100, (200.0,)))
    assert (options.start.weights, options.detector.image_size) == ("openimages", 320)
    assert (options.settings.loss, options.settings.box_loss, options.settings.matcher) == ("qfl", "giou", "simota")
    assert (options.settings.anchors, options.settings.finest_stride, options.settings.batch_size) == ("fit", 16, 8)
    assert (options.settings.epochs, options.run.eval_interval) == (200, 8)
    assert [decision.option for decision in decisions] == [
        "weights", "image_size", "anchors", "loss", "finest_stride", "batch_size", "epochs", "eval_interval",
        "patience",
    ]  # fmt: skip
    assert str(decisions[6]) == "--epochs 200: 20000 pictures are seen"


@pytest.mark.parametrize(("sides", "names", "stride"), [
    ((63.0,), ("cell",), 8),  # 31.5 px of 320
    ((65.0, 200.0), ("cell",), 16),
    ((40.0, *[200.0] * 9), ("cell",), 8),  # a tenth of the boxes
    ((40.0, *[200.0] * 24), ("cell",), 16),  # one in twenty-five
    ((40.0, *[200.0] * 24), tuple("abcdefghijklmnopqrstuvwxy"), 8),  # one in twenty-five, but a whole class
])  # fmt: skip
def test_a_finer_map_where_objects_need_it(sides: tuple[float, ...], names: tuple[str, ...], stride: int) -> None:
    assert decided(pictures(50, sides, names)).settings.finest_stride == stride


@pytest.mark.parametrize(("sides", "names", "size"), [
    ((48.0, 200.0), ("cell",), 320),  # 24 px of 320
    ((46.0, 200.0), ("cell",), 416),  # half of the boxes have 23 px at 320, and 29.9 at 416
    ((46.0, *[200.0] * 5), ("cell",), 320),  # a sixth
    ((36.0, *[200.0] * 5), tuple("abcdef"), 512),  # a sixth, but a whole class: 23.4 px at 416
    ((4.0,), ("cell",), 512),
])  # fmt: skip
def test_a_larger_input_where_objects_are_too_small(
    sides: tuple[float, ...], names: tuple[str, ...], size: int
) -> None:
    assert decided(pictures(50, sides, names)).detector.image_size == size
    assert decided(pictures(50, sides, names), image_size=300).detector.image_size == 300


def test_a_larger_input_sees_fewer_pictures() -> None:
    """416 px take 1.7 times the computing of 320."""
    assert decided(pictures(100, (200.0,))).settings.epochs == 200
    assert decided(pictures(100, (46.0, 200.0))).settings.epochs == 120
    assert decided(pictures(100, (46.0, 200.0)), image_size=(256, 384)).settings.epochs == 200


def test_a_detector_that_finds_the_classes_already_keeps_its_shape() -> None:
    known = pictures(60, (30.0,), ("person", "Chair"))
    given = TrainOptions().override(data="pictures", patience=0)
    options, decisions, source = decide(given, known, score=lambda source: 0.25)
    assert source is not None and options.peak_lr == 3e-5
    kept = (options.detector.image_size, options.settings.anchors, options.settings.finest_stride)
    assert kept == ((300, 300), "default", 16)
    assert not options.settings.deepen_heads and options.settings.loss == "qfl"
    assert "openimages finds these classes already, AP 0.250 on training pictures" in str(decisions[1])
    for index, ap in [(known, 0.14), (known, None), (pictures(60, (30.0,), ("person", "cell")), 0.9)]:
        assert decide(given, index, score=lambda source, ap=ap: ap).options.detector.image_size == 512
    own = decide(given.override(lr=0.1, anchors="fit"), known, score=lambda source: 0.25).options
    assert (own.peak_lr, own.settings.anchors, own.detector.image_size) == (0.1, "fit", (300, 300))


def test_what_is_frozen_has_no_rate_of_its_own() -> None:
    """``--freeze-stages 5`` refuses ``--backbone-lr``, which nobody has given."""
    assert decided(pictures(60, (200.0,)), freeze_stages=5).optimization.backbone_lr is None


@pytest.mark.parametrize(("count", "epochs", "batch"), [(10, 2000, 8), (292, 69, 8), (2000, 20, 8), (3000, 20, 16)])
def test_the_length_goes_by_pictures_seen(count: int, epochs: int, batch: int) -> None:
    options = decided(pictures(count, (200.0,)))
    assert (options.settings.epochs, options.settings.batch_size) == (epochs, batch)


@pytest.mark.parametrize("given", [
    {"weights": "none"}, {"preset": "ssdlite320_mobilenet_v3_large"}, {"width_mult": 0.5},
    {"backbone_weights": "imagenet"},
])  # fmt: skip
def test_from_scratch(given: dict[str, Any]) -> None:
    options = decided(pictures(300, (200.0,)), **given)
    assert options.start.detector_weights is None
    assert (options.settings.loss, options.settings.box_loss, options.settings.matcher) == ("qfl", "giou", "atss")
    assert (options.settings.epochs, options.peak_lr) == (60, 0.004)


@pytest.mark.parametrize("installed", [True, False])
def test_a_preset_whose_imagenet_weights_are_installed_starts_from_them(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = BackboneWeights("x", "x", "efficientnet_lite0", {}, {}, {})
    spec = SimpleNamespace(submodule_search_locations=["site"])
    monkeypatch.setattr(backbones, "find_spec", lambda name: spec if installed else None)
    monkeypatch.setattr(sources, "read_backbone_weights", lambda *args, **kwargs: weights)

    def start(count: int = 300, **given: Any) -> tuple[Any, Any, str]:
        asked = TrainOptions().override(data="pictures", **given)
        options, decisions, source = decide(asked, pictures(count, (200.0,)))
        return options.start.backbone_weights, source, str(decisions[0])

    if installed:
        found = start(preset="litepan320_large")
        assert found[:2] == ("imagenet", weights)
        assert found[2].startswith("--backbone-weights imagenet: 300 pictures are few; trained layers learn more")
    else:
        assert start(preset="litepan320_large")[:2] == (None, None)
    assert start(preset="litepan320_large", weights="none")[:2] == (None, None)
    assert start(20_001, preset="litepan320_large", device="cpu")[:2] == (None, None)
    scratch = "--weights none: a detector of another shape is asked for, so it starts from scratch"
    assert start(preset="litepan320_small") == (None, None, scratch)
    assert start(preset="litepan320_large", width_mult=0.5) == (None, None, scratch)
    to_download = f"{scratch}; --backbone-weights imagenet gives it trained layers"
    assert start(preset="ssdlite320_mobilenet_v2") == (None, None, to_download)


def test_very_many_pictures_are_learned_from_alone() -> None:
    options = decided(pictures(20_001, (200.0,)), device="cpu")
    assert (options.start.weights, options.settings.batch_size, options.settings.epochs) == ("none", 16, 300)
    assert (options.run.eval_interval, options.run.patience, options.settings.augment) == (12, 0, "ssdlite")
    assert options.peak_lr == 0.00041  # 0.001 * sqrt(16 / 96)
    few = decided(pictures(20_000, (200.0,)), device="cpu")
    assert (few.start.weights, few.settings.epochs, few.run.patience) == ("openimages", 20, 8)
    assert (few.optimization.warmup, few.optimization.average_decay) == (200, 0.998)


@pytest.mark.parametrize(
    ("config", "loss", "anchors"), [(LITEPAN, None, None), (CELLS, None, None), (PRESETS[SMALL], "qfl", "fit")]
)
def test_weights_with_losses_of_their_own_keep_them_and_their_anchors(
    config: DetectorConfig, loss: str | None, anchors: str | None
) -> None:
    """As a preset with them: SSD's loss and shapes of anchors are for SSD."""
    source = Checkpoint(config, {})
    found = decide(TrainOptions().override(data="pictures", weights="mine.pt"), pictures(100, (30.0,)), source).options
    assert (found.get("loss"), found.get("anchors")) == (loss, anchors)


@pytest.mark.parametrize(("count", "given", "mosaic"), [
    (300, {}, 0.5), (300, {"preset": "litepan320_small"}, 0.5), (300, {"augment": "none"}, 0.0),
    (300, {"mosaic": 0.1}, 0.1), (300, {"weights": "mine.pt"}, 0.0), (20_001, {}, 0.0),
])  # fmt: skip
def test_few_pictures_teach_from_mosaics(count: int, given: dict[str, Any], mosaic: float) -> None:
    options = decided(pictures(count, (200.0,)), **{"weights": "none", **given})
    assert options.settings.mosaic == mosaic


def test_few_pictures_teach_litepan_in_large_steps() -> None:
    given = TrainOptions().override(data="pictures", preset="litepan320_medium")
    for count, batch, rate in ((100, 8, 0.004), (3_000, 16, 0.0057)):  # 0.004 * sqrt(16 / 8)
        options = decide(given, pictures(count, (30.0,))).options
        assert (options.start.weights, options.settings.batch_size, options.peak_lr) == ("none", batch, rate)
        assert (options.get("matcher"), options.get("anchors")) == (None, None)  # the head's own
    assert decide(given, pictures(20_001, (30.0,))).options.peak_lr == 0.00041
    assert decide(given.override(weights="mine.pt"), pictures(100, (30.0,))).options.get("lr") is None
    guided = decide(given.override(assignment_guide=True), pictures(100, (30.0,))).options
    assert guided.get("matcher") == "tal"  # which looks at predictions


def test_coco_on_gpus_is_trained_as_nanodet_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    """RangiLyu/nanodet, config/nanodet-plus-m_320.yml: 300 epochs of batches of 96 on one GPU, AdamW with 0.001 and
    a decay of 0.05, 500 steps of warm-up, an average of 0.9998, an evaluation every 10 epochs."""
    given = TrainOptions().override(data="coco", preset="litepan320_medium", device="cuda")
    index = pictures(118_287, (40.0,))
    options, decisions, _ = decide(given, index)
    of = options.optimization
    assert (of.epochs, of.batch_size, of.lr, of.decay) == (300, 96, 0.001, 0.05)
    assert (of.warmup_steps, of.ema_decay, options.run.eval_interval) == (500, 0.9998, 12)
    lines = list(map(str, decisions))
    assert lines[1:3] == [
        "--augment ssdlite: crops and flips are enough for small networks and many pictures",
        "--batch-size 96: 96 on the GPU",
    ]
    assert lines[5] == "--ema-decay 0.9998: the average is over some 480000 pictures, 4.1 epochs"
    assert lines[6] == (
        "--epochs 300: 35486100 pictures are seen, as NanoDet-Plus and PicoDet see COCO's (SSDLite: twice as many); "
        "--time or --epochs for less"
    )
    eight = decide(given, index, processes=8)
    assert (eight.options.optimization.batch_size, eight.options.optimization.lr) == (256, 0.0016)  # sqrt(256 / 96)
    assert "--batch-size 256: 32 on each GPU" in map(str, eight.decisions)
    assert decide(given.override(optimizer="sgd"), index).options.peak_lr == pytest.approx(0.1225, abs=1e-4)
    tuned = decide(given.override(weights="mine.pt"), index, processes=8).options
    assert (tuned.optimization.lr, tuned.settings.epochs, tuned.run.patience) == (0.00082, 20, 8)


def test_each_of_several_processes_has_a_part_of_the_batch() -> None:
    options = decide(TrainOptions().override(data="pictures"), pictures(100, (200.0,)), processes=8).options
    assert options.settings.batch_size == 32


def test_what_is_given_is_not_decided() -> None:
    given = {
        "weights": "mine.pt", "anchors": "default", "finest_stride": 16, "loss": "multibox", "box_loss": "ciou",
        "matcher": "atss", "batch_size": 4, "epochs": 7, "eval_interval": 2, "patience": 3, "image_size": 256,
        "deepen_heads": False,
        "augment": "flip", "mosaic": 0.0, "backbone_lr": 0.5, "box_weight": 2.0,
    }  # fmt: skip
    options, decisions, _ = decide(TrainOptions().override(data="pictures", **given), pictures(100, (30.0,)))
    assert options == TrainOptions().override(data="pictures", **given)
    assert decisions == ()


@pytest.mark.parametrize("recipe", ["ssd", "scratch", "small-data"])
def test_a_named_recipe_decides_nothing(recipe: str) -> None:
    options, decisions, _ = decide(TrainOptions().override(recipe=recipe, data="pictures"), pictures(100, (30.0,)))
    assert (options.start.weights, options.settings.epochs, decisions) == (
        None,
        30 if recipe == "small-data" else 60,
        (),
    )


def test_another_loss_has_its_own_weight() -> None:
    assert decided(pictures(100, (200.0,))).settings.box_weight == 6.0
    assert decided(pictures(100, (200.0,)), loss="focal").settings.box_weight is None


@pytest.mark.usefixtures("without_pictures")
def test_each_decision_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_shapes(tmp_path / "shapes", train_images=16, val_images=4, seed=3)
    given = {"data": str(tmp_path / "shapes"), "output": str(tmp_path / "run"), "epochs": 1, "image_size": 64}
    train(TrainOptions().override(**given, workers=0))
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("decided ")]
    before = [line.partition(":")[0] for line in printed[: printed.index(lines[-1]) + 3] if line not in lines]
    few = "shapes/val"  # which has too little to measure by
    assert before == ["shapes/train", "shapes/val", few, "the detector of openimages", "run folder"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{tmp_path / 'shapes'}: COCO annotations with the splits train, val\n" in log
    assert "\nrecipe auto: loss qfl, boxes by giou (weight 6), anchors chosen by simota; " in log
    assert all(f"{line}\n" in log for line in printed[:2] + lines)
    assert lines[0] == "decided --weights openimages: 16 pictures are few; a trained detector learns faster from them"
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(content["decisions"]) == len(lines) == 7
    assert content["decisions"][0] == {
        "option": "weights",
        "value": "openimages",
        "reason": "16 pictures are few; a trained detector learns faster from them",
    }
    assert content["options"]["recipe"] == "auto"
    assert content["options"]["loss"]["matcher"] == "simota"


@pytest.mark.parametrize(("text", "seconds"), [
    ("20m", 1200), ("90s", 90), ("1h30m", 5400), ("2H", 7200), (" 1h 5m 10s ", 3910),
    ("", 0), ("20", 0), ("m", 0), ("-5m", 0), ("5m3h", 0), ("1.5h", 0), ("9" * 30 + "s", 0), ("٣m", 0),
])  # fmt: skip
def test_times(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


def test_a_time_takes_the_place_of_epochs() -> None:
    options = decided(pictures(100, (200.0,)), time="20m")
    assert (options.optimization.epochs, options.run.eval_interval) == (None, None)
    with pytest.raises(ConfigError, match=r"^--time: expected a time such as 20m, 90s or 1h30m, got 'soon'$"):
        decided(pictures(100, (200.0,)), time="soon")
    with pytest.raises(ConfigError, match=r"^--time does not go with --epochs"):
        decided(pictures(100, (200.0,)), time="20m", epochs=3)


class FullBatch:
    images = boxes = labels = None

    def __len__(self) -> int:
        return 8


class ClockedStep:
    evaluated = None

    def __init__(self, trainer: "ClockedTrainer") -> None:
        self.trainer = trainer

    def __call__(self, *_: Any) -> SimpleNamespace:
        self.trainer.now += 2
        return SimpleNamespace(total=np.float32(1))


class ClockedTrainer:
    """Of 10 batches an epoch, each step 2 s by a clock of its own, and 4 pictures to validate on, 1 s each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.batches = 100.0, [FullBatch()] * 10
        monkeypatch.setattr(duration.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(duration, "Predictor", lambda detector: None)
        monkeypatch.setattr(duration, "detect_dataset", self._detect)
        self.step = ClockedStep(self)
        self.splits, self.processes = SimpleNamespace(val=range(4)), SimpleNamespace(count=1)
        self.options = decided(pictures(80, (200.0,)))

    def build_loader(self) -> list[Any]:
        return self.batches

    def _detect(self, *_: Any, positions: range, **__: Any) -> range:
        self.now += len(positions)
        return positions


@pytest.mark.parametrize(("seconds", "epochs"), [(1, 1), (100, 3), (10_000, 478)])
def test_the_epochs_that_fit(seconds: float, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying takes 3 + 6 steps and an evaluation, 22 s, and 3 % are kept back.

    (97 - 22) / (20 + 4) = 3.1; (9700 - 22 - 25 x 4) / 20 = 478.9
    """
    trainer = ClockedTrainer(monkeypatch)
    assert fit_epochs(seconds, trainer) == epochs  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_pictures")
def test_training_for_a_time_and_stopping_on_a_plateau(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duration, "LEAST_SECONDS", 0.1)
    generate_shapes(tmp_path / "shapes", train_images=16, val_images=4, seed=3)
    given = {"data": str(tmp_path / "shapes"), "output": str(tmp_path / "run"), "image_size": 64, "workers": 0}
    given |= {"recipe": "ssd", "preset": SMALL, "lr": 0.0, "patience": 1}
    train(TrainOptions().override(**given, time="20s", eval_interval=1))
    printed = capsys.readouterr().out
    assert "no 0.005 more AP in 1 evaluation: training ends here" in printed
    epochs = int(re.search(r"decided --epochs (\d+): with their evaluations what fits into 20 s; ", printed)[1])  # type: ignore[index]
    assert "are seen; start-up, scoring of the start, and the report come on top\n" in printed
    (decision,) = json.loads((tmp_path / "run" / "config.json").read_text())["decisions"]
    assert (decision["option"], decision["value"]) == ("epochs", epochs)
    stored = stored_options(tmp_path / "run")
    assert (stored.settings.epochs, stored.optimization.time) == (epochs, None)
    ended_after = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert 1 < ended_after < epochs
    assert resume(tmp_path / "run")["epochs"] == ended_after
