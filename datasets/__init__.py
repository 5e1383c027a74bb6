"""Annotated pictures: formats of files, the index, samples and batches, augmentation, audits, fitted anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.datasets.anchor_coverage import InputBoxes as InputBoxes
    from ssdlite.datasets.anchor_coverage import input_boxes as input_boxes
    from ssdlite.datasets.anchor_coverage import measure_coverage as measure_coverage
    from ssdlite.datasets.anchor_fitting import fit_anchors as fit_anchors
    from ssdlite.datasets.audit.checks import CheckOptions as CheckOptions
    from ssdlite.datasets.audit.checks import check_data as check_data
    from ssdlite.datasets.conversion import convert_data as convert_data
    from ssdlite.datasets.dataset import Batch as Batch
    from ssdlite.datasets.dataset import DetectionDataset as DetectionDataset
    from ssdlite.datasets.dataset import collate as collate
    from ssdlite.datasets.formats import DATA_FORMATS as DATA_FORMATS
    from ssdlite.datasets.formats.base import DataFormat as DataFormat
    from ssdlite.datasets.from_python import as_data_path as as_data_path
    from ssdlite.datasets.index import DetectionIndex as DetectionIndex
    from ssdlite.datasets.loading import find_splits as find_splits
    from ssdlite.datasets.loading import load_data as load_data
    from ssdlite.datasets.loading import load_split as load_split
    from ssdlite.datasets.samples import Sample as Sample
    from ssdlite.datasets.shapes import generate_shapes as generate_shapes
    from ssdlite.datasets.transforms import DetectionTransform as DetectionTransform
    from ssdlite.datasets.writers import LABEL_WRITERS as LABEL_WRITERS
    from ssdlite.datasets.writers.base import LabelWriter as LabelWriter
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Batch": "ssdlite.datasets.dataset",
            "CheckOptions": "ssdlite.datasets.audit.checks",
            "DATA_FORMATS": "ssdlite.datasets.formats",
            "DataFormat": "ssdlite.datasets.formats.base",
            "DetectionDataset": "ssdlite.datasets.dataset",
            "DetectionIndex": "ssdlite.datasets.index",
            "DetectionTransform": "ssdlite.datasets.transforms",
            "InputBoxes": "ssdlite.datasets.anchor_coverage",
            "LABEL_WRITERS": "ssdlite.datasets.writers",
            "LabelWriter": "ssdlite.datasets.writers.base",
            "Sample": "ssdlite.datasets.samples",
            "as_data_path": "ssdlite.datasets.from_python",
            "check_data": "ssdlite.datasets.audit.checks",
            "collate": "ssdlite.datasets.dataset",
            "convert_data": "ssdlite.datasets.conversion",
            "find_splits": "ssdlite.datasets.loading",
            "fit_anchors": "ssdlite.datasets.anchor_fitting",
            "generate_shapes": "ssdlite.datasets.shapes",
            "input_boxes": "ssdlite.datasets.anchor_coverage",
            "load_data": "ssdlite.datasets.loading",
            "load_split": "ssdlite.datasets.loading",
            "measure_coverage": "ssdlite.datasets.anchor_coverage",
        },
    )
