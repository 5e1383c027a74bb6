"""LitePAN with another head of distances than the presets': two towers, and each distance as one number."""

from ssdlite.config import PRESETS, HeadConfig, override

CELLS = override(
    PRESETS["litepan320_small"],
    head=HeadConfig(name="distances", score_function="sigmoid", kernel_size=5, towers="separate"),
)
OF_CELLS = {"head": CELLS.head}  # as an option of ``build_detector``
