"""A detector that predicts once in a cell, as no preset does: the head of distances behind LitePAN's neck."""

from ssdlite.anchors import square_anchors
from ssdlite.config import PRESETS, HeadConfig, override

CELLS = override(
    PRESETS["litepan320_small"],
    head=HeadConfig(name="distances", score_function="sigmoid", kernel_size=5, towers="separate"),
    anchors=square_anchors((0.1, 0.2, 0.4, 0.8)),
)
OF_CELLS = {"head": CELLS.head, "anchors": CELLS.anchors}  # as options of ``build_detector``
