"""Accuracy and latency of exported files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from ssdlite.benchmark.timing import processor_name
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.errors import ConfigError, ContractError, ExportError
from ssdlite.export.int8.saturation import integers_saturate
from ssdlite.export.measure import compare_scores, find_pictures, measure_accuracy, measure_latencies
from ssdlite.export.onnx import attach_contract
from ssdlite.export.options import ExportOptions
from ssdlite.files import write_json
from ssdlite.images.geometry import InputTransform

BOXES = np.array([[10, 20, 50, 60], [5, 5, 45, 25], [0, 0, 40, 48]], np.float32)  # one in each of three pictures


class Seer:
    """Finds in picture i the box i, of class i % 2, moved by ``shift`` pixels to the right."""

    class_names = ("cat", "dog")
    input_transform = InputTransform((32, 32), "stretch")

    def __init__(self, shift: float) -> None:
        self.shift = shift
        self.seen = 0

    def infer_batch(self, images: np.ndarray) -> int:
        return len(images)

    def postprocess(self, outputs: int, score_threshold: float = 0.0) -> list[Detections]:
        """Pictures are twice as large as the input."""
        results = []
        for i in range(self.seen, self.seen + outputs):
            box = (BOXES[i : i + 1] + np.float32([self.shift, 0, self.shift, 0])) / 2
            results.append(Detections(box, np.ones(1, np.float32), np.array([i % 2]), self.class_names))
        self.seen += outputs
        return results


@pytest.fixture
def index(tmp_path: Path) -> DetectionIndex:
    for i in range(3):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return DetectionIndex(
        name="made/val",
        class_names=Seer.class_names,
        category_ids=(1, 2),
        paths=tuple(str(tmp_path / f"{i}.png") for i in range(3)),
        image_ids=np.arange(3),
        sizes=np.full((3, 2), 64, np.int32),
        offsets=np.arange(4),
        boxes=BOXES,
        labels=np.array([0, 1, 0]),
        areas=np.full(3, 900, np.float32),
        ignore=np.zeros(3, np.bool_),
    )


def test_data_are_read_as_the_options_say(tmp_path: Path) -> None:
    """A corner at 0 says that they are positions on the picture, unless an option does."""
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split in ("train", "val"):
        Image.new("RGB", (64, 64)).save(tmp_path / "JPEGImages" / f"{split}1.png")
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}1\n")
        corners = ((0, 0, 50, 40), (10, 10, 20, 20))
        objects = "".join(
            f"<object><name>car</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>"
            for x0, y0, x1, y1 in corners
        )
        (tmp_path / "Annotations" / f"{split}1.xml").write_text(f"<annotation>{objects}</annotation>")
    for reading, last in (
        (ReadOptions(rename=("car=cat",)), [10, 10, 20, 20]),
        (ReadOptions(rename=("car=cat",), voc_corners="one-based"), [9, 9, 20, 20]),
    ):
        options = ExportOptions(checkpoint=tmp_path, output=tmp_path, data=tmp_path, reading=reading)
        pictures = find_pictures(options, Seer(0))  # type: ignore[arg-type]
        assert pictures.gate is not None
        assert pictures.gate.boxes[-1].tolist() == last
        assert pictures.gate.labels.tolist() == [0, 0]
        assert [Path(path).name for path in pictures.calibration] == ["train1.png"]


@pytest.mark.parametrize(
    ("asked", "run_split", "scored"),
    [(None, "test", "test"), (None, None, "val"), ("val", "test", "val"), (None, "of_other_data", "val")],
)
def test_scored_is_the_split_that_the_run_validated_on(
    tmp_path: Path, asked: str | None, run_split: str | None, scored: str
) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / split / f"{split}.png")
        write_json(
            tmp_path / "annotations" / f"instances_{split}.json",
            {
                "images": [{"id": 1, "file_name": f"{split}.png", "width": 64, "height": 64}],
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
            },
        )
    options = ExportOptions(checkpoint=tmp_path, output=tmp_path, data=tmp_path, split=asked)
    pictures = find_pictures(options, Seer(0), run_split)  # type: ignore[arg-type]
    assert pictures.gate is not None and pictures.gate.name.rpartition("/")[2] == scored
    assert [Path(path).name for path in pictures.calibration] == ["train.png"]


@pytest.mark.parametrize(
    ("shift", "accuracy"),
    [
        (0, (1.0, 1.0)),
        (8.0, (0.4, 1.0)),  # IoU 32 / 48: enough at .50, .55, .60 and .65, of ten thresholds
        (1000.0, (0.0, 0.0)),
    ],
)
def test_accuracy(index: DetectionIndex, shift: float, accuracy: tuple[float, float]) -> None:
    count: list[None] = []
    assert measure_accuracy(Seer(shift), index, on_image=lambda: count.append(None)) == pytest.approx(
        accuracy, abs=1e-3
    )
    assert len(count) == 3


def test_accuracy_of_data_without_objects(index: DetectionIndex) -> None:
    empty = index.subset([0])
    empty = DetectionIndex(
        **{
            name: getattr(empty, name)
            for name in ("name", "class_names", "category_ids", "paths", "image_ids", "sizes")
        },
        offsets=np.array([0, 0]),
        boxes=np.empty((0, 4), np.float32),
        labels=np.empty(0, np.int64),
        areas=np.empty(0, np.float32),
        ignore=np.empty(0, np.bool_),
    )
    with pytest.raises(ExportError, match="made/val: accuracy cannot be measured, since there are no objects in it"):
        measure_accuracy(Seer(0), empty)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks /proc/cpuinfo, which this system has not")
def test_integers_saturate_on_x86_without_vnni() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert integers_saturate() == ("avx2" in flags and "vnni" not in flags)


def test_latencies(make_colour_model: Callable[..., tuple[onnx.ModelProto, object]], tmp_path: Path) -> None:
    files = []
    for variant, batch in (("raw", 1), ("nms", 2)):
        model, contract = make_colour_model(variant, file=f"{variant}.onnx", batch=batch)
        attach_contract(model, contract)  # type: ignore[arg-type]
        files.append(tmp_path / f"{variant}.onnx")
        onnx.save(model, files[-1])
    figures = measure_latencies(files, np.zeros((50, 70, 3), np.uint8), runs=4)
    assert list(figures) == files
    for figure in figures.values():
        assert 0 < figure.median_ms < 1000
        assert (figure.threads, figure.runs) == (1, 4)
        assert figure.runtime == f"onnxruntime {onnxruntime.__version__}"
        assert figure.processor == processor_name()
    with pytest.raises(ConfigError, match="runs: expected 1 or more, got 0"):
        measure_latencies(files, np.zeros((50, 70, 3), np.uint8), runs=0)
    with pytest.raises(ContractError, match=r"absent\.onnx"):
        measure_latencies([tmp_path / "absent.onnx"], np.zeros((50, 70, 3), np.uint8))


def test_processor_has_the_name_that_the_system_gives_it(tmp_path: Path) -> None:
    name = processor_name()
    assert name
    information = Path("/proc/cpuinfo")
    if information.is_file() and "model name" in information.read_text():
        assert f"model name\t: {name}" in information.read_text()


def detections(*rows: tuple[float, int, float]) -> Detections:
    """Rows of (left side of a box of 10 x 10, label, score)."""
    boxes = np.array([[left, 0, left + 10, 10] for left, _, _ in rows], np.float32).reshape(-1, 4)
    scores, labels = (np.array([row[i] for row in rows]) for i in (2, 1))
    return Detections(boxes, scores.astype(np.float32), labels.astype(np.int64), ("cat", "dog"))


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (((0, 0, 0.9), (20, 1, 0.5), (40, 0, 0.02)), 0),
        (((20, 1, 0.52), (1, 0, 0.51), (41, 0, 0.02)), 0.39),  # rank by rank 0.38; by place the second's is the first
        (((0, 0, 0.875), (20, 1, 0.5), (60, 0, 0.25)), 0.025),  # others at the end of the list
        (((0, 0, 0.9), (40, 0, 0.02)), 0.5),  # an object is missing
        (((0, 0, 0.9), (20, 1, 0.5), (60, 1, 0.4)), 0.4),  # one too many
        (((0, 1, 0.9), (20, 1, 0.5)), 0.9),  # another label
        (((6, 0, 0.9), (20, 1, 0.5)), 0.9),  # another place
        (((0, 0, 0.9), (0, 0, 0.8), (20, 1, 0.5)), 0.8),  # found twice
        ((), 0.9),
    ],
)
def test_scores_are_those_of_the_same_object(found: tuple[tuple[float, int, float], ...], difference: float) -> None:
    expected = detections((0, 0, 0.9), (20, 1, 0.5), (40, 0, 0.02))
    assert compare_scores(expected, detections(*found), 0.3) == pytest.approx(difference, abs=1e-6)
    assert compare_scores(detections(*found), expected, 0.3) == pytest.approx(difference, abs=1e-6)
