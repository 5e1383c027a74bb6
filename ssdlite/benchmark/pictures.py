"""Pictures to time detectors on, where the user has given none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssdlite.images.geometry import resize_bilinear

COUNT = 8
HEIGHT, WIDTH = 480, 640
QUALITY = 90


def write_pictures(folder: Path) -> list[Path]:
    """JPEG files of 640 x 480 pixels with made-up scenes, the same every time."""
    from PIL import Image

    from ssdlite.datasets.shapes import draw_scene

    paths = []
    for number in range(COUNT):
        scene = draw_scene(np.random.default_rng(number), with_objects=True)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(resize_bilinear(scene.image, HEIGHT, WIDTH)).save(paths[-1], quality=QUALITY)
    return paths
