"""Parquet files: which columns they have, told without a package, and their rows, read with pyarrow."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ssdlite.datasets.formats.json_files import decode_json
from ssdlite.errors import DataError

PARQUET_MAGIC = b"PAR1"  # at both ends of a file
COLUMN_PATH = (
    rb"\x19[\x18\x28\x38\x48\x58\x68\x78\x88\x98]"  # a list of texts, each behind its length (Thrift, compact)
)
MAX_FOOTER_BYTES = 1 << 26
MAX_GROUP_BYTES = 1 << 32  # of rows that are stored together, decompressed
MOST_PARQUET_ROWS = 5_000_000
MOST_VALUES = 20_000_000  # such as four numbers of five million boxes
ROWS_AT_A_TIME = 16  # each may hold a picture
BUFFER_BYTES = 1 << 20


def has_columns(path: Path, *names: str) -> bool | None:
    """Whether there are columns of all ``names``; None where a Parquet file cannot be asked.

    A file ends with its metadata, the length of that and the magic.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            if file.read(len(PARQUET_MAGIC)) != PARQUET_MAGIC:
                return False
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            tail = file.read()
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != PARQUET_MAGIC or not 0 < length <= min(size - 12, MAX_FOOTER_BYTES):
                return None
            file.seek(size - 8 - length)
            footer = file.read(length)
    except OSError:
        return None
    return all(re.search(COLUMN_PATH + bytes([len(name)]) + name.encode(), footer) is not None for name in names)


def read_parquet(file: Path, wanted: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """The rows, of their columns those that are ``wanted``.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged or too large.
    """
    with _opened(file) as table:
        _require_few(file, table.metadata)
        columns = [name for name in table.schema_arrow.names if name in wanted]
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=columns):
            yield from batch.to_pylist()


def _require_few(file: Path, metadata: Any) -> None:
    """A few bytes may stand for any number of equal values."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    counts = [group.column(number).num_values for group in groups for number in range(group.num_columns)]
    for what, got, most in (
        ("rows", metadata.num_rows, MOST_PARQUET_ROWS),
        ("bytes in a group of rows", max((group.total_byte_size for group in groups), default=0), MAX_GROUP_BYTES),
        ("values of a column in a group of rows", max(counts, default=0), MOST_VALUES),
    ):
        if got > most:
            raise DataError(f"{file}: expected at most {most} {what}, got {got}")


def read_features(file: Path) -> Mapping[str, Any]:
    """What Hugging Face's ``datasets`` wrote of the types of the columns; nothing where it did not.

    Raises:
        DataError: as ``read_parquet``.
    """
    with _opened(file) as table:
        text = (table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return decode_json(text, HubMetadata).info.features
    except DataError:
        return {}


class HubInfo(msgspec.Struct):
    features: dict[str, Any] = {}


class HubMetadata(msgspec.Struct):
    info: HubInfo = msgspec.field(default_factory=HubInfo)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{file}: needs a package that is not installed: pip install 'ssdlite[parquet]'") from None
    try:
        with parquet.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
            yield table
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError) as error:  # pyarrow's too
        raise DataError(f"{file}: cannot be read as Parquet ({error})") from None
