"""The wheel: installed elsewhere, it works and takes no top-level name but ``ssdlite``."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("backbones", "heads", "datasets", "tools")


@pytest.fixture
def source(built_package: Path | None) -> Path:
    if built_package is None:
        pytest.skip("needs build and setuptools to build the wheel")
    return built_package / "ssd-lite"


@pytest.fixture
def wheel(source: Path) -> Path:
    (built,) = (source.parent / "dist").glob("*.whl")
    return built


@pytest.fixture
def installed(source: Path) -> Path:
    return source.parent / "site"


WEB_PAGE = [
    "javascript/ssdlite.mjs",
    *(f"web/{name}" for name in ("index.html", "page.css", "page.mjs", "embedded.mjs", "worker.mjs")),
]


def test_only_ssdlite_is_at_the_top(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ssdlite"}
    assert len(top) == 2


def test_every_module_is_in_the_wheel_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if name.startswith("ssdlite/")}
    expected = {"ssdlite/py.typed", "ssdlite/assets/NOTICE", "ssdlite/assets/openimages.safetensors"}
    expected |= {f"ssdlite/assets/{name}" for name in WEB_PAGE}
    for root, prefix in [("ssdlite", "ssdlite"), *((stage, f"ssdlite/{stage}") for stage in STAGES)]:
        expected |= {f"{prefix}/{path.relative_to(ROOT / root).as_posix()}" for path in (ROOT / root).rglob("*.py")}
    assert {f"ssdlite/{stage}/__init__.py" for stage in STAGES} < expected
    assert files == expected


def test_an_editable_install_is_a_path_that_type_checkers_follow(source: Path, tmp_path: Path):
    """They run no import hooks; and nothing else of the checkout becomes importable."""
    build = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    result = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(files) == 1 and files[0].endswith(".pth")
        path = Path(archive.read(files[0]).decode().strip())
    assert path.is_absolute() and [entry.name for entry in path.iterdir()] == ["ssdlite"]
    for name in ("py.typed", "__init__.py", "assets/openimages.safetensors", *(f"{one}/__init__.py" for one in STAGES)):
        assert (path / "ssdlite" / name).is_file()
    assert (path / "ssdlite" / "errors.py").samefile(source / "ssdlite" / "errors.py"), "what is changed is seen"


def test_the_metadata_names_licence_and_command(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
        assert {f"{info}/licenses/LICENSE", f"{info}/licenses/ssdlite/assets/NOTICE"} <= set(archive.namelist())
    assert "License-Expression: Apache-2.0" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    description = metadata.partition("\n\n")[2]
    assert description.startswith("# SSD-Lite\n") and "ssdlite predict photos/" in description
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links and all(link.startswith("https://") for link in links), "an index has no files of the repository"
    assert "ultralytics" not in metadata.lower()
    assert "albumentationsx" not in metadata.lower()
    assert "ssdlite = ssdlite.cli:main" in commands


def test_the_installed_package_works_away_from_the_checkout(installed: Path, tmp_path: Path):
    program = """
import importlib.util, json, sys
import numpy, ssdlite, ssdlite.backbones, ssdlite.heads, ssdlite.datasets, ssdlite.tools
detector = ssdlite.build_detector("ssdlite192_mobilenet_v2_050", num_classes=2, width_mult=0.25, image_size=64)
found = detector.predict(numpy.zeros((40, 50, 3), numpy.uint8))
names = ("backbones", "heads", "tools")
print(json.dumps({
    "files": [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "ssdlite"],
    "taken": [name for name in names if importlib.util.find_spec(name)],
    "found": len(found),
}))
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(installed) for file in report["files"])
    assert report["taken"] == []
    assert report["found"] == 1


def test_the_detector_that_ships_predicts_away_from_the_checkout(installed: Path, tmp_path: Path):
    """On four photographs in one, with cars, people and tables; no option, no weights elsewhere."""
    shutil.copy(ROOT / "docs" / "images" / "openimages.jpg", tmp_path / "photo.jpg")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "ssdlite", "predict", "photo.jpg"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (entry,) = json.loads((tmp_path / "predictions" / "detections.json").read_text())
    assert {"Car", "Person"} <= {one["name"] for one in entry["detections"] if one["score"] > 0.4}


def test_what_it_requires_is_enough(installed: Path, tmp_path: Path, hide_undeclared: Callable[..., str]):
    """Every module is loaded, and the detector that ships predicts, where nothing else can be imported."""
    program = """
import importlib, pkgutil, sys, ssdlite, ssdlite.cli
for module in pkgutil.walk_packages(ssdlite.__path__, "ssdlite."):
    if module.name != "ssdlite.__main__":
        importlib.import_module(module.name)
sys.exit(ssdlite.cli.main(["predict", sys.argv[1]]))
"""
    hide = hide_undeclared()
    assert "'pytest'" in hide and "'torch'" not in hide and "'safetensors'" not in hide
    command = [sys.executable, "-c", hide + program, str(ROOT / "docs" / "images" / "openimages.jpg")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "openimages.jpg" in (tmp_path / "predictions" / "detections.json").read_text()


@pytest.mark.parametrize("stage", STAGES)
def test_the_stage_folders_are_linked_into_the_package(stage):
    """The links make the layout of the checkout that of the wheel, for editors and type checkers."""
    link = ROOT / "ssdlite" / stage
    assert link.is_symlink()
    assert link.readlink() == Path("..") / stage


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_job_with_the_large_runtimes_installs_them_and_runs_what_others_skip(tmp_path: Path) -> None:
    command = ["make", "-n", "test-runtimes", f"RUNTIMES_VENV={tmp_path}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--editable '.[dev,executorch,mediapipe]'" in said
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {"dev", "executorch", "mediapipe"} <= set(extras)
    (ran,) = re.findall(r"bin/pytest (.+)$", said, re.MULTILINE)
    for name in ("executorch", "mediapipe"):
        skipping = f'needs_{name}\n|importorskip\\("{name}"'
        skipped = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(skipping, path.read_text())]
        assert len(skipped) == 1 and str(skipped[0].relative_to(ROOT)) in ran.split()
