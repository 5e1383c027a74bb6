"""Other projects' weights, read into detectors of ours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssdlite.weights.api import WEIGHT_FORMATS as WEIGHT_FORMATS
    from ssdlite.weights.api import import_weights as import_weights
    from ssdlite.weights.backbones import load_backbone_weights as load_backbone_weights
    from ssdlite.weights.catalog import WeightsEntry as WeightsEntry
    from ssdlite.weights.catalog import list_weights as list_weights
    from ssdlite.weights.mapping import Imported as Imported
    from ssdlite.weights.mapping import WeightMapping as WeightMapping
    from ssdlite.weights.named_tensors import from_tensors as from_tensors
    from ssdlite.weights.source import ImportOptions as ImportOptions
    from ssdlite.weights.source import ImportSource as ImportSource
    from ssdlite.weights.source import WeightFormat as WeightFormat
else:
    from ssdlite.lazy import attach

    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "WEIGHT_FORMATS": "ssdlite.weights.api",
            "ImportOptions": "ssdlite.weights.source",
            "Imported": "ssdlite.weights.mapping",
            "WeightFormat": "ssdlite.weights.source",
            "WeightMapping": "ssdlite.weights.mapping",
            "ImportSource": "ssdlite.weights.source",
            "from_tensors": "ssdlite.weights.named_tensors",
            "WeightsEntry": "ssdlite.weights.catalog",
            "import_weights": "ssdlite.weights.api",
            "list_weights": "ssdlite.weights.catalog",
            "load_backbone_weights": "ssdlite.weights.backbones",
        },
    )
