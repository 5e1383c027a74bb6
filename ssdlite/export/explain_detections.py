"""Why final detections differ from the golden ones: the usual mistakes, tried one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ssdlite.export.agreement import box_tolerance, compare_detections
from ssdlite.export.explain_outputs import BOX_ORDERS
from ssdlite.export.reference import Reference
from ssdlite.export.vectors import GoldenDetection, GoldenImage

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


def explain_detections(
    wanted: Sequence[GoldenDetection],
    outputs: Outputs,
    reference: Reference,
    image: GoldenImage,
    score_threshold: float,
) -> str | None:
    """What leads from the golden ``outputs`` to the detections ``wanted`` rather than to the reference's own."""
    size = (image.height, image.width)
    allowed = box_tolerance(reference.view(size))
    for name, found in _detection_guesses(outputs, reference, image, score_threshold):
        if compare_detections(found, wanted, box=allowed, least_score=score_threshold).passed:
            return name
    own = reference.detections(outputs, size, score_threshold)
    if compare_detections(own, wanted, box=1.0, least_score=score_threshold).passed:
        return "boxes differ by less than a pixel: rounded to whole pixels, or scaled in whole numbers"
    return None


def _detection_guesses(
    outputs: Outputs, reference: Reference, image: GoldenImage, threshold: float
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    own = reference.detections(outputs, (image.height, image.width), threshold)
    names = reference.contract.class_names
    for shift in (1, -1):
        yield f"labels off by one ({shift:+d})", [_shifted(one, shift, names, True, True) for one in own]
        for name, shifted in _careful_shifts(own, shift, names):
            yield f"labels off by one ({shift:+d}), {name}", shifted
        yield f"labels off by one ({shift:+d}), names right", [_shifted(one, shift, names, True, False) for one in own]
        yield f"names off by one ({shift:+d}), labels right", [_shifted(one, shift, names, False, True) for one in own]
    for name, change in BOX_ORDERS.items():
        yield name, _with_boxes(own, change(_boxes(own)))
        if "boxes" in outputs:
            yield (
                f"{name}, in the outputs",
                _try(reference, dict(outputs) | {"boxes": change(outputs["boxes"])}, image, threshold),
            )
    yield from _scale_guesses(own, reference, image)
    yield from _contract_guesses(outputs, reference, image, threshold)


def _scale_guesses(
    own: list[GoldenDetection], reference: Reference, image: GoldenImage
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Boxes that were not brought back to the picture, or in the wrong way."""
    view = reference.view((image.height, image.width))
    height, width = view.size
    side = np.array([image.width, image.height] * 2, np.float32)
    boxes = _boxes(own)
    inside = view.boxes_to_input(boxes)
    mode = reference.contract.resize.mode
    other = "letterbox" if mode == "stretch" else "stretch"
    for name, changed in (
        ("boxes in pixels of the input, not of the picture", inside),
        ("boxes as fractions of the input", inside / np.array([width, height] * 2, np.float32)),
        ("boxes as fractions of the picture", boxes / side),
        (f"boxes scaled back as for {other} instead of {mode}", _other_way_back(inside, reference, image)),
        ("boxes scaled with height and width swapped", boxes / side * side[[1, 0, 3, 2]]),
    ):
        yield name, _with_boxes(own, changed)
        yield f"{name} (clipped to the picture)", _with_boxes(own, changed.clip(0, side))


def _contract_guesses(
    outputs: Outputs, reference: Reference, image: GoldenImage, threshold: float
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Other post-processing of the same outputs."""
    model, spec = reference.model, reference.contract.postprocess
    if model.variant == "nms":
        return
    changes: dict[str, Any] = {
        "no non-maximum suppression": replace(spec, nms_threshold=1.0),
    }
    for value in (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7):
        changes[f"non-maximum suppression at {value} instead of {spec.nms_threshold}"] = replace(
            spec, nms_threshold=value
        )
    if model.variant == "raw":
        other: Literal["softmax", "sigmoid"] = "sigmoid" if spec.score_function == "softmax" else "softmax"
        changes[f"{other} instead of {spec.score_function}"] = replace(spec, score_function=other)
    for name, changed in changes.items():
        contract = replace(reference.contract, postprocess=changed)
        yield name, _try(Reference(contract, model, reference.backend), outputs, image, threshold)
    if model.variant == "raw":
        shifted = dict(outputs) | {"class_logits": np.roll(outputs["class_logits"], 1, -1)}
        yield "background not removed: class 0 read from column 0", _try(reference, shifted, image, threshold)
        swapped = dict(outputs) | {"box_deltas": outputs["box_deltas"][..., [1, 0, 3, 2]]}
        yield "box deltas read in the order y, x, height, width", _try(reference, swapped, image, threshold)


def _try(reference: Reference, outputs: Outputs, image: GoldenImage, threshold: float) -> list[GoldenDetection]:
    return reference.detections(outputs, (image.height, image.width), threshold)


def _shifted(one: GoldenDetection, shift: int, names: Sequence[str], label: bool, name: bool) -> GoldenDetection:
    place = one.label + shift
    shown = names[place % len(names)] if name else one.name
    return replace(one, label=place if label else one.label, name=shown)


def _careful_shifts(
    own: list[GoldenDetection], shift: int, names: Sequence[str]
) -> Iterator[tuple[str, list[GoldenDetection]]]:
    """Labels beyond the classes, as apps avoid them."""
    last = len(names) - 1
    clamped = [min(max(one.label + shift, 0), last) for one in own]
    yield (
        "kept within the classes",
        [replace(one, label=place, name=names[place]) for one, place in zip(own, clamped, strict=True)],
    )
    yield (
        "their names kept within the classes",
        [replace(one, label=one.label + shift, name=names[place]) for one, place in zip(own, clamped, strict=True)],
    )


def _with_boxes(own: list[GoldenDetection], boxes: Array) -> list[GoldenDetection]:
    changed = ((one, values) for one, values in zip(own, boxes.tolist(), strict=True))
    return [replace(one, box=(box[0], box[1], box[2], box[3])) for one, box in changed]


def _boxes(own: list[GoldenDetection]) -> npt.NDArray[np.float32]:
    """[N, 4]"""
    return np.array([one.box for one in own], np.float32).reshape(-1, 4)


def _other_way_back(boxes: Array, reference: Reference, image: GoldenImage) -> Array:
    resize = reference.contract.resize
    other = replace(resize, mode="letterbox" if resize.mode == "stretch" else "stretch")
    contract = replace(reference.contract, resize=other)
    view = Reference(contract, reference.model, reference.backend).view((image.height, image.width))
    return view.boxes_to_source(boxes)
