"""The part of a model card about outputs, and how they become detections."""

from __future__ import annotations

from collections.abc import Iterator

from ssdlite.contract import BoxSpec, Contract, Meaning
from ssdlite.export.markdown import code, numbers, table


def output_lines(contract: Contract) -> Iterator[str]:
    """A table for each set of outputs."""
    meanings: dict[Meaning, str] = {
        "class_logits": f"logits of each anchor, slot {contract.postprocess.background_slot} is background",
        "box_deltas": "dx, dy, dw, dh of each anchor, times the box-code scales",
        "scores": "0..1",
        "boxes": describe_boxes(contract.boxes),
        "labels": "0..K-1, padded with -1",
        "count": "detections that are not padding",
    }
    yield "## Outputs"
    yield ""
    groups: dict[object, list[str]] = {}
    for model in contract.models:
        groups.setdefault(model.outputs, []).append(model.file)
    for model in contract.models:
        files = groups.pop(model.outputs, None)
        if files is None:
            continue
        yield f"Of {', '.join(code(file) for file in files)}:"
        yield ""
        yield from table(
            ["output", "meaning", "type", "shape", "what it is"],
            [
                [
                    code(output.name),
                    output.meaning,
                    output.type,
                    "[" + ", ".join("N" if side is None else str(side) for side in output.shape) + "]",
                    meanings[output.meaning] + (", padded with 0" if _is_padded(model.variant, output.meaning) else ""),
                ]
                for output in model.outputs
            ],
        )


def describe_boxes(spec: BoxSpec) -> str:
    """``x0, y0, x1, y1 (xyxy) as fractions of the input's width and height (fraction)``"""
    order = "x0, y0, x1, y1" if spec.format == "xyxy" else "y0, x0, y1, x1"
    scale = "as fractions of the input's width and height" if spec.scale == "fraction" else "in pixels of the input"
    return f"{order} ({spec.format}) {scale} ({spec.scale})"


def postprocess_lines(contract: Contract) -> Iterator[str]:
    """From outputs to detections, step by step."""
    spec = contract.postprocess
    yield "## From outputs to detections"
    yield ""
    steps = []
    if any(model.variant == "raw" for model in contract.models):
        steps.append(
            f"`raw` only: scores are the {spec.score_function} of the logits, then slot {spec.background_slot} "
            f"(background) is dropped.{_decoding(contract)}"
        )
    else:
        steps.append(f"Scores in the outputs are the {spec.score_function} of the logits, without background.")
    selection = (
        f"`raw` and `decoded`: keep scores above {spec.score_threshold:g}; of each class the "
        f"{spec.candidates_per_class} best enter non-maximum suppression, where a box falls to a better one of its "
        f"class that it overlaps by more than {spec.nms_threshold:g}; of all classes the {spec.max_detections} best "
        "survivors remain."
    )
    inside = (
        f"`nms`: this is inside the graph, for the {spec.max_candidates} best pairs of anchor and class; take the "
        "first `count` rows."
    )
    steps += [
        selection,
        inside,
        "Scale the boxes to pixels of the input, then undo the resizing: in the picture's own pixels, clipped to it.",
    ]
    for number, step in enumerate(steps, 1):
        yield f"{number}. {step}"
    yield ""


def _decoding(contract: Contract) -> str:
    anchors = contract.anchors
    if anchors is None:
        return ""
    return (
        f" Boxes: `d = deltas / scales` with scales {numbers(anchors.box_code_scales)}; "
        "centre = anchor centre + (dx, dy) * anchor size; "
        f"size = anchor size * exp(min((dw, dh), {anchors.max_log_scale:.9g})). "
        f"The {len(anchors.values)} anchors ({anchors.format}, {anchors.scale} of the input) are in `contract.json`."
    )


def _is_padded(variant: str, meaning: Meaning) -> bool:
    return variant == "nms" and meaning in ("boxes", "scores")
