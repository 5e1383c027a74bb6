"""Other projects' weights, read into detectors of ours."""

from ssdlite.weights.formats import FORMATS, Format, ImportOptions, import_weights
from ssdlite.weights.ledger import Imported, Ledger

__all__ = ["FORMATS", "Format", "ImportOptions", "Imported", "Ledger", "import_weights"]
