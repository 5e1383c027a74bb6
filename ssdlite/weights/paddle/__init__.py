"""Detectors of PaddleDetection, from PaddlePaddle's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.weights.source import PADDLE, ImportOptions, ImportSource

if TYPE_CHECKING:
    from ssdlite.weights.mapping import Imported


class PicodetFormat:
    """Of PaddleDetection's PicoDet. There is no other format of such files, so what is wrong with one is said here."""

    title = "PicoDet of PaddleDetection"
    kinds = (PADDLE,)

    def recognize(self, source: ImportSource) -> bool:
        return source.kind == PADDLE

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.paddle.files import load_pdparams
        from ssdlite.weights.paddle.picodet import read_picodet

        return read_picodet(load_pdparams(source.path), str(source.path), options, beside=source.path)
