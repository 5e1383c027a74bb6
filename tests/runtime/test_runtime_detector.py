"""Exported detectors find what the detector finds, and do so where neither torch nor much else is installed."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import ssdlite
from ssdlite.detections import Detections
from ssdlite.detector import Detector
from ssdlite.runtime.backends.litert import LiteRtBackend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.model import load_model

SIZES = ((50, 70), (96, 96), (300, 40), (1, 1))


class Exported(NamedTuple):
    detector: Detector
    path: Path


@pytest.fixture(
    scope="module",
    params=[
        "stretch/raw.uint8_NCHW",
        "stretch/nms.uint8_NCHW",
        "letterbox/decoded.float32_NCHW",
        "letterbox_softmax/raw.uint8_NCHW",
        "letterbox_softmax/nms.uint8_NCHW",
    ],
)
def exported(request: pytest.FixtureRequest, golden_bundles: Path) -> Exported:
    bundle, _, file = request.param.partition("/")
    detector = ssdlite.load_detector(golden_bundles / f"{bundle}.pt")
    return Exported(detector, golden_bundles / bundle / f"{file}.onnx")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]


def assert_same(found: Sequence[Detections], expected: Sequence[Detections]) -> None:
    assert [len(one) for one in found] == [len(one) for one in expected]
    assert min(len(one) for one in expected) > 20
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)
        assert ours.class_names == theirs.class_names


def test_the_same_detections_as_the_detectors(exported: Exported, pictures: list[np.ndarray]):
    detector = exported.detector
    model = load_model(exported.path, threads=1)
    assert_same(model.predict(pictures, score_threshold=0.0), detector.predict(pictures, score_threshold=0.0))
    threads = load_model(exported.path, threads=2)
    assert_same(threads.predict(pictures, score_threshold=0.0), detector.predict(pictures, score_threshold=0.0))


def test_a_data_set_is_evaluated_alike(exported: Exported, tmp_path: Path):
    """Both through detect_dataset, over an index that has one picture of each size."""
    from ssdlite.datasets.index import DetectionIndex
    from ssdlite.evaluation.inference import detect_dataset

    detector = exported.detector
    random = np.random.default_rng(1)
    paths = []
    for number, (height, width) in enumerate(SIZES):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    index = DetectionIndex(
        name="pictures",
        class_names=detector.class_names,
        category_ids=(0, 1, 2),
        paths=tuple(paths),
        image_ids=np.arange(4),
        sizes=np.array(SIZES, np.int32),
        offsets=np.zeros(5, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0, np.float32),
        ignore=np.zeros(0, bool),
    )
    model = load_model(exported.path, threads=1)
    detector.train()
    found = [dict(detect_dataset(one, index, batch_size=3, positions=[3, 1, 0])) for one in (model, detector)]
    assert detector.training  # as it was, although it did not detect so
    assert list(found[0]) == [3, 1, 0]
    assert_same(list(found[0].values()), list(found[1].values()))
    assert_same(list(found[0].values()), detector.predict([paths[i] for i in (3, 1, 0)], score_threshold=0.0))


# -- where little is installed ---------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
sys.path[:0] = sys.argv[1:2]
import numpy
from ssdlite.errors import SsdliteError
from ssdlite.runtime import load_model
detector = load_model(sys.argv[2], threads=1)
results = [detector.predict(numpy.load(sys.argv[4]), score_threshold=0.0)]
try:
    results.append(detector.predict(sys.argv[3], score_threshold=0.0))
    error = ""
except SsdliteError as raised:
    error = str(raised)
installed = {}
for name in ("torch", "torchvision", "onnx", "msgspec", "albumentations", "rich", "tyro", "PIL", "cv2"):
    try:
        installed[name] = bool(__import__(name))
    except ImportError:
        installed[name] = False
print(json.dumps([[found.to_list() for (found,) in results], error, installed]))
"""


def link_packages(folder: Path, names: Sequence[str]) -> None:
    """Into ``folder``, links to what these distributions and the ones they require have in site-packages."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"needs {name}, which is not installed")
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            target = folder / top
            source = Path(str(found.locate_file(top)))
            if top == "cv2":  # finds itself through its real path, and would import itself twice
                shutil.copytree(source, target, copy_function=link_or_copy)
            elif not target.exists():
                target.symlink_to(source)
        waiting += [re.split(r"[^\w.-]", need)[0] for need in found.requires or () if ";" not in need]


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.mark.parametrize("readers", [("pillow",), ("opencv-python-headless",), ()])
def test_it_runs_where_torch_is_not_installed(
    golden_bundles: Path, pictures: list[np.ndarray], tmp_path: Path, readers: tuple[str, ...]
):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", pictures[0])
    packages = tmp_path / "packages"
    packages.mkdir()
    link_packages(packages, ["numpy", "onnxruntime", *readers])
    (packages / "ssdlite").symlink_to(Path(ssdlite.__file__).parent)
    model = golden_bundles / "stretch" / "raw.uint8_NCHW.onnx"
    arguments = [str(packages), str(model), str(tmp_path / "a.png"), str(tmp_path / "a.npy")]
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found, error, installed = json.loads(result.stdout)
    assert {name for name, there in installed.items() if there} == {
        {"pillow": "PIL", "opencv-python-headless": "cv2"}[name] for name in readers
    }
    assert ("needs Pillow or OpenCV" in error) == (not readers)
    (expected,) = ssdlite.load_detector(golden_bundles / "stretch.pt").predict(pictures[0], score_threshold=0.0)
    assert len(found) == (2 if readers else 1)
    for one in found:
        assert [item["name"] for item in one] == expected.names
        np.testing.assert_allclose([item["score"] for item in one], expected.scores, atol=1e-4)
        np.testing.assert_allclose([item["box"] for item in one], expected.boxes, atol=0.05)


def test_predicting_with_an_exported_model_loads_no_torch(
    golden_bundles: Path, pictures: list[np.ndarray], tmp_path: Path
):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    model = golden_bundles / "stretch" / "nms.uint8_NCHW.onnx"
    arguments = [str(tmp_path / "a.png"), "--weights", str(model), "--output", str(tmp_path / "out")]
    program = (
        "import sys; from ssdlite.tools import predict; status = predict.main(sys.argv[1:]); "
        "print(status, sorted({'torch', 'torchvision', 'onnx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 []"
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(entry["detections"]) > 5


def test_a_pickled_detector_finds_the_same(golden_bundles: Path, pictures: list[np.ndarray]) -> None:
    detector = load_model(golden_bundles / "stretch" / "raw.uint8_NCHW.onnx", threads=1)
    copy = pickle.loads(pickle.dumps(detector))
    found = copy.predict(pictures, score_threshold=0.1)
    assert found == detector.predict(pictures, score_threshold=0.1)
    assert min(len(one) for one in found) > 20


def test_a_pickled_backend_keeps_the_name_of_its_content(golden_bundles: Path) -> None:
    """For messages: a process that opens it again has no file to name."""
    onnx = (golden_bundles / "stretch" / "raw.uint8_NCHW.onnx").read_bytes()
    tflite = (Path(__file__).parents[1] / "data" / "shapes_detector.tflite").read_bytes()
    for backend in (OnnxBackend(onnx, 1, name="page.html"), LiteRtBackend(tflite, 1, name="page.html")):
        copy = pickle.loads(pickle.dumps(backend))
        assert (type(copy), copy.name) == (type(backend), "page.html")
