"""Why outputs of a network differ from the golden ones: the usual mistakes, tried one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.contract import Contract, ModelSpec
from ssdlite.export.agreement import compare_outputs
from ssdlite.export.explain_pixels import BGR, FITS

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

BOX_ORDERS: dict[str, Callable[[Array], Array]] = {
    "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1": lambda b: b[..., [1, 0, 3, 2]],
    "boxes as x, y, width, height instead of corners": lambda b: np.concatenate(
        [b[..., :2], b[..., 2:] - b[..., :2]], -1
    ),
    "boxes as centre and size instead of corners": lambda b: np.concatenate(
        [(b[..., :2] + b[..., 2:]) / 2, b[..., 2:] - b[..., :2]], -1
    ),
    "x0 and x1, y0 and y1 swapped": lambda b: b[..., [2, 3, 0, 1]],
}
SPREAD = 0.02  # of logits, by which "the same but for a constant" may be missed


def explain_outputs(
    actual: Outputs, golden: Outputs, contract: Contract, model: ModelSpec, *, known_input: bool = True
) -> str | None:
    """What was done to the outputs: which change of the golden ones gives ``actual``, both [1, ...] by meaning."""
    found = []
    for name, changed in output_guesses(golden, actual, contract, model):
        if compare_outputs(changed, actual, contract, model, known_input=known_input).passed:
            return name
        if _fewer_fail(changed, actual, golden, contract, model):
            found.append(name)
    return "; ".join(found[:2]) or None


def explain_input(
    run: Callable[[Array], Outputs], guesses: Iterable[tuple[str, Array]], wanted: Outputs, answered: Outputs
) -> str | None:
    """What was done to the input: which of the ``guesses`` the network answers with ``wanted``, or much more like it
    than ``answered``, which is what it says to the right input.
    """
    limit = FITS * _distance(wanted, answered)
    distances = [(_distance(wanted, run(tensor)), name) for name, tensor in guesses]
    closest, name = min(distances)
    return name if closest <= limit else None


def _distance(one: Outputs, other: Outputs) -> float:
    """Mean difference of all numbers that two sets of outputs share, each output in units of its largest."""
    total = 0.0
    for meaning in one:
        if meaning in ("labels", "count") or meaning not in other:
            continue
        if one[meaning].shape != other[meaning].shape:
            return float("inf")
        scale = max(float(np.abs(one[meaning]).max(initial=0)), 1e-6)
        total += float(np.abs(one[meaning].astype(np.float64) - other[meaning]).mean()) / scale
    return total


def tensor_guesses(tensor: Array, model: ModelSpec) -> Iterator[tuple[str, Array]]:
    """The usual mistakes in an input tensor [1, ...]."""
    spec = model.input
    axis = 1 if spec.layout == "NCHW" else 3
    yield BGR, np.ascontiguousarray(np.flip(tensor, axis))
    other = (1, spec.height, spec.width, 3) if spec.layout == "NCHW" else (1, 3, spec.height, spec.width)
    moved = np.moveaxis(tensor, axis, 3 if axis == 1 else 1)
    yield (
        f"layout {'NHWC' if axis == 1 else 'NCHW'} instead of {spec.layout}",
        np.ascontiguousarray(moved.reshape(other)).reshape(tensor.shape),
    )
    if spec.type == "uint8":
        yield "signed bytes (value - 128) in place of 0..255", tensor ^ np.uint8(128)
        return
    shape = (1, 3, 1, 1) if axis == 1 else (1, 1, 1, 3)
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean, spec.std))
    pixels = tensor * std + mean
    for text, m, s in (
        ("not normalised: values 0..255", 0, 1),
        ("values 0..1", 0, 255),
        ("values -1..1", 127.5, 127.5),
    ):
        yield f"another normalisation: {text}", np.asarray((pixels - m) / s, np.float32)
    yield "normalised twice", np.asarray((tensor - mean) / std, np.float32)


def output_guesses(
    golden: Outputs, actual: Outputs, contract: Contract, model: ModelSpec
) -> Iterator[tuple[str, dict[str, Array]]]:
    """What the usual mistakes make of golden outputs; some read the constant that they need from ``actual``."""
    plain = dict(golden)
    if "boxes" in golden:
        for name, change in BOX_ORDERS.items():
            yield name, plain | {"boxes": change(golden["boxes"])}
        size = np.array([model.input.width, model.input.height] * 2, np.float32)
        pixels = contract.boxes.scale == "pixels"
        text = "boxes as fractions instead of pixels" if pixels else "boxes in pixels of the input instead of fractions"
        yield text, plain | {"boxes": golden["boxes"] / size if pixels else golden["boxes"] * size}
    if "box_deltas" in golden:
        yield (
            "box deltas in the order y, x, height, width",
            plain | {"box_deltas": golden["box_deltas"][..., [1, 0, 3, 2]]},
        )
    if model.variant == "nms":
        yield from _label_guesses(plain)
        return
    key = "class_logits" if model.variant == "raw" else "scores"
    yield from _class_guesses(plain, key, actual.get(key), contract)


def _label_guesses(golden: dict[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    taken = golden["labels"] >= 0
    for shift in (1, -1):
        shifted = np.where(taken, golden["labels"] + shift, golden["labels"])
        yield f"labels off by one ({shift:+d})", golden | {"labels": shifted}


def _class_guesses(
    golden: dict[str, Array], key: str, actual: Array | None, contract: Contract
) -> Iterator[tuple[str, dict[str, Array]]]:
    values, function = golden[key], contract.postprocess.score_function
    if actual is None:
        return
    for shift in (1, -1) if actual.shape == values.shape and values.shape[-1] > 1 else ():
        moved = np.roll(values, shift, -1)
        moved[..., min(shift, 0)] = actual[..., min(shift, 0)]  # nothing is known of the column that came in
        yield f"labels off by one ({shift:+d}): class k stands in column k{shift:+d}", golden | {key: moved}
    if actual.shape[-1] == values.shape[-1] + 1:
        yield "background not removed: it stands in column 0", golden | {key: _with_background(values, actual)}
    if actual.shape != values.shape:
        return
    if key == "class_logits":
        yield "softmax has been applied to the logits", golden | {key: _softmax(values)}
        yield "sigmoid has been applied to the logits", golden | {key: 1 / (1 + np.exp(-values))}
        return
    to_logit = (_log, _logit) if function == "softmax" else (_logit, _log)
    gap = to_logit[1](actual) - to_logit[0](values)
    clear = (values > 1e-4) & (values < 0.999) & (actual > 1e-4) & (actual < 0.999)
    # Only scores far from 0 tell the two functions apart; unchanged ones must fit much worse.
    rows = clear.all(axis=-1) & (values.max(axis=-1) > 0.2)
    unchanged = to_logit[0](actual) - to_logit[0](values)
    if values.shape[-1] > 1 and rows.any():
        spread = float(np.median(gap[rows].std(axis=-1)))
        if spread < SPREAD and 3 * spread < float(np.median(unchanged[rows].std(axis=-1))):
            other = "sigmoid" if function == "softmax" else "softmax"
            yield f"{other} instead of {function}", golden | {key: actual}


def explain_mean(run: Callable[[Array], Outputs], tensor: Array, golden: Outputs, model: ModelSpec) -> str | None:
    """Whether a network that normalises uint8 inside has another mean: for which shift of its input it answers
    ``golden``.
    """
    if model.input.type != "uint8":
        return None
    key = next(meaning for meaning in ("class_logits", "scores") if meaning in golden)

    def apart(shift: int) -> float:
        changed = np.clip(tensor.astype(np.int16) + shift, 0, 255).astype(np.uint8)
        answered = run(changed).get(key)
        if answered is None or answered.shape != golden[key].shape:
            return float("inf")
        return float(np.abs(answered - golden[key]).mean())

    tried = {shift: apart(shift) for shift in range(-96, 97, 16)}
    for step in (8, 4, 2, 1):
        best = min(tried, key=lambda shift: tried[shift])
        tried |= {shift: apart(shift) for shift in (best - step, best + step)}
    best = min(tried, key=lambda shift: tried[shift])
    if best == 0 or not tried[best] <= FITS * tried[0]:
        return None
    return f"another mean inside the network: about {abs(best)} grey levels too {'high' if best > 0 else 'low'}"


def _fewer_fail(changed: Outputs, actual: Outputs, golden: Outputs, contract: Contract, model: ModelSpec) -> bool:
    """Whether a change explains one output wholly that nothing else explains, for mistakes that come together."""
    if model.variant == "nms":
        return False
    for meaning, value in changed.items():
        if value is golden[meaning] or meaning not in actual:
            continue
        one = {meaning: value}
        if compare_outputs(one, {meaning: actual[meaning]}, contract, model).passed:
            return not compare_outputs({meaning: golden[meaning]}, {meaning: actual[meaning]}, contract, model).passed
    return False


def _with_background(values: Array, actual: Array) -> Array:
    return np.concatenate([actual[..., :1], values], axis=-1)


def _softmax(values: Array) -> Array:
    powers: Array = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _log(values: Array) -> Array:
    logarithms: Array = np.log(values.astype(np.float64).clip(1e-12))
    return logarithms


def _logit(values: Array) -> Array:
    clipped = values.astype(np.float64).clip(1e-12, 1 - 1e-12)
    logits: Array = np.log(clipped) - np.log1p(-clipped)
    return logits
