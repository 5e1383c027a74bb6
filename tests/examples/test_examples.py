"""The reference code for apps: JavaScript and C++ against OpenCV, reference vectors, and whole pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.images.geometry import fit_window
from tests.examples.kotlin import Kotlin

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
JAVASCRIPT = EXAMPLES / "javascript"
CPP = EXAMPLES / "cpp"
MODELS = {
    "stretch": ["raw.uint8_NCHW.onnx", "decoded.uint8_NCHW.onnx", "nms.uint8_NCHW.onnx", "decoded.float32_NHWC.onnx"],
    "letterbox": ["decoded.float32_NCHW.onnx"],
}
INSTALL_SECONDS = 120
# (height, width) of a picture and of what it becomes: shrunk, enlarged, halved exactly, one side kept, a single pixel
RESIZES = [
    ((480, 640), (320, 320)), ((37, 53), (96, 96)), ((200, 192), (100, 96)), ((96, 300), (96, 96)), ((1, 1), (4, 4)),
    ((300, 3), (17, 64)), ((1, 90), (40, 31)), ((333, 257), (192, 193)), ((64, 64), (64, 64)),
]  # fmt: skip


def run(*command: str | Path, stdin: str | None = None, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(part) for part in command], input=stdin, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs node, which is not installed")
    if int(run(found, "--version").removeprefix("v").split(".")[0]) < 18:
        pytest.skip("needs node 18 or newer")
    return found


@pytest.fixture(scope="session")
def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("needs g++, which is not installed")
    return found


@pytest.fixture(scope="session")
def replay_program(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("cpp") / "replay"
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
    run(compiler, "-std=c++17", "-O2", "-ffp-contract=off", *warnings, "-o", program, CPP / "replay.cpp")
    return program


def pictures() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size, _ in RESIZES]


def expect_resized(folder: Path, mode: str) -> None:
    """``folder`` has what became of every picture, equal to OpenCV's, or to what this package renders."""
    for number, (picture, (size, target)) in enumerate(zip(pictures(), RESIZES, strict=True)):
        if mode == "stretch":
            expected = cv2.resize(picture, target[::-1], interpolation=cv2.INTER_LINEAR)
        else:
            expected = fit_window(size, target, "letterbox").render(picture, 114)
        actual = np.fromfile(folder / f"{number}.out", np.uint8).reshape(expected.shape)
        assert np.array_equal(actual, expected), (size, target)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize("channels", [3, 4])
def test_javascript_resizes_as_opencv_bit_for_bit(node: str, tmp_path: Path, mode: str, channels: int) -> None:
    for number, picture in enumerate(pictures()):
        alpha = np.full((*picture.shape[:2], channels - 3), 255, np.uint8)
        np.concatenate([picture, alpha], axis=2).tofile(tmp_path / f"{number}.in")
    program = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ fitWindow, render }} from {json.dumps((JAVASCRIPT / "ssdlite.mjs").as_uri())};
        {json.dumps(RESIZES)}.forEach(([size, target], i) => {{
          const picture = {{ data: new Uint8Array(readFileSync(`${{i}}.in`)), height: size[0], width: size[1] }};
          const cropWindow = fitWindow(picture, {{ height: target[0], width: target[1] }}, "{mode}");
          writeFileSync(`${{i}}.out`, render(cropWindow, picture, 114));
        }});
    """
    run(node, "--input-type=module", "--eval", program, cwd=tmp_path)
    expect_resized(tmp_path, mode)


@pytest.fixture(scope="module")
def resize_program(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = """
        #include <fstream>
        #include <iostream>
        #include <iterator>
        #include "ssdlite.hpp"
        int main() {
            int number = 0;
            ssdlite::Picture picture;
            int height = 0, width = 0, letterbox = 0;
            while (std::cin >> picture.height >> picture.width >> height >> width >> letterbox) {
                std::ifstream in(std::to_string(number) + ".in", std::ios::binary);
                picture.pixels.assign(std::istreambuf_iterator<char>(in), {});
                const auto window = ssdlite::fit_window(picture, height, width, letterbox != 0);
                const auto result = ssdlite::render(window, picture, 114);
                std::ofstream out(std::to_string(number++) + ".out", std::ios::binary);
                out.write(reinterpret_cast<const char*>(result.pixels.data()), result.pixels.size());
            }
        }
    """
    folder = tmp_path_factory.mktemp("resize")
    (folder / "resize.cpp").write_text(source)
    run(compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-I", CPP, "-o", "resize", "resize.cpp", cwd=folder)
    return folder / "resize"


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
def test_cpp_resizes_as_opencv_bit_for_bit(resize_program: Path, tmp_path: Path, mode: str) -> None:
    for number, picture in enumerate(pictures()):
        picture.tofile(tmp_path / f"{number}.in")
    lines = [f"{h} {w} {height} {width} {int(mode == 'letterbox')}" for (h, w), (height, width) in RESIZES]
    run(resize_program, stdin="\n".join(lines), cwd=tmp_path)
    expect_resized(tmp_path, mode)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize("channels", [3, 4])
def test_kotlin_resizes_as_opencv_bit_for_bit(kotlin: Kotlin, tmp_path: Path, mode: str, channels: int) -> None:
    for number, picture in enumerate(pictures()):
        alpha = np.full((*picture.shape[:2], channels - 3), 255, np.uint8)
        np.concatenate([picture, alpha], axis=2).tofile(tmp_path / f"{number}.in")
    lines = [f"{h} {w} {height} {width} {mode}" for (h, w), (height, width) in RESIZES]
    kotlin.run("ssdlite.Resizes", stdin="\n".join(lines), cwd=tmp_path)
    expect_resized(tmp_path, mode)


def expect_replayed(bundle: Path, dump: Path, models: list[str]) -> None:
    """Pixels and tensors equal the reference ones; detections as ``verify`` judges them."""
    golden = bundle / "golden"
    binaries = sorted(path.name for path in dump.glob("*.bin"))
    assert {name.split(".", 1)[0] for name in binaries} == {"image_0", "image_1", "image_2"}
    for name in binaries:
        assert (dump / name).read_bytes() == (golden / name).read_bytes(), name
    report = verify_bundle(bundle, dump=dump)
    assert report.passed, report.failed_steps()
    steps = {model.file: [one.step for one in model.steps] for model in report.models}
    assert steps == {file: ["resize", "input", "detections"] for file in models}


@pytest.mark.parametrize("name", MODELS)
def test_javascript_gives_the_golden_results(node: str, golden_bundles: Path, tmp_path: Path, name: str) -> None:
    run(node, JAVASCRIPT / "replay.mjs", golden_bundles / name, tmp_path / "dump")
    expect_replayed(golden_bundles / name, tmp_path / "dump", MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_cpp_gives_the_golden_results(replay_program: Path, golden_bundles: Path, tmp_path: Path, name: str) -> None:
    values = run(sys.executable, CPP / "values.py", golden_bundles / name)
    run(replay_program, tmp_path, stdin=values)
    expect_replayed(golden_bundles / name, tmp_path, MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_kotlin_gives_the_golden_results(kotlin: Kotlin, golden_bundles: Path, tmp_path: Path, name: str) -> None:
    kotlin.run("ssdlite.ReplayKt", golden_bundles / name, tmp_path)
    expect_replayed(golden_bundles / name, tmp_path, MODELS[name])


def replay(request: pytest.FixtureRequest, language: str, bundle: Path, dump: Path) -> None:
    if language == "javascript":
        run(request.getfixturevalue("node"), JAVASCRIPT / "replay.mjs", bundle, dump)
    elif language == "cpp":
        values = run(sys.executable, CPP / "values.py", bundle)
        run(request.getfixturevalue("replay_program"), dump, stdin=values)
    else:
        request.getfixturevalue("kotlin").run("ssdlite.ReplayKt", bundle, dump)


@pytest.mark.parametrize("language", ["javascript", "cpp", "kotlin"])
def test_litert_files_give_the_golden_results(
    request: pytest.FixtureRequest, litert_bundle: Path, tmp_path: Path, language: str
) -> None:
    replay(request, language, litert_bundle, tmp_path)
    expect_replayed(litert_bundle, tmp_path, [f"{variant}_fp32.tflite" for variant in ("nms", "decoded", "raw")])


@pytest.mark.parametrize("language", ["javascript", "cpp", "kotlin"])
def test_pixels_that_are_signed_are_the_golden_ones(
    request: pytest.FixtureRequest, golden_bundles: Path, tmp_path: Path, language: str
) -> None:
    """An input of type int8 has mean 128: black is -128, white 127."""
    bundle, dump = tmp_path / "bundle", tmp_path / "dump"
    shutil.copytree(golden_bundles / "letterbox", bundle)
    contract = json.loads((bundle / "contract.json").read_text())
    (model,) = contract["models"]
    model["input"] |= {"type": "int8", "layout": "NHWC", "mean": [128, 128, 128], "std": [1, 1, 1]}
    (bundle / "contract.json").write_text(json.dumps(contract))
    resized = np.fromfile(bundle / "golden" / "image_1.resized.bin", np.uint8)
    resized[:2] = 0, 255
    resized.tofile(bundle / "golden" / "image_1.resized.bin")
    dump.mkdir()
    replay(request, language, bundle, dump)
    tensor = np.fromfile(dump / "image_1.int8_NHWC.bin", np.int8)
    assert tensor[:2].tolist() == [-128, 127]
    assert np.array_equal(tensor.astype(int) + 128, resized)


def test_javascript_shows_what_reaches_the_operating_threshold(node: str, tmp_path: Path) -> None:
    """Scores 0.5, 0.4, 0.2 and 0.01, as an nms model gives them; before version 3 a contract has no such threshold."""
    program = f"""
        import {{ postprocess }} from {json.dumps((JAVASCRIPT / "ssdlite.mjs").as_uri())};
        const outputs = {{
          count: [4], labels: [0, 0, 0, 0], scores: new Float32Array([0.5, 0.4, 0.2, 0.01]),
          boxes: new Float32Array(Array(4).fill([0, 0, 1, 1]).flat()),
        }};
        const size = {{ height: 8, width: 8 }};
        const window = {{ ...size, x0: 0, y0: 0, x1: 8, y1: 8 }};
        for (const spec of [{{ operating_threshold: 0.45 }}, {{}}]) {{
          const boxes = {{ format: "xyxy", scale: "fraction" }};
          const contract = {{ class_names: ["cat"], postprocess: spec, boxes }};
          console.log(postprocess(contract, {{ variant: "nms" }}, outputs, window, size).length);
        }}
    """
    assert run(node, "--input-type=module", "--eval", program, cwd=tmp_path).split() == ["1", "2"]


@pytest.fixture(scope="session")
def packages(node: str) -> Path:
    """A copy of the JavaScript example with its npm packages, kept between test runs."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, which is not installed")
    source = (JAVASCRIPT / "package.json").read_text()
    folder = Path(tempfile.gettempdir()) / f"ssdlite-example-packages-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        pytest.skip(f"needs {folder}, which is somebody else's")
    if not (folder / "installed.json").is_file() or (folder / "installed.json").read_text() != source:
        (folder / "package.json").write_text(source)
        # Without their scripts the packages download nothing: the runtime's library for the CPU is in its package.
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"needs the packages of examples/javascript, and npm cannot install them ({error})")
        (folder / "installed.json").write_text(source)
    for path in JAVASCRIPT.glob("*.mjs"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("bundle_and_model", [(name, model) for name, models in MODELS.items() for model in models])
def test_javascript_runs_a_bundle(
    node: str, packages: Path, golden_bundles: Path, tmp_path: Path, bundle_and_model: tuple[str, str]
) -> None:
    name, model = bundle_and_model
    bundle = golden_bundles / name
    files = sorted((bundle / "golden").glob("*.png"))
    output = run(node, packages / "detect.mjs", bundle, *files, "--model", model, "--dump", tmp_path)
    report = verify_bundle(bundle, dump=tmp_path)
    assert report.passed, report.failed_steps()
    assert [one.step for one in report.models[0].steps] == ["resize", "input", "outputs", "detections"]
    found = [json.loads(line) for line in output.splitlines()]
    assert [(one["width"], one["height"]) for one in found] == [(96, 96), (90, 140), (200, 75)]
    assert all(one["detections"] for one in found)


def test_javascript_says_in_one_line_what_it_cannot_use(
    node: str, packages: Path, golden_bundles: Path, tmp_path: Path
) -> None:
    contract = json.loads((golden_bundles / "letterbox" / "contract.json").read_text())
    contract["models"][0] |= {"file": "a.tflite", "runtime": "litert"}
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    for arguments, message in (
        (
            [tmp_path],
            "no model for ONNX Runtime among a.tflite: export with `ssdlite export CHECKPOINT --target onnxruntime`",
        ),
        ([tmp_path, "--model", "b.onnx"], "no model b.onnx among a.tflite"),
        ([tmp_path, "--model", "a.tflite"], "a.tflite is for litert, not for ONNX Runtime"),
        ([tmp_path / "none"], f"ENOENT: no such file or directory, open '{tmp_path / 'none' / 'contract.json'}'"),
    ):
        command = [node, packages / "detect.mjs", arguments[0], "a.png", *arguments[1:]]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, f"detect.mjs: {message}\n")


def test_javascript_turns_jpegs_upright(node: str, packages: Path, tmp_path: Path) -> None:
    corners = Image.new("RGB", (32, 16), (255, 0, 0))
    corners.paste((0, 255, 0), (16, 0, 32, 8))
    corners.paste((0, 0, 255), (0, 8, 16, 16))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        corners.save(tmp_path / f"{orientation}.jpg", exif=exif, quality=100, subsampling=0)
    program = f"""
        import {{ writeFileSync }} from "node:fs";
        import {{ readPicture }} from {json.dumps((packages / "pictures.mjs").as_uri())};
        for (let i = 1; i <= 8; i++) {{
          const {{ data, width, height }} = await readPicture(`${{i}}.jpg`);
          writeFileSync(`${{i}}.rgba`, data);
          console.log(width, height);
        }}
    """
    sizes = run(node, "--input-type=module", "--eval", program, cwd=tmp_path).splitlines()
    for orientation in range(1, 9):
        with Image.open(tmp_path / f"{orientation}.jpg") as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
        assert sizes[orientation - 1] == f"{expected.shape[1]} {expected.shape[0]}"
        rgba = np.fromfile(tmp_path / f"{orientation}.rgba", np.uint8).reshape(*expected.shape[:2], 4)
        assert np.abs(rgba[..., :3].astype(int) - expected).max() <= 4


def test_the_packages_are_pinned() -> None:
    package = json.loads((JAVASCRIPT / "package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert not list(JAVASCRIPT.glob("package-lock.json"))
