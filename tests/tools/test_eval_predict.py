"""tools/eval_det.py and tools/predict.py, with a detector that finds white rectangles and with a real one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ssdlite.build import build_detector
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits
from ssdlite.detections import Detections
from ssdlite.errors import DataError
from ssdlite.images.drawing import class_color
from ssdlite.images.media import VideoReader, VideoWriter
from ssdlite.images.reading import read_image
from ssdlite.runtime.operating_points import OperatingPoint
from ssdlite.tools import eval_det, export_onnx, predict

NAMES = ("thing", "other", "none")


def find_white(image: np.ndarray, scores: tuple[float, ...] = (0.9, 0.25)) -> Detections:
    """The bounding box of the white pixels, once as "thing" 0.9 and once as "other" 0.3."""
    rows, columns = np.nonzero((image > 200).all(axis=2))
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
    count = len(scores) if len(rows) else 0
    return Detections(
        np.array([box] * count, np.float32).reshape(-1, 4),
        np.array(scores[:count], np.float32),
        np.arange(count, dtype=np.int64),
        NAMES,
    )


class WhiteDetector:
    """Stands for a detector that is always right."""

    class_names = NAMES
    operating_threshold = 0.3
    config = build_detector(class_names=NAMES, width_mult=0.25, image_size=64).config

    def predict(self, images: list[np.ndarray], *, score_threshold: float) -> list[Detections]:
        return [find_white(image).above(score_threshold) for image in images]


@pytest.fixture
def white_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdlite.build.load_detector", lambda path, device: WhiteDetector())
    monkeypatch.setattr("ssdlite.cli.require_weights", lambda path: None)
    monkeypatch.setattr("ssdlite.predictor.Predictor", lambda detector, amp: detector)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    detector = build_detector(class_names=NAMES, width_mult=0.25, image_size=64)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    return path


def picture(box: tuple[int, int, int, int] | None, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    image = np.full((*size, 3), 40, np.uint8)
    if box:
        image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def run_predict(*arguments: object) -> int:
    return predict.main([str(argument) for argument in arguments])


@pytest.mark.usefixtures("white_detector")
def test_predict_writes_pictures_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png", picture((10, 30, 50, 80)))
    save(tmp_path / "in" / "sub" / "a.png", picture(None, (60, 70)))
    save(tmp_path / "a.png", picture((20, 40, 60, 70)))
    out = tmp_path / "out"
    status = run_predict(tmp_path / "in", tmp_path / "a.png", "--weights", "w.pt", "--output", out)
    assert status == 0
    entries = json.loads((out / "detections.json").read_text())
    assert [(Path(entry["file"]), entry["output"], entry["width"], entry["height"]) for entry in entries] == [
        (tmp_path / "in" / "a.png", "a.png", 120, 90),
        (tmp_path / "in" / "sub" / "a.png", "sub/a.png", 70, 60),
        (tmp_path / "a.png", "a_2.png", 120, 90),
    ]
    (found,) = entries[0]["detections"]
    assert found == {"name": "thing", "label": 0, "score": pytest.approx(0.9), "box": [10, 30, 50, 80]}
    assert entries[1]["detections"] == []
    image = read_image(out / "a.png")
    assert image.shape == (90, 120, 3)
    assert (image[30:80, 10] == class_color(0)).all()
    assert (read_image(out / "sub" / "a.png") == 40).all()
    assert capsys.readouterr().out == f"3 of 3 files, 2 objects (2 thing) with a score of 0.3 or more -> {out}\n"


@pytest.mark.usefixtures("white_detector")
def test_predict_at_the_operating_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"thing": OperatingPoint(0.95, 1.0, 0.5, 2 / 3), "other": OperatingPoint(0.25, 1.0, 0.5, 2 / 3)}
    monkeypatch.setattr(predict, "load_operating_points", lambda path, model: points)
    save(tmp_path / "a.png", picture((10, 30, 50, 80)))
    out = tmp_path / "out"
    assert run_predict(tmp_path / "a.png", "--weights", "w.pt", "--output", out, "--score-threshold", "auto") == 0
    (entry,) = json.loads((out / "detections.json").read_text())
    assert [(one["name"], one["score"]) for one in entry["detections"]] == [("other", 0.25)]
    assert capsys.readouterr().out == (
        "no operating point of none: score threshold 0.6\n"
        f"1 of 1 file, 1 object (1 other) that reach the threshold of their class -> {out}\n"
    )


@pytest.mark.usefixtures("white_detector")
def test_predict_goes_on_after_bad_files_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "good.jpg", picture((10, 30, 50, 80)))
    (tmp_path / "in" / "bad.jpg").write_bytes(b"not a picture")
    (tmp_path / "in" / "bad.avi").write_bytes(b"not a video")
    status = run_predict(tmp_path / "none.jpg", tmp_path / "in", "--weights", "w.pt", "--output", tmp_path / "out")
    assert status == 2
    lines = capsys.readouterr().err
    for message in (
        "none.jpg: no such file or folder",
        "bad.jpg: cannot be read as an image",
        "bad.avi: cannot be read as a video",
        "error: 3 of the sources could not be used",
    ):
        assert lines.count(message) == 1
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert Path(entry["file"]).name == "good.jpg" and len(entry["detections"]) == 1


@pytest.mark.usefixtures("white_detector")
def test_predict_annotates_videos(tmp_path: Path) -> None:
    boxes = [(10, 30, 50, 80), (20, 30, 60, 80), None]
    with VideoWriter(tmp_path / "clip.mp4", 10.0) as writer:
        for box in boxes:
            writer.write(picture(box))
    out = tmp_path / "out"
    assert run_predict(tmp_path / "clip.mp4", "--weights", "w.pt", "--output", out, "--batch-size", 2) == 0
    (entry,) = json.loads((out / "detections.json").read_text())
    assert (entry["width"], entry["height"], entry["frames_per_second"]) == (120, 90, 10)
    assert [(frame["frame"], frame["seconds"]) for frame in entry["frames"]] == [(0, 0), (1, 0.1), (2, 0.2)]
    for frame, box in zip(entry["frames"], boxes, strict=True):
        found = [detection["box"] for detection in frame["detections"]]
        assert np.array(found).reshape(-1, 4) == pytest.approx(np.array([box] if box else []).reshape(-1, 4), abs=2)
    with VideoReader(out / "clip.mp4") as video:
        frames = list(video)
    assert len(frames) == 3
    colour = np.array(class_color(0))
    assert np.abs(frames[0][60:75, 10].mean(axis=0) - colour).max() < 90  # blurred by the codec
    assert np.abs(frames[2].astype(int) - 40).max() < 30


@pytest.mark.usefixtures("white_detector")
def test_each_prediction_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", picture((10, 30, 50, 80)))
    for _ in range(3):
        assert run_predict(".", "--weights", "w.pt") == 0  # the copies of the earlier ones are no sources
    for folder in ("predictions", "predictions-002", "predictions-003"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["a.png", "detections.json"]
    (tmp_path / "predictions-002" / "detections.json").write_text("kept")
    assert run_predict("a.png", "--weights", "w.pt", "--output", "predictions-002") == 2
    message = "--output predictions-002: holds the detections.json of an earlier prediction; name another folder"
    assert message in capsys.readouterr().err
    assert (tmp_path / "predictions-002" / "detections.json").read_text() == "kept"


@pytest.mark.usefixtures("white_detector")
@pytest.mark.parametrize(
    ("stop", "expected"),
    [(KeyboardInterrupt(), (130, "interrupted")), (OSError(28, "No space left"), (2, "No space left"))],
)
def test_an_interrupted_prediction_writes_what_it_has_found(
    stop: BaseException,
    expected: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", picture((10, 30, 50, 80)))

    def save_picture(path: Path, image: np.ndarray) -> None:
        if path.name == "c.png":
            raise stop

    monkeypatch.setattr(predict, "save_picture", save_picture)
    assert run_predict(tmp_path / "in", "--weights", "w.pt", "--output", tmp_path / "out") == expected[0]
    printed = capsys.readouterr()
    assert printed.out == f"2 of 3 files, 2 objects (2 thing) with a score of 0.3 or more -> {tmp_path / 'out'}\n"
    assert expected[1] in printed.err and "Traceback" not in printed.err
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [(entry["output"], len(entry["detections"])) for entry in entries] == [("a.png", 1), ("b.png", 1)]


@pytest.mark.usefixtures("white_detector")
def test_predict_score_threshold(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture((10, 30, 50, 80)))
    arguments = (tmp_path / "a.png", "--weights", "w.pt", "--no-class-agnostic", "--score-threshold")
    for threshold, expected in ((0.95, []), (0.4, ["thing"]), (0.2, ["thing", "other"])):
        out = tmp_path / str(threshold)
        assert run_predict(*arguments, threshold, "--output", out) == 0
        (entry,) = json.loads((out / "detections.json").read_text())
        assert [found["name"] for found in entry["detections"]] == expected


@pytest.mark.usefixtures("white_detector")
def test_predict_gives_an_object_one_label_in_pictures_and_videos(tmp_path: Path) -> None:
    """The box of "other" 0.25 is that of "thing" 0.9."""
    save(tmp_path / "in" / "a.png", picture((10, 30, 50, 80)))
    with VideoWriter(tmp_path / "in" / "clip.mp4", 10.0) as writer:
        writer.write(picture((10, 30, 50, 80)))
    for option, expected in ((), ["thing"]), (["--no-class-agnostic"], ["thing", "other"]):
        out = tmp_path / str(len(expected))
        arguments = ("--weights", "w.pt", "--score-threshold", 0.2, "--labels", "coco", "--output", out, *option)
        assert run_predict(tmp_path / "in", *arguments) == 0
        image, video = json.loads((out / "detections.json").read_text())
        assert [one["name"] for one in image["detections"]] == expected
        assert [one["name"] for one in video["frames"][0]["detections"]] == expected
        labels = json.loads((out / "labels" / "labels.json").read_text())
        assert [one["category_id"] for one in labels["annotations"]] == [1, 2][: len(expected)]


@pytest.mark.usefixtures("white_detector")
def test_predict_says_where_its_threshold_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WhiteDetector, "operating_threshold", 0.4068)
    save(tmp_path / "a.png", picture((10, 30, 50, 80)))
    for given, told in (
        ((), "0.4068 or more (measured in training; --score-threshold sets another)"),
        (("--score-threshold", 0.5), "0.5 or more"),
    ):
        out = tmp_path / str(len(given))
        assert run_predict(tmp_path / "a.png", "--weights", "w.pt", "--output", out, *given) == 0
        assert capsys.readouterr().out == f"1 of 1 file, 1 object (1 thing) with a score of {told} -> {out}\n"


@pytest.mark.usefixtures("white_detector")
def test_predict_says_what_it_could_not_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png", picture(None))
    assert run_predict(tmp_path / "a.png", "--weights", "w.pt", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == (
        f"1 of 1 file, 0 objects with a score of 0.3 or more -> {tmp_path / 'out'}\n"
        "nothing was found of thing, other, none; a lower --score-threshold, such as 0.1, shows what is less sure\n"
    )


@pytest.mark.usefixtures("white_detector")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one or more images, folders or videos, or a camera, got none"),
        (("none.jpg",), "none.jpg: no such file or folder"),
        (("a.png", "--score-threshold", "2"), "--score-threshold: expected 0 to 1, or auto, got 2.0"),
        (("a.png", "--batch-size", "0"), "--batch-size: expected 1 or more, got 0"),
        (("a.png", "--output", "a.png/out"), "a.png/out: cannot be written"),
        (("a.png", "--output", "."), "a.png is a source; choose another folder with --output"),
        (("a.png", "--device", "abacus"), "abacus"),
    ],
)
def test_predict_names_mistakes_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", picture(None))
    assert run_predict(*arguments, "--weights", "w.pt") == 2
    err = capsys.readouterr().err
    assert err.startswith("ssdlite predict: error: ") and message in err and err.count("\n") == 1


def test_predict_with_a_real_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", picture((10, 30, 50, 80)))
    assert run_predict(tmp_path / "a.jpg", "--weights", checkpoint, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a.jpg").is_file()
    assert run_predict(tmp_path / "a.jpg", "--weights", tmp_path / "a.jpg", "--output", tmp_path / "o") == 2


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", picture(None))
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pt").write_bytes(checkpoint.read_bytes())
    (run / "last.pt").write_bytes(b"")
    said = f"{run} is the folder of a run: taking {run / 'best.pt'}\n"
    assert run_predict(tmp_path / "a.png", "--weights", run, "--output", tmp_path / "out") == 0
    assert said in capsys.readouterr().err
    assert eval_det.main([str(run), "--data", str(tmp_path / "none")]) == 2
    assert said in capsys.readouterr().err
    assert export_onnx.main([str(run), "--output", str(run)]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_preset_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png", picture(None))
    assert run_predict(tmp_path / "a.png", "--weights", "ssd300_mobilenet_v1", "--output", tmp_path / "out") == 2
    assert "ssd300_mobilenet_v1: a preset, which has no weights; expected a checkpoint file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.json", "this is a file; give the folder that holds it and the pictures: "),
        ("data.yaml", "this is a file; YOLO's description of a data set has names, train and val"),
        ("a.txt", "this is a file; export the data set as COCO or VOC"),
    ],
)
def test_a_file_given_as_data_is_answered(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError) as error:
        find_splits(tmp_path / name)
    assert message in str(error.value)


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """Three images; categories 5 "thing", 9 "unknown to the detector", 12 "other"; one crowd, one image empty."""
    root = tmp_path / "data"
    annotations = []
    for number, (image_id, boxes) in enumerate([(30, [(10, 30, 50, 80)]), (20, [(20, 20, 60, 40)]), (10, [])]):
        save(root / "val2017" / f"{image_id}.png", picture(boxes[0] if boxes else None))
        for x0, y0, x1, y1 in boxes:
            bbox = [x0, y0, x1 - x0, y1 - y0]
            common = {"image_id": image_id, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
            annotations.append({"id": 2 * number + 1, "category_id": 5, **common})
            annotations.append({"id": 2 * number + 2, "category_id": 9, **common})
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 90, "width": 120} for i in (30, 20, 10)],
        "categories": [{"id": i, "name": n} for i, n in ((5, "thing"), (9, "unknown"), (12, "other"))],
        "annotations": annotations,
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def detect_white(
    detector: object, index: DetectionIndex, *, skip_bad: bool, **options: object
) -> Iterator[tuple[int, Detections]]:
    """In place of ``detect_dataset``; leaves out what a file called 20.png with no pixels would be."""
    for position, path in enumerate(index.paths):
        if not (skip_bad and path.endswith("20.png")):
            yield position, find_white(read_image(path))


@pytest.mark.usefixtures("white_detector")
def test_eval_scores_and_writes_original_ids(
    coco_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ssdlite.evaluation.inference.detect_dataset", detect_white)
    out = tmp_path / "out"
    assert eval_det.main(["w.pt", "--data", str(coco_folder), "--output", str(out)]) == 0
    report = json.loads((out / "metrics.json").read_text())
    assert [report[name] for name in ("AP", "AP50", "AP_medium")] == pytest.approx([1, 1, 1])
    assert report["AP_large"] is None
    assert report["per_class"]["thing"] == {"AP": pytest.approx(1), "AP50": pytest.approx(1), "AP75": pytest.approx(1)}
    assert report["per_class"]["none"] == {"AP": None, "AP50": None, "AP75": None}
    assert report["voc"]["mean"] == {"ap_11point": 1, "ap_all_points": 1}
    assert (report["images"], report["objects"]) == (3, 2)
    results = json.loads((out / "coco_results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in results] == [
        (30, 5, [10, 30, 40, 50]),
        (30, 12, [10, 30, 40, 50]),
        (20, 5, [20, 20, 40, 20]),
        (20, 12, [20, 20, 40, 20]),
    ]
    table = capsys.readouterr().out
    assert "no objects of other, none; these classes are not scored" in table
    assert re.search(r"AP_medium\W+1\.000", table) and re.search(r"AP_large\W+-\W", table)
    assert re.search(r"^class +objects +AP +AP50 +VOC07 +VOC +at score +precision +recall$", table, re.MULTILINE)
    assert re.search(r"^thing +2 +1\.000 +1\.000 +1\.000 +1\.000 +0\.900 +1\.000 +1\.000$", table, re.MULTILINE)
    assert max(map(len, table[table.index("per class") :].splitlines()[:5])) <= 80
    assert "At score: the threshold with the best F1 at IoU 0.5, and what it gives on these pictures." in table
    assert (
        f"{coco_folder.name}/val2017: classes of the data that the model does not have are left out: unknown" in table
    )
    assert "unknown (2 objects); the model's other, none are not in the data; where two are the same, --rename" in table


@pytest.mark.usefixtures("white_detector")
def test_eval_names_and_leaves_out_images_that_cannot_be_decoded(
    coco_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ssdlite.evaluation.inference.detect_dataset", detect_white)
    arguments = ["w.pt", "--data", str(coco_folder), "--skip-bad", "--json", str(tmp_path / "m.json")]
    assert eval_det.main(arguments) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert (report["AP"], report["images"], report["objects"]) == (pytest.approx(1), 2, 1)
    said = capsys.readouterr().out
    assert re.search(r"left out:\s+\S*20\.png", said.replace("\n", ""))
    assert said.splitlines()[-1].startswith(
        "--output DIR writes report.html as well: what is found, missed and confused"
    )


def test_eval_with_a_real_checkpoint(checkpoint: Path, coco_folder: Path, tmp_path: Path) -> None:
    arguments = [str(checkpoint), "--data", str(coco_folder), "--split", "val2017", "--workers", "0"]
    results = tmp_path / "r.json"
    files = ["--json", str(tmp_path / "m.json"), "--coco-results", str(results)]
    assert eval_det.main([*arguments, *files, "--max-detections", "7"]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert 0 <= report["AP"] <= 1
    rows = json.loads(results.read_text())
    assert len(rows) == 3 * 7
    assert {row["image_id"] for row in rows} == {10, 20, 30}
    assert eval_det.main([*arguments, *files, "--score-threshold", "1"]) == 0
    assert json.loads(results.read_text()) == []
    assert json.loads((tmp_path / "m.json").read_text())["AP"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt"], "none.pt: no such checkpoint file"),
        (["small.pt", "--batch-size", "0"], "--batch-size: expected 1 or more, got 0"),
        (["small.pt", "--json", "data/annotations/instances_val2017.json/x.json"], "cannot be written"),
        (["small.pt", "--split", "test"], "expected one of the splits val2017, got 'test'"),
        (["small.pt", "--score-threshold", "2"], "score_threshold: expected 0 to 1, got 2"),
    ],
)
@pytest.mark.usefixtures("coco_folder")
def test_eval_names_mistakes_in_one_line(
    *,
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.pt").symlink_to(checkpoint)
    assert eval_det.main([*arguments, "--data", "data"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ssdlite eval: error: ") and message in err and err.count("\n") == 1


def test_eval_says_when_no_class_is_known(
    coco_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssdlite.cli.require_weights", lambda path: None)
    monkeypatch.setattr(eval_det, "load_any", lambda *args, **options: SimpleNamespace(class_names=("car", "bus")))
    assert eval_det.main(["w.pt", "--data", str(coco_folder)]) == 2
    assert capsys.readouterr().err.endswith(
        "expected some of the model's classes, car, bus; got none of them, the data's are thing, unknown, other; "
        'where two are the same, --rename "theirs=ours" says so\n'
    )
    monkeypatch.setattr("ssdlite.cli.require_weights", lambda path: None)
    monkeypatch.setattr(eval_det, "load_any", lambda *args, **options: SimpleNamespace(class_names=("Things", "a,b")))
    assert eval_det.main(["w.pt", "--data", str(coco_folder), "--rename", r"other=a\,bc"]) == 2
    assert r'--rename "thing=Things,a\,bc=a\,b" says so' in capsys.readouterr().err
