"""Data sets as the Hugging Face Hub has them: Parquet files of rows with a picture's bytes and its objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, natural_order
from ssdlite.datasets.formats.embedded import EmbeddedPictures
from ssdlite.datasets.formats.imagefolder import (
    CATEGORY_KEYS,
    NUMBERS_NOTE,
    RowPlace,
    add_objects,
    has_pictures_beside,
    stated_size,
)
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.parquet_files import has_columns, read_features, read_parquet
from ssdlite.datasets.formats.splits import split_word, subfolders
from ssdlite.errors import quote
from ssdlite.files import counted

SHARD_NAME = re.compile(r"(?P<split>.+?)(-\d{5}-of-(?P<count>\d{5}))?(-[0-9a-f]{16})?\.parquet", re.IGNORECASE)
HUB_COLUMNS = frozenset(("image", "objects", "width", "height"))


class HubParquet:
    """Of an ``image`` the ``objects``: ``bbox`` (x, y, width, height in pixels) and ``category``, name or number."""

    name = "Parquet"
    looked_for = "data/train-00000-of-00001.parquet with image and objects, as the Hugging Face Hub has it"

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_shards(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        return _read_shards(_find_shards(root)[split], split, bad)

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return natural_order(names)


class Shard(NamedTuple):
    """A file of a split. ``total``: how many it has by their names, None where those do not say so."""

    file: Path
    total: int | None


def _find_shards(root: Path) -> dict[str, list[Shard]]:
    """The files of every split: called by it, in ``root``, ``data`` or the only folder, or in a folder called so."""
    if root.is_file():
        return _by_split([root] if root.suffix.lower() == ".parquet" else [])
    below = subfolders(root)
    for place in (root, root / "data", *(below if len(below) == 1 else ())):  # that of a configuration
        if found := _by_split(_files(place)):
            return found
        folders = [folder for folder in subfolders(place) if split_word(folder.name)]
        if found := {folder.name: shards for folder in folders if (shards := _shards(_files(folder)))}:
            return found
    return {}


def _files(folder: Path) -> list[Path]:
    """Of which there may be hundreds."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".parquet"))  # noqa: PTH208
    except OSError:
        return []
    return [folder / name for name in names if not name.startswith(".")]


def _by_split(files: Sequence[Path]) -> dict[str, list[Shard]]:
    found: dict[str, list[Shard]] = {}
    for shard in _shards(files):
        match = SHARD_NAME.fullmatch(shard.file.name)
        found.setdefault(match["split"] if match else shard.file.stem, []).append(shard)
    return found


def _shards(files: Sequence[Path]) -> list[Shard]:
    """Metadata of an imagefolder are its own, also with the pictures in them."""
    shards = []
    for file in files:
        if has_columns(file, "image", "objects") and not has_pictures_beside(file):
            match = SHARD_NAME.fullmatch(file.name)
            shards.append(Shard(file, int(match["count"]) if match and match["count"] else None))
    return shards


def _read_shards(shards: Sequence[Shard], split: str, bad: BadItems) -> Annotations:
    """Every row a picture, in the order of the files; pictures are written to a cache, see ``EmbeddedPictures``."""
    first = shards[0].file
    builder = AnnotationsBuilder(str(first if len(shards) == 1 else first.parent / split), box_form="size")
    pictures = EmbeddedPictures(sum(shard.file.stat().st_size for shard in shards), builder.source)
    if (total := shards[0].total) and (absent := total - len(shards)) > 0:
        detail = f"expected {total} files, got {len(shards)}: {counted(absent, 'file')} missing"
        bad.add("bad-annotation", builder.source, detail)
    names = list(_class_names(read_features(first)))
    builder.class_order = names
    has_numbers = False
    for shard in shards:
        for number, row in enumerate(read_parquet(shard.file, HUB_COLUMNS), start=1):
            where = f"row {number}"
            image = row.get("image")
            data = image.get("bytes") if isinstance(image, dict) else image
            path = pictures.path_of(data) if isinstance(data, bytes) else None
            if path is None:
                got = "other bytes" if isinstance(data, bytes) else quote(data)
                bad.add("bad-image", shard.file, f"{where}: expected the bytes of a picture as image, got {got}")
                continue
            position = builder.add_image(path, stated_size(row))
            has_numbers |= add_objects(builder, position, row, names, RowPlace(shard.file, where, bad))
    if has_numbers:
        builder.notes.append(f"{builder.source}: {NUMBERS_NOTE}")
    builder.notes.append(
        f"{builder.source}: the pictures are read from {pictures.folder}"
        + (f", to which {counted(pictures.written, 'byte')} were written" if pictures.written else "")
    )
    return builder.build()


def _class_names(features: Mapping[str, Any]) -> Iterator[str]:
    """Of the ``ClassLabel`` of the objects, if they have one: what ``datasets`` wrote of its types."""
    objects = _inner(features.get("objects"))
    for key in CATEGORY_KEYS if isinstance(objects, dict) else ():
        kind = _inner(objects.get(key))
        names = kind.get("names") if isinstance(kind, dict) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            yield from names
            return


def _inner(kind: Any) -> Any:
    """The type of the entries of lists."""
    while isinstance(kind, dict) and isinstance(kind.get("feature"), dict):
        kind = kind["feature"]
    return kind[0] if isinstance(kind, list) and kind else kind
