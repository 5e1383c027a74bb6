"""The model card of a bundle: the contract's facts in Markdown, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from ssdlite.console import code, markdown_table
from ssdlite.export.platforms import MEDIAPIPE, PlatformUse, feedings, is_fed_by_app, shipments
from ssdlite.files import counted
from ssdlite.runtime.contract import Contract, InputSpec, ModelSpec, ResizeSpec, Variant
from ssdlite.runtime.files import choose_model, stored_bytes

CARD = """\
# {contract.name}

An object detector for phones and small devices: it finds objects of {classes} in a picture, each with a box and a \
score. It sees the picture at {first.input.width} x {first.input.height} pixels.

## Which file to ship

{ship_table}

{int8_note}

## How to feed it

{inputs}

## What it answers

{outputs}

## Check it and run it

```bash
ssdlite verify .                          # replay the reference vectors in golden/, step by step
ssdlite verify . --dump FOLDER            # compare the results of your app on the reference pictures
ssdlite predict photo.jpg --weights .     # boxes, names and scores; needs {predict_needs}
```

```python
from ssdlite.runtime import load_model  # {python_needs}

detector = load_model(".", "{python_file}")
for found in detector.predict(["photo.jpg"]):  # scores of {contract.postprocess.operating_threshold:g} or more
    print([(one.name, one.score, one.box) for one in found])
```

## Classes

{class_table}

## Files

{file_table}

{variants}. *Differs by*: the largest difference of an output from PyTorch's on the reference pictures (of `nms` files \
that of an object's score). Programs read all of this in `contract.json` (`{contract.format}`, version \
{contract.format_version}).

{measurements}

{quantization}

## Licence and provenance

- Licence of the weights: {origin.license}
- Checkpoint: {checkpoint}, SHA-256 `{origin.checkpoint_sha256}`
{provenance}

## Limits

{limits}
"""
SELECTION = """\
scores above {0.score_threshold:g} are kept; {entering} enter non-maximum suppression (NMS), which \
drops a box whose IoU with a better one of its class is more than {0.nms_threshold:g}; of all \
classes the {0.max_detections} best remain"""
BEST_OF_A_CLASS = "of each class the {0.candidates_per_class} best"
THRESHOLD = """\
**Show only detections with a score of at least {0.operating_threshold:g}**{less}. {source}"""
LESS = ": most of the {0.max_detections} score less"
ANSWER_STEPS = """\
1. {scoring}
2. {selecting}
3. {threshold}
4. Scale their boxes to pixels of the input, then undo the resizing: in the picture's own pixels, clipped to it."""
SELECTED_BY_THE_APP = """\
{variants}: {selection}. To keep at once only the scores of step 3 gives the same sooner."""
SELECTED_INSIDE = """\
`nms`: {selection}, inside the graph{limit}. Take the first `count` rows."""
BEST_PAIRS = ", for the {0.max_candidates} best pairs of anchor and class"
FOR_MEDIAPIPE = """\
In {files} outputs stand in another order, that of MediaPipe: find them by their names."""
ALL_ENTER = """\
 In LiteRT's files all scores above the threshold enter NMS, however many."""
OWN_THRESHOLD = """\
 {files}: scores above {threshold:g} alone are kept, since from lower ones on the selection inside takes longer than \
the network."""
PYTHON_NEEDS = {  # beside numpy, Pillow and OpenCV, where it is not the runtime's name
    "litert": "ai-edge-litert",
    "executorch": "executorch, torch",
    "coreml": "coremltools on a Mac",
    "web": "onnxruntime",
}
THRESHOLD_SOURCES = {
    "measured": "It was measured: the median of the classes' thresholds with the best F1 on the validation data, which "
    "stand below; use those where you can have one for each class.",
    "guess": "It is a guess: nobody has measured one; `ssdlite eval` on your pictures does.",
    "score_threshold": "It is the score threshold that these files were exported with: below it they find nothing.",
}
INT8_NOTE = """\
int8 ({files}) is the smaller download. Whether it is the faster one is a matter of the processor: measure it on the \
phone.{in_browsers}"""
INT8_IN_BROWSERS = " In WebAssembly it takes 1.5 to 2.5 times as long as fp32: there, take it for the download only."
INPUT = """\
1. Decode the picture to 8-bit RGB, upright (apply the EXIF orientation), without alpha.
2. {resizing}
3. Resizing is {resize.interpolation}, {centers} half-pixel centres and {smoothing} antialiasing, as OpenCV's \
INTER_LINEAR.
4. Order the channels {input.color_order}, values {input.value_range[0]:g} to {input.value_range[1]:g}.
5. Feed them as the file takes them:"""
WITHOUT_STEPS = "With these an app does nothing of what follows:"
OTHERWISE = "Everywhere else:"
NORMALIZING = {
    "float32": "{}",
    "uint8": "none: the graph does it (mean 0, std 1 outside)",
    "int8": "subtract 128, no more: the graph does it",
}
UNCHANGED = "none: the graph does it (mean 0, std 1 outside)"
IN_CORE_ML = "a `CVPixelBuffer` or `CGImage` of this size; Core ML orders channels by itself"
RESIZING = {
    "stretch": "Resize it to {0.width} x {0.height} (width x height) pixels; its shape is not kept (stretch).",
    "letterbox": "Resize it to fit into {0.width} x {0.height} (width x height) pixels, its shape kept (letterbox), "
    "and put it in the {1.padding_position}; the rest is {1.padding_value} in all channels.",
}
RAW_SCORING = """\
`raw` only: scores are the {0.score_function} of the logits; column {0.background_index} (background) is dropped."""
BOX_CODES = {
    "center_size": "`d = deltas / scales` with scales {scales}; centre = anchor centre + (dx, dy) * anchor size; "
    "size = anchor size * exp(min((dw, dh), {anchors.max_log_scale:.9g}))",
    "distances": "left, top, right, bottom = deltas; (x0, y0) = anchor centre - (left, top) * anchor size; (x1, y1) = "
    "anchor centre + (right, bottom) * anchor size",
}
BOX_DECODING = """\
 Boxes (`{anchors.box_code}`): {code}. The {count} anchors ({anchors.format}, {anchors.scale} of the \
input) are in `contract.json`."""
VARIANT_ENDS = {
    "raw": "`raw` ends with class logits and box deltas",
    "anchors": "`anchors` ends with scores and box deltas",
    "decoded": "`decoded` ends with scores and boxes of all anchors",
    "nms": "`nms` ends with detections",
}
MEANINGS = {
    "class_logits": "logits of each anchor, column {background} is background",
    "box_deltas": "{deltas} of each anchor, times the box-code scales",
    "scores": "0..1",
    "boxes": "{order} ({boxes.format}) {scale} ({boxes.scale})",
    "labels": "0..K-1, padded with {no_label}",
    "count": "detections that are not padding",
}
BOX_FORMATS = {"xyxy": "x0, y0, x1, y1", "yxyx": "y0, x0, y1, x1"}
DELTA_ORDERS = {"xyxy": "dx, dy, dw, dh", "yxyx": "dy, dx, dh, dw"}
BOX_SCALES = {"fraction": "as fractions of the input's width and height", "pixels": "in pixels of the input"}
FILE_COLUMNS: dict[str, Callable[[ModelSpec], str]] = {
    "file": lambda own: " + ".join(map(code, own.files)),
    "runtime": lambda own: own.runtime,
    "variant": lambda own: own.variant,
    "precision": lambda own: own.precision,
    "size MB": lambda own: "",
    "AP": lambda own: f"{own.accuracy.AP:.4f}" if own.accuracy else "",
    "AP50": lambda own: f"{own.accuracy.AP50:.4f}" if own.accuracy else "",
    "AP drop": lambda own: f"{own.accuracy.AP_drop:+.4f}" if own.accuracy else "",
    "ms": lambda own: f"{own.latency.median_ms:.2f}" if own.latency else "",
    "opset": lambda own: str(own.opset or ""),
    "IR": lambda own: str(own.ir_version or ""),
    "differs by": lambda own: "" if own.difference_from_pytorch is None else f"{own.difference_from_pytorch:g}",
}


def write_model_card(contract: Contract, bundle: Path | None = None) -> str:
    """The card as Markdown. Sizes of the files are in it where ``bundle`` says where they are."""
    in_python = _in_python(contract.models)
    variants = {model.variant for model in contract.models}
    text = CARD.format(
        contract=contract,
        python_file=in_python.file,
        python_needs=_python_needs(in_python.runtime),
        predict_needs=_package_for_python(choose_model(contract, None).runtime),
        first=contract.models[0],
        origin=contract.provenance,
        checkpoint=code(contract.provenance.checkpoint),
        classes=counted(len(contract.class_names), "class"),
        ship_table=_ship_table(contract.models),
        int8_note=_int8_note(contract.models),
        class_table=_class_table(contract),
        variants=", ".join(text for variant, text in VARIANT_ENDS.items() if variant in variants),
        file_table=_file_table(contract.models, bundle),
        measurements="\n\n".join(_measurements(contract.models)),
        inputs="\n\n".join(_inputs(contract)),
        outputs="\n\n".join(_answers(contract)),
        quantization="\n\n".join(_quantization(contract.models)),
        provenance="\n".join(_provenance(contract)),
        limits="\n".join(_limits(contract)),
    )
    return "\n\n".join(part.strip("\n") for part in text.split("\n\n") if part.strip()) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table(headings, rows)).rstrip()


def _files(models: Sequence[ModelSpec]) -> str:
    return ", ".join(code(model.file) for model in models)


def _numbers(values: Sequence[float]) -> str:
    """``127.5, 127.5, 127.5``"""
    return ", ".join(f"{value:g}" for value in values)


def _shape(sides: Sequence[int | None]) -> str:
    return "[" + ", ".join("N" if side is None else str(side) for side in sides) + "]"


def _in_python(models: Sequence[ModelSpec]) -> ModelSpec:
    """The file for the desktop, where there is one, else one for another platform."""
    return next((one.model for one in reversed(shipments(models)) if one.model is not None), models[0])


def _python_needs(runtime: str) -> str:
    """``numpy, onnxruntime, Pillow, OpenCV; no torch``"""
    needs = f"numpy, {_package_for_python(runtime)}, Pillow, OpenCV"
    return needs if runtime == "executorch" else f"{needs}; no torch"


def _package_for_python(runtime: str) -> str:
    return PYTHON_NEEDS.get(runtime, runtime)


def _by(models: Sequence[ModelSpec], *parts: str) -> Iterator[tuple[Any, str]]:
    """Each different value of an attribute, or of several, and the files that have it."""
    groups: dict[Any, list[str]] = {}
    for model in models:
        groups.setdefault(attrgetter(*parts)(model), []).append(code(model.file))
    yield from ((value, ", ".join(files)) for value, files in groups.items())


def _class_table(contract: Contract) -> str:
    rows = [[str(label), code(name)] for label, name in enumerate(contract.class_names)]
    headings = ["label", "name"]
    if contract.category_ids:
        rows = [[*row, str(number)] for row, number in zip(rows, contract.category_ids, strict=True)]
        headings.append("id in the training data")
    points = contract.operating_points
    if not points:
        return _table(headings, rows)
    known = [points.get(name) for name in contract.class_names]
    figures = [(one.score_threshold, one.precision, one.recall) if one else () for one in known]
    rows = [row + ([f"{x:.3f}" for x in own] or [""] * 3) for row, own in zip(rows, figures, strict=True)]
    note = "Best threshold: the score with the best F1 on the validation data; its precision and recall are at IoU 0.5."
    return f"{_table([*headings, 'best threshold', 'precision', 'recall'], rows)}\n\n{note}"


def _ship_table(models: Sequence[ModelSpec]) -> str:
    rows = [
        (one.platform, " + ".join(map(code, one.model.files)), _package(one.use), one.use.place, one.why)
        if one.model is not None and one.use is not None
        else (one.platform, "none of these", "", "", one.why)
        for one in shipments(models)
    ]
    return _table(["on", "ship", "run by", "put it into", "because"], rows)


def _package(use: PlatformUse) -> str:
    return code(use.package) if use.is_package else use.package


def _int8_note(models: Sequence[ModelSpec]) -> str:
    models = [model for model in models if model.precision == "int8"]
    in_browsers = INT8_IN_BROWSERS if {"onnxruntime", "web"}.intersection(one.runtime for one in models) else ""
    files = ", ".join(code(model.file) for model in models)
    return INT8_NOTE.format(files=files, in_browsers=in_browsers) if files else ""


def _file_table(models: Sequence[ModelSpec], bundle: Path | None) -> str:
    def size(model: ModelSpec) -> str:
        return f"{stored_bytes(bundle, model) / 1e6:.2f}" if bundle else ""

    columns = FILE_COLUMNS | {"size MB": size}
    return _table(list(columns), [[column(model) for column in columns.values()] for model in models])


def _scored_on(models: Sequence[ModelSpec]) -> list[str]:
    figures = [model.accuracy for model in models if model.accuracy]
    return sorted({f"{own.data}, {own.split}, {counted(own.images, 'image')}" for own in figures})


def _measurements(models: Sequence[ModelSpec]) -> Iterator[str]:
    """What the figures of the table were measured on, once for each way."""
    for text in _scored_on(models):
        yield f"AP: {text}; the drop is PyTorch's AP less the file's."
    ways: dict[tuple[int, int, str], list[str]] = {}
    for figure in (model.latency for model in models if model.latency):
        ways.setdefault((figure.runs, figure.threads, figure.processor), []).append(figure.runtime)
    for (runs, threads, processor), runtimes in ways.items():
        listed = ", ".join(dict.fromkeys(runtimes))
        yield f"ms: median of {counted(runs, 'run')} of one image, {counted(threads, 'thread')}, {processor}; {listed}."


def _inputs(contract: Contract) -> Iterator[str]:
    threshold = contract.postprocess.operating_threshold
    own = [
        f"- {feeding.format(files=_files(models), threshold=threshold)}"
        for feeding, models in feedings(contract.models).items()
    ]
    fed = [model for model in contract.models if is_fed_by_app(model)]
    if own:
        yield "\n\n".join([WITHOUT_STEPS, "\n".join(own), OTHERWISE] if fed else own)
    before_tensor = attrgetter("height", "width", "color_order", "value_range")
    groups: dict[Any, list[ModelSpec]] = {}
    for model in fed:
        groups.setdefault(before_tensor(model.input), []).append(model)
    for models in groups.values():
        if len(groups) > 1:
            yield f"For {_files(models)}:"
        yield _steps_before(models[0].input, contract.resize)
        rows: dict[tuple[str, str], list[ModelSpec]] = {}
        for model in models:
            rows.setdefault(_feeding(model), []).append(model)
        yield _table(["file", "normalizing", "input"], [[_files(own), *how] for how, own in rows.items()])


def _steps_before(spec: InputSpec, resize: ResizeSpec) -> str:
    return INPUT.format(
        input=spec,
        resize=resize,
        resizing=RESIZING[resize.mode].format(spec, resize),
        centers="with" if resize.half_pixel_centers else "without",
        smoothing="with" if resize.antialias else "without",
    )


def _feeding(model: ModelSpec) -> tuple[str, str]:
    """What is left to normalize, and the tensor."""
    spec = model.input
    unchanged = spec.type == "float32" and set(spec.mean) == {0} and set(spec.std) == {1}
    normalization = f"`(value - mean) / std` with mean {_numbers(spec.mean)} and std {_numbers(spec.std)}"
    batch = "any batch" if spec.batch is None else f"batch {spec.batch}"
    tensor = IN_CORE_ML if model.runtime == "coreml" else f"{spec.type}, {spec.layout}, {_shape(spec.shape)} ({batch})"
    return UNCHANGED if unchanged else NORMALIZING[spec.type].format(normalization), f"{code(spec.name)}: {tensor}"


def _answers(contract: Contract) -> Iterator[str]:
    spec = contract.postprocess
    fed = replace(contract, models=tuple(filter(is_fed_by_app, contract.models)))
    lowest = min((contract.postprocess_of(model).score_threshold for model in fed.models), default=1.0)
    less = LESS.format(spec) if lowest < spec.operating_threshold else ""
    threshold = THRESHOLD.format(spec, less=less, source=THRESHOLD_SOURCES[spec.operating_threshold_source])
    if not fed.models:
        yield threshold
        return
    yield from _outputs(fed)
    yield ANSWER_STEPS.format(scoring=_scoring(fed), selecting=_selecting(fed), threshold=threshold)


def _outputs(contract: Contract) -> Iterator[str]:
    """A table for each set of outputs."""
    background = contract.postprocess.background_index
    for (outputs, own_boxes), files in _by(contract.models, "outputs", "boxes"):
        boxes = own_boxes or contract.boxes
        facts = {
            "order": BOX_FORMATS[boxes.format],
            "scale": BOX_SCALES[boxes.scale],
            "deltas": DELTA_ORDERS[boxes.format],
            "no_label": 0 if own_boxes else -1,  # where TFLite_Detection_PostProcess pads
        }
        padded = ("boxes", "scores") if any(own.meaning == "count" for own in outputs) else ()
        rows = []
        for own in outputs:
            text = MEANINGS[own.meaning].format(boxes=boxes, background=background, **facts)
            suffix = ", padded with 0" if own.meaning in padded else ""
            rows.append([code(own.name), own.meaning, own.type, _shape(own.shape), text + suffix])
        yield f"Of {files}:"
        yield _table(["output", "meaning", "type", "shape", "what it is"], rows)
    reordered = [code(one.file) for one in contract.models if one.runtime == "litert" and one.variant in MEDIAPIPE]
    if reordered:
        yield FOR_MEDIAPIPE.format(files=", ".join(reordered))


def _scoring(contract: Contract) -> str:
    spec, anchors = contract.postprocess, contract.anchors
    if all(model.variant != "raw" for model in contract.models):
        return f"Scores in the outputs are the {spec.score_function} of the logits, without background."
    if anchors is None:
        return RAW_SCORING.format(spec)
    box_code = BOX_CODES[anchors.box_code].format(anchors=anchors, scales=_numbers(anchors.box_code_scales))
    decoding = BOX_DECODING.format(code=box_code, anchors=anchors, count=len(anchors.values))
    return RAW_SCORING.format(spec) + decoding


def _selecting(contract: Contract) -> str:
    spec, variants = contract.postprocess, {model.variant for model in contract.models}
    runtimes = {model.runtime for model in contract.models if model.variant == "nms"}
    in_litert, elsewhere = "litert" in runtimes, bool(runtimes - {"litert"})
    is_limited = elsewhere or bool(variants - {"nms"})
    selection = SELECTION.format(spec, entering=BEST_OF_A_CLASS.format(spec) if is_limited else "all of them")
    by_app = " and ".join(code(variant) for variant in get_args(Variant) if variant in variants - {"nms"})
    parts = [SELECTED_BY_THE_APP.format(variants=by_app, selection=selection)] if by_app else []
    if runtimes:
        limit = BEST_PAIRS.format(spec) if elsewhere else ""
        parts.append(SELECTED_INSIDE.format(selection="the same" if parts else selection, limit=limit))
    own = ((threshold, files) for threshold, files in _by(contract.models, "score_threshold") if threshold is not None)
    notes = [OWN_THRESHOLD.format(threshold=threshold, files=files) for threshold, files in own]
    return " ".join(parts) + (ALL_ENTER if in_litert and is_limited else "") + "".join(notes)


def _quantization(models: Sequence[ModelSpec]) -> Iterator[str]:
    quantized = [(model, model.quantization) for model in models if model.quantization is not None]
    if quantized:
        yield "## Quantisation"
    for model, own in quantized:
        kept = ", ".join(map(code, own.float_layers))
        yield (
            f"{code(model.file)}: {own.quantized_layers} of {counted(own.total_layers, 'layer')} are computed in "
            f"integers, with {own.activation_type} activations; calibrated ({own.calibration_method}) on "
            f"{counted(own.calibration_images, 'picture')} of {own.calibration_data}."
            + (f"\nIn float, the most sensitive first: {kept}." if kept else "")
        )


def _provenance(contract: Contract) -> Iterator[str]:
    if contract.provenance.metrics:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in contract.provenance.metrics.items())
        split = contract.provenance.val_split
        data = f"the split {code(split)}, which it validated on" if split else "the data it validated on"
        yield f"- What training noted in the checkpoint, on {data}: {listed}"
    for name, version in contract.provenance.versions.items():
        yield f"- {name}: {version}"


def _limits(contract: Contract) -> Iterator[str]:
    models, measured = contract.models, "; ".join(_scored_on(contract.models))
    unmeasured = ", ".join(code(model.file) for model in models if model.accuracy is None)
    timed = any(model.latency for model in models)
    in_int8 = any(model.precision == "int8" for model in models)
    unlimited = [model for model in models if (model.runtime, model.variant) == ("coreml", "nms")]
    most = f"At most {contract.postprocess.max_detections} objects are found in a picture"
    limits = (
        (measured, f"Accuracy was measured on {measured}. Other pictures were not tried."),
        (not measured, "The accuracy of these files was not measured when they were exported."),
        (measured and unmeasured, f"The accuracy of {unmeasured} was not measured."),
        (timed, "Times were measured on the processor named above; a phone's are others."),
        (len(unlimited) < len(models), most + (f", but for {_files(unlimited)}." if unlimited else ".")),
        (unlimited, f"How many objects {_files(unlimited)} finds in a picture has no limit."),
        (True, "It finds objects of the classes above and no others; a score is not a probability."),
        (in_int8, "Processors round int8 arithmetic differently: scores may differ slightly from one to the next."),
        (
            contract.provenance.license == "not stated",
            "The licence of the weights is not stated: ask who made them before you pass them on.",
        ),
    )
    yield from (f"- {text}" for holds, text in limits if holds)
