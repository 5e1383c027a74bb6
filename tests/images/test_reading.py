"""Reading pictures of every kind, and sizes from the first bytes of JPEGs, against Pillow."""

import io
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from ssdlite.errors import DataError
from ssdlite.images import opencv_reader, reading
from ssdlite.images.reading import (
    FIRST_BYTES,
    find_size,
    is_picture_name,
    jpeg_size,
    picture_remarks,
    read_image,
    read_image_size,
    to_rgb,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters() -> Image.Image:
    """40 x 20 pixels: red and green above blue and white."""
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(GREEN, (20, 0, 40, 10))
    picture.paste(BLUE, (0, 10, 20, 20))
    picture.paste(WHITE, (20, 10, 40, 20))
    return picture


def save(picture: Image.Image, path: Path, orientation: int | None = None, **options: object) -> Path:
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    picture.save(path, **options)
    return path


def test_grey_pictures_become_three_equal_channels(tmp_path: Path) -> None:
    image = read_image(save(Image.new("L", (5, 3), 77), tmp_path / "a.png"))
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
    assert (image == 77).all()


def test_one_bit_pictures_become_black_and_white(tmp_path: Path) -> None:
    picture = Image.new("1", (2, 1), 0)
    picture.putpixel((1, 0), 1)
    assert read_image(save(picture, tmp_path / "a.png")).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_palette_pictures_get_their_colours(tmp_path: Path) -> None:
    picture = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    image = read_image(save(picture, tmp_path / "a.png"))
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[19, 39].tolist() == [255, 255, 255]


def test_a_transparent_palette_entry_keeps_its_colour(tmp_path: Path) -> None:
    picture = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    image = read_image(save(picture, tmp_path / "a.png", transparency=bytes([0] * 4)))
    assert image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "colour", "expected"), [
    ("RGBA", (10, 20, 30, 0), [10, 20, 30]),
    ("LA", (90, 128), [90, 90, 90]),
])  # fmt: skip
def test_alpha_is_dropped(tmp_path: Path, mode: str, colour: tuple[int, ...], expected: list[int]) -> None:
    image = read_image(save(Image.new(mode, (4, 4), colour), tmp_path / "a.png"))
    assert image[2, 2].tolist() == expected


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    pixels = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (image[..., 0] == image[..., 2]).all()


def test_16_bit_colour_becomes_8_bit(tmp_path: Path) -> None:
    bgr = np.full((2, 2, 3), (0x1000, 0x8000, 0xFFFF), np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), bgr)
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 128, 16]


@pytest.mark.parametrize(("highest", "middle", "remark"), [
    (1023, 128, "its values reach 1023 of 65535: scaled by the range of 10 bits"),
    (4095, 128, "its values reach 4095 of 65535: scaled by the range of 12 bits"),
    (4096, 8, None),
    (65535, 128, None),
    (200, 100, None),
])  # fmt: skip
def test_the_bits_of_a_sensor_in_16_are_scaled_by_their_range(
    tmp_path: Path, highest: int, middle: int, remark: str | None
) -> None:
    pixels = np.array([[0, (highest + 1) // 2, highest]], np.uint16)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert read_image(path)[0, 1].tolist() == [middle] * 3
    assert picture_remarks(path) == ([] if remark is None else [remark])


@pytest.mark.parametrize("reader", ["OpenCV too", "Pillow alone", "OpenCV alone"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("colors", [((0, 2048, 4095), [255, 128, 0]), ((7, 100, 200), [200, 100, 7])])
def test_12_bits_of_colour_are_scaled_by_their_range(
    colors: tuple[Any, Any], name: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, expected = colors
    assert cv2.imwrite(str(tmp_path / name), np.full((2, 2, 3), values, np.uint16))
    if reader != "OpenCV too":
        monkeypatch.setattr(reading, "find_opencv" if reader == "Pillow alone" else "find_pillow", lambda: None)
    assert read_image(tmp_path / name)[0, 0].tolist() == expected
    remarks = ["its values stay below 16 / 256 of 16 bits: scaled by their range"]
    assert picture_remarks(tmp_path / name) == ([] if reader == "OpenCV alone" else remarks)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_is_read_and_the_others_are_mentioned(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    frames[0].save(
        tmp_path / f"a{suffix}",
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    assert read_image(tmp_path / f"a{suffix}")[0, 0].tolist() == [255, 0, 0]
    assert picture_remarks(tmp_path / f"a{suffix}") == ["holds 3 frames, of which the first is read"]


def test_a_damaged_picture_has_no_remarks(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert picture_remarks(tmp_path / "a.gif") == []


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".avif"])
def test_pictures_of_rarer_formats_are_read(tmp_path: Path, suffix: str) -> None:
    kind = {".jfif": "JPEG", ".jp2": "JPEG2000", ".avif": "AVIF"}[suffix]
    Image.new("RGB", (16, 8), (200, 100, 50)).save(tmp_path / f"a{suffix}", kind)
    assert is_picture_name(f"a{suffix.upper()}")
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - [200, 100, 50]).max() <= 4
    assert read_image_size(tmp_path / f"a{suffix}") == ((8, 16), (8, 16))
    assert picture_remarks(tmp_path / f"a{suffix}") == []


def test_heic_goes_through_pillow_heif_undecoded_until_its_size_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried with pillow-heif 1.8.1: colours, an alpha channel, 10 bits, a turned and a damaged picture."""
    quarters().save(tmp_path / "a.heic", "PNG")
    library = ModuleType("pillow_heif")
    library.HeifImageFile = PngImageFile  # type: ignore[attr-defined]  # as its reader, one of Pillow's kind
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    monkeypatch.setattr(reading, "find_spec", lambda name: name)
    assert read_image(tmp_path / "a.heic")[0, 0].tolist() == list(RED)
    assert read_image_size(tmp_path / "a.heic") == ((20, 40), (20, 40))
    monkeypatch.setattr(PngImageFile, "load", lambda picture: pytest.fail("decoded"))
    with pytest.raises(DataError, match="40 x 20 pixels, more than the 799 allowed"):
        read_image(tmp_path / "a.heic", max_pixels=799)


def test_hidden_and_other_files_are_no_pictures() -> None:
    assert [name for name in ("._a.jpg", ".a.png", "a.txt", "a", "a.JPG") if is_picture_name(name)] == ["a.JPG"]


@pytest.mark.parametrize(("values", "expected"), [
    ([0.0, 0.5, 1.0], [0, 128, 255]),
    ([0.0, 100.0, 200.0], [0, 100, 200]),
    ([0.0, 257.0, 65535.0], [0, 1, 255]),
    ([float("nan"), -5.0, 200.0], [0, 0, 200]),
])  # fmt: skip
def test_floating_point_pictures(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    image = read_image(save(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif"))
    assert image[0, :, 1].tolist() == expected


def test_cmyk_pictures_become_rgb(tmp_path: Path) -> None:
    image = read_image(save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100))
    assert np.abs(image[8, 8].astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = save(quarters(), tmp_path / f"a{suffix}", orientation)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(read_image(path), expected)
    sideways = orientation >= 5
    assert read_image(path).shape[:2] == ((40, 20) if sideways else (20, 40))
    assert read_image_size(path) == ((40, 20) if sideways else (20, 40), (20, 40))


def test_orientation_6_puts_the_stored_left_side_on_top(tmp_path: Path) -> None:
    image = read_image(save(quarters(), tmp_path / "a.png", 6))
    corners = [image[0, 0], image[0, 19], image[39, 0], image[39, 19]]
    assert [tuple(corner.tolist()) for corner in corners] == [BLUE, RED, WHITE, GREEN]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_note_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    quarters().save(path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(path).shape == (20, 40, 3)
    assert read_image_size(path) == ((20, 40), (20, 40))


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    for name, reason in (("text.jpg", "cannot be read as an image"), ("empty.jpg", "cannot be read as an image"),
                         ("none.jpg", "no such image file")):  # fmt: skip
        for read in (read_image, read_image_size):
            with pytest.raises(DataError, match=f"{name}: {reason}"):
                read(tmp_path / name)


def test_a_truncated_picture_is_an_error(tmp_path: Path) -> None:
    path = save(Image.effect_noise((200, 200), 80), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    assert read_image_size(path) == ((200, 200), (200, 200))
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as an image"):
        read_image(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(DataError, match=r"bomb\.png: cannot be read as an image"):
        read_image_size(tmp_path / "bomb.png")


def test_pillow_pictures_are_turned_and_converted_too(tmp_path: Path) -> None:
    with Image.open(save(quarters(), tmp_path / "a.png", 8)) as picture:
        assert to_rgb(picture).shape == (40, 20, 3)
    assert to_rgb(Image.new("L", (3, 2), 9)).tolist() == [[[9, 9, 9]] * 3] * 2


# -- sizes of JPEGs


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK"])
def test_large_pictures_are_converted_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = quarters().convert(mode)
    monkeypatch.setattr(reading, "LARGE_PIXELS", 0)
    monkeypatch.setattr(reading, "STRIP_PIXELS", 7 * 40)
    array = to_rgb(picture)
    assert array.shape == (20, 40, 3)
    corners = array[[0, 0, 19, 19], [0, 39, 0, 39]].tolist()
    grey = [[76] * 3, [150] * 3, [29] * 3, [255] * 3]  # Rec. 601
    assert corners == (grey if mode == "L" else [list(RED), list(GREEN), list(BLUE), list(WHITE)])


CORNERS = {  # of ``quarters`` turned upright: top left, top right, bottom left, bottom right
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("large", [0, 1 << 22])
@pytest.mark.parametrize("kind", [("a.png", "RGB"), ("a.png", "P"), ("a.tif", "RGB"), ("a.webp", "RGB")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(
    orientation: int, kind: tuple[str, str], large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGE_PIXELS", large)  # OpenCV, or Pillow in strips
    monkeypatch.setattr(reading, "STRIP_PIXELS", 7 * 40)
    name, mode = kind
    lossless = {"lossless": True} if name == "a.webp" else {}
    path = save(quarters().convert(mode), tmp_path / name, orientation, **lossless)
    array, upright = read_image(path), (20, 40) if orientation < 5 else (40, 20)
    assert array.shape == (*upright, 3)
    assert read_image_size(path) == (upright, (20, 40))
    assert array[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [list(color) for color in CORNERS[orientation]]


def test_large_pictures_of_16_bits_are_scaled_by_the_range_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGE_PIXELS", 0)
    monkeypatch.setattr(reading, "STRIP_PIXELS", 1)  # a row at a time
    path = save(Image.fromarray(np.array([[0], [2048], [4095]], np.uint16)), tmp_path / "a.png")
    assert read_image(path)[:, 0, 1].tolist() == [0, 128, 255]
    assert picture_remarks(path) == ["its values reach 4095 of 65535: scaled by the range of 12 bits"]
    assert picture_remarks(path, max_pixels=2) == []  # for read_image to refuse


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_large_pictures_that_are_truncated_are_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGE_PIXELS", 0)
    path = save(Image.effect_noise((64, 64), 50).convert("RGB"), tmp_path / f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"a\{suffix}: cannot be read as an image"):
        read_image(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    save(quarters(), tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=800).shape == (20, 40, 3)
    reason = r"a\.png: cannot be read as an image \(it has 40 x 20 pixels, more than the 799 allowed\)"
    with pytest.raises(DataError, match=reason):
        read_image(tmp_path / "a.png", max_pixels=799)
    with pytest.raises(ValueError, match="it has 40 x 20 pixels, more than the 799 allowed"):
        opencv_reader.read(tmp_path / "a.png", 799)


@pytest.mark.parametrize("read", [read_image, reading.read_header])
def test_postscript_is_refused_before_it_is_run(read, tmp_path: Path) -> None:
    """Under any name: Pillow knows it by its first bytes, and would call Ghostscript."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match=r"a.jpg: cannot be read as an image \(PostScript is a program"):
        read(path)
