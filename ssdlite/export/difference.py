"""How far an exported model is from PyTorch, on pictures that it was not traced with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ssdlite.contract import OUTPUTS
from ssdlite.detector import Detector
from ssdlite.export.graphs import build_graph
from ssdlite.export.options import GraphOptions
from ssdlite.image import ImageArray
from ssdlite.runtime import RuntimeDetector


def difference_from_pytorch(
    exported: RuntimeDetector, detector: Detector, options: GraphOptions, pictures: Sequence[ImageArray]
) -> float:
    """The largest absolute difference of any output on ``pictures``, from the same graph in float32 PyTorch.

    Of the nms variant only the scores are compared: neighbours of equal score may change places.
    """
    plain = GraphOptions(variant=options.variant, max_candidates=options.max_candidates)
    reference = build_graph(detector, plain)
    meanings = OUTPUTS[options.variant]
    largest = 0.0
    for picture in pictures:
        tensor, view = exported.preprocess(picture)
        pixels = torch.from_numpy(view.render(picture, exported.framing.fill)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = dict(zip(meanings, reference(pixels), strict=True))
        found = exported.infer(tensor)
        for meaning in ("scores",) if options.variant == "nms" else meanings:
            largest = max(largest, float(np.abs(found[meaning] - expected[meaning].numpy()).max()))
    return largest
