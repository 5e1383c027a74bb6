"""Learning from a teacher: the loss on numbers computed by hand, what is refused, and runs with one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdlite import build_detector
from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.cli import main
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.detector import Detector
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.heads.base import Distributions, Outputs
from ssdlite.training.distillation import Distillation, Taught, require_same_outputs
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume, train
from tests.cells import OF_CELLS

CLASSES = ("circle", "square", "triangle")
SMALL = {"preset": "litepan320_small", "image_size": 64, "width_mult": 0.25}
pytestmark = pytest.mark.usefixtures("without_pictures")


def made(seed: int = 0, **changes: Any) -> Detector:
    torch.manual_seed(seed)
    return build_detector(**{**SMALL, "class_names": CLASSES, **changes})


def checkpoint_of(detector: Detector, path: str = "teacher.pt") -> Checkpoint:
    return Checkpoint(detector.config, detector.state_dict(), path=path)


def distilling(student: Detector, teacher: Detector) -> Distillation:
    return Distillation(checkpoint_of(teacher), student, weight=1.0, amp=None)


def shifted(outputs: Outputs, classes: float = 0.0, boxes: float = 1.0) -> Outputs:
    return Outputs(outputs.class_logits + classes, outputs.box_deltas * boxes)


def test_a_teacher_has_nothing_to_say_to_its_equal() -> None:
    teacher = made(**OF_CELLS).eval()
    teacher.head.classification.set_bias(torch.zeros(4))  # type: ignore[operator, union-attr]
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    loss = distilling(made(**OF_CELLS), teacher)
    same = teacher(images)
    assert loss(images, same).item() == pytest.approx(0, abs=1e-3)
    assert loss(images, shifted(same, classes=2.0)).item() > 0.1
    # every box is twice as long and as high around the same point: an IoU, and a generalised one, of 1/4
    assert loss(images, shifted(same, boxes=2.0)).item() == pytest.approx(2 * 0.75, abs=1e-3)


def test_the_loss_on_two_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher's scores 0.8 and 0.02 of one class, the student's 0.5 and 0.5; the first box of it is half of its own.

    Cross-entropy at 0.5 is ln 2 whatever is wanted: (0.3 + 0.48) ln 2 = 0.540655. The second box does not count; the
    first has an IoU of 1/2: 2 x 0.8 x 0.5 = 0.8. Divided by 1, as 0.8 is less: 1.340655.
    """
    student = made(class_names=("circle",), **OF_CELLS)
    loss = distilling(student, student)
    loss._student_anchors = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 30]])
    wanted = torch.tensor([[[0.0, 0.8], [0.0, 0.02]]])
    wanted_boxes = torch.tensor([[[0.0, 0, 10, 10], [0.0, 0, 1, 1]]])
    monkeypatch.setattr(loss, "_taught", lambda images: Taught(wanted.logit(), wanted_boxes))
    deltas = torch.tensor([[[0.5, 0.5, 0.5, 0.0], [1.0, 1, 1, 1]]])  # 0, 0, 10, 5
    found = loss(torch.empty(0), Outputs(torch.zeros(1, 2, 2), deltas))
    assert found.item() == pytest.approx(1.340655, abs=1e-5)


def test_distributions_are_learned_where_both_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One anchor of the score 0.8 that the student gives too, and the same box. Of its sides one has (0.2, 0.8) where
    the student has (0.5, 0.5): KL 0.192745; a mean over four sides, times 0.8, divided by 1: 0.038549.
    """
    student = made(class_names=("circle",))
    images, of_others = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), made(class_names=("circle",), **OF_CELLS)
    assert distilling(student, of_others)._taught(images).distances is None
    loss = distilling(student, student)
    loss._student_anchors = torch.tensor([[0.0, 0, 10, 10]])
    logits = torch.tensor([[[0.0, 0.8]]]).logit()
    wanted = torch.full((1, 1, 4, 2), 0.5).log()
    wanted[0, 0, 2] = torch.tensor([0.2, 0.8]).log()
    taught = Taught(logits, loss._student_anchors[None], wanted)
    monkeypatch.setattr(loss, "_taught", lambda images: taught)
    deltas, equal = torch.full((1, 1, 4), 0.5), Distributions(torch.zeros(1, 1, 4, 2), torch.ones(1, 1))
    found = loss(torch.empty(0), Outputs(logits, deltas, equal))
    assert found.item() == pytest.approx(0.038549, abs=1e-5)
    assert loss(torch.empty(0), Outputs(logits, deltas)).item() == pytest.approx(0, abs=1e-5)


def test_a_softmax_is_compared_with_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL of (0.2, 0.8) from (0.5, 0.5): ln 2 + 0.2 ln 0.2 + 0.8 ln 0.8 = 0.192745; divided by 1, as 0.8 is less."""
    student = made(preset="ssdlite192_mobilenet_v2_050", image_size=96, class_names=("circle",))
    loss = distilling(student, student)
    wanted_boxes = loss._student_anchors[None]
    wanted = torch.tensor([0.2, 0.8]).log().expand(1, 1, 2)
    deltas = torch.zeros(1, len(loss._student_anchors), 4)
    monkeypatch.setattr(loss, "_student_anchors", loss._student_anchors[:1])
    monkeypatch.setattr(loss, "_taught", lambda images: Taught(wanted, wanted_boxes[:, :1]))
    found = loss(torch.empty(0), Outputs(torch.zeros(1, 1, 2), deltas[:, :1]))
    assert found.item() == pytest.approx(0.192745, abs=1e-5)


def test_classes_are_matched_by_their_names() -> None:
    teacher, images = made().eval(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    other = made().eval()
    other.load_state_dict(teacher.state_dict())
    names = ("Triangle", "circle", "square")
    renamed = Checkpoint(teacher.config.changed(class_names=names), teacher.state_dict())
    logits = Distillation(renamed, other, weight=1.0, amp=None)._taught(images).logits
    torch.testing.assert_close(logits, teacher(images).class_logits[:, :, [0, 2, 3, 1]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"class_names": ("circle", "square", "cell")}, "circle, square, triangle; got one of circle, square, cell"),
    ({"class_names": (*CLASSES, "cell")}, "got one of circle, square, triangle, cell"),
    ({"image_size": (96, 64)}, "it takes 64 x 96 px, the detector to train 64 x 64; train with --image-size 96 64"),
    ({"resize": "letterbox"}, "train with --resize letterbox; with --distillation-weight 0 it labels"),
    ({"preset": "ssdlite192_mobilenet_v2_050"}, "its scores are by softmax, those of the detector to train by sigmoid"),
    ({"preset": "ssdlite192_mobilenet_v2_050", "score_function": "sigmoid"},
     "the detector to train 85 on 8, 16, 32, 64, or of other shapes"),
])  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"^--teacher teacher\.pt: ") as raised:
        require_same_outputs(checkpoint_of(made(**changes)), made().config)
    assert message in str(raised.value)


# --- Runs.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``shapes/`` and ``teacher.pt``."""
    folder = tmp_path_factory.mktemp("taught")
    generate_shapes(folder / "shapes", train_images=12, val_images=4, seed=3)
    teacher = made(preset="litepan320_medium")
    save_checkpoint(checkpoint_of(teacher), folder / "teacher.pt")
    return folder


def options(folder: Path, output: Path, **changes: Any) -> TrainOptions:
    given = {"data": str(folder / "shapes"), "output": str(output), "workers": 0, "epochs": 2, "batch_size": 6}
    return TrainOptions().override(**{**SMALL, **given, "teacher": str(folder / "teacher.pt"), **changes})


def test_a_run_with_a_teacher_goes_on_as_if_it_had_not_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(options(folder, tmp_path / "whole"))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["distillation_loss"] > 0 for line in lines)
    parts = {"class_loss": 1, "box_loss": 2, "distribution_loss": 0.25, "distillation_loss": 0.5}
    own = [sum(weight * line[name] for name, weight in parts.items()) for line in lines]
    assert [line["loss"] for line in lines] == pytest.approx(own, rel=1e-4)
    assert "teacher: " in (tmp_path / "whole" / "log.txt").read_text()
    taken = load_checkpoint(tmp_path / "whole" / "last.pt").config.anchors
    assert [level[0][0] for level in taken.levels] == [0.1, 0.2, 0.4, 0.8]  # the teacher's, in place of fitted ones

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssdlite.training.callbacks.CallbackList.on_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(options(folder, tmp_path / "run"))
    moved = tmp_path / "moved.pt"
    shutil.copy(folder / "teacher.pt", moved)
    resume(tmp_path / "run", stored_options(tmp_path / "run").override(teacher=str(moved)))
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt").weights for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    save_checkpoint(checkpoint_of(made(1, preset="litepan320_medium")), moved)
    with pytest.raises(ConfigError, match="is not the one that it began with"):
        resume(tmp_path / "run", stored_options(tmp_path / "run").override(teacher=str(moved)))
    with pytest.raises(CheckpointError, match="where the run's teacher has moved, --teacher NEWPLACE names it"):
        resume(tmp_path / "run", stored_options(tmp_path / "run").override(teacher=str(tmp_path / "gone.pt")))


def test_without_a_teacher_nothing_is_said_of_one(folder: Path, tmp_path: Path) -> None:
    train(options(folder, tmp_path / "run", teacher=None, epochs=1))
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "distillation_loss" not in json.loads(line)


def test_a_teacher_that_is_not_there_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(folder / "shapes"), "--teacher", str(tmp_path / "none.pt")]) == 2
    assert f"--teacher: {tmp_path / 'none.pt'}: " in capsys.readouterr().err
