"""``ssdlite import-weights`` as a user runs it."""

from __future__ import annotations

import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssdlite
from ssdlite import cli
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.weights import mapping as norms

here = Path(__file__).parents[1] / "weights"
models: Any = runpy.run_path(str(here / "tensorflow_models.py"))
layouts: Any = runpy.run_path(str(here / "pytorch_ssd_layouts.py"))
writers: Any = runpy.run_path(str(here / "tensorflow_writers.py"))
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
SMALL = models["Design"](version=1, lite=False, width=0.25)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen graph, which needs no package to read."""
    path = tmp_path_factory.mktemp("source") / "graph.pb"
    path.write_bytes(writers["frozen_graph"](models["Variables"](SMALL).values))
    return path


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, Path]]:
    """Run the command -> (exit status, what it said, the checkpoint)."""

    def call(*arguments: object) -> tuple[int, str, Path]:
        output = tmp_path / "X.pt"
        status = cli.main(["import-weights", *map(str, arguments), "--output", str(output)])
        said = capfd.readouterr()
        return status, said.out + said.err, output

    return call


def test_a_checkpoint_of_ours(run: Callable[..., Any], graph: Path, tmp_path: Path) -> None:
    status, said, output = run(graph, "--class-names", "cat", "dog", "bird", "--image-size", 160)
    assert status == 0, said
    for words in ("TensorFlow Object Detection API SSD", "mobilenet_v1, width 0.25", "160 x 160, stretch", "sigmoid"):
        assert words in said
    # 35 convolutions with a norm and 12 predictors: filters and four values, filters and bias
    assert "199 tensors matched, 0 made, 0 unused" in said
    detector = ssdlite.load_detector(output)
    assert detector.class_names == ("cat", "dog", "bird")
    assert detector.config.input.size == (160, 160)
    (found,) = detector.predict(np.zeros((50, 60, 3), np.uint8), score_threshold=0.0)
    assert len(found) > 0

    status, said, _ = run(graph, "--class-names", "cat", "dog", "bird")
    assert status == 2 and "X.pt: already there; --overwrite replaces a file" in said
    labels = tmp_path / "labels.txt"
    labels.write_text("???\ncow\nsheep\ngoat\n\n")
    status, said, _ = run(graph, "--labels", labels, "--overwrite", "--verbose")
    assert status == 0 and ssdlite.load_detector(output).class_names == ("cow", "sheep", "goat")
    assert (
        "FeatureExtractor/MobilenetV1/Conv2d_1_pointwise/BatchNorm/gamma -> backbone.features.1.pointwise.1.weight"
        in said
    )
    labels = tmp_path / "map.pbtxt"
    labels.write_text("item { id: 1 name: 'a' } item { id: 3 name: 'b' }")
    status, said, _ = run(graph, "--labels", labels, "--overwrite", "--format", "tf-frozen-graph")
    assert status == 0
    assert ssdlite.load_detector(output).config.category_ids == (1, 3)


def test_anchors_in_a_file(run: Callable[..., Any], graph: Path, tmp_path: Path) -> None:
    file, names = tmp_path / "anchors.json", ("--class-names", "cat", "dog", "bird")
    levels = [[[0.1, 0.2]] * 3, *[[[0.5, 0.25]] * 6] * 5]
    file.write_text(json.dumps({"levels": levels, "relative_to": "shorter_side"}))
    status, said, output = run(graph, *names, "--anchors", file)
    assert status == 0, said
    anchors = ssdlite.load_detector(output).config.anchors
    assert (anchors.levels[0][2], anchors.levels[5][5], anchors.relative_to) == (
        (0.1, 0.2),
        (0.5, 0.25),
        "shorter_side",
    )
    for content, message in (
        ("[1", "anchors.json: expected anchors as JSON"),
        ("[1]", "anchors.json: expected options by name"),
        ('{"level": []}', "anchors.json: unknown option 'level'; did you mean 'levels'"),
        ('{"levels": [[[0, 1]]]}', "anchors.json: anchor level 0: expected .width, height. fractions"),
        (json.dumps({"levels": levels[:5]}), "anchors"),
    ):
        file.write_text(content)
        status, said, _ = run(graph, *names, "--anchors", file, "--overwrite")
        assert status == 2 and re.search(message, said) and said.count("\n") == 1, said
    status, said, _ = run(graph, *names, "--anchors", tmp_path / "none.json", "--overwrite")
    assert status == 2 and "none.json: cannot be read (No such file or directory)" in said


def test_a_name_that_is_no_text(tmp_path: Path, graph: Path) -> None:
    """File names are bytes: one that is no UTF-8 is shown with escapes, on a stream that takes nothing else."""
    source, output = tmp_path / "g\udcff.pb", tmp_path / "X\udcff.pt"
    source.write_bytes(graph.read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "ssdlite.tools.import_weights", str(source), "--class-names", "a", "b", "c"]
    done = subprocess.run([*command, "--output", str(output)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and output.is_file(), done.stderr
    assert rb"g\udcff.pb: TensorFlow Object Detection API SSD" in done.stdout
    assert rb"X\udcff.pt" in done.stdout


def test_names_in_a_file_beside_the_source(run: Callable[..., Any], tmp_path: Path) -> None:
    """Taken where there are as many as the classifier has rows, and said; those that were given come first."""
    source = tmp_path / "net.pth"
    torch.save(layouts["make_state"]("mb2-ssd-lite", slots=3), source)
    status, said, _ = run(source)
    assert status == 2 and "the names of its 2 classes are not in the file; give class_names" in said
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n")
    status, said, _ = run(source)
    assert status == 2 and f"({labels} has 1 name)" in said
    labels.write_text("BACKGROUND\ncat\ndog\n")
    status, said, output = run(source)
    assert status == 0 and f"note: class names from {labels}" in said
    assert ssdlite.load_detector(output).class_names == ("cat", "dog")
    status, said, output = run(source, "--class-names", "a", "b", "--overwrite")
    assert status == 0 and "class names from" not in said
    assert ssdlite.load_detector(output).class_names == ("a", "b")


def test_pictures_to_measure_norms_on(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tflite", reason="needs the package tflite, which is not installed")
    monkeypatch.setattr(norms, "PICTURES", 4)
    source = models["tflite_ssd"](SMALL, models["Variables"](SMALL).values).write(tmp_path / "a.tflite")
    names = ("--class-names", "cat", "dog", "bird")
    folder = tmp_path / "pictures"
    status, said, _ = run(source, *names, "--pictures", folder)
    assert status == 2 and "pictures: expected a folder of pictures to measure on, found no" in said
    folder.mkdir()
    status, said, _ = run(source, *names, "--pictures", folder)
    assert status == 2 and "found none" in said
    for number in range(6):
        Image.fromarray(np.full((40, 60, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    status, said, output = run(source, *names, "--pictures", folder)
    assert status == 0, said
    assert "94 tensors matched, 105 made, 0 unused" in said  # 47 filters and biases; 35 norms' other three values
    stem = ssdlite.load_detector(output).backbone.features[0]
    grey = torch.stack([torch.full((3, 96, 96), value) for value in (0.0, 80.0, 120.0, 200.0)])  # 0, 2, 3, 5 of the six
    with torch.no_grad():
        expected = stem[0](grey / 127.5 - 1).mean((0, 2, 3))
    torch.testing.assert_close(stem[1].running_mean, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.tflite"], "nowhere.tflite: no such file"),
        (["{graph}", "--class-names"], "class_names: expected names, got none"),
        (["{folder}"], "a folder without a TensorFlow checkpoint"),
        (["{folder}", "--format", "tflite"], "a folder without a TensorFlow checkpoint"),
        (
            ["{graph}"],
            "of its 3 classes are not in the file; give class_names=..., or on the command line --labels FILE",
        ),
        (["{graph}", "--labels", "{folder}/none.txt"], "none.txt: cannot be read (No such file or directory)"),
        (["{graph}", "--labels", "{graph}"], "expected a name a line, in UTF-8; it is not text"),
        (
            ["{graph}", "--labels", "x", "--class-names", "a"],
            "--labels and --class-names: expected one of them, got both",
        ),
        (
            ["{graph}", "--labels", "{gap}"],
            "gap.txt: expected a name a line, line 2 is empty; a row without a class is ?",
        ),
        (["{graph}", "--labels", "{long}"], "long.txt: expected a name a line, it has more than 1048576 bytes"),
        (["{graph}", "--class-names", "a"], "but got 1 class name; expected 3"),
        (["{graph}", "--class-names", "a", "b"], "has 3 classes and background, but got 2 class names"),
        (["{graph}", "--class-names", "a", "b", "c", "--image-size", "7"], "image_size: expected sides of 32 to 4096"),
        (["{graph}", "--format", "tflight"], "unknown format 'tflight'; did you mean 'tflite'?"),
        (["{text}"], "recognised as none of tflite, tf-checkpoint, tf-frozen-graph, torchvision, pytorch-ssd"),
    ],
)
def test_what_is_given_wrongly(
    run: Callable[..., Any], graph: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "text.txt").write_text("hello")
    (folder / "gap.txt").write_text("a\n\nb\n")
    (folder / "long.txt").write_text("a\n" * 2**20)
    files = {name: folder / f"{name}.txt" for name in ("text", "gap", "long")}
    status, said, output = run(*(one.format(folder=folder, graph=graph, **files) for one in arguments))
    assert status == 2
    assert message in said and "Traceback" not in said
    assert not output.exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("text.txt/X.pt", "X.pt: cannot be written (Not a directory)"),
        ("/proc/nowhere/X.pt", "X.pt: cannot be written ("),
        (".", "expected a file to write, this is a folder"),
        ("text.txt", "text.txt: already there; --overwrite replaces a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_noticed_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    monkeypatch.setattr("ssdlite.weights.import_weights", lambda *_, **__: pytest.fail("went to work"))
    (tmp_path / "text.txt").write_text("hello")
    assert cli.main(["import-weights", "a.tflite", "--output", str(tmp_path / output)]) == 2
    assert message in capfd.readouterr().err


def test_the_source_is_not_written_over(graph: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import-weights", str(graph), "--output", str(graph), "--overwrite"]) == 2
    assert "expected another file than the source" in capfd.readouterr().err


def test_folders_are_made(graph: Path, tmp_path: Path) -> None:
    arguments = ["--class-names", "a", "b", "c", "--output", str(tmp_path / "new" / "er" / "X.pt")]
    assert cli.main(["import-weights", "nowhere.pb", *arguments]) == 2 and not (tmp_path / "new").exists()
    assert cli.main(["import-weights", str(graph), *arguments]) == 0 and (tmp_path / "new" / "er" / "X.pt").is_file()


def test_what_is_unusual_is_told(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "PICTURES", 1)

    def facts(layout: str) -> dict[str, str]:
        torch.save(layouts["make_state"](layout, slots=4), tmp_path / "a.pth")
        status, said, _ = run(tmp_path / "a.pth", "--class-names", "cat", "dog", "bird", "--overwrite")
        assert status == 0
        return dict(re.findall(r"│ ([a-z, ]+?) +│ (.+?) +│", said))

    narrow = facts("mb2-ssd-lite")
    assert (narrow["extra output"], narrow["last head conv"]) == ("linear", "pointwise")
    assert (narrow["extra channels"], narrow["extra hidden"]) == ("512 256 256 64", "256 128 128 64")
    assert narrow["anchors"].startswith("3000: 6 6 6 6 6 6 per cell of each map, 16")
    assert not {"activation", "narrowing", "box code scales"} & narrow.keys()
    assert facts("mb1-ssd-lite")["activation"] == "relu"


def test_every_format_is_named_in_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["import-weights", "--help"])
    said = capfd.readouterr().out
    assert all(name in said for name in ("tflite", "tf-checkpoint", "tf-frozen-graph", "torchvision", "pytorch-ssd"))


def test_published_weights_without_a_network(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("ssdlite.weights.pytorch.ssd.download_torchvision_ssd", fail)
    status, said, output = run("torchvision:coco")
    assert status == 2 and not output.exists()
    assert "torchvision:coco: cannot be downloaded (no route to host). Fetch https://" in said
    assert "ssdlite320_mobilenet_v3_large_coco" in said


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_does_not_run(run: Callable[..., Any], tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "a.pth"
    torch.save(STATE | {"x": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    status, said, output = run(path)
    assert status == 2 and "could run code; save its state_dict alone" in said
    assert not marker.exists() and not output.exists()
    path.write_bytes(pickle.dumps(Payload(marker)))
    status, said, _ = run(path)
    assert status == 2 and "cannot be read as a PyTorch file" in said
    assert not marker.exists()


def test_what_is_no_detector(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    status, said, _ = run(path)
    assert status == 2 and "recognised as none of" in said
    assert "got tensors such as a.weight, a.bias, without features.1.block.0.0.weight" in said

    detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96)
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    status, said, _ = run(path)
    assert status == 2 and "a.pth: already a checkpoint of ssdlite" in said
