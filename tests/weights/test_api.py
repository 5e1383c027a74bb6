"""What is given for an import, told apart before it is read: damaged files, other things, other formats' files."""

from __future__ import annotations

import io
import pickle
import runpy
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2

import ssdlite
from ssdlite import cli
from ssdlite.config import preset_config
from ssdlite.weights import WEIGHT_FORMATS, Imported, ImportOptions, ImportSource, WeightMapping

here = Path(__file__).parent
models: Any = runpy.run_path(str(here / "tensorflow_models.py"))
writers: Any = runpy.run_path(str(here / "tensorflow_writers.py"))
layouts: Any = runpy.run_path(str(here / "pytorch_ssd_layouts.py"))
STATE = {"a.weight": torch.arange(60.0).reshape(6, 10)}
TFLITE = b"\x1c\0\0\0TFL3" + bytes(8)
GRAPH = writers["frozen_graph"]({"FeatureExtractor/a/weights": np.zeros((2, 2), np.float32)})


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    tarfile.open(fileobj=file, mode="w:gz").close()
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


OLD = saved(STATE, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.tflite", TFLITE, "TensorFlow Lite file"),
        ("model.bin", TFLITE, "TensorFlow Lite file"),
        ("a.pth", saved(STATE)[:-100], "PyTorch file"),
        ("a.pth", saved(STATE)[:6], "PyTorch file"),
        ("a.pth", OLD[:-100], "PyTorch file"),
        ("a.pth", OLD[:3], "PyTorch file"),
        ("a.safetensors", b"\x40\0\0\0\0\0\0\0{" + b'"a": {"dtype"', "safetensors file"),
        ("a.pb", GRAPH[:-20], "frozen graph of TensorFlow"),
        ("a.index", b"\0\0\x02\x08\x01", "index of a TensorFlow checkpoint"),
    ],
)
def test_a_file_that_is_cut_off(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    """Its beginning says what it is."""
    if kind.startswith("TensorFlow Lite"):
        pytest.importorskip("tflite", reason="needs the package tflite, which is not installed")
    if kind.startswith("safetensors"):
        pytest.importorskip("safetensors", reason="needs safetensors, which is not installed")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ssdlite.CheckpointError, match=f"^{path}: a damaged or truncated {kind}"):
        ssdlite.import_weights(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tflite", b"", "expected weights, the file is empty"),
        ("a.index", b"", "expected weights, the file is empty"),
        ("a.tflite", b"0123456789", "got a file that is named but does not begin as a TensorFlow Lite file"),
        ("a.pth", bytes(5000), "got a file that is named but does not begin as a PyTorch file"),
        ("a.pb", b"0123456789", "got a file that is named but does not begin as a frozen graph"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\n", "got a pointer of Git LFS; `git lfs pull`"),
        ("a.tflite", b"<!DOCTYPE html><html>", "got a web page"),
        pytest.param("a.tar.gz", tarred(), "got a packed archive; unpack it", id="tar.gz"),
        ("a.zip", zipped("readme.txt"), "an archive that torch.save did not write; unpack it"),
        ("a.pt", zipped("a/data.pkl", "a/constants.pkl"), "a TorchScript archive; save its state_dict alone"),
        ("a.pkl", pickle.dumps(dict.fromkeys(range(20))), "a pickle that torch.save did not write"),
        ("saved_model.pb", b"\x08\x01\x12\x05", "got a SavedModel of TensorFlow 2; convert it to a float TensorFlow L"),
        ("m.ckpt.data-00000-of-00001", bytes(8), "a part of a TensorFlow checkpoint, whose .index file is not beside"),
        ("a.onnx", b"\x08\x08", "an exported model, which `ssdlite predict` and eval take"),
        ("a.txt", b"hello", "recognised as none of tflite, tf-checkpoint, tf-frozen-graph, torchvision, pytorch-ssd"),
    ],
)
def test_what_holds_no_weights(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ssdlite.CheckpointError, match=message):
        ssdlite.import_weights(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "https://example.org/m/a.tflite",
            "^https://example.org/m/a.tflite: expected a file on this machine, got an add",
        ),
        ("torchvision:imagenet", "only torchvision:coco is a detector .* `ssdlite train --backbone-weights imagenet`"),
        ("torchvision", "only torchvision:coco is a detector"),
        ("nowhere.pth", "^nowhere.pth: no such file"),
    ],
)
def test_what_is_no_file(source: str, message: str) -> None:
    with pytest.raises(ssdlite.CheckpointError, match=message):
        ssdlite.import_weights(source)


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(TFLITE)
    with pytest.raises(
        ssdlite.CheckpointError, match=r"a folder without a TensorFlow checkpoint \(inside are a.tflite\)"
    ):
        ssdlite.import_weights(tmp_path)
    (tmp_path / "contract.json").write_text("{}")
    with pytest.raises(ssdlite.CheckpointError, match=r"an exported bundle of ssdlite, which `ssdlite predict`"):
        ssdlite.import_weights(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "format", "message"),
    [
        (
            "a.tflite",
            TFLITE,
            "tf-frozen-graph",
            "expected a frozen graph .* got a TensorFlow Lite file; .* give tflite$",
        ),
        ("a.tflite", TFLITE, "tf-checkpoint", "expected a checkpoint .* got a TensorFlow Lite file; .* give tflite$"),
        ("a.pb", GRAPH, "pytorch-ssd", "expected a state dict .* got a frozen graph of .* give tf-frozen-graph$"),
        (
            "a.pth",
            OLD,
            "tflite",
            "expected a TensorFlow Lite file .* got a PyTorch file; .* torchvision or pytorch-ssd or yolox or nanodet",
        ),
        ("a.pth", saved(layouts["make_state"]("mb1-ssd", slots=2)), "torchvision", "qfgaohao .* give pytorch-ssd$"),
        ("a.txt", b"hello", "pytorch-ssd", "expected a state dict of an SSD of qfgaohao .*, got something else"),
    ],
)
def test_the_format_of_another(tmp_path: Path, name: str, content: bytes, format: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ssdlite.CheckpointError, match=message):
        ssdlite.import_weights(path, format)


def test_published_weights_are_not_fetched_for_another_format() -> None:
    with pytest.raises(ssdlite.CheckpointError, match="torchvision:coco: expected a TensorFlow Lite file"):
        ssdlite.import_weights("torchvision:coco", "tflite")


def test_a_backbone_alone(tmp_path: Path) -> None:
    torch.save(mobilenet_v2(weights=None).state_dict(), tmp_path / "a.pth")
    message = r"a backbone alone \(torchvision mobilenet_v2\), .*`ssdlite train --backbone-weights`"
    with pytest.raises(ssdlite.CheckpointError, match=message):
        ssdlite.import_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": -5}, "image_size: expected sides of 32 to 4096 pixels, got -5"),
        ({"image_size": 0}, "image_size: expected sides of 32 to 4096 pixels, got 0"),
        ({"image_size": "300"}, "image_size: expected sides of 32 to 4096 pixels, got '300'"),
        ({"class_names": ()}, "class_names: expected names, got none"),
        ({"class_names": "cat"}, "class_names: expected a sequence of names, got 'cat'"),
        ({"class_names": [1, 2]}, r"class_names: expected a sequence of names, got \[1, 2\]"),
        ({"class_names": 5}, "class_names: expected a sequence of names, got 5"),
        ({"pictures": 3}, "pictures: expected a path, got a int"),
        ({"source": 3}, "source: expected a path, got a int"),
        ({"source": None}, "source: expected a path, got a NoneType"),
        ({"source": ""}, "source: expected a path, got an empty string"),
    ],
)
def test_values_that_no_format_could_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ssdlite.ConfigError, match=message):
        ssdlite.import_weights(**({"source": "nowhere.tflite"} | options))


@pytest.mark.parametrize("format", [None, ["tflite"]])
def test_a_format_that_is_no_name(tmp_path: Path, format: Any) -> None:
    (tmp_path / "a.tflite").write_bytes(TFLITE)
    with pytest.raises(ssdlite.ConfigError, match="unknown format"):
        ssdlite.import_weights(tmp_path / "a.tflite", format)


# -- the seam: a format of one's own, entered in the one dict ---------------------------------------------------------


class NumpyFormat:
    """A detector of a project that keeps its filters as HWIO in an .npz archive, with its step of training."""

    title = "numpy archive"
    kinds = ()

    def recognize(self, source: ImportSource) -> bool:
        return source.path.suffix == ".npz" and source.path.is_file()

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        options.refuse_pictures(str(source.path), "a toy")
        config = preset_config("ssdlite192_mobilenet_v2_050", class_names=options.class_names, **TOY)
        with np.load(source.path) as archive:
            tensors = {name: torch.from_numpy(archive[name]) for name in archive.files}
        mapping = WeightMapping(tensors, str(source.path), "a toy")
        for theirs, tensor in tensors.items():
            if theirs != "step":
                mapping.move(theirs, theirs.removeprefix("net/"), hwio_to_oihw if tensor.dim() == 4 else torch.clone)
        mapping.leave(["step"], "state of the training")
        return mapping.complete(config)


TOY: dict[str, Any] = {"width_mult": 0.25, "image_size": 64}


def hwio_to_oihw(filters: torch.Tensor) -> torch.Tensor:
    return filters.permute(3, 2, 0, 1)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ssdlite.Detector]:
    monkeypatch.setitem(WEIGHT_FORMATS, "numpy", NumpyFormat())
    torch.manual_seed(0)
    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=2, **TOY).eval()
    values = {
        f"net/{name}": (tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor).numpy()
        for name, tensor in detector.state_dict().items()
    }
    np.savez(tmp_path / "toy.npz", **values, step=np.array(7))
    return tmp_path / "toy.npz", detector


def test_a_format_of_ones_own(toy: tuple[Path, ssdlite.Detector], tmp_path: Path) -> None:
    """From its file to a checkpoint and a prediction, by looking and by its name, with no other file touched."""
    path, detector = toy
    imported = ssdlite.import_weights(path, class_names=("cat", "dog"))
    assert (imported.source, imported.left) == ("a toy", (("step", "state of the training"),))
    output = tmp_path / "X.pt"
    arguments = ["--format", "numpy", "--class-names", "cat", "dog", "--output", str(output)]
    assert cli.main(["import-weights", str(path), *arguments]) == 0

    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (expected,) = detector.predict(picture, score_threshold=0.0)
    assert len(expected) > 10
    for loaded in (imported.checkpoint.build_detector(), ssdlite.load_detector(output)):
        (found,) = loaded.predict(picture, score_threshold=0.0)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert loaded.class_names == ("cat", "dog")


def test_a_format_of_ones_own_gets_the_errors_of_all(toy: tuple[Path, ssdlite.Detector], tmp_path: Path) -> None:
    path, _ = toy
    with pytest.raises(ssdlite.ConfigError, match=r"toy.npz: read as a toy, .* \(--pictures p\); leave them out"):
        ssdlite.import_weights(path, class_names=("cat", "dog"), pictures="p")
    with pytest.raises(ssdlite.CheckpointError, match=r"of another shape: net/head.classification.0.1.weight -> .*\[9"):
        ssdlite.import_weights(path, class_names=("cat", "dog", "cow"))
    (tmp_path / "a.tflite").write_bytes(TFLITE)
    with pytest.raises(ssdlite.CheckpointError, match=r"expected a numpy archive .*, got a TensorFlow Lite file; "):
        ssdlite.import_weights(tmp_path / "a.tflite", "numpy")
    with pytest.raises(ssdlite.CheckpointError, match=r"expected a TensorFlow Lite .*, got a numpy archive; .* numpy$"):
        ssdlite.import_weights(path, "tflite")
    with pytest.raises(ssdlite.ConfigError, match="unknown format 'numpi'; did you mean 'numpy'"):
        ssdlite.import_weights(path, "numpi")
