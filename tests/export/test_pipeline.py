"""``ssdlite export`` as a user runs it: whole bundles, the accuracy gate, and everything that can be given wrongly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.datasets.shapes import generate_shapes
from ssdlite.export import pipeline
from ssdlite.export.options import ExportOptions
from ssdlite.export.targets.job import ExportJob
from ssdlite.runtime.contract import METADATA_KEY
from ssdlite.runtime.contract_file import parse_contract, read_contract
from ssdlite.runtime.model import load_model
from ssdlite.tools.export_onnx import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in shapes, few of them."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(root, train_images=6, val_images=4)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random detector of the shapes' classes that is sure of what it sees, and quite wrong."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(
        "ssdlite192_mobilenet_v2_050",
        width_mult=0.25,
        image_size=96,
        class_names=("circle", "square", "triangle"),
        category_ids=(5, 7, 9),
    )
    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), {"AP": 0.25}), path)
    return path


@pytest.fixture
def export(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, Path]]:
    """Run the command -> (exit status, what it said, the bundle)."""

    def call(*options: object, source: Path = checkpoint) -> tuple[int, str, Path]:
        output = tmp_path / "bundle"
        status = main([str(source), "--output", str(output), *map(str, options)])
        said = capfd.readouterr()
        return status, said.out + said.err, output

    return call


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.parent.iterdir()]


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw graph in all precisions, scored."""
    output = tmp_path_factory.mktemp("exported") / "bundle"
    options = [
        "--variant",
        "raw",
        "--precision",
        "fp32",
        "fp16",
        "int8",
        "--data",
        str(data),
        "--ort",
        "--licence",
        "MIT",
    ]
    assert main([str(checkpoint), "--output", str(output), *options]) == 0
    return output


def test_a_bundle_holds_models_contract_golden_vectors_and_card(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    files = {f"raw_{precision}.{suffix}" for precision in ("fp32", "fp16", "int8") for suffix in ("onnx", "ort")}
    assert names == files | {"contract.json", "golden", "README.md", "required_operators.config"}
    assert leftovers(bundle) == ["bundle"]
    sizes = {name: (bundle / name).stat().st_size for name in files}
    assert sizes["raw_fp16.onnx"] < 0.6 * sizes["raw_fp32.onnx"]
    assert sizes["raw_int8.onnx"] < 0.5 * sizes["raw_fp32.onnx"]  # this network is mostly names and anchors

    contract = read_contract(bundle)
    assert contract.class_names == ("circle", "square", "triangle")
    assert contract.category_ids == (5, 7, 9)
    assert contract.provenance.license == "MIT"
    assert contract.provenance.metrics == {"AP": 0.25}
    for model in contract.models:
        assert model.accuracy is not None and model.latency is not None and model.latency.median_ms > 0
        assert model.accuracy.images == 4
        if model.precision == "fp32":
            assert abs(model.accuracy.AP_drop) < 1e-3
            assert model.difference_from_pytorch is not None and model.difference_from_pytorch < 1e-4
        assert (model.quantization is not None) == (model.precision == "int8")
    facts = next(model.quantization for model in contract.models if model.quantization)
    assert (facts.quantized_layers, facts.total_layers, facts.calibration_images) == (74, 74, 6)

    exported = onnx.load(str(bundle / "raw_int8.onnx"))
    inner = parse_contract({p.key: p.value for p in exported.metadata_props}[METADATA_KEY], "the file")
    assert inner == contract.for_model("raw_int8.onnx")
    assert b"/" + b"ssdlite/" not in (bundle / "raw_fp32.onnx").read_bytes()  # no path of this machine


def test_a_bundle_is_replaced_by_one_of_the_same_bytes(
    bundle: Path, export: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    status, said, output = export("--variant", "raw", "--overwrite")
    assert status == 0, said
    assert {path.name for path in output.iterdir()} == {"raw_fp32.onnx", "contract.json", "golden", "README.md"}
    first, second = (onnx.load(str(folder / "raw_fp32.onnx")) for folder in (bundle, output))
    assert first.graph == second.graph
    assert read_contract(output).models[0].opset == 13


def test_floats_pixels_last_and_a_free_batch(export: Callable[..., Any], checkpoint: Path) -> None:
    status, said, bundle = export(
        "--variant", "nms", "--input-type", "float32", "--layout", "NHWC", "--batch", "dynamic"
    )
    assert status == 0, said
    pictures = [np.random.default_rng(i).integers(0, 256, (90, 70 + i, 3), np.uint8) for i in range(3)]
    expected = ssdlite.load_detector(checkpoint).predict(pictures, score_threshold=0.0)
    model = load_model(bundle)
    assert model.model.input.shape == (None, 96, 96, 3)
    assert model.model.input.mean == (127.5, 127.5, 127.5)
    for found, wanted in zip(model.predict(pictures, score_threshold=0.0), expected, strict=True):
        assert len(found) == len(wanted) > 100
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_thresholds_are_built_in(export: Callable[..., Any]) -> None:
    status, said, bundle = export(
        "--variant", "nms", "--score-threshold", 0.4, "--nms-threshold", 0.3, "--max-detections", 7, "--batch", 2
    )
    assert status == 0, said
    assert "Android: nms_fp32.onnx -> app/src/main/assets/, run by com.microsoft.onnxruntime" in " ".join(said.split())
    assert "Web: nms_fp32.onnx -> the page's static files, run by onnxruntime-web/wasm" in " ".join(said.split())
    assert "AP: not measured; --data DIR scores the files on annotated pictures" in " ".join(said.split())
    answers = (bundle / "README.md").read_text().split("## What it answers")[1].split("\n## ")[0]
    assert re.findall(r"^(\d)\. ", answers, re.MULTILINE) == ["1", "2", "3", "4"]
    contract = read_contract(bundle)
    assert contract.postprocess.nms_threshold == 0.3
    assert contract.models[0].outputs[0].shape == (2, 7, 4)
    (found,) = load_model(bundle).predict(np.zeros((50, 50, 3), np.uint8), score_threshold=0.0)
    assert len(found) <= 7 and (found.scores > 0.4).all()


def test_the_gate_fails_the_export_and_leaves_nothing(
    export: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssdlite.export.measure import Accuracy
    from ssdlite.export.targets import job

    figures = iter([0.5, 0.4])
    monkeypatch.setattr(job, "measure_accuracy", lambda *_: Accuracy(next(figures), 0.5))
    status, said, bundle = export("--variant", "decoded", "--data", data, "--max-ap-drop", 0.01)
    assert status == 2
    assert "AP drop of decoded_fp32.onnx 0.1000: more than the 0.01 allowed; nothing was written" in said
    assert leftovers(bundle) == []


def test_int8_is_scored_as_written_where_integers_overflow(
    export: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssdlite.export.int8 import saturation
    from ssdlite.export.measure import Accuracy
    from ssdlite.export.targets import job

    figures = {False: 0.4, True: 0.48}  # on this processor, and as it is written
    monkeypatch.setattr(saturation, "integers_saturate", lambda: True)

    def measure(model: object, index: object) -> Accuracy:
        backend = getattr(model, "backend", None)
        return Accuracy(0.5 if backend is None else figures[backend._as_written], 0.5)

    monkeypatch.setattr(job, "measure_accuracy", measure)
    status, said, bundle = export("--variant", "decoded", "--precision", "int8", "--ort", "--data", data)
    assert status == 0
    models = read_contract(bundle).models
    assert [model.file for model in models] == ["decoded_int8.onnx", "decoded_int8.ort"]
    for model in models:
        assert f"{model.file}: AP 0.4000 in ONNX Runtime here, where integers overflow (x86 without VNNI)" in said
        assert model.accuracy is not None and model.accuracy.AP == 0.48


def test_int8_from_a_folder_of_pictures(export: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "inner"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"{i}.png")
    status, said, bundle = export(
        "--variant", "decoded", "--precision", "int8", "--calibration-folder", tmp_path / "pictures"
    )
    assert status == 0, said
    facts = read_contract(bundle).models[0].quantization
    assert facts is not None and facts.calibration_images == 3 and facts.calibration_data == "pictures"


def test_the_file_behind_a_name_or_a_folder_is_where_the_weights_come_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_write_bundle", lambda job, graphs: job.provenance)

    def origin(source: Path) -> Any:
        return pipeline.export_bundle(ExportOptions(checkpoint=source, output=tmp_path / "bundle", overwrite=True))

    shipped = origin(Path("openimages"))
    assert shipped.checkpoint == "openimages.safetensors"
    assert shipped.license == "Apache-2.0"
    assert shipped.checkpoint_sha256 == "f13d4ec92ecdff7097c19457d6c90c79d83d41815dbc8d970c06d32d9a1a97e7"
    assert origin(checkpoint.parent) == origin(checkpoint)
    assert origin(checkpoint).checkpoint == "best.pt"


def test_a_licence_that_is_not_given_is_left_to_the_checkpoint(
    export: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str | None] = []

    def note(job: ExportJob, graphs: object) -> None:
        given.append(job.provenance.license)
        raise ssdlite.ExportError("enough")

    monkeypatch.setattr(pipeline, "_write_bundle", note)
    for options in ([], ["--license", "MIT"], ["--licence", "BSD"]):
        export(*options, source=Path("openimages"))
    assert given == ["Apache-2.0", "MIT", "BSD"]


def test_what_one_of_several_targets_has_not_is_said(
    export: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.png")

    def stop(job: ExportJob, graphs: object) -> None:
        raise ssdlite.ExportError("enough")

    monkeypatch.setattr(pipeline, "_write_bundle", stop)
    asked = ("--variant", "decoded", "nms", "--precision", "fp32", "int8", "--calibration-folder", tmp_path / "in")
    _, said, _ = export("--target", "onnxruntime", "ncnn", *asked)
    assert said.splitlines()[-2:] == ["ncnn has no nms and no int8: left out", "ssdlite export: error: enough"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "--precision int8 is calibrated on real pictures"),
        (["--precision", "int8", "--calibration-folder", "nowhere"], "nowhere: expected a folder of pictures"),
        (["--precision", "int8", "--calibration-folder", "{empty}"], "expected pictures to calibrate on, found none"),
        (["--data", "nowhere"], "nowhere: expected a folder with COCO, VOC"),
        (["--data", "{empty}"], "no annotations found"),
        (["--max-ap-drop", "0.01"], "--max-ap-drop needs --data"),
        (["--batch", "many"], "--batch: expected 1 to 1024 or dynamic, got 'many'"),
        (["--batch", "0"], "--batch: expected 1 to 1024 or dynamic, got '0'"),
        (["--opset", "9"], "--opset: expected 13 to 23, got 9"),
        (["--data", "{data}", "--split", "nosuch"], "--split: expected one of"),
        (
            ["--data", "{data}", "--precision", "int8", "--calibration-split", "nosuch"],
            "--calibration-split: expected one",
        ),
        (["--variant", "raw", "raw"], "expected one or more different ones"),
        (["--score-threshold", "2"], "score_threshold: expected 0 to 1, got 2.0"),
        (["--target", "ncnn", "--batch", "dynamic"], "--batch: got dynamic, but ncnn takes 1"),
        (["--target", "onnxruntime", "tflite"], "--target: expected one or more of onnxruntime, "),
        (["--target", "ncnn", "--ort"], "--ort: is for the target onnxruntime, which is not among --target ncnn"),
        (["--target", "ncnn", "--precision", "int8", "--data", "{data}"], "--precision: got int8, but ncnn has fp32"),
        (["--target", "ncnn", "--precision", "int8"], "--precision: got int8, but ncnn has fp32"),
        (["--calibration-folder", "{empty}"], "--calibration-folder: is for --precision int8, which is not asked for"),
    ],
)
def test_what_is_given_wrongly(
    export: Callable[..., Any], tmp_path: Path, data: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    status, said, bundle = export(*(option.format(empty=tmp_path / "empty", data=data) for option in options))
    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert leftovers(bundle) == ["empty"]


def test_odd_names_and_hardly_any_activity(export: Callable[..., Any], tmp_path: Path) -> None:
    """Names like JSON, no category ids, and an untrained network whose tensors are too narrow for histograms."""
    torch.manual_seed(0)
    names = ("a [1,  2]", "血球", '"quoted", comma', "| `x`\n")
    detector = ssdlite.build_detector(
        "ssdlite192_mobilenet_v2_050", width_mult=0.25, image_size=96, class_names=names, score_function="sigmoid"
    )
    path = tmp_path / "odd.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "0.png")
    status, said, bundle = export(
        "--variant", "decoded", "--precision", "int8", "--calibration-folder", folder, source=path
    )
    assert status == 0, said
    contract = read_contract(bundle)
    assert contract.class_names == names
    assert contract.category_ids == ()
    facts = contract.models[0].quantization
    assert facts is not None and facts.calibration_method == "minmax"
    assert load_model(bundle).class_names == names


def test_checkpoints_that_are_none(export: Callable[..., Any], checkpoint: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(checkpoint.read_bytes()[:-500])
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(3)}, other)
    newer = tmp_path / "older.pt"
    torch.save({"format": "ssdlite-checkpoint", "format_version": 0}, newer)
    for path, message in (
        (tmp_path / "missing.pt", "no such checkpoint file"),
        (truncated, "not a checkpoint of ssdlite, or truncated"),
        (other, "not a checkpoint of ssdlite"),
        (newer, "format version 0, this version of ssdlite reads up to 2"),
    ):
        status, said, bundle = export(source=path)
        assert status == 2 and message in said
        assert not bundle.exists()


def test_outputs_that_are_taken_or_cannot_be_written(export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "letters.txt").write_text("dear")
    status, said, bundle = export("--overwrite")
    assert status == 2 and "something else is there" in said
    assert (bundle / "letters.txt").read_text() == "dear"
    (bundle / "letters.txt").rename(bundle / "contract.json")
    status, said, _ = export()
    assert status == 2 and "a bundle is there already; --overwrite replaces it" in said
    (bundle / "contract.json").unlink()
    bundle.rmdir()
    (tmp_path / "bundle").write_text("a file")
    status, said, _ = export()
    assert status == 2 and "something else is there" in said
    assert (tmp_path / "bundle").read_text() == "a file"


def test_a_bundle_has_a_folder_where_none_is_named(tmp_path: Path) -> None:
    """Beside the checkpoint of a run; of any other, called after it, in the working folder."""
    run = tmp_path / "train-001"
    run.mkdir()
    for name in ("config.json", "best.pt"):
        (run / name).touch()
    (tmp_path / "cats.pt").touch()
    assert ExportOptions(checkpoint=run / "best.pt").bundle == run / "bundle"
    assert ExportOptions(checkpoint=run).bundle == run / "bundle"
    assert ExportOptions(checkpoint=tmp_path / "cats.pt").bundle == Path("cats-bundle")
    assert ExportOptions(checkpoint=Path("openimages")).bundle == Path("openimages-bundle")
    assert ExportOptions(checkpoint=run, output=tmp_path / "out").bundle == tmp_path / "out"
