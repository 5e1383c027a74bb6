"""The web page in headless Chromium: what it finds is what Python finds, and nothing leaves the browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.targets.web import (
    MODULE_FILE,
    PACKAGE,
    PACKAGE_VERSION,
    WASM_FILE,
    WebRuntime,
    build_page,
    find_web_runtime,
)
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.runtime.contract import Contract
from ssdlite.runtime.contract_file import read_contract
from tests.examples.chromium import Chromium, Tab, find_chromium

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
INSTALL_SECONDS = 120
FIRST_DETECTIONS_SECONDS = 5
PAGES = [  # softmax and sigmoid, stretched and letterboxed, bytes and floats, every variant
    ("stretch", "decoded.uint8_NCHW.onnx"), ("stretch", "decoded.float32_NHWC.onnx"),
    ("letterbox", "decoded.float32_NCHW.onnx"), ("letterbox_softmax", "raw.uint8_NCHW.onnx"),
    ("letterbox_softmax", "nms.uint8_NCHW.onnx"),
]  # fmt: skip


def install_package(name: str, version: str) -> Path:
    """An npm package's folder, kept where later runs find it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, which is not installed")
    folder = Path(tempfile.gettempdir(), f"ssdlite-{name.replace('/', '-')}-{version}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        pytest.skip(f"needs {folder}, which is somebody else's")
    if not (folder / "installed").is_file():
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix"]
        try:
            subprocess.run(
                [*command, str(folder), f"{name}@{version}"], capture_output=True, check=True, timeout=INSTALL_SECONDS
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"needs {name} {version}, and npm cannot install it ({error})")
        (folder / "installed").touch()
    return folder / "node_modules" / name


@pytest.fixture(scope="session")
def web_package() -> Path:
    return install_package(PACKAGE, PACKAGE_VERSION)


@pytest.fixture(scope="session")
def web_runtime(web_package: Path) -> WebRuntime:
    return find_web_runtime(str(web_package))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Its camera shows pure blue, 64 x 48."""
    program = find_chromium()
    if program is None:
        pytest.skip("needs Chromium, which is not installed")
    folder = tmp_path_factory.mktemp("chromium")
    blue = bytes([41]) * (64 * 48) + bytes([240]) * (32 * 24) + bytes([110]) * (32 * 24)  # of BT.601, in 4:2:0
    (folder / "blue.y4m").write_bytes(b"YUV4MPEG2 W64 H48 F30:1 Ip A1:1 C420\n" + 3 * (b"FRAME\n" + blue))
    own = Chromium(program, folder / "profile", f"--use-file-for-fake-video-capture={folder / 'blue.y4m'}")
    yield own
    own.close()


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Tab]:
    own = Tab(browser)
    yield own
    own.close()


ColourPage = Callable[..., Path]


@pytest.fixture
def colour_page(make_colour_model: Callable[..., Any], web_runtime: WebRuntime, tmp_path: Path) -> ColourPage:
    """Writes the page of a model that finds red, green and blue in the lower middle, with changes to its contract."""

    def write(operating_threshold: float = 0.3, **changes: Any) -> Path:
        model, contract = make_colour_model("decoded")
        contract = replace(contract, postprocess=replace(contract.postprocess, operating_threshold=operating_threshold))
        path = tmp_path / "colours.html"
        path.write_text(build_page(replace(contract, **changes), model.SerializeToString(), web_runtime))
        return path

    return write


SHOWN = "[...document.querySelectorAll('#found li')].map((item) => item.textContent)"


def open_page(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.evaluate("found = []; document.addEventListener('detections', (event) => found.push(event.detail))")
    status = tab.wait("document.getElementById('status').textContent", lambda text: text != "Loading the detector")
    assert status.startswith("Ready in "), status


def choose(tab: Tab, picture: Path) -> list[dict[str, Any]]:
    """What the page finds in the picture that its file picker is given."""
    tab.evaluate("found.length = 0")
    tab.choose_file("#file", picture)
    return list(tab.wait("found.at(-1)")["detections"])


def save_picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (96, 64), **options: Any) -> Path:
    Image.new("RGB", size, colour).save(path, **options)
    return path


def test_the_page_finds_what_python_finds(
    tab: Tab, web_runtime: WebRuntime, golden_bundles: Path, tmp_path: Path
) -> None:
    """From disk, on the reference pictures; without any request; and soon after it is opened."""
    seconds = []
    for name, file in PAGES:
        bundle = golden_bundles / name
        page = tmp_path / f"{name}.{file}.html"
        page.write_text(build_page(read_contract(bundle).for_model(file), (bundle / file).read_bytes(), web_runtime))
        start = time.monotonic()
        open_page(tab, page.as_uri())
        for number in range(3):
            picture = bundle / "golden" / f"image_{number}.png"
            found = choose(tab, picture)
            if number == 0:
                seconds.append(time.monotonic() - start)
            expected = json.loads(picture.with_suffix(f".{file}.detections.json").read_text())
            assert len(expected) > 2
            assert [one["name"] for one in found] == [one["name"] for one in expected]
            for key, tolerance in (("score", 1e-4), ("box", 0.5)):
                values = [np.array([one[key] for one in some]) for some in (found, expected)]
                np.testing.assert_allclose(*values, rtol=0, atol=tolerance)
        assert tab.requests[0] == page.as_uri()
        assert all(one.startswith("blob:null/") for one in tab.requests[1:]), tab.requests
    assert min(seconds) < FIRST_DETECTIONS_SECONDS


def test_a_picture_is_dropped(tab: Tab, colour_page: ColourPage, tmp_path: Path) -> None:
    open_page(tab, colour_page().as_uri())
    tab.drop_file("#view", save_picture(tmp_path / "green.png", (0, 255, 0)))
    found = tab.wait("found.at(-1)")
    assert found["name"] == "green.png"
    assert found["detections"] == [{"name": "green", "label": 1, "score": 1, "box": [24, 32, 72, 64]}]
    assert tab.evaluate(SHOWN) == ["green 1.00"]
    blank = (
        "document.getElementById('boxes').getContext('2d').getImageData(0, 0, 96, 64).data.every((one) => one === 0)"
    )
    assert tab.evaluate(blank) is False


def test_the_camera_is_taken_and_let_go(tab: Tab, colour_page: ColourPage) -> None:
    open_page(tab, colour_page().as_uri())
    camera = "document.getElementById('camera')"
    tab.evaluate(f"{camera}.click()")
    tab.wait("found.length", lambda count: count >= 3)
    last = tab.evaluate("found.at(-1)")
    assert last["name"] == "camera" and [one["name"] for one in last["detections"]] == ["blue"]
    assert last["detections"][0]["score"] > 0.9
    left, top, right, bottom = last["detections"][0]["box"]
    assert (right - left, bottom - top) == (2 * left, top)
    tab.evaluate(f"{camera}.click()")
    assert tab.evaluate(f"{camera}.getAttribute('aria-pressed')") == "false"
    assert tab.evaluate("document.getElementById('status').className") == ""


def test_a_phones_picture_is_turned_upright(tab: Tab, colour_page: ColourPage, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, taken standing
    open_page(tab, colour_page().as_uri())
    found = choose(tab, save_picture(tmp_path / "turned.jpg", (255, 0, 0), exif=exif))
    assert [(one["name"], one["box"]) for one in found] == [("red", [16, 48, 48, 96])]


def test_a_picture_larger_than_what_is_read_at_a_time(
    tab: Tab, golden_bundles: Path, web_runtime: WebRuntime, tmp_path: Path
) -> None:
    """2600 rows, in three strips; the same pixels as Python's."""
    bundle, file = golden_bundles / "stretch", "decoded.uint8_NCHW.onnx"
    page = tmp_path / "page.html"
    page.write_text(build_page(read_contract(bundle).for_model(file), (bundle / file).read_bytes(), web_runtime))
    Image.open(bundle / "golden" / "image_0.png").resize((300, 2600), Image.Resampling.NEAREST).save(
        tmp_path / "tall.png"
    )
    open_page(tab, page.as_uri())
    found = choose(tab, tmp_path / "tall.png")
    (expected,) = load_model(bundle, file).predict(tmp_path / "tall.png", score_threshold=0.3)
    assert len(expected) > 2 and [one["label"] for one in found] == expected.labels.tolist()
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, atol=1e-4)
    np.testing.assert_allclose([one["box"] for one in found], expected.boxes, atol=0.5)


def test_the_slider_starts_at_the_operating_threshold(tab: Tab, colour_page: ColourPage, tmp_path: Path) -> None:
    open_page(tab, colour_page(operating_threshold=0.65).as_uri())
    assert tab.evaluate("document.getElementById('score').textContent") == "0.65"
    picture = save_picture(tmp_path / "violet.png", (204, 51, 153))  # 0.8, 0.2, 0.6
    assert [one["name"] for one in choose(tab, picture)] == ["red"]
    for threshold, names in (("0.15", ["red 0.80"]), ("0.85", [])):  # all three are in one place: one label an object
        tab.evaluate(
            f"threshold = document.getElementById('threshold'); threshold.value = {threshold}; "
            "threshold.dispatchEvent(new Event('input'))"
        )
        tab.wait(SHOWN, lambda now: now == names)  # noqa: B023


def test_what_it_saves_is_what_verify_takes(
    tab: Tab, web_runtime: WebRuntime, golden_bundles: Path, tmp_path: Path
) -> None:
    bundle, file = golden_bundles / "stretch", "nms.uint8_NCHW.onnx"
    page = tmp_path / "page.html"
    page.write_text(build_page(read_contract(bundle).for_model(file), (bundle / file).read_bytes(), web_runtime))
    open_page(tab, page.as_uri())
    choose(tab, bundle / "golden" / "image_1.png")
    dump = tmp_path / "dump"
    tab.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(dump))
    tab.evaluate("document.getElementById('save').click()")
    saved = dump / f"image_1.{file}.detections.json"
    tab.wait("1", lambda _: saved.is_file())
    report = verify_bundle(bundle, dump=dump)
    assert report.passed and [step.step for step in report.models[0].steps] == ["detections"]


def test_an_exported_page_in_half_precision(tab: Tab, web_package: Path, golden_bundles: Path, tmp_path: Path) -> None:
    """The whole way: from the checkpoint to what the page finds."""
    bundle = tmp_path / "bundle"
    checkpoint = golden_bundles / "stretch.pt"
    options = {"precision": ("fp16",), "web_runtime": str(web_package), "golden_images": 1}
    export_bundle(ExportOptions(checkpoint=checkpoint, output=bundle, target=("web",), **options))
    page = bundle / "decoded_fp16.html"
    open_page(tab, page.as_uri())
    found = choose(tab, golden_bundles / "stretch" / "golden" / "image_1.png")
    (expected,) = load_model(page).predict(golden_bundles / "stretch" / "golden" / "image_1.png")
    assert len(expected) > 2 and [one["label"] for one in found] == expected.labels.tolist()
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, atol=2e-3)
    np.testing.assert_allclose([one["box"] for one in found], expected.boxes, atol=0.5)


HOSTILE = ("</script><script>owned = 1</script>", "<!--<script>", "<img src=x onerror='owned = 1'>\u2028")


def test_hostile_names_stay_text(tab: Tab, colour_page: ColourPage, tmp_path: Path) -> None:
    open_page(tab, colour_page(class_names=HOSTILE, name=HOSTILE[0]).as_uri())
    picture = save_picture(tmp_path / "<img src=x onerror='owned = 1'>.png", (204, 102, 0))
    assert [one["name"] for one in choose(tab, picture)] == [HOSTILE[0], HOSTILE[1]]
    assert tab.evaluate(SHOWN) == [f"{HOSTILE[0]} 0.80"]
    assert tab.evaluate("document.title") == HOSTILE[0]
    assert tab.evaluate("typeof owned") == "undefined"
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert tab.evaluate("document.getElementById('status').textContent").startswith(picture.name)


def test_what_is_no_picture_is_named(tab: Tab, colour_page: ColourPage, tmp_path: Path) -> None:
    open_page(tab, colour_page().as_uri())
    (tmp_path / "notes.txt").write_text("not a picture")
    tab.choose_file("#file", tmp_path / "notes.txt")
    error = tab.wait("document.querySelector('#status.error')?.textContent")
    assert error == "notes.txt: not a picture that this browser can read"
    assert [one["name"] for one in choose(tab, save_picture(tmp_path / "red.png", (255, 0, 0)))] == ["red"]


# --- From a web server.


class Server:
    """Serves ``folder``; ``paths`` are those that were asked for."""

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        paths: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            extensions_map = SimpleHTTPRequestHandler.extensions_map | {
                ".mjs": "text/javascript",
                ".wasm": "application/wasm",
            }

            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name, value)
                super().end_headers()

            def do_GET(self) -> None:
                paths.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None: ...

        self.paths = paths
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(folder: Path, **headers: str) -> Iterator[Server]:
    server = Server(folder, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        yield server
    finally:
        server.close()


ATTEMPTS = (  # to tell a server something
    "fetch('/stolen')",
    "import('/stolen')",
    "new Promise((onload, onerror) => Object.assign(new Image(), { onload, onerror }).src = '/stolen')",
)


def test_threads_where_the_page_is_isolated_and_never_the_network(
    tab: Tab, colour_page: ColourPage, tmp_path: Path
) -> None:
    page = colour_page()
    isolation = {"Cross_Origin_Opener_Policy": "same-origin", "Cross_Origin_Embedder_Policy": "require-corp"}
    with serving(tmp_path, **isolation) as server:
        open_page(tab, f"{server.address}/{page.name}")
        threads = min(4, tab.evaluate("navigator.hardwareConcurrency"))
        status = tab.evaluate("document.getElementById('status').textContent")
        assert status.endswith(f" {threads} thread{'s' if threads > 1 else ''}")
        assert [one["name"] for one in choose(tab, save_picture(tmp_path / "red.png", (255, 0, 0)))] == ["red"]
        for attempt in ATTEMPTS:
            assert tab.evaluate(f"{attempt}.then(() => 'sent', () => 'refused')") == "refused"
        tab.evaluate("navigator.sendBeacon('/stolen')")
        tab.evaluate("document.body.append(Object.assign(document.createElement('iframe'), { src: '/stolen' }))")
        time.sleep(0.2)
        assert server.paths == [f"/{page.name}"]


@pytest.fixture
def served_examples(golden_bundles: Path, web_package: Path, tmp_path: Path) -> Path:
    """examples/ as it is, with what its web/README.md says is to be put there."""
    root = tmp_path / "examples"
    for name in ("web", "javascript"):
        shutil.copytree(EXAMPLES / name, root / name, ignore=shutil.ignore_patterns("node_modules"))
    package = root / "web" / "node_modules" / PACKAGE / "dist"
    package.mkdir(parents=True)
    for name in (MODULE_FILE, WASM_FILE):
        (package / name).symlink_to(web_package / "dist" / name)
    (root / "web" / "bundle").symlink_to(golden_bundles / "stretch")
    return root


def test_the_folder_on_a_server_and_without_it(tab: Tab, served_examples: Path) -> None:
    """Once loaded, it works when the server is gone."""
    bundle = served_examples / "web" / "bundle"
    picture = bundle / "golden" / "image_2.png"
    contract: Contract = read_contract(bundle)
    expected = json.loads(picture.with_suffix(".nms.uint8_NCHW.onnx.detections.json").read_text())
    with serving(served_examples) as server:
        open_page(tab, f"{server.address}/web/")
        found = choose(tab, picture)
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=1e-4)
        assert tab.evaluate("document.title") == contract.name
        assert all(one.startswith(server.address) for one in tab.requests), tab.requests
    open_page(tab, f"{server.address}/web/")
    assert choose(tab, picture) == found


def test_without_room_to_keep_the_folder_it_works_with_the_server(tab: Tab, served_examples: Path) -> None:
    with serving(served_examples) as server:
        tab.call("Storage.overrideQuotaForOrigin", origin=server.address, quotaSize=100_000)
        open_page(tab, f"{server.address}/web/")
        assert choose(tab, served_examples / "web" / "bundle" / "golden" / "image_2.png")


# --- A page with MediaPipe Tasks, which takes our LiteRT file.


TASKS_PAGE = """<!doctype html><script type="module">
import { FilesetResolver, ObjectDetector } from "./package/vision_bundle.mjs";
globalThis.detect = async (model, picture, scoreThreshold) => {
  const files = await FilesetResolver.forVisionTasks("./package/wasm");
  const baseOptions = { modelAssetPath: model, delegate: "CPU" };
  const detector = await ObjectDetector.createFromOptions(files, { baseOptions, scoreThreshold });
  const bitmap = await createImageBitmap(await (await fetch(picture)).blob(), { colorSpaceConversion: "none" });
  return detector.detect(bitmap).detections.flatMap(({ categories, boundingBox }) => {
    const { originX: x, originY: y, width, height } = boundingBox;
    return categories.map(({ categoryName: name, score }) => ({ name, score, box: [x, y, x + width, y + height] }));
  });
};
</script>"""


def test_mediapipe_tasks_in_the_browser_finds_what_python_finds(
    tab: Tab, golden_bundles: Path, litert_bundle: Path, tmp_path: Path
) -> None:
    """On a picture of the input's size; MediaPipe truncates corners and sizes to whole pixels."""
    package = install_package("@mediapipe/tasks-vision", "1.1.0")
    golden = golden_bundles / "stretch" / "golden"
    for name, path in (("package", package), ("golden", golden), ("bundle", litert_bundle)):
        (tmp_path / name).symlink_to(path)
    (tmp_path / "page.html").write_text(TASKS_PAGE)
    with serving(tmp_path) as server:
        tab.open(f"{server.address}/page.html")
        tab.wait("globalThis.detect !== undefined")
        found = tab.evaluate("detect('bundle/nms_fp32.tflite', 'golden/image_0.png', 0.3)")
    expected = json.loads((golden / "image_0.nms.uint8_NCHW.onnx.detections.json").read_text())
    assert len(found) == len(expected) > 2
    for one in expected:
        near = [other for other in found if other["name"] == one["name"] and abs(other["score"] - one["score"]) < 1e-3]
        assert any(np.abs(np.subtract(other["box"], one["box"])).max() <= 2 for other in near), one
