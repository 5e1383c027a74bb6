"""What ``import ssdlite`` gives, and what it must not cost."""

import json
import subprocess
import sys

import pytest

import ssdlite
from ssdlite.errors import SsdliteError


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``statement``."""
    program = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_costs_nothing():
    loaded = modules_after("import ssdlite; ssdlite.__version__; dir(ssdlite)")
    assert not loaded & {"torch", "torchvision", "numpy", "cv2", "PIL", "albumentations", "matplotlib"}


def test_configuration_and_results_need_no_torch():
    loaded = modules_after(
        "import ssdlite; ssdlite.PRESETS; ssdlite.DetectorConfig; ssdlite.Detections; import ssdlite.images.geometry"
    )
    assert not loaded & {"torch", "torchvision", "albumentations", "matplotlib"}


def test_reading_pictures_costs_nothing_before_there_is_one():
    loaded = modules_after("import ssdlite.images.geometry")
    assert not loaded & {"cv2", "PIL"}


def test_the_runtime_needs_little():
    loaded = modules_after("from ssdlite.runtime import RuntimeDetector, load_model")
    assert not loaded & {"torch", "torchvision", "onnx", "onnxruntime", "msgspec", "albumentations", "rich", "tyro"}


def test_the_detector_needs_no_training_libraries():
    loaded = modules_after("import ssdlite; ssdlite.Predictor")
    assert "torch" in loaded
    assert not loaded & {"albumentations", "matplotlib", "pycocotools", "rich", "tyro", "tensorboard", "onnx"}


def test_public_names():
    assert set(ssdlite.__all__) == {
        "PRESETS", "AnchorConfig", "CheckpointError", "ConfigError", "ContractError", "DataError", "Detection",
        "Detections", "Detector", "DetectorConfig", "ExportError", "Predictor", "SsdliteError", "TrainingError",
        "build_backbone", "build_detector", "build_loss", "import_weights", "list_detectors", "list_weights",
        "load_backbone_weights",
        "TrainResult", "evaluate", "export_detector", "load_detector", "load_operating_points", "load_predictor",
        "train",
    }  # fmt: skip
    for name in ssdlite.__all__:
        assert getattr(ssdlite, name) is not None
        assert name in dir(ssdlite)


def test_unknown_names_fail_as_usual():
    with pytest.raises(AttributeError, match="no attribute 'bild_detector'"):
        _ = ssdlite.bild_detector
    assert not hasattr(ssdlite, "torch")


@pytest.mark.parametrize("package", ["export", "runtime"])
def test_packages_load_their_names_on_first_use(package):
    loaded = modules_after(f"import ssdlite.{package}; dir(ssdlite.{package})")
    assert not loaded & {"torch", "numpy", "onnx", "onnxruntime", "msgspec"}
    room = __import__(f"ssdlite.{package}", fromlist=["__name__"])
    for name in room.__all__:
        assert name in dir(room)
        assert getattr(room, name) is vars(room)[name]
    with pytest.raises(AttributeError, match=rf"^module 'ssdlite.{package}' has no attribute 'lode_model'$"):
        _ = room.lode_model


def test_blocks_are_public():
    from ssdlite.backbones import DepthwiseSeparableConv, InvertedResidual, build_backbone

    assert callable(DepthwiseSeparableConv)
    assert callable(InvertedResidual)
    assert ssdlite.build_backbone is build_backbone


@pytest.mark.parametrize(
    ("name", "of_python"),
    [
        ("ConfigError", ValueError),
        ("DataError", ValueError),
        ("CheckpointError", ValueError),
        ("ContractError", ValueError),
        ("ExportError", RuntimeError),
        ("TrainingError", RuntimeError),
    ],
)
def test_errors_are_of_one_family_and_of_pythons_own(name: str, of_python: type[Exception]):
    error = getattr(ssdlite, name)
    assert issubclass(error, SsdliteError)
    assert issubclass(error, of_python)


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert version("ssdlite") == ssdlite.__version__


@pytest.mark.parametrize("stage", ["backbones", "heads", "datasets", "tools"])
def test_stage_folders_are_parts_of_one_package(stage):
    module = __import__(f"ssdlite.{stage}", fromlist=["__name__"])
    assert module.__name__ == f"ssdlite.{stage}"


def test_a_missing_package_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from ssdlite import cli

    def without_opencv(name: str) -> None:
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr(cli.importlib, "import_module", without_opencv)
    assert cli.main(["predict", "photo.jpg"]) == 2
    expected = "ssdlite predict: error: needs a package that is not installed: pip install opencv-python-headless\n"
    assert capsys.readouterr().err == expected


def test_the_packages_are_attributes():
    loaded = modules_after("import ssdlite; ssdlite.runtime.load_model; ssdlite.heads; ssdlite.datasets.load_data")
    assert {"ssdlite.runtime.model", "ssdlite.heads", "ssdlite.datasets.loading"} <= loaded
    assert "torch" not in loaded
    assert {"training", "export", "weights", "evaluation", "backbones"} <= set(dir(ssdlite))


def test_a_detector_called_with_a_path_names_predict() -> None:
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=1, width_mult=0.1, image_size=32)
    with pytest.raises(TypeError, match=r"expected a tensor \[B, 3, H, W\], got str; detector.predict takes pict"):
        detector("x.jpg")


def test_a_misspelt_number_of_classes_is_recognised() -> None:
    with pytest.raises(ssdlite.ConfigError, match="unknown option 'num_class'; did you mean 'num_classes'"):
        ssdlite.build_detector(num_class=3)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import ssdlite
for load in (ssdlite.load_detector, ssdlite.load_predictor):
    try:
        load("best.pt")
    except ModuleNotFoundError as error:
        print(error)
"""


def test_without_torch_loading_points_to_the_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    message = "best.pt: a checkpoint needs torch; ssdlite.runtime.load_model runs exported models without it"
    assert done.stdout.splitlines() == [message, message]
