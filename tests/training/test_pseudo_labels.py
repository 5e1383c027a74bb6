"""Pictures that a teacher labels: which are taken, what becomes of what is found, and runs with them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssdlite import build_detector
from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.cli import main
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.detections import Detections
from ssdlite.errors import ConfigError, DataError
from ssdlite.training import pseudo_labels
from ssdlite.training.options import TrainOptions
from ssdlite.training.pseudo_labels import LABELS_FILE, find_unlabelled
from ssdlite.training.run_config import stored_options
from ssdlite.training.runs import resume, train

CLASSES = ("circle", "square", "triangle")
SMALL = {"preset": "litepan320_small", "image_size": 64, "width_mult": 0.25}
POINT = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
POINTS = {"circle": {"score_threshold": 0.6, **POINT}, "square": {"score_threshold": 0.2, **POINT}}
# scores of square, triangle and circle by the teacher's labels; the triangle has the median of the others, 0.4
FOUND = {
    "circle": ([[2, 2, 20, 20], [30, 4, 50, 24]], [0.6, 0.59], [2, 2]),  # an object, and nearly one
    "square": ([[5, 5, 25, 25], [8, 40, 30, 60]], [0.2, 0.09], [0, 0]),  # an object, and nothing
    "triangle": ([[5, 5, 25, 25]], [0.3], [1]),  # ignored alone: the picture is left out
    "nothing": ([], [], []),
}
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``shapes/``, ``teacher.pt`` whose classes are in another order, and ``pictures/`` in which it finds ``FOUND``."""
    torch.manual_seed(0)
    names = ("square", "triangle", "circle")
    teacher = build_detector(**SMALL, class_names=names)
    save_checkpoint(
        Checkpoint(teacher.config, teacher.state_dict(), {"operating_points": POINTS}), tmp_path / "teacher.pt"
    )
    generate_shapes(tmp_path / "shapes", train_images=8, val_images=4, seed=3)
    random = np.random.default_rng(5)
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for name in FOUND:
        place = tmp_path / "pictures" / ("more" if name == "square" else "") / f"{name}.png"
        Image.fromarray(random.integers(0, 256, (64, 80, 3), np.uint8)).save(place)

    def detect(model: Any, index: DetectionIndex, *, positions: Sequence[int], **_: Any) -> Any:
        for position in positions:
            boxes, scores, labels = FOUND[Path(index.paths[position]).stem]
            arrays = (
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(scores, np.float32),
                np.array(labels, np.int64),
            )
            yield position, Detections(*arrays, names)

    monkeypatch.setattr(pseudo_labels, "detect_dataset", detect)
    return tmp_path


def options(folder: Path, **changes: Any) -> TrainOptions:
    given = {"data": "shapes", "output": "run", "teacher": "teacher.pt", "unlabelled": "pictures"}
    given = {name: str(folder / value) for name, value in given.items()}
    return TrainOptions().override(**{**SMALL, **given, "workers": 0, "epochs": 1, "batch_size": 5, **changes})


def labels_of(folder: Path) -> dict[str, list[tuple[int, list[int], int]]]:
    """By the picture's name: category, box and whether it is ignored."""
    content = json.loads((folder / "run" / LABELS_FILE).read_text())
    names = {one["id"]: one["file_name"] for one in content["images"]}
    found: dict[str, list[tuple[int, list[int], int]]] = {name: [] for name in names.values()}
    for one in content["annotations"]:
        found[names[one["image_id"]]].append((one["category_id"], one["bbox"], one["iscrowd"]))
    return found


def test_what_is_found_is_an_object_is_ignored_or_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train(options(folder))
    assert labels_of(folder) == {
        "circle.png": [(1, [2, 2, 18, 18], 0), (1, [30, 4, 20, 20], 1)],
        "more/square.png": [(2, [5, 5, 20, 20], 0)],
    }
    said = capsys.readouterr().out
    teacher = folder / "teacher.pt"
    assert f"unlabelled: {teacher} labels 2 of 4 pictures: circle 1, square 1, triangle 0; 1 ignored region\n" in said
    assert "unlabelled: left out 2 with nothing found (nothing.png, triangle.png)\n" in said
    stored = json.loads((folder / "run" / "config.json").read_text())["data"]
    assert (stored["train"]["images"], stored["val"]["images"]) == (10, 4)
    assert summary["images_seen"] == 10


def test_a_score_of_ones_own(folder: Path) -> None:
    train(options(folder, unlabelled_score=0.3, distillation_weight=0.0))
    assert labels_of(folder) == {
        "circle.png": [(1, [2, 2, 18, 18], 0), (1, [30, 4, 20, 20], 0)],
        "triangle.png": [(3, [5, 5, 20, 20], 0)],
    }


def test_pictures_that_are_not_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, data = folder / "pictures", folder / "shapes"
    (pictures / "broken.png").write_bytes((pictures / "circle.png").read_bytes()[:200])
    (pictures / "empty.jpg").write_bytes(b"")
    shutil.copy(pictures / "circle.png", pictures / "twice.png")
    for split in ("train", "val"):
        first = sorted((data / split).iterdir())[0]
        Image.open(first).save(pictures / f"{split}.png")  # another file of the same picture
    (folder / "elsewhere.png").write_bytes((pictures / "circle.png").read_bytes())
    (pictures / "link.png").symlink_to(folder / "elsewhere.png")
    train(options(folder))
    assert set(labels_of(folder)) == {"circle.png", "more/square.png"}
    said = capsys.readouterr().out
    assert "labels 2 of 10 pictures" in said
    left_out = said.partition("unlabelled: left out ")[2].partition("\n")[0]
    assert left_out.split("; ") == [
        "2 that cannot be read (empty.jpg, broken.png)",
        "2 that are pictures of the data (train.png, val.png)",
        "1 that are there twice (twice.png)",
        "1 that lead out of the folder (link.png)",
        "2 with nothing found (nothing.png, triangle.png)",
    ]


def test_a_run_is_resumed_with_the_labels_that_it_began_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    train(options(folder, epochs=2, output=str(folder / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr("ssdlite.training.callbacks.CallbackList.on_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(options(folder, epochs=2))
    monkeypatch.setitem(FOUND, "circle", ([], [], []))  # what the teacher would say now
    (folder / "pictures").rename(folder / "moved")
    with pytest.raises(DataError, match="--unlabelled NEWPLACE says where it is"):
        resume(folder / "run")
    (folder / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"2 of the pictures .* not there, such as .*; --unlabelled NEWPLACE says"):
        resume(folder / "run", stored_options(folder / "run").override(unlabelled=str(folder / "elsewhere")))
    resume(folder / "run", stored_options(folder / "run").override(unlabelled=str(folder / "moved")))
    whole, resumed = (load_checkpoint(folder / name / "last.pt").weights for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_nothing_to_label(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected pictures, found none in it or below it$"):
        find_unlabelled(options(folder, unlabelled=str(folder / "empty")))
    with pytest.raises(DataError, match=r"gone: expected a folder of pictures, found no folder of that name$"):
        find_unlabelled(options(folder, unlabelled=str(folder / "gone")))
    with pytest.raises(DataError, match="expected other pictures than the data's: left out 8 that are pictures of the"):
        train(options(folder, unlabelled=str(folder / "shapes" / "train")))
    for name in FOUND:
        monkeypatch.setitem(FOUND, name, ([], [], []))
    with pytest.raises(DataError, match=r"teacher\.pt finds nothing in its pictures: left out 4 with nothing found"):
        train(options(folder))
    assert not (folder / "run" / "config.json").exists()


def test_a_teacher_that_does_not_fit_is_not_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_labels, "detect_dataset", None)
    with pytest.raises(ConfigError, match="train with --image-size 64 64; with --distillation-weight 0 it labels"):
        train(options(folder, image_size=96))


@pytest.mark.parametrize(("given", "message"), [
    (["--unlabelled", "pictures"], "--unlabelled pictures: expected --teacher as well"),
    (["--teacher", "a.pt", "--distillation-weight", "0"], "teaches nothing with --distillation-weight 0"),
    (["--teacher", "a.pt", "--unlabelled-score", "0.5"], "--unlabelled-score goes with --unlabelled"),
    (["--teacher", "a.pt", "--unlabelled", "b", "--unlabelled-score", "0"], "expected above 0, to 1, got 0.0"),
    (["--teacher", "a.pt", "--unlabelled", "b", "--overfit", "4"], "it does not go with --unlabelled"),
])  # fmt: skip
def test_options_that_do_not_go_together(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *given]) == 2
    assert message in capsys.readouterr().err
