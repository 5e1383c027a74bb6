"""Export a checkpoint: ONNX models for phones, with all an app needs to know, checked against the data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from ssdlite import cli
from ssdlite.arguments import DATA_NAMES
from ssdlite.console import format_figure, print_line, print_table
from ssdlite.export.options import ExportOptions
from ssdlite.export.plan import plan_graphs
from ssdlite.export.platforms import shipments

if TYPE_CHECKING:
    from ssdlite.runtime.contract import Contract


@dataclass(frozen=True, kw_only=True)
class ExportArguments(ExportOptions):
    """``ExportOptions`` with the checkpoint in front, without a name; ``--licence`` is taken as well."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The checkpoint, such as best.pt of a training, or the folder of a training."""
    license: Annotated[str | None, tyro.conf.arg(aliases=["--licence"])] = None
    """Of the weights, for the contract and the model card; such as MIT. Default: of openimages its own, of others
    that it is not stated."""


def export(options: ExportOptions) -> None:
    """Export a checkpoint to a bundle: models for phones, how to feed them, and the proof that they are right."""
    options = replace(options, checkpoint=cli.find_weights(options.checkpoint))
    plan_graphs(options)  # says what is wrong before torch is loaded
    if options.data is not None:
        from ssdlite.datasets.loading import require_there

        require_there(options.data, options.reading)
    from ssdlite.export.pipeline import export_bundle

    contract = export_bundle(options, print_line)
    _print_files(contract, options.bundle)
    _print_quantization(contract)
    _print_shipments(contract)
    if options.lint:
        from ssdlite.tools.lint_model import print_findings

        print_findings(options.bundle, options.lint)
    print_line(f"bundle: {options.bundle}  (check it anywhere with: ssdlite verify {options.bundle})")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(export, ExportArguments, argv, "ssdlite export", short=DATA_NAMES)


def _print_files(contract: Contract, bundle: Path) -> None:
    from ssdlite.runtime.files import stored_bytes

    table = Table(title=f"{contract.name}: {len(contract.class_names)} classes", title_justify="left")
    table.add_column("file")
    for heading in ("size MB", "opset", "AP", "AP drop", "ms", "max diff"):
        table.add_column(heading, justify="right")
    for model in contract.models:
        size = stored_bytes(bundle, model) / 1e6
        table.add_row(
            "\n".join(model.files),
            f"{size:.2f}",
            str(model.opset or "-"),
            format_figure(model.accuracy.AP if model.accuracy else None),
            f"{model.accuracy.AP_drop:+.4f}" if model.accuracy else "-",
            f"{model.latency.median_ms:.1f}" if model.latency else "-",
            f"{model.difference_from_pytorch:.0e}" if model.difference_from_pytorch is not None else "-",
        )
    print_table(table)
    latency = next((model.latency for model in contract.models if model.latency), None)
    if latency:
        print_line(
            f"ms: median of an image, {latency.threads} thread of {latency.processor}; compare within this table only"
        )
    accuracy = next((model.accuracy for model in contract.models if model.accuracy), None)
    if accuracy:
        print_line(f"AP: {accuracy.data}, {accuracy.split}, {accuracy.images} images; drop from the same in PyTorch")
    else:
        print_line("AP: not measured; --data DIR scores the files on annotated pictures")


def _print_quantization(contract: Contract) -> None:
    for model in contract.models:
        facts = model.quantization
        if facts:
            kept = f"; in float: {', '.join(facts.float_layers)}" if facts.float_layers else ""
            print_line(
                f"{model.file}: {facts.quantized_layers} of {facts.total_layers} layers in integers, "
                f"{facts.activation_type} activations, {facts.calibration_method} over {facts.calibration_images} "
                f"pictures of {facts.calibration_data}{kept}"
            )


def _print_shipments(contract: Contract) -> None:
    """Where the file goes, a line for each platform."""
    for one in shipments(contract.models):
        if one.model is None or one.use is None:
            print_line(f"{one.platform}: none of these files; {one.why}")
        else:
            print_line(f"{one.platform}: {' + '.join(one.model.files)} -> {one.use.place}, run by {one.use.package}")


if __name__ == "__main__":
    sys.exit(main())
