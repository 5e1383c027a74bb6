"""A camera through OpenCV: its frames as they come, and a window that shows what is drawn on them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

import cv2
import numpy as np

from ssdlite.errors import ConfigError, DataError
from ssdlite.images.geometry import ImageArray, silent_opencv
from ssdlite.images.media import stated_rate

LAST_CAMERA = 99  # OpenCV takes greater numbers for those of its drivers
LONGEST_PAUSE = 2.0  # seconds that a video waits for a frame: a process that was stopped for an hour writes no hour
END_KEYS = (ord("q"), ord("Q"), 27)  # 27: Esc


def is_camera_name(text: str) -> bool:
    """Whether it is a camera's number, and no file or folder has this name."""
    return re.fullmatch("[0-9]{1,2}", text) is not None and not os.path.exists(text)  # noqa: PTH110


class CameraFrame(NamedTuple):
    """An RGB picture [H, W, 3] of a camera, and how many frames it lasts in a video of the camera's rate."""

    image: ImageArray
    duration: int


class Camera:
    """The frames of a camera, those that come while one is worked on being passed over; a context manager.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, number: int) -> None:
        with silent_opencv():
            self._capture = open_capture(number)
        if not self._capture.isOpened():
            self._capture.release()
            raise DataError(f"camera {number}: cannot be opened; is it connected, and used by no other program?")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.frames_per_second = stated_rate(self._capture)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[CameraFrame]:
        """Until the camera gives no more."""
        last, due = None, 0.0
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            now = monotonic()
            due += min(now - (now if last is None else last), LONGEST_PAUSE) * self.frames_per_second
            duration = max(1, int(due))
            last, due = now, max(0.0, due - duration)
            yield CameraFrame(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8), duration)


def open_capture(number: int) -> Any:
    """What a ``Camera`` reads from."""
    return cv2.VideoCapture(number)


class Window:
    """Shows pictures one after another; a context manager.

    Raises:
        ConfigError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._was_visible = False
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError("there is no display")  # asked before OpenCV, which would end the process
        try:
            cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE)
        except cv2.error:
            raise ConfigError("this OpenCV has no windows; opencv-python has, in place of -headless") from None

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *error: object) -> None:
        cv2.destroyAllWindows()

    def show(self, image: ImageArray) -> bool:
        """Whether to go on: not once q or Esc is pressed or the window is closed. image: RGB [H, W, 3]."""
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        is_visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        was_closed = self._was_visible and not is_visible  # some systems never say that it is visible
        self._was_visible |= is_visible
        return key not in END_KEYS and not was_closed
