"""How many candidates real pictures have, and which bound on them changes a detection.

``python benchmarks/candidate_bound.py CHECKPOINT DATA...``: every picture of the data through the checkpoint's network,
then through the exported graph's suppression with each bound and through the unbounded one of ``postprocess``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ssdlite import Detector, load_detector
from ssdlite.datasets.formats.registry import find_splits, load_split
from ssdlite.detector import stack_images
from ssdlite.export.graphs import NmsGraph, RawGraph
from ssdlite.export.options import GraphOptions
from ssdlite.heads.base import Outputs
from ssdlite.heads.postprocess import class_scores, postprocess
from ssdlite.images.geometry import fit_window
from ssdlite.images.reading import read_image

BOUNDS = (256, 512, 1024, 2048)


def pictures(folders: list[Path], detector: Detector) -> Iterator[torch.Tensor]:
    """Every picture of every split, once, as the network's input [1, 3, H, W]."""
    config = detector.config
    paths = {
        path for folder in folders for name in find_splits(folder).splits for path in load_split(folder, name).paths
    }
    for path in sorted(paths):
        image = read_image(path)
        yield stack_images([fit_window(image.shape[:2], config.image_size, config.resize).render(image)])


@torch.no_grad()
def main(checkpoint: Path, folders: list[Path]) -> None:
    detector = load_detector(checkpoint)
    height, width = detector.config.image_size
    network = RawGraph(detector, GraphOptions(variant="nms"))
    graphs = {bound: NmsGraph(network, bound) for bound in BOUNDS}
    counts: list[int] = []
    changed = dict.fromkeys(BOUNDS, 0)
    for inputs in pictures(folders, detector):
        outputs = Outputs(*network(inputs))
        scores = class_scores(outputs.class_logits, detector.config.score_function)
        counts.append(int((scores > detector.config.score_threshold).sum()))
        unbounded = postprocess(outputs, detector.anchors, detector.config)
        for bound, graph in graphs.items():
            boxes, found, labels, _ = graph(inputs)
            size = torch.tensor([width, height, width, height])
            same = torch.allclose(found, unbounded.scores, atol=1e-6) and bool((labels == unbounded.labels).all())
            decided = found < 1 - 1e-6  # of several boxes that all score 1, either may be the one that stays
            same &= torch.allclose((boxes * size)[decided], unbounded.boxes[decided], atol=1e-2)
            changed[bound] += not same
    ranked = sorted(counts)
    print(
        f"{len(counts)} pictures; pairs above the score threshold of {detector.config.score_threshold}: "
        f"median {ranked[len(ranked) // 2]}, most {ranked[-1]}"
    )
    for bound, number in changed.items():
        print(f"at most {bound:>5} candidates: {number} pictures with another detection")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
