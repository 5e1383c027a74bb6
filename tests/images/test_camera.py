"""A camera's frames last as long in a video as they took; a window where there can be one."""

from typing import Any

import cv2
import numpy as np
import pytest

from ssdlite.errors import ConfigError, DataError
from ssdlite.images import camera as camera_module
from ssdlite.images.camera import Camera, Window, is_camera_name


class FakeCapture:
    """Stands for ``cv2.VideoCapture``: some frames, one color each (BGR), and then none."""

    def __init__(self, frames: int = 3, rate: float = 10.0, is_open: bool = True) -> None:
        self.left, self.rate, self.is_open, self.released = frames, rate, is_open, False

    def isOpened(self) -> bool:  # noqa: N802
        return self.is_open

    def get(self, name: int) -> float:
        assert name == cv2.CAP_PROP_FPS
        return self.rate

    def set(self, name: int, value: float) -> bool:
        return False

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.full((40, 60, 3), (10, 20, 200), np.uint8) if self.left >= 0 else None

    def release(self) -> None:
        self.released = True


def test_frames_are_rgb_and_last_as_long_as_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 frames per second: 0.125 s are 1.25 frames, 0.25 s 2.5, an hour is 2 s; what is left over adds."""
    capture = FakeCapture(frames=6)
    times = iter([5.0, 5.125, 5.375, 5.625, 3605.625, 3605.65])
    monkeypatch.setattr(camera_module, "open_capture", lambda number: capture)
    monkeypatch.setattr(camera_module, "monotonic", lambda: next(times))
    with Camera(0) as camera:
        frames = list(camera)
    assert [frame.duration for frame in frames] == [1, 1, 2, 3, 20, 1]
    assert frames[0].image[0, 0].tolist() == [200, 20, 10]
    assert camera.frames_per_second == 10
    assert capture.released


def test_a_camera_that_states_no_rate_has_25_frames_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "open_capture", lambda number: FakeCapture(rate=0.0))
    assert Camera(0).frames_per_second == 25


def test_a_camera_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    message = r"^camera 98: cannot be opened; is it connected, and used by no other program\?$"
    with pytest.raises(DataError, match=message):
        Camera(98)  # OpenCV's own
    assert capfd.readouterr().err == ""
    closed = FakeCapture(is_open=False)
    monkeypatch.setattr(camera_module, "open_capture", lambda number: closed)
    with pytest.raises(DataError):
        Camera(0)
    assert closed.released


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_camera_name(text) for text in ("0", "12", "100", "-1", "0.jpg", "", "\u0663")] == [True, True] + 5 * [
        False
    ]
    (tmp_path / "0").mkdir()
    (tmp_path / "1").touch()
    assert [is_camera_name(text) for text in ("0", "1", "2")] == [False, False, True]


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="there is no display"):
        Window("title")


def test_no_window_with_an_opencv_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def named_window(title: str, flags: int) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa support")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", named_window)
    with pytest.raises(ConfigError, match="this OpenCV has no windows; opencv-python has, in place of -headless"):
        Window("title")


@pytest.mark.parametrize(
    ("keys", "visible", "goes_on"),
    [
        ([-1, -1, -1], [1, 1, 1], [True, True, True]),
        ([-1, ord("q")], [1, 1], [True, False]),
        ([-1, 27], [1, 1], [True, False]),
        ([ord("x"), -1], [1, 0], [True, False]),  # closed
        ([-1, -1], [-1, -1], [True, True]),  # a system that cannot say
    ],
)
def test_a_window_ends_by_key_or_when_it_is_closed(
    keys: list[int], visible: list[int], goes_on: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[int]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image[0, 0].tolist()))
    monkeypatch.setattr(cv2, "waitKey", lambda milliseconds: keys.pop(0))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, name: visible.pop(0))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append([0]))
    picture = np.full((4, 4, 3), (200, 20, 10), np.uint8)
    with Window("title") as window:
        assert [window.show(picture) for _ in goes_on] == goes_on
    assert shown == [[10, 20, 200]] * len(goes_on) + [[0]]
