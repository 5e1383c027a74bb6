"""Files read without Pillow give Pillow's pixels; and the process that imports us stays as it was."""

import io
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssdlite.errors import ConfigError, DataError
from ssdlite.images import opencv_reader
from ssdlite.images.geometry import silent_opencv
from ssdlite.images.reading import read_header, read_image, read_image_size


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def no_pillow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if Pillow were not installed; the test itself still writes its files with it."""
    monkeypatch.setattr("ssdlite.images.reading.find_pillow", lambda: None)
    yield


def picture(mode: str) -> Image.Image:
    image = Image.fromarray(noise(20, 30))
    return image.quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.usefixtures("no_pillow")
@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *((".png", mode) for mode in ("RGB", "L", "RGBA", "LA", "P", "1")),
        *((".tif", mode) for mode in ("RGB", "L", "RGBA", "P", "1")),
        *((".bmp", mode) for mode in ("RGB", "L", "P", "1")),
        *((".webp", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_opencv_reads_what_pillow_reads(tmp_path: Path, suffix: str, mode: str):
    path = tmp_path / f"a{suffix}"
    picture(mode).save(path, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(read_image(path), expected)
    assert read_image_size(path) == ((20, 30), (20, 30))


@pytest.mark.usefixtures("no_pillow")
def test_opencv_reads_deep_grey_as_pillow_does(tmp_path: Path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 1].tolist() == [0, 128, 255]
    cv2.imwrite(str(tmp_path / "b.png"), np.full((2, 2, 3), (0x1000, 0x8000, 0xFFFF), np.uint16))
    assert read_image(tmp_path / "b.png")[0, 0].tolist() == [255, 128, 16]


@pytest.mark.usefixtures("no_pillow")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_opencv_turns_pictures_upright(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.full((24, 40, 3), 30, np.uint8)
    corner[:8, :8] = 250
    Image.fromarray(corner).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    sideways = orientation >= 5
    assert image.shape == ((40, 24, 3) if sideways else (24, 40, 3))
    at_the_top, at_the_left = orientation in (1, 2, 5, 6), orientation in (1, 4, 5, 8)  # of the EXIF standard
    bright = image[2 if at_the_top else -3, 2 if at_the_left else -3]
    assert (bright > 230).all()
    assert read_image_size(tmp_path / "a.jpg") == (image.shape[:2], (24, 40))
    assert read_header(tmp_path / "a.jpg").orientation == orientation


@pytest.mark.usefixtures("no_pillow")
def test_opencv_reads_photographs_almost_as_pillow_does(tmp_path: Path):
    """Two builds of the same library may round differently."""
    smooth = cv2.resize(noise(6, 8), (160, 120))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as stored:
        expected = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 2


@pytest.mark.usefixtures("no_pillow")
def test_opencv_says_what_is_wrong_in_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    buffer = io.BytesIO()
    Image.fromarray(noise(60, 80)).save(buffer, "JPEG")
    files = {
        "truncated.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "text.png": b"not a picture",
        "empty.png": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        readers = (read_image,) if name == "truncated.jpg" else (read_image, read_image_size)
        for read in readers:
            with pytest.raises(DataError, match=rf"{name}: cannot be read as an image \(.+\)$"):
                read(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.jpg: no such image file"):
        read_image(tmp_path / "none.jpg")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_with_neither_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("find_pillow", "find_opencv"):
        monkeypatch.setattr(f"ssdlite.images.reading.{name}", lambda: None)
    with pytest.raises(ConfigError, match=r"needs Pillow or OpenCV; `pip install pillow`"):
        read_image(tmp_path / "a.png")


def test_the_last_to_leave_restores_opencvs_log_level():
    """Two readers at once, in the order that would leave OpenCV silent if each restored what it found."""
    before = cv2.utils.logging.getLogLevel()
    first, second = ExitStack(), ExitStack()
    first.enter_context(silent_opencv())
    second.enter_context(silent_opencv())
    first.close()
    assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    second.close()
    assert cv2.utils.logging.getLogLevel() == before != cv2.utils.logging.LOG_LEVEL_SILENT


@pytest.mark.usefixtures("no_pillow")
def test_reading_in_many_threads_leaves_opencvs_log_level(tmp_path: Path):
    Image.fromarray(noise(400, 500)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    before = cv2.utils.logging.getLogLevel()
    together = threading.Barrier(8)

    def read(number: int) -> int:
        together.wait()
        failures = 0
        for name in ("good.png", "bad.png") * 4:
            try:
                read_image(tmp_path / name)
            except DataError:
                failures += 1
        return failures

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [4] * 8
    assert cv2.utils.logging.getLogLevel() == before


def png_of(width: int, height: int) -> bytes:
    """A header and nothing behind it."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + bytes(4)


HUGE = {  # headers of pictures of more than 178,956,970 pixels
    "a.png": png_of(20_000, 9_000),
    "a.gif": b"GIF89a" + struct.pack("<HH", 20_000, 9_000) + bytes(9),
    "a.bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 20_000, -9_000, 1, 24) + bytes(24),
    "b.bmp": b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 20_000, 9_000, 1, 24) + bytes(24),
    "a.ppm": b"P6 # a note\n20000 9000\n255\n",
    "a.jpg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xff\xc1\x00\x0b\x08"
    + struct.pack(">HH", 9_000, 20_000)
    + b"\xff\xd9",
    "a.tif": b"II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHIHHHHI", 256, 4, 1, 20_000, 0, 257, 3, 1)
    + struct.pack("<I", 9_000),
    "b.tif": b"MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIIHHIHH", 256, 4, 1, 20_000, 257, 3, 1, 9_000, 0),
    "a.webp": b"RIFF....WEBPVP8X" + bytes(8) + (19_999).to_bytes(3, "little") + (8_999).to_bytes(3, "little"),
}


@pytest.mark.usefixtures("no_pillow")
@pytest.mark.parametrize("name", HUGE)
def test_opencv_is_not_asked_for_huge_pictures(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / name).write_bytes(HUGE[name])
    monkeypatch.setattr(opencv_reader, "_decode", lambda *args, **kwargs: pytest.fail("it was decoded"))
    reason = "cannot be read as an image (it has 20000 x 9000 pixels, more than the 178956970 allowed)"
    for read in (read_image, read_image_size):
        with pytest.raises(DataError, match=re.escape(f"{name}: {reason}")):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".gif", {}),
        (".bmp", {}),
        (".ppm", {}),
        (".tif", {}),
        (".tif", {"big_tiff": True}),
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".webp", {"lossless": True}),
        (".webp", {"quality": 80}),
        (".webp", {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]}),
    ],
)
def test_sizes_in_headers_are_pillows(tmp_path: Path, suffix: str, options: dict[str, object]):
    Image.fromarray(noise(20, 30)).save(tmp_path / f"a{suffix}", **options)
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert opencv_reader.size_in_header(content) == (30, 20)
    assert all(opencv_reader.size_in_header(content[:end]) in (None, (0, 0), (30, 20)) for end in range(60))


def test_headers_of_nothing_known():
    for content in (b"", b"text", b"\xff\xd8\xff\xe0\0\0" * 9, b"\xff\xd8\xff", b"II*\0" + bytes(30)):
        assert opencv_reader.size_in_header(content) is None


def test_importing_and_reading_leaves_the_process_as_it_was(tmp_path: Path):
    """And what is imported does not call home."""
    Image.fromarray(noise(40, 50)).save(tmp_path / "a.jpg")
    program = """
import locale, logging, os, signal, sys, urllib.request, warnings
import cv2, scipy.special, torch, torchvision, PIL.Image, PIL.ImageFile  # whose own doings are not ours
def call(*args, **kwargs):
    raise SystemExit("called home")
urllib.request.urlopen = call
def state():
    return (dict(os.environ), cv2.getNumThreads(), cv2.utils.logging.getLogLevel(), warnings.filters[:],
            locale.setlocale(locale.LC_ALL), logging.root.level, list(logging.root.handlers), os.umask(0o22),
            PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, signal.getsignal(signal.SIGINT),
            sys.getrecursionlimit(), torch.get_num_threads(), torch.get_default_dtype())
os.umask(0o22)
before = state()
import ssdlite.images.drawing, ssdlite.images.media, ssdlite.datasets.transforms, ssdlite.evaluation.coco
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.images import reading
DetectionTransform((32, 32), "stretch", "ssd")
reading.read_image(sys.argv[1])
reading.find_pillow = lambda: None
reading.read_image(sys.argv[1])
print([one for one, other in zip(before, state()) if one != other])
"""
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    command = [sys.executable, "-c", program, str(tmp_path / "a.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"
