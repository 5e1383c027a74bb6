"""Other projects' weights, read into detectors of ours."""

from ssdlite.weights.api import FORMATS, Format, ImportOptions, import_weights
from ssdlite.weights.mapping import Imported, WeightMapping

__all__ = ["FORMATS", "Format", "ImportOptions", "Imported", "WeightMapping", "import_weights"]
