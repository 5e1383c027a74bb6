"""Pillow and OpenCV: either reads pictures, and each may be missing. They are imported when first needed."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

MOST_PIXELS = 178_956_970  # of a picture, as Pillow allows


@cache
def find_pillow() -> Any:
    """The module ``PIL.Image``, or None."""
    return _import("PIL.Image")


@cache
def find_opencv() -> Any:
    """The module ``cv2``, or None."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))  # it reads this once, when loaded
    return _import("cv2")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
