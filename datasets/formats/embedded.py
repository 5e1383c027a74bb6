"""Pictures that lie inside annotation files: written to a cache once, by their content, and read from there."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from ssdlite.errors import DataError
from ssdlite.files import remove_forgotten, write_atomically

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"RIFF", ".webp"),
)  # what picture files begin with, and the ending that says so
LEFT_FREE = 1 << 30  # bytes of the disk


def picture_cache() -> Path:
    """``ssdlite/pictures`` in the user's folder for caches, which may be deleted at any time."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssdlite" / "pictures"
    except RuntimeError:
        raise DataError("there is no home folder for the cache of pictures: set XDG_CACHE_HOME to a folder") from None


class EmbeddedPictures:
    """Of one annotation file or several. No name of theirs is used: a picture is called by the hash of its content.

    Args:
        size: bytes that the pictures take at most, as the files that hold them do.
        source: for messages.

    Raises:
        DataError: the disk has no room for those that are not there yet, or they cannot be written.
    """

    def __init__(self, size: int, source: str | Path) -> None:
        self.folder = picture_cache()
        self.size = size
        self.source = source
        self.written = 0

    def path_of(self, data: bytes | memoryview) -> str | None:
        """The file with these bytes; None where they are no picture."""
        ending = next((ending for begin, ending in SIGNATURES if bytes(data[:8]).startswith(begin)), None)
        if ending is None:
            return None
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / (name + ending)
        if not (path.is_file() and path.stat().st_size == len(data)):
            self._write(path, data)
        return str(path)

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        try:
            if not self.written:
                self.folder.mkdir(parents=True, exist_ok=True)
                for folder in self.folder.iterdir():
                    remove_forgotten(folder)
                self._require_room()
            write_atomically(path, lambda file: file.write(data), durable=False)
        except OSError as error:
            raise DataError(
                f"{self.source}: its pictures cannot be written to {self.folder} ({error.strerror}); XDG_CACHE_HOME "
                "names another folder"
            ) from None
        self.written += len(data)

    def _require_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if self.size > free - LEFT_FREE:
            raise DataError(
                f"{self.source}: its pictures take up to {self.size / 1e9:.1f} GB, and the disk of {self.folder} has "
                f"{free / 1e9:.1f} GB free; XDG_CACHE_HOME names another folder"
            )
