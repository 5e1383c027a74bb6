"""From a detector to files that phones run, and the proof that they give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.export.options import ExportOptions as ExportOptions
    from ssdlite.export.pipeline import export_bundle as export_bundle
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "ExportOptions": "ssdlite.export.options",
            "export_bundle": "ssdlite.export.pipeline",
        },
    )
