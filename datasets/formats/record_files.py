"""TFRecord files and the ``tf.train.Example``s in them, read without TensorFlow."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from ssdlite.errors import DataError
from ssdlite.protobuf import BYTES, FIXED32, VARINT, DamagedError, read_fields, read_varint

MAX_RECORD_BYTES = 1 << 28
MAX_FEATURE_BYTES = 1 << 20  # numbers or texts of one picture's objects: a quarter of a million
GZIP = b"\x1f\x8b"
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
CRC_MASK = 0xA282EAD8

Values = list[memoryview] | list[float]


def read_records(path: Path) -> Iterator[tuple[int, memoryview, bool]]:
    """(number, from 1, content, whether it is intact) of every record: length, its checksum, the data, their checksum.

    The length's checksum is always compared; the data's where google-crc32c is installed: in Python that would take
    longer than all else, and the decoder tells of a damaged picture.

    Raises:
        DataError: the file cannot be read, or is no TFRecord file from some record on.
    """
    data_crc = _fast_crc32c()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: expected a TFRecord file, got what is no regular file")
        with path.open("rb") as file:
            number = 0
            while header := file.read(12):
                number += 1
                length = _length(header, f"{path}, record {number}")
                if length > status.st_size - file.tell() - 4:
                    raise DataError(f"{path}, record {number}: the file ends within it: it is cut off")
                data = file.read(length)
                checksum = int.from_bytes(file.read(4), "little")
                yield number, memoryview(data), data_crc is None or mask(data_crc(data)) == checksum
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _length(header: bytes, where: str) -> int:
    """Of a record's data, as its first 12 bytes say."""
    if header.startswith(GZIP):
        raise DataError(f"{where}: expected a TFRecord file, got one compressed by gzip: decompress it (gzip -d)")
    if len(header) < 12:
        raise DataError(f"{where}: the file ends within it: it is cut off")
    length, checksum = struct.unpack("<QI", header)
    if mask(crc32c(header[:8])) != checksum:
        raise DataError(f"{where}: expected a record of a TFRecord file: the checksum of its length is another one")
    if length > MAX_RECORD_BYTES:
        raise DataError(f"{where}: expected a record of at most {MAX_RECORD_BYTES} bytes, got {length}")
    return int(length)


def is_record_file(path: Path) -> bool:
    """By the checksum of its first record's length."""
    try:
        with path.open("rb") as file:
            _length(file.read(12), "")
    except (OSError, DataError):
        return False
    return True


def mask(crc: int) -> int:
    """As TensorFlow writes a checksum: turned by 15 bits, a constant added."""
    return (((crc >> 15) | (crc << 17)) + CRC_MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4) of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


CRC_TABLE = tuple(_table_entry(byte) for byte in range(256))


def _fast_crc32c() -> Callable[[bytes], int] | None:
    if importlib.util.find_spec("google_crc32c") is None:
        return None
    value: Callable[[bytes], int] = importlib.import_module("google_crc32c").value
    return value


# --- An Example: a message of features, each a name and a list of bytes, floats or integers.

FEATURES, NAME, VALUE = 1, 1, 2  # numbers of fields
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3


def read_example(record: memoryview, wanted: Collection[str], large: str) -> dict[str, Values]:
    """The features of the names ``wanted``; that called ``large`` may be of any size.

    Raises:
        DamagedError: it is no Example, or a feature is too large.
    """
    found: dict[str, Values] = {}
    for number, wire_type, features in read_fields(record):
        if number != FEATURES or wire_type != BYTES:
            raise DamagedError("expected a tf.train.Example")
        for _, entry_type, entry in read_fields(features):
            if entry_type != BYTES:
                raise DamagedError("expected a feature")
            parts = {part: content for part, part_type, content in read_fields(entry) if part_type == BYTES}
            name = str(parts.get(NAME, b""), "utf-8", "replace")
            if name in wanted:
                content = parts.get(VALUE, memoryview(b""))
                if name != large and len(content) > MAX_FEATURE_BYTES:
                    raise DamagedError(f"{name}: expected at most {MAX_FEATURE_BYTES} bytes, got {len(content)}")
                found[name] = _read_values(content, 1 if name == large else None)
    return found


def _read_values(feature: memoryview, most: int | None) -> Values:
    """The first ``most`` values of a list of bytes, or all numbers."""
    for number, wire_type, content in read_fields(feature):
        if wire_type != BYTES:
            raise DamagedError("expected a list of values")
        if number == BYTES_LIST:
            return [value for _, kind, value in itertools.islice(read_fields(content), most) if kind == BYTES]
        if most is not None:
            break
        if number == FLOAT_LIST:
            return _numbers(content, FIXED32, lambda values: np.frombuffer(_whole(values), "<f4").tolist())
        if number == INT64_LIST:
            return _numbers(content, VARINT, _varints)
    return []


def _numbers(content: memoryview, single: int, unpack: Callable[[memoryview], list[float]]) -> list[float]:
    """Packed, as TensorFlow writes them, or one a field."""
    values: list[float] = []
    for _, kind, value in read_fields(content):
        if kind not in (BYTES, single):
            raise DamagedError("expected numbers")
        values += unpack(value)
    return values


def _whole(values: memoryview) -> memoryview:
    if len(values) % 4:
        raise DamagedError("expected floats of 4 bytes")
    return values


def _varints(values: memoryview) -> list[float]:
    numbers: list[float] = []
    position = 0
    while position < len(values):
        number, position = read_varint(values, position)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return numbers
