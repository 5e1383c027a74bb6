"""Damaged Core ML packages, and exports that cannot be: one clear error each, and nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.errors import ConfigError, ContractError, ExportError
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.runtime.mlpackage import read_package
from tests.export.coreml.packages import MANIFEST, MODEL, WEIGHTS, export_with, needs_coreml, random_detector, steps


def cut(file: Path, share: float = 0.6) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def replace_bytes(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old)
    file.write_bytes(content.replace(old, new, 1))


def link_out(file: Path) -> None:
    outside = file.parents[4] / "outside.bin"
    file.replace(outside)
    file.symlink_to(outside)


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "no manifest": (MANIFEST, Path.unlink, r"Manifest\.json: no such file"),
    "half a manifest": (MANIFEST, cut, r"Manifest\.json: expected the manifest of a Core ML package"),
    "a manifest that leaves the folder": (
        MANIFEST,
        lambda file: replace_bytes(file, b"com.apple.CoreML/model.mlmodel", b"../../../etc/passwd"),
        r"Manifest\.json: expected the parts .*, got '\.\./\.\./",
    ),
    "no specification": (MODEL, Path.unlink, r"model\.mlmodel: no such file"),
    "half a specification": (MODEL, cut, r"model\.mlmodel: not the specification of a Core ML model, or damaged"),
    "an empty specification": (
        MODEL,
        lambda file: file.write_bytes(b""),
        r"model\.mlmodel: expected 1 to \d+ bytes, got 0",
    ),
    "weights elsewhere": (
        MODEL,
        lambda file: replace_bytes(file, b"@model_path/weights/weight.bin", b"@model_path/../../../../passwd"),
        r"it refers to the file '@model_path/\.\./",
    ),
    "no weights": (WEIGHTS, Path.unlink, r"weight\.bin: no such file"),
    "half the weights": (WEIGHTS, cut, r"weight\.bin: expected \d+ blobs, it ends within number \d+"),
    "few bytes of weights": (
        WEIGHTS,
        lambda file: file.write_bytes(b"\1"),
        r"weight\.bin: expected the weights of an ML",
    ),
    "fewer blobs": (
        WEIGHTS,
        lambda file: replace_bytes(file, file.read_bytes()[:1], b"\1"),
        "which has values at other",
    ),
    "a damaged blob": (
        WEIGHTS,
        lambda file: replace_bytes(file, b"\xef\xbe\xad\xde", b"\0\0\0\0"),
        r"damaged at byte 64",
    ),
    "linked weights": (WEIGHTS, link_out, r"weight\.bin: a link that leads elsewhere is not followed"),
}


@needs_coreml
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packages_are_one_clear_error(damage: str, bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "bundle" / "nms_fp16.mlpackage"
    shutil.copytree(bundle / package.name, package)
    name, spoil, message = DAMAGES[damage]
    spoil(package / name)
    with pytest.raises(ContractError, match=message):
        load_model(package)


@needs_coreml
def test_verify_fails_on_a_damaged_package_and_on_a_file_in_its_place(copy: Path) -> None:
    cut(copy / "nms_fp16.mlpackage" / WEIGHTS)
    report = verify_bundle(copy, model="nms_fp16.mlpackage")
    assert not report.passed and steps(report, "nms_fp16.mlpackage")["outputs"] == "fail"
    shutil.rmtree(copy / "nms_fp32.mlpackage")
    (copy / "nms_fp32.mlpackage").write_bytes(b"a file")
    report = verify_bundle(copy, model="nms_fp32.mlpackage")
    assert steps(report, "nms_fp32.mlpackage")["contract"] == "fail"
    with pytest.raises(ContractError, match="expected a Core ML package, which is a folder, found a file"):
        read_package(copy / "nms_fp32.mlpackage")


@needs_coreml
def test_no_truncation_of_a_specification_is_anything_but_an_error(bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    shutil.copytree(bundle / "nms_fp16.mlpackage", package)
    content = (package / MODEL).read_bytes()
    for share in np.random.default_rng(0).uniform(0, 1, 40):
        (package / MODEL).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ContractError):
            read_package(package)


@needs_coreml
def test_changed_bytes_are_read_or_refused(bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    shutil.copytree(bundle / "nms_int8.mlpackage", package)
    rng, refused = np.random.default_rng(0), 0
    for name in (MANIFEST, MODEL, WEIGHTS):
        content = (package / name).read_bytes()
        for _ in range(30):
            changed = bytearray(content)
            for place in rng.integers(0, min(len(content), 4096), 12):
                changed[place] = rng.integers(256)
            (package / name).write_bytes(changed)
            try:
                read_package(package)
            except ContractError:
                refused += 1
        (package / name).write_bytes(content)
    assert refused > 60
    read_package(package)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch": "2"}, ConfigError, "--batch: got 2, but coreml takes 1$"),
        ({"batch": "dynamic"}, ConfigError, "--batch: got dynamic, but coreml takes 1$"),
        ({"input_type": "float32"}, ConfigError, "--input-type: got float32, but coreml has uint8"),
        ({"variant": ("raw",)}, ConfigError, "coreml has nms, decoded"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_remedy(
    changes: dict[str, Any], error: type[Exception], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_with(checkpoint, tmp_path / "bundle", **changes)
    assert list(tmp_path.iterdir()) == []


def test_vision_has_no_such_letterbox(tmp_path: Path) -> None:
    detector = random_detector("ssdlite320_mobilenet_v1", width_mult=0.1, image_size=64, resize="letterbox")
    path = tmp_path / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    with pytest.raises(ExportError, match=r"pads them with black .* --variant decoded .* --resize stretch"):
        export_with(path, tmp_path / "bundle")
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.usefixtures("traced_once")
def test_without_coremltools_it_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r'^coremltools is not installed: pip install "ssdlite\[coreml\]"$'):
        export_with(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_coremltools_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, ssdlite.export.targets, ssdlite.runtime.files; sys.exit('coremltools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
