"""The three calls from Python, and the page that explains them."""

import re
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ssdlite
from ssdlite.api import ExportKeywords, TrainKeywords
from ssdlite.build import is_shipped
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.datasets import generate_shapes
from ssdlite.export import ExportOptions
from ssdlite.runtime.operating_points import OperatingPoint
from ssdlite.training.options import PART_OF, TrainOptions

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.usefixtures("traced_once")


def test_the_keywords_are_the_options() -> None:
    assert set(TrainKeywords.__annotations__) == {"recipe", *PART_OF} - {"data"}
    assert set(ExportKeywords.__annotations__) == {one.name for one in fields(ExportOptions)} - {"checkpoint", "output"}


@pytest.mark.usefixtures("without_pictures")
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks one after another, in a folder with what they name; the network is small, and finds something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generate_shapes(tmp_path / "pictures", train_images=8, val_images=2, seed=3)
    photo = next((tmp_path / "pictures").rglob("*.jpg"))
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    small = {"width_mult": 0.25, "image_size": 64, "logger": "none", "recipe": "ssd"}
    train = ssdlite.train
    monkeypatch.setattr(ssdlite, "train", lambda data, **given: train(data, **{**small, **given}))
    names: dict[str, Any] = {}
    for block in BLOCK.findall(PAGE.read_text()):
        if "import supervision" not in block or find_spec("supervision") is not None:
            exec(compile(block, PAGE.name, "exec"), names)
    assert isinstance(names["result"], ssdlite.TrainResult)
    assert re.fullmatch(r"<TrainResult: 3 classes, AP \d\.\d{3}, AP50 \d\.\d{3}, runs/first>", repr(names["result"]))
    assert names["detector"].class_names == ("circle", "square", "triangle")
    assert (tmp_path / "found.jpg").is_file()
    assert [model.variant for model in names["contract"].models] == ["decoded"]
    assert ssdlite.load_detector("runs/second").class_names == ("box",)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"first", "second", "third"}


@pytest.fixture(scope="module")
def small() -> ssdlite.Detector:
    return ssdlite.build_detector(
        "ssdlite192_mobilenet_v2_050", class_names=["cat", "fish"], width_mult=0.1, image_size=32
    )


@pytest.fixture
def examples() -> list[Any]:
    return [(np.full((20, 20, 3), 40 * number, np.uint8), [[2, 3, 12, 13]], ["cat"]) for number in range(3)]


class Oracle:
    """Finds in every picture what is told."""

    class_names = ("dog", "cat")

    def __init__(self, box: list[float]) -> None:
        self.box = box
        self.input_transform = ssdlite.build_detector(
            "ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32
        ).input_transform

    def infer_batch(self, images: np.ndarray) -> int:
        return len(images)

    def postprocess(self, count: int, score_threshold: float = 0.0) -> list[ssdlite.Detections]:
        box = np.array([self.box], np.float32) * 1.6  # 32 px of input for 20 of picture
        found = ssdlite.Detections(box, np.array([0.9], np.float32), np.array([1]), self.class_names)
        return [found] * count


@pytest.mark.parametrize(
    ("box", "figures"), [([2, 3, 12, 13], [1.0, 1.0]), ([2, 3, 12, 10], [0.5, 1.0]), ([12, 13, 20, 20], [0, 0])]
)
def test_figures_of_data_from_python(
    box: list[float], figures: list[float], examples: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box of 7 of 10 rows has an IoU of 0.7: right at 0.50, 0.55, 0.60, 0.65 and 0.70, half of COCO's ten."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    metrics = ssdlite.evaluate(Oracle([*map(float, box)]), examples)  # type: ignore[arg-type]
    assert [round(metrics.AP or 0, 6), round(metrics.AP50 or 0, 6)] == figures
    assert metrics.per_class["dog"].AP is None


def test_data_are_read_as_in_training(
    small: ssdlite.Detector, examples: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class under the name that it has in the detector; and the file of a run knows which that is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kittens = [(pixels, boxes, ["kitten", "fish"]) for pixels, (box,), _ in examples for boxes in [[box, [0, 0, 5, 5]]]]
    oracle = Oracle([2.0, 3.0, 12.0, 13.0])
    metrics = ssdlite.evaluate(oracle, kittens, rename=("kitten=cat",))  # type: ignore[arg-type]
    assert round(metrics.AP or 0, 6) == 1
    with pytest.raises(ssdlite.ConfigError, match="unknown option 'renam'; did you mean 'rename'"):
        ssdlite.evaluate(oracle, kittens, renam=("kitten=cat",))  # type: ignore[arg-type, call-arg]

    training = {"options": {"dataset": {"rename": ["kitten=cat"]}}}
    save_checkpoint(Checkpoint(small.config, small.state_dict(), {}, training), tmp_path / "best.pt")
    assert ssdlite.evaluate(tmp_path, kittens).per_class["cat"].AP is not None
    assert ssdlite.evaluate(tmp_path, kittens, rename=("fish=cat",)).per_class["fish"].AP is None
    assert ssdlite.evaluate(tmp_path, examples).per_class["cat"].AP is not None, "its names already"

    loaded = ssdlite.load_detector(tmp_path)
    assert ssdlite.evaluate(loaded, kittens).per_class["cat"].AP is not None
    contract = ssdlite.export_detector(loaded, tmp_path / "bundle", variant=("decoded",), golden_images=1)
    assert contract.provenance.rename == ("kitten=cat",)
    for exported in (tmp_path / "bundle", tmp_path / "bundle" / "decoded_fp32.onnx"):
        assert ssdlite.evaluate(exported, kittens).per_class["cat"].AP is not None
    document = tmp_path / "bundle" / "contract.json"
    document.write_text(document.read_text().replace("kitten=cat", "kitten"))
    with pytest.raises(ssdlite.ContractError, match="rename: expected OLD=NEW each"):
        ssdlite.runtime.load_model(tmp_path / "bundle")


def test_the_operating_points_of_a_detector_go_along(small: ssdlite.Detector, tmp_path: Path) -> None:
    """From a file through ``load_detector`` into a bundle; further training makes them void."""
    point = {"score_threshold": 0.35, "precision": 0.8, "recall": 0.5, "f1": 0.625}
    metrics = {"AP": 0.25, "operating_points": {"fish": point}}
    save_checkpoint(Checkpoint(small.config, small.state_dict(), metrics), tmp_path / "best.pt")
    loaded = ssdlite.load_detector(tmp_path / "best.pt")
    contract = ssdlite.export_detector(loaded, tmp_path / "bundle", variant=("decoded",), golden_images=1)
    assert contract.provenance.metrics == {"AP": 0.25}
    assert ssdlite.load_operating_points(tmp_path / "bundle") == {"fish": OperatingPoint(0.35, 0.8, 0.5, 0.625)}
    spec = contract.postprocess
    assert (spec.operating_threshold, spec.operating_threshold_source) == (0.35, "measured")
    props = {one.key: one.value for one in onnx.load(str(tmp_path / "bundle" / "decoded_fp32.onnx")).metadata_props}
    assert props["operating_threshold"] == "0.35"
    assert loaded.operating_threshold == ssdlite.Predictor(loaded).operating_threshold == 0.35
    assert loaded.eval().metrics == metrics
    assert loaded.train().eval().metrics == {}
    assert loaded.operating_threshold == 0.3


def test_a_loaded_detector_is_exported_as_its_file_is(tmp_path: Path) -> None:
    """But for times; of other weights nothing is said."""
    loaded = ssdlite.load_detector("openimages")
    given = {"variant": ("decoded",), "golden_images": 1}
    by_name = ssdlite.export_detector("openimages", tmp_path / "named", **given)  # type: ignore[arg-type]
    contract = ssdlite.export_detector(loaded, tmp_path / "loaded", **given)  # type: ignore[arg-type]
    assert contract.provenance.checkpoint == "openimages.safetensors"
    assert contract.provenance.license == "Apache-2.0"
    assert contract.provenance == by_name.provenance
    assert replace(contract, models=()) == replace(by_name, models=())
    assert is_shipped(tmp_path / "loaded")
    card = (tmp_path / "loaded" / "README.md").read_text()
    assert "- Licence of the weights: Apache-2.0\n- Checkpoint: `openimages.safetensors`, SHA-256 `f13d4ec9" in card

    other = ssdlite.load_detector("openimages")
    other.load_state_dict(loaded.state_dict())
    assert (other.provenance, loaded.provenance is None, loaded.train().provenance) == (None, False, None)


def test_options_are_checked_before_anything_is_read() -> None:
    with pytest.raises(ssdlite.ConfigError, match="unknown option 'epoch'; did you mean 'epochs'"):
        ssdlite.train("nowhere", epoch=3)  # type: ignore[call-arg]
    with pytest.raises(ssdlite.DataError, match="nowhere"):
        ssdlite.train("nowhere", TrainOptions().override(output="never"), epochs=1)
