"""predict on a camera (a made one), and on addresses of a server of its own; a fixed answer stands for the detector."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.detections import Detections
from ssdlite.images import camera as camera_module
from ssdlite.images.geometry import ImageArray
from ssdlite.images.media import VideoReader
from ssdlite.tools import predict


class OneThing:
    """Finds a thing in each picture, at the place of its own corner."""

    class_names = ("thing",)
    operating_threshold = 0.3

    def predict(self, images: list[ImageArray], *, score_threshold: float) -> list[Detections]:
        return [
            Detections(np.array([[4, 4, 20, 20]], np.float32), np.array([0.5], np.float32), np.array([0]), ("thing",))
            for _ in images
        ]


class EndlessCapture:
    """A camera of 10 frames per second that is interrupted, or ends, at a frame."""

    def __init__(self, interrupted_at: int = 1000, ends_at: int = 1000) -> None:
        self.count, self.interrupted_at, self.ends_at = 0, interrupted_at, ends_at

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, name: int) -> float:
        return 10.0

    def set(self, name: int, value: float) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        self.count += 1
        if self.count > self.interrupted_at:
            raise KeyboardInterrupt
        return self.count <= self.ends_at, np.full((40, 60, 3), 30, np.uint8)

    def release(self) -> None:
        """Nothing is held."""


@pytest.fixture(autouse=True)
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdlite.cli.require_weights", lambda path: None)
    monkeypatch.setattr(predict, "load_any", lambda *given, **options: OneThing())
    ticks = iter(range(10_000))
    monkeypatch.setattr(camera_module, "monotonic", lambda: next(ticks) * 0.125)


def run_predict(*arguments: object) -> int:
    return predict.main([*map(str, arguments), "--weights", "best.pt"])


def frames_of(path: Path) -> int:
    with VideoReader(path) as video:
        return len(list(video))


@pytest.mark.parametrize("arguments", [("0",), ("--camera", "0")])
def test_an_interrupt_ends_a_camera_with_a_complete_video(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(camera_module, "open_capture", lambda number: EndlessCapture(interrupted_at=4))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(camera_module.sys, "platform", "linux")
    out = tmp_path / "out"
    assert run_predict(*arguments, "--output", out) == 0
    (entry,) = json.loads((out / "detections.json").read_text())
    assert (entry["file"], entry["output"], entry["width"], entry["height"]) == ("camera 0", "camera-0.mp4", 60, 40)
    assert [(frame["frame"], frame["seconds"]) for frame in entry["frames"]] == [(0, 0), (1, 0.1), (2, 0.2), (3, 0.3)]
    assert [[one["box"] for one in frame["detections"]] for frame in entry["frames"]] == [[[4, 4, 20, 20]]] * 4
    assert frames_of(out / "camera-0.mp4") == 4
    assert sorted(path.name for path in out.iterdir()) == ["camera-0.mp4", "detections.json"]
    printed = capsys.readouterr()
    assert printed.out == (
        f"4 frames of camera 0, 4 objects (4 thing) with a score of 0.3 or more -> {out / 'camera-0.mp4'}\n"
    )
    assert f"no window (there is no display): camera 0 goes to {out} until Ctrl-C" in printed.err.replace("\n", " ")


def test_a_key_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[ImageArray] = []

    class ThreeFrames:
        def __init__(self, title: str) -> None:
            assert title == "ssdlite predict: camera 3 (q ends)"

        def __enter__(self) -> "ThreeFrames":
            return self

        def __exit__(self, *error: object) -> None:
            """Nothing is open."""

        def show(self, image: ImageArray) -> bool:
            shown.append(image)
            return len(shown) < 3

    monkeypatch.setattr(camera_module, "open_capture", lambda number: EndlessCapture())
    monkeypatch.setattr(predict, "Window", ThreeFrames)
    assert run_predict("3", "--output", tmp_path / "out") == 0
    assert len(shown) == frames_of(tmp_path / "out" / "camera-3.mp4") == 3
    assert shown[0][4, 10].tolist() != [30, 30, 30], "with boxes"
    assert "no window" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0", "a.png"), "camera 0: expected no other source beside it, got 0, a.png"),
        (("a.png", "--camera", "1"), "camera 1: expected no other source beside it, got a.png"),
        (("--camera", "100"), "--camera: expected 0 to 99, got 100"),
        (("0", "--labels", "coco"), "--labels coco: labels are of pictures, not of the video of camera 0"),
        (("97",), "camera 97: cannot be opened; is it connected, and used by no other program?"),
        (("https://example.com/a.jpg",), "https://example.com/a.jpg: an address is fetched only with --allow-urls"),
        (
            ("file:///a.jpg", "--allow-urls"),
            "file:///a.jpg: expected a file, a folder, or an address that begins with ",
        ),
        (("rtsp://a/b",), "rtsp://a/b: expected a file, a folder, or an address that begins with http:// or https://"),
    ],
)
def test_mistakes_are_named_in_one_line_and_leave_no_folder(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 30)).save("a.png")
    assert run_predict(*arguments) == 2
    printed = capfd.readouterr().err
    assert printed.startswith(f"ssdlite predict: error: {message}") and printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_camera_that_is_pulled_out_leaves_what_it_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(camera_module, "open_capture", lambda number: EndlessCapture(ends_at=2))
    assert run_predict("0", "--no-window", "--output", tmp_path / "out") == 2
    assert "camera 0: gives no more frames; is it still connected?" in capsys.readouterr().err
    assert frames_of(tmp_path / "out" / "camera-0.mp4") == 2
    monkeypatch.setattr(camera_module, "open_capture", lambda number: EndlessCapture(ends_at=0))
    assert run_predict("0", "--no-window", "--output", tmp_path / "none") == 2
    assert "camera 0: no frame came" in capsys.readouterr().err


def test_a_folder_called_0_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    Image.new("RGB", (30, 30)).save("0/a.png")
    assert run_predict("0", "--output", "out") == 0
    assert (tmp_path / "out" / "a.png").is_file()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "site").mkdir()
    Image.new("RGB", (30, 24)).save(tmp_path / "site" / "a.png")
    Image.new("RGB", (300, 300)).save(tmp_path / "site" / "large.png")
    (tmp_path / "site" / "text.jpg").write_text("no picture")
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses_are_fetched_on_request(site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.png", "text.jpg", "large.png", "none.png")
    out = tmp_path / "out"
    local = tmp_path / "site" / "a.png"
    options = ("--allow-urls", "--max-pixels", 10_000, "--labels", "coco", "--output", out)
    assert run_predict(*(f"{site}/{name}" for name in names), local, *options) == 2
    entries = json.loads((out / "detections.json").read_text())
    assert [(one["file"], one["output"], one["width"], len(one["detections"])) for one in entries] == [
        (f"{site}/a.png", "a.png", 30, 1),
        (str(local), "a_2.png", 30, 1),
    ]
    assert (out / "a.png").is_file()
    printed = capsys.readouterr()
    assert "labels are of pictures alone: none of 4 addresses\n" in printed.out
    said = " ".join(printed.err.split())
    for message in (
        f"{site}/text.jpg: cannot be read as an image",
        f"{site}/large.png: cannot be read as an image (it has 300 x 300 pixels, more than the 10000 allowed)",
        f"{site}/none.png: the server answers 404 'File not found'",
        "error: 3 of the sources could not be used",
    ):
        assert said.count(message) == 1
    (labels,) = (out / "labels").rglob("*.json")
    assert [image["file_name"] for image in json.loads(labels.read_text())["images"]] == ["a.png"]


def test_auto_of_the_detector_that_comes_along_says_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 24)).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), "--score-threshold", "auto", "--output", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    assert "openimages: no operating points were measured" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [one["score"] for one in entry["detections"]] == [0.5]


def test_auto_of_what_was_exported_from_it_takes_the_same(
    tmp_path: Path, colour_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is known by the hash of the checkpoint in its contract."""
    monkeypatch.undo()
    Image.new("RGB", (96, 64), (255, 0, 0)).save(tmp_path / "a.png")
    names = [str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--weights", str(colour_bundle)]
    assert predict.main([*names, "--score-threshold", "auto"]) == 2
    assert f"{colour_bundle}: holds no operating points" in capsys.readouterr().err
    digest = b"f13d4ec92ecdff7097c19457d6c90c79d83d41815dbc8d970c06d32d9a1a97e7"  # sha256sum openimages.safetensors
    for file in (colour_bundle / "nms.onnx", colour_bundle / "contract.json"):
        content = file.read_bytes()
        assert b"0" * 64 in content
        file.write_bytes(content.replace(b"0" * 64, digest))
    assert predict.main([*names, "--score-threshold", "auto"]) == 0
    said = capsys.readouterr().out
    assert f"{colour_bundle}: no operating points were measured" in said and "score threshold 0.3 for each" in said
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [one["name"] for one in entry["detections"]] == ["red"]
