"""predict --labels: what a detector found, as files that label tools import and that are trained on again."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import load_data
from ssdlite.detections import Detections
from ssdlite.images.geometry import ImageArray
from ssdlite.images.media import VideoWriter
from ssdlite.tools import predict

NAMES = ("thing", "R&B <x>")
FOUND = {  # by the picture's width: (box, score, label)
    200: [([20, 10, 60.5, 50], 0.9, 1), ([0, 0, 200, 100], 0.5, 0)],
    210: [([5, 6, 7, 8], 0.8, 0)],
    220: [],
}


class KnowingDetector:
    """Knows each picture by its width."""

    class_names = NAMES
    operating_threshold = 0.3

    def predict(self, images: list[ImageArray], *, score_threshold: float) -> list[Detections]:
        rows = [FOUND.get(image.shape[1], []) for image in images]
        return [
            Detections(
                np.array([box for box, _, _ in row], np.float32).reshape(-1, 4),
                np.array([score for _, score, _ in row], np.float32),
                np.array([label for _, _, label in row], np.int64),
                NAMES,
            )
            for row in rows
        ]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("ssdlite.cli.require_weights", lambda path: None)
    monkeypatch.setattr("ssdlite.tools.predict.load_any", lambda *given, **options: KnowingDetector())
    for name, width in (("my photo.jpg", 200), ("Straße/b.PNG", 210), ("Straße/none.jpg", 220)):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 100)).save(path)
    return tmp_path / "photos"


def run_predict(*arguments: object) -> int:
    return predict.main([*map(str, arguments), "--weights", "best.pt"])


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("labels", "files"),
    [
        ("coco", ["labels.json"]),
        ("yolo", ["Straße/b.txt", "Straße/none.txt", "classes.txt", "my photo.txt"]),
        ("voc", ["Straße/b.xml", "Straße/none.xml", "my photo.xml"]),
        ("csv", ["labels.csv"]),
    ],
)
def test_labels_are_read_back_beside_their_pictures(
    labels: str, files: list[str], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_predict(photos, "--labels", labels, "--output", out) == 0
    assert listed(out / "labels") == sorted(files)
    data = load_data(out / "labels", LoadOptions(images=str(photos)))
    found = {}
    for index in (data.train, data.val):
        assert set(index.class_names) == set(NAMES)
        for record in map(index.record, range(len(index))):
            boxes = zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
            found[record.size[1]] = [(box, index.class_names[label]) for box, label in boxes]
    assert found.keys() == FOUND.keys()
    for width, rows in FOUND.items():
        assert [name for _, name in found[width]] == [NAMES[label] for _, _, label in rows]
        for (box, _), (own, _, _) in zip(found[width], rows, strict=True):
            assert box == pytest.approx(own, abs=0.01)


def test_label_studio_imports_predictions(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_predict(photos, "--labels", "label-studio", "--output", tmp_path / "out") == 0
    folder = tmp_path / "out" / "labels"
    assert listed(folder) == ["label_config.xml", "tasks.json"]
    after = f"labels to correct: {folder}; then: ssdlite train --data EXPORT.json --images FOLDER_OF_THE_PICTURES\n"
    assert capsys.readouterr().out.endswith(after)
    first, *others = json.loads((folder / "tasks.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=my%20photo.jpg"}
    (prediction,) = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("best.pt", 0.7)
    result = prediction["result"][0]
    assert result["value"] == {
        "x": 10, "y": 10, "width": 20.25, "height": 40, "rotation": 0, "rectanglelabels": ["R&B <x>"],
    }  # fmt: skip
    assert (result["type"], result["from_name"], result["to_name"]) == ("rectanglelabels", "label", "image")
    assert (result["original_width"], result["original_height"], result["score"]) == (200, 100, 0.9)
    assert [len(task["predictions"][0]["result"]) for task in others] == [1, 0]
    interface = ET.parse(folder / "label_config.xml").getroot()
    assert [label.get("value") for label in interface.iter("Label")] == list(NAMES)


def test_coco_labels_have_scores(photos: Path, tmp_path: Path) -> None:
    assert run_predict(photos, "--labels", "coco", "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "labels" / "labels.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["my photo.jpg", "Straße/b.PNG", "Straße/none.jpg"]
    assert [annotation["score"] for annotation in content["annotations"]] == [0.9, 0.5, 0.8]


def test_videos_have_no_labels(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with VideoWriter(photos / "clip.mp4", 10.0) as writer:
        writer.write(np.zeros((100, 200, 3), np.uint8))
    assert run_predict(photos, "--labels", "yolo", "--output", tmp_path / "out") == 0
    assert "labels are of pictures alone: none of 1 video\n" in capsys.readouterr().out
    assert "clip.txt" not in listed(tmp_path / "out" / "labels")


@pytest.mark.parametrize("labels", ["yolo", "voc"])
def test_two_pictures_of_one_label_file_are_named(
    labels: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(photos / "MY PHOTO.png")
    assert run_predict(photos, "--labels", labels, "--output", tmp_path / "out") == 2
    message = f"--labels {labels}: {photos}/MY PHOTO.png and {photos}/my photo.jpg would have the same label file"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run_predict(photos, "--labels", "coco", "--output", tmp_path / "out") == 0


def test_a_name_with_a_line_break_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(photos / "a\nb.png")
    assert run_predict(photos, "--labels", "csv", "--output", tmp_path / "out") == 2
    assert "--labels csv: expected names without control characters, got '" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
