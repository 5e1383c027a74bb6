"""Pieces of Markdown, safe for whatever names a model brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ssdlite.console import code, markdown_table
from ssdlite.files import counted
from ssdlite.runtime.contract import (
    CONTRACT_FILE,
    AccuracyFigure,
    BoxSpec,
    Contract,
    InputSpec,
    Meaning,
    ModelSpec,
    QuantizationFacts,
    ResizeSpec,
)


def numbers(values: Sequence[float]) -> str:
    """``127.5, 127.5, 127.5``"""
    return ", ".join(f"{value:g}" for value in values)


# --- The part of a model card about outputs, and how they become detections.


def output_lines(contract: Contract) -> Iterator[str]:
    """A table for each set of outputs."""
    meanings: dict[Meaning, str] = {
        "class_logits": f"logits of each anchor, slot {contract.postprocess.background_index} is background",
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
        yield from markdown_table(
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
            f"`raw` only: scores are the {spec.score_function} of the logits, then slot {spec.background_index} "
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


# --- The model card of a bundle, Markdown: the contract's facts, for people.


def write_model_card(contract: Contract, bundle: Path | None = None) -> str:
    """The card as Markdown. Sizes of the files are in it where ``bundle`` says where they are."""
    parts = [
        _head(contract),
        _classes(contract),
        _files(contract.models, bundle),
        _input(contract),
        output_lines(contract),
        postprocess_lines(contract),
        _quantisation(contract.models),
        _provenance(contract),
        _use(contract),
        _limits(contract),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(contract: Contract) -> Iterator[str]:
    first = contract.models[0].input
    yield f"# {contract.name}"
    yield ""
    yield (
        "An object detector for phones and small devices: it finds objects of "
        f"{counted(len(contract.class_names), 'class')} in a picture, each with a box and a score. "
        f"It sees the picture at {first.width} x {first.height} pixels. "
        f"Exported by ssdlite; this card is made from `{CONTRACT_FILE}` "
        f"(`{contract.format}`, version {contract.format_version}), which programs read."
    )
    yield ""


def _classes(contract: Contract) -> Iterator[str]:
    yield "## Classes"
    yield ""
    ids = map(str, contract.category_ids) if contract.category_ids else ["not known"] * len(contract.class_names)
    rows = zip(contract.class_names, ids, strict=True)
    yield from markdown_table(
        ["label", "name", "id in the training data"],
        [[str(label), code(name), category] for label, (name, category) in enumerate(rows)],
    )


def _files(models: Sequence[ModelSpec], bundle: Path | None) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield from markdown_table(
        [
            "file",
            "runtime",
            "variant",
            "precision",
            "size MB",
            "AP",
            "AP50",
            "AP drop",
            "ms",
            "opset",
            "IR",
            "differs by",
        ],
        [
            [
                " + ".join(code(name) for name in model.files),
                model.runtime,
                model.variant,
                model.precision,
                f"{sum((bundle / name).stat().st_size for name in model.files) / 1e6:.2f}" if bundle else "",
                f"{model.accuracy.AP:.4f}" if model.accuracy else "",
                f"{model.accuracy.AP50:.4f}" if model.accuracy else "",
                f"{model.accuracy.AP_drop:+.4f}" if model.accuracy else "",
                f"{model.latency.median_ms:.2f}" if model.latency else "",
                str(model.opset or ""),
                str(model.ir_version or ""),
                "" if model.difference_from_pytorch is None else f"{model.difference_from_pytorch:g}",
            ]
            for model in models
        ],
    )
    yield (
        "`raw` ends with class logits and box deltas, `decoded` with scores and boxes of all anchors, `nms` with "
        "detections. *Differs by*: the largest difference of an output from PyTorch's on the golden pictures."
    )
    yield ""
    yield from _measurements(models)


def _measurements(models: Sequence[ModelSpec]) -> Iterator[str]:
    """What the figures of the table were measured on, once for each way."""
    accuracies = {_measured_on(model.accuracy) for model in models if model.accuracy}
    for text in sorted(accuracies):
        yield f"AP: {text}; the drop is PyTorch's AP less the file's."
        yield ""
    for model in models:
        if model.latency:
            figure = model.latency
            yield (
                f"{code(model.file)}: {figure.median_ms:g} ms, median of {counted(figure.runs, 'run')} of one image, "
                f"{counted(figure.threads, 'thread')}, {figure.runtime}, {figure.processor}."
            )
            yield ""


def _measured_on(figure: AccuracyFigure) -> str:
    return f"{figure.data}, {figure.split}, {counted(figure.images, 'image')}"


def _input(contract: Contract) -> Iterator[str]:
    yield "## Input, step by step"
    yield ""
    recipes: dict[InputSpec, list[str]] = {}
    for model in contract.models:
        recipes.setdefault(model.input, []).append(model.file)
    for spec, files in recipes.items():
        yield f"For {', '.join(code(file) for file in files)}:"
        yield ""
        for number, step in enumerate(_steps(spec, contract.resize), 1):
            yield f"{number}. {step}"
        yield ""


def _steps(spec: InputSpec, resize: ResizeSpec) -> Iterator[str]:
    yield "Decode the picture to 8-bit RGB, upright (apply the EXIF orientation), without alpha."
    if resize.mode == "stretch":
        yield f"Resize it to {spec.width} x {spec.height} (width x height) pixels; its shape is not kept (stretch)."
    else:
        yield (
            f"Resize it to fit into {spec.width} x {spec.height} (width x height) pixels, its shape kept (letterbox), "
            f"and put it in the {resize.padding_position}; the rest is {resize.padding_value} in all channels."
        )
    yield (
        f"Resizing is {resize.interpolation}, {_with(resize.half_pixel_centers)} half-pixel centres and "
        f"{_with(resize.antialias)} antialiasing, as OpenCV's INTER_LINEAR."
    )
    yield f"Order the channels {spec.color_order}, values {spec.value_range[0]:g} to {spec.value_range[1]:g}."
    if spec.type == "float32":
        yield f"Normalise: `(value - mean) / std` with mean {numbers(spec.mean)} and std {numbers(spec.std)}."
    else:
        yield "Do not normalise: the graph does (mean 0, std 1 outside)."
    batch = "any batch" if spec.batch is None else f"batch {spec.batch}"
    shape = ["N" if side is None else str(side) for side in spec.shape]
    yield f"Feed it as {code(spec.name)}: {spec.type}, {spec.layout}, [{', '.join(shape)}] ({batch})."


def _quantisation(models: Sequence[ModelSpec]) -> Iterator[str]:
    quantised = [(model, model.quantization) for model in models if model.quantization is not None]
    if not quantised:
        return
    yield "## Quantisation"
    yield ""
    for model, facts in quantised:
        yield from _quantised(model, facts)


def _quantised(model: ModelSpec, facts: QuantizationFacts) -> Iterator[str]:
    yield (
        f"{code(model.file)}: {facts.quantized_layers} of {counted(facts.total_layers, 'layer')} are computed in "
        f"integers, with {facts.activation_type} activations; calibrated ({facts.calibration_method}) on "
        f"{counted(facts.calibration_images, 'picture')} of {facts.calibration_data}."
    )
    if facts.float_layers:
        yield f"In float, the most sensitive first: {', '.join(code(name) for name in facts.float_layers)}."
    yield ""


def _provenance(contract: Contract) -> Iterator[str]:
    facts = contract.provenance
    yield "## Licence and provenance"
    yield ""
    yield f"- Licence of the weights: {facts.license}"
    yield f"- Checkpoint: {code(facts.checkpoint)}, SHA-256 `{facts.checkpoint_sha256}`"
    if facts.metrics:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in facts.metrics.items())
        yield f"- What training noted in the checkpoint, on the data it validated on: {listed}"
    for name, version in facts.versions.items():
        yield f"- {name}: {version}"
    yield ""


def _use(contract: Contract) -> Iterator[str]:
    yield "## Check it and run it"
    yield ""
    yield "```bash"
    yield "ssdlite verify .                          # replay the golden vectors in golden/, step by step"
    yield "ssdlite verify . --dump FOLDER            # compare what your app makes of the golden pictures"
    yield "ssdlite predict photo.jpg --weights .     # boxes, names and scores"
    yield "```"
    yield ""
    yield "```python"
    yield "from ssdlite.runtime import load_model  # numpy, onnxruntime, Pillow, OpenCV; no torch"
    yield ""
    yield f'detector = load_model(".", "{contract.models[0].file}")'
    yield 'for found in detector.predict(["photo.jpg"]):'
    yield "    print([(one.name, one.score, one.box) for one in found])"
    yield "```"
    yield ""


def _limits(contract: Contract) -> Iterator[str]:
    spec = contract.postprocess
    yield "## Limits"
    yield ""
    measured = sorted({_measured_on(model.accuracy) for model in contract.models if model.accuracy})
    if measured:
        yield f"- Accuracy was measured on {'; '.join(measured)}. Other pictures were not tried."
    else:
        yield "- The accuracy of these files was not measured when they were exported."
    unmeasured = [code(model.file) for model in contract.models if model.accuracy is None]
    if measured and unmeasured:
        yield f"- The accuracy of {', '.join(unmeasured)} was not measured."
    if any(model.latency for model in contract.models):
        yield "- Times were measured on the processor named above; a phone's are others."
    yield f"- At most {spec.max_detections} objects are found in a picture."
    yield "- It finds objects of the classes above and no others; a score is not a probability."
    if any(model.precision == "int8" for model in contract.models):
        yield "- Processors round int8 arithmetic differently: scores may differ slightly from one to the next."
    if contract.provenance.license == "not stated":
        yield "- The licence of the weights is not stated: ask who made them before you pass them on."


def _with(present: bool) -> str:
    return "with" if present else "without"
