"""SSDs in TensorFlow Lite files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.weights.source import TFLITE, ImportOptions, ImportSource

if TYPE_CHECKING:
    from ssdlite.weights.mapping import Imported


class TfliteFormat:
    """Any such file: whether it is of an SSD is seen in the graph."""

    title = "TensorFlow Lite file of an SSD or SSDLite MobileNet"
    kinds = (TFLITE,)

    def recognize(self, source: ImportSource) -> bool:
        return source.kind == TFLITE

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.tflite.ssd import read_tflite_ssd

        return read_tflite_ssd(source.path, options)
