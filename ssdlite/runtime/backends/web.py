"""A page of ``ssdlite export --target web``, read without a browser: ONNX Runtime computes the model inside. No torch.

A browser computes the same model in ONNX Runtime's WebAssembly build; tests/examples/test_web.py compares the two.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any, ClassVar

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import MAX_MODEL_BYTES, read_model_file
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import METADATA_KEY, ModelSpec

DATA_BLOCK = (
    '<script type="{type}" id="{id}">'  # what is in it, up to the next tag, is data; the browser runs none of it
)
JSON_TYPE, GZIP_TYPE = "application/json", "application/gzip;base64"
CONTRACT_BLOCK = DATA_BLOCK.format(type=JSON_TYPE, id="contract")
MODEL_BLOCK = DATA_BLOCK.format(type=GZIP_TYPE, id="model")
GZIP_WINDOW = 31  # zlib's number for gzip with any window


class WebBackend(OnnxBackend):
    """The model of a page, on the CPU; ``metadata`` is the contract that the page itself goes by.

    Raises:
        ContractError: as ``OnnxBackend``, or the file is no such page.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".html",)

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(read_page_model(path), threads, name=str(path))
        self._page = (path.absolute(), threads)
        self.metadata = {METADATA_KEY: _block(path, CONTRACT_BLOCK).decode("utf-8", "replace")}

    def __reduce__(self) -> tuple[Any, ...]:
        return WebBackend, self._page

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> WebBackend:
        return cls(path, threads)


def _block(path: Path, tag: str) -> bytes:
    _, found, rest = read_model_file(path).partition(tag.encode())
    if not found:
        raise ContractError(f"{path}: expected a page of `ssdlite export --target web`; it has no {tag}")
    return rest.partition(b"<")[0]


def read_page_model(path: Path) -> bytes:
    """The ONNX file in a page. Raises ContractError: no such page, or a damaged one."""
    packed = _block(path, MODEL_BLOCK)
    unpacker = zlib.decompressobj(GZIP_WINDOW)
    try:
        content = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_MODEL_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ContractError(f"{path}: the model in it is damaged ({error})") from None
    if not unpacker.eof:
        raise ContractError(f"{path}: the model in it is cut short, or has more than {MAX_MODEL_BYTES} bytes")
    return content
