"""Replay an exported bundle's reference vectors, or compare an app's results with them: ``ssdlite verify BUNDLE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssdlite import cli
from ssdlite.console import print_json, print_line
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.report import format_report


@dataclass(frozen=True)
class VerifyOptions:
    bundle: Annotated[Path, tyro.conf.Positional]
    """The folder that an export wrote."""
    dump: Path | None = None
    """A folder with an app's results for the reference pictures, named as in the bundle's golden/, any of them.
    Default: the bundle's own models are run."""
    model: str | None = None
    """Only this file of the bundle. Default: all of them."""
    json: bool = False
    """Print the report as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """0: all steps passed; 1: one failed; 2: it could not be found out."""
    passed: list[bool] = []

    def verify(options: VerifyOptions) -> None:
        """Test for each model and step of a bundle whether it gives the reference result, or what went wrong."""
        report = verify_bundle(options.bundle, dump=options.dump, model=options.model)
        passed.append(report.passed)
        if options.json:
            print_json(report.to_dict())
            return
        for line in format_report(report):
            print_line(line)

    return cli.run(verify, VerifyOptions, argv, "ssdlite verify") or int(not passed[0])


if __name__ == "__main__":
    sys.exit(main())
