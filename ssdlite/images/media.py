"""Finding pictures and videos, reading videos, and writing both, for prediction."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
from PIL import Image

from ssdlite.errors import ConfigError, DataError
from ssdlite.files import replacing, write_atomically
from ssdlite.images.geometry import ImageArray, silent_opencv
from ssdlite.images.reading import HEIF_REMEDY, HEIF_SUFFIXES, IMAGE_SUFFIXES, STRIP_PIXELS

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
PICTURE_FORMATS = {  # what annotated pictures can be written as; others become PNG
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
DETECTIONS_FILE = "detections.json"  # what a prediction leaves in its folder beside the annotated copies
LOSSY_QUALITY = 92
DEFAULT_FRAME_RATE = 25.0  # where a video states none
MOST_NAME_CHARACTERS = 100  # of an address's end
HIGHEST_FRAME_RATE = 1000.0  # a stated rate beyond is a container's time base, not a rate


class MediaFile(NamedTuple):
    """A picture or video; ``target`` is where its annotated copy goes, below the output folder.

    Of a picture at an address (``url``), ``path`` is the name that its file would have.
    """

    path: Path
    target: Path
    is_video: bool
    url: str | None = None

    @property
    def name(self) -> str:
        """As messages and results say it."""
        return self.url or str(self.path)


class Sources(NamedTuple):
    """``problems`` are what was wrong; ``passed_over`` how many other files the folders hold, by suffix."""

    files: list[MediaFile]
    problems: list[str]
    passed_over: dict[str, int]


def is_address(text: str) -> bool:
    """Whether it has the form of a URL, of whatever scheme, and no file or folder has this name."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None and not os.path.exists(text)  # noqa: PTH110


def _name_at(url: str) -> Path:
    """What to call the picture at an address: nothing that leads out of a folder, hides, or that a terminal obeys."""
    last = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    return Path(re.sub(r"[^\w.-]+", "_", last)[-MOST_NAME_CHARACTERS:].lstrip(".") or "picture")


def find_sources(paths: Sequence[Path | str], output: Path | None = None) -> Sources:
    """Files, and the pictures and videos anywhere in folders; hidden files are not looked at. A str is a URL.

    Each file is listed once, in the order given, folders by name; the ``output`` folder is not searched. Targets
    have the source's name (below a folder: its path), with a number where several sources share one.

    Raises:
        ConfigError: a target is itself a source and would be overwritten.
    """
    found: dict[Path | str, tuple[Path, Path, str | None]] = {}  # real path or URL -> (path, below its folder, URL)
    problems = []
    others: Counter[str] = Counter()
    for given in paths:
        if isinstance(given, str):
            found.setdefault(given, (_name_at(given), _name_at(given), given))
            continue
        try:
            files = _files_in(given, output, others) if given.is_dir() else [given]
        except OSError as error:
            problems.append(f"{error.filename}: cannot be read ({error.strerror})")
            continue
        if not given.exists():
            problems.append(f"{given}: no such file or folder")
        elif not files:
            unread = f" that can be read; {HEIF_REMEDY}" if not others.keys().isdisjoint(HEIF_SUFFIXES) else ""
            problems.append(f"{given}: no pictures or videos in it{unread}")
        else:
            for path in files:
                below = path.relative_to(given) if given.is_dir() else Path(path.name)
                found.setdefault(path.resolve(), (path, below, None))
    sources = _with_targets(list(found.values()))
    for source in sources:
        if output is not None and (output / source.target).resolve() in found:
            raise ConfigError(f"{output / source.target} is a source; choose another folder with --output")
    return Sources(sources, problems, dict(others))


def into_pillow(image: ImageArray) -> Image.Image:
    """The picture of an image [H, W, 3] RGB, which is used up: its memory goes as the picture's comes."""
    height, width, channels = image.shape
    picture = Image.new("RGB", (width, height), None)
    while height:
        top = max(0, height - max(1, STRIP_PIXELS // width))
        picture.paste(Image.fromarray(image[top:height]), (0, top))
        height = top
        if image.flags.owndata:
            image.resize((height, width, channels), refcheck=False)
    return picture


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write it in the format of the suffix of ``path``, one of ``PICTURE_FORMATS``."""
    kind = PICTURE_FORMATS[path.suffix.lower()]
    options = {"quality": LOSSY_QUALITY} if kind in ("JPEG", "WEBP") else {}
    write_atomically(path, lambda file: picture.save(file, kind, **options))


def stated_rate(capture: Any) -> float:
    """Frames per second, as an OpenCV capture states them; the default where that is none, or no rate."""
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate <= HIGHEST_FRAME_RATE else DEFAULT_FRAME_RATE


@dataclass(frozen=True)
class VideoInfo:
    """``frame_count`` is what the file states, 0 where it states nothing, and may be wrong."""

    frames_per_second: float
    frame_count: int


class VideoReader:
    """The frames of a video as RGB arrays [H, W, 3]; a context manager.

    Raises:
        DataError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path) -> None:
        with silent_opencv():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise DataError(f"{path}: cannot be read as a video")
        self.info = VideoInfo(
            frames_per_second=stated_rate(self._capture),
            frame_count=max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))),
        )

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[ImageArray]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


class VideoWriter:
    """Writes RGB frames to an .mp4 file that takes its name only once it is complete; a context manager.

    MPEG-4 has even sides only: OpenCV drops the last row or column of others.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self._path = path
        self._rate = frames_per_second
        self._file = ExitStack()  # the temporary one, from the first frame on
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, frame: ImageArray) -> None:
        """frame [H, W, 3]; a frame of another size than the first is resized to it."""
        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            partial = self._file.enter_context(replacing(self._path))
            self._writer = cv2.VideoWriter(str(partial), cv2.CAP_FFMPEG, code, self._rate, self._size)
            if not self._writer.isOpened():
                raise DataError(f"{self._path}: cannot be written as an MPEG-4 video of {self._size} pixels")
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = np.asarray(cv2.resize(frame, self._size), np.uint8)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._file.__exit__(kind, error, trace)


def _files_in(folder: Path, output: Path | None, others: Counter[str]) -> list[Path]:
    """Pictures and videos below ``folder``, by name; what is neither is counted in ``others``.

    Subfolders that hold annotated copies are left out: the output folder, and those of earlier predictions.
    """

    def give_up(error: OSError) -> None:
        raise error

    left_out = output.resolve() if output is not None and output.exists() and not output.samefile(folder) else None
    files = []
    for directory, subfolders, names in os.walk(folder, onerror=give_up):
        here = Path(directory)
        subfolders[:] = sorted(name for name in subfolders if not _is_output(here / name, left_out))
        for name in sorted(name for name in names if not name.startswith(".")):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                files.append(here / name)
            else:
                others[Path(name).suffix.lower() or "without a suffix"] += 1
    return files


def _is_output(folder: Path, output: Path | None) -> bool:
    return folder.resolve() == output or (folder / DETECTIONS_FILE).is_file()


def _with_targets(found: Sequence[tuple[Path, Path, str | None]]) -> list[MediaFile]:
    taken: set[str] = set()
    sources = []
    for path, below, url in found:
        suffix = path.suffix.lower()
        is_video = suffix in VIDEO_SUFFIXES and url is None
        if is_video:
            target = below.with_suffix(".mp4")
        else:
            target = below if suffix in PICTURE_FORMATS else below.with_name(below.name + ".png")
        number, wanted = 1, target
        while str(target).casefold() in taken:  # many file systems take x.jpg and X.JPG for one file
            number += 1
            target = wanted.with_stem(f"{wanted.stem}_{number}")
        taken.add(str(target).casefold())
        sources.append(MediaFile(path, target, is_video, url))
    return sources
