"""SSDs of the TensorFlow Object Detection API, from checkpoints and frozen graphs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.weights.source import GRAPH, INDEX, ImportOptions, ImportSource

if TYPE_CHECKING:
    from ssdlite.weights.mapping import Imported


class CheckpointFormat:
    """A checkpoint by its .index file, one of its other files, their prefix or its folder."""

    title = "checkpoint of the TensorFlow Object Detection API"
    kinds = (INDEX,)

    def recognize(self, source: ImportSource) -> bool:
        if source.kind is None and source.path.suffix != ".index":
            return find_checkpoint(source.path) is not None
        return source.kind == INDEX

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.tensorflow.files import read_checkpoint
        from ssdlite.weights.tensorflow.ssd import read_tensorflow_ssd

        return read_tensorflow_ssd(read_checkpoint(find_checkpoint(source.path) or source.path), options)


class FrozenGraphFormat:
    """A GraphDef whose variables have become constants."""

    title = "frozen graph of the TensorFlow Object Detection API"
    kinds = (GRAPH,)

    def recognize(self, source: ImportSource) -> bool:
        return source.kind == GRAPH

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        from ssdlite.weights.tensorflow.files import read_frozen_graph
        from ssdlite.weights.tensorflow.ssd import read_tensorflow_ssd

        return read_tensorflow_ssd(read_frozen_graph(source.path), options)


def find_checkpoint(path: Path) -> Path | None:
    """The .index file of the checkpoint that ``path`` means: itself, one of its other files, a prefix or a folder."""
    if path.is_dir():
        found = sorted(path.glob("*.index"), key=lambda file: (_step(file), file.name))
        return found[-1] if found else None
    if path.suffix == ".index":
        return path if path.is_file() else None
    prefix = re.sub(r"\.(data-\d{5}-of-\d{5}|meta)$", "", str(path))
    index = Path(f"{prefix}.index")
    return index if index.is_file() else None


def _step(file: Path) -> int:
    digits = re.search(r"-(\d{1,18})\.index$", file.name)
    return int(digits.group(1)) if digits else -1
