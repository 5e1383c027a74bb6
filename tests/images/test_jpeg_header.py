"""Sizes from the first bytes of JPEGs, against Pillow; and whatever is not plain is left to it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.images.reading import FIRST_BYTES, find_size, jpeg_size, read_image_size


def encoded(size: tuple[int, int] = (31, 47), mode: str = "RGB", **options: object) -> bytes:
    height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "L"},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"comment": b"a note"},
        {"icc_profile": bytes(2000)},
        {"dpi": (72, 72), "quality": 100, "subsampling": 0},
        {"size": (1, 65_000)},
    ],
)
def test_the_size_is_pillows(options: dict[str, object]) -> None:
    data = encoded(**options)
    with Image.open(io.BytesIO(data)) as picture:
        assert find_size(data[:FIRST_BYTES]) == (picture.height, picture.width)


def test_exif_cmyk_long_notes_and_other_formats_are_left_to_a_decoder() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert find_size(encoded(exif=exif)) is None
    assert find_size(encoded(mode="CMYK")) is None
    assert find_size(encoded(icc_profile=bytes(FIRST_BYTES))[:FIRST_BYTES]) is None
    assert find_size(b"\x89PNG\r\n\x1a\n" + bytes(100)) is None


def test_damaged_beginnings_are_left_to_a_decoder() -> None:
    data = encoded()
    end = data.index(b"\xff\xc0") + 10
    assert find_size(data[:end]) == (31, 47)
    assert all(find_size(data[:count]) is None for count in range(end))
    assert find_size(data.replace(b"\xff\xc0", b"\xff\xc3", 1)) is None
    assert find_size(data.replace(bytes([0, 31, 0, 47]), bytes(4), 1)) is None
    endless = b"\xff\xd8" + b"\xff\xe0\x00\x00" * 1000  # segments of a length that cannot be
    assert find_size(endless) is None


def test_a_picture_on_its_side_keeps_both_sizes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "side.jpg").write_bytes(encoded(exif=exif))
    (tmp_path / "plain.jpg").write_bytes(encoded())
    assert read_image_size(tmp_path / "side.jpg") == ((47, 31), (31, 47))
    assert read_image_size(tmp_path / "plain.jpg") == ((31, 47), (31, 47))
    assert jpeg_size(tmp_path / "missing.jpg") is None
