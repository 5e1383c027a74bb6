"""From a detector to files that phones run, and the proof that they give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.export.options import ExportOptions as ExportOptions
    from ssdlite.export.pipeline import export_bundle as export_bundle
    from ssdlite.export.targets import TARGETS as TARGETS
    from ssdlite.export.targets.base import Target as Target
    from ssdlite.export.targets.job import Artifact as Artifact
    from ssdlite.export.targets.job import ExportJob as ExportJob
    from ssdlite.export.verify.bundle import verify_bundle as verify_bundle
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Artifact": "ssdlite.export.targets.job",
            "ExportJob": "ssdlite.export.targets.job",
            "ExportOptions": "ssdlite.export.options",
            "TARGETS": "ssdlite.export.targets",
            "Target": "ssdlite.export.targets.base",
            "export_bundle": "ssdlite.export.pipeline",
            "verify_bundle": "ssdlite.export.verify.bundle",
        },
    )
