"""Why a file of a dump has not the size that it should have."""

from __future__ import annotations

from pathlib import Path

from ssdlite.export.verify.golden import Reference
from ssdlite.export.verify.report import Step
from ssdlite.export.verify.vectors import GoldenImage
from ssdlite.runtime.contract import ModelSpec

TYPE_BYTES = {"uint8": 1, "float32": 4}


def explain_size(path: Path, reference: Reference, image: GoldenImage, step: Step) -> str | None:
    """What the number of bytes says, where it is that of a usual mistake."""
    size = path.stat().st_size if path.is_file() else 0
    spec = reference.model.input
    pixels = spec.height * spec.width
    if step == "input":
        return _explain_type(size, spec.type, 3 * pixels) or _explain_pixels(size, pixels * TYPE_BYTES[spec.type])
    if step in ("picture", "resize"):
        return _explain_pixels(size, pixels if step == "resize" else image.height * image.width)
    return _explain_columns(size, reference.model) if step == "outputs" else None


def _explain_type(size: int, right: str, values: int) -> str | None:
    if right == "uint8" and size == 4 * values:
        return "the tensor holds float32; this model takes uint8 and normalises inside"
    if right == "float32" and size == values:
        return "the tensor holds uint8; this model takes float32, normalised by the app"
    return None


def _explain_columns(size: int, model: ModelSpec) -> str | None:
    """Of scores or logits [A, columns] in float32."""
    first = model.outputs[0]
    if model.variant == "nms" or len(first.shape) != 3:
        return None
    anchors, columns = first.shape[1] or 0, first.shape[2] or 0
    known = {
        4 * anchors * (columns + 1): f"{columns + 1} columns instead of {columns}: background not removed",
        4 * anchors * (columns - 1): f"{columns - 1} columns instead of {columns}: background, slot 0, is missing",
    }
    return known.get(size)


def _explain_pixels(size: int, plane: int) -> str | None:
    """``plane``: bytes of one channel."""
    known = {
        plane: "one channel (grey) instead of three",
        4 * plane: "four channels (RGBA) instead of three",
        12 * plane: "float32 instead of uint8",
        16 * plane: "four channels (RGBA) of float32 instead of three of uint8",
    }
    return known.get(size)
