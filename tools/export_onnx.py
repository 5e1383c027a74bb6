"""Export a checkpoint: ONNX models for phones, with all an app needs to know, checked against the data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from ssdlite import cli
from ssdlite.console import console, format_figure, say
from ssdlite.errors import ConfigError

if TYPE_CHECKING:
    from ssdlite.contract import Contract
    from ssdlite.export.plan import ExportPlan

PROGRAM = "ssdlite export"


@dataclass(frozen=True)
class ExportOptions:
    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The checkpoint, such as best.pt of a training."""
    output: Path
    """Folder for the bundle: models, contract.json, golden vectors, model card. It must not exist yet."""
    variant: tuple[Literal["raw", "decoded", "nms"], ...] = ("decoded", "nms")
    """How far the graph goes: raw logits and deltas; scores and boxes of all anchors; or final detections."""
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",)
    """Of the weights, and for int8 of the arithmetic; int8 needs --data or --calibration-folder."""

    input_type: Literal["uint8", "float32"] = "uint8"
    """uint8: the graph takes RGB bytes and normalises inside; float32: the app normalises."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the input's axes: planes first, or pixels as cameras give them."""
    batch: str = "1"
    """Images per call: a number, or dynamic."""
    opset: int | None = None
    """ONNX operator set, 13 to 23; by default the lowest that has what the graph needs."""
    score_threshold: float | None = None
    """Built into nms models and stated for the others; by default the checkpoint's setting."""
    nms_threshold: float | None = None
    """Overlap from which the weaker of two detections is dropped; by default the checkpoint's setting."""
    max_detections: int | None = None
    """Detections an image, the size of an nms model's outputs; by default the checkpoint's setting."""
    max_candidates: int = 2048
    """Most pairs of anchor and class that reach non-maximum suppression inside nms models."""

    ort: bool = False
    """Write .ort files for ONNX Runtime Mobile as well, and the list of operators for a reduced build of it."""
    ncnn: bool = False
    """Write a decoded model for ncnn as well (needs the extra ssdlite[ncnn])."""
    target: tuple[Literal["ort-mobile", "nnapi", "coreml", "xnnpack", "ncnn"], ...] = ()
    """Say what these runtimes would refuse or leave to the CPU, as ssdlite lint does."""

    data: Path | None = None
    """Folder of COCO or Pascal VOC data: int8 is calibrated on its training split, every file scored on the other."""
    split: str | None = None
    """Which split to score on; by default the one that training validates on."""
    calibration_split: str | None = None
    """Which split to calibrate on; by default the training split."""
    calibration_folder: Path | None = None
    """Folder of pictures to calibrate on, in place of --data's."""
    calibration_images: int = 64
    """Most pictures to calibrate on, taken evenly from all."""
    activation_type: Literal["uint8", "int8"] = "uint8"
    """Of int8 models: uint8 is the faster on x86 and what NNAPI takes, int8 what XNNPACK takes."""
    max_ap_drop: float | None = None
    """Fail when a file's AP is this much below PyTorch's; int8 keeps layers in float until it holds."""

    golden_images: int = 3
    """Pictures in the golden vectors: copies of some of --data's scored split, or made-up scenes without --data."""
    licence: str = "not stated"
    """Of the weights, for the contract and the model card; such as Apache-2.0."""
    overwrite: bool = False
    """Replace a bundle of the same name."""


def export(options: ExportOptions) -> None:
    """Export a checkpoint to a bundle: models for phones, how to feed them, and the proof that they are right."""
    plan = _plan(options)
    from ssdlite.export.pipeline import export_bundle

    contract = export_bundle(plan, say)
    _print_files(contract, options.output)
    _print_quantisation(contract)
    if options.target:
        from ssdlite.tools.lint_model import print_findings

        print_findings(options.output, options.target)
    say(f"bundle: {options.output}  (check it anywhere with: ssdlite verify {options.output})")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(export, ExportOptions, argv, PROGRAM)


def _plan(options: ExportOptions) -> ExportPlan:
    from ssdlite.export.plan import ExportPlan

    return ExportPlan(
        checkpoint=options.checkpoint,
        output=options.output,
        variants=options.variant,
        precisions=options.precision,
        input_type=options.input_type,
        layout=options.layout,
        batch=_batch(options.batch),
        opset=options.opset,
        score_threshold=options.score_threshold,
        nms_threshold=options.nms_threshold,
        max_detections=options.max_detections,
        max_candidates=options.max_candidates,
        ort_format=options.ort,
        ncnn=options.ncnn,
        data=options.data,
        gate_split=options.split,
        calibration_split=options.calibration_split,
        calibration_folder=options.calibration_folder,
        calibration_images=options.calibration_images,
        activation_type=options.activation_type,
        max_ap_drop=options.max_ap_drop,
        golden_images=options.golden_images,
        licence=options.licence,
        overwrite=options.overwrite,
    )


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--batch: expected a number or dynamic, got {text!r}")
    return int(text)


def _print_files(contract: Contract, bundle: Path) -> None:
    table = Table(title=f"{contract.name}: {len(contract.class_names)} classes", title_justify="left")
    table.add_column("file")
    for heading in ("size MB", "opset", "AP", "AP drop", "ms", "max diff"):
        table.add_column(heading, justify="right")
    for model in contract.models:
        files = [name for name in (model.file, model.weights_file) if name]
        size = sum((bundle / name).stat().st_size for name in files) / 1e6
        table.add_row(
            "\n".join(files),
            f"{size:.2f}",
            str(model.opset or "-"),
            format_figure(model.accuracy.AP if model.accuracy else None),
            f"{model.accuracy.AP_drop:+.4f}" if model.accuracy else "-",
            f"{model.latency.median_ms:.1f}" if model.latency else "-",
            f"{model.difference_from_pytorch:.0e}" if model.difference_from_pytorch is not None else "-",
        )
    console.print(table)
    latency = next((model.latency for model in contract.models if model.latency), None)
    if latency:
        say(f"ms: median of an image, {latency.threads} thread of {latency.processor}; compare within this table only")
    accuracy = next((model.accuracy for model in contract.models if model.accuracy), None)
    if accuracy:
        say(f"AP: {accuracy.data}, {accuracy.split}, {accuracy.images} images; drop from the same in PyTorch")


def _print_quantisation(contract: Contract) -> None:
    for model in contract.models:
        facts = model.quantisation
        if facts:
            kept = f"; in float: {', '.join(facts.float_layers)}" if facts.float_layers else ""
            say(
                f"{model.file}: {facts.quantised_layers} of {facts.total_layers} layers in integers, "
                f"{facts.activation_type} activations, {facts.calibration_method} over {facts.calibration_images} "
                f"pictures of {facts.calibration_data}{kept}"
            )


if __name__ == "__main__":
    sys.exit(main())
