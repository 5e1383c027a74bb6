"""Other projects' weights, read into detectors of ours."""

from ssdlite.weights.ledger import Imported, Ledger

__all__ = ["Imported", "Ledger"]
