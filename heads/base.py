"""Which anchor answers for which object. Matching happens here and nowhere else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

PADDING_LABEL = -1  # fills a batch up where an image has fewer objects
IGNORE_LABEL = -2  # a crowd region or a difficult object: neither object nor background


# --- The training losses over all anchors of a batch.


class Outputs(NamedTuple):
    """What the network says of every anchor, in training and evaluation alike."""

    class_logits: Tensor  # [B, A, K + 1]; slot 0 is background
    box_deltas: Tensor  # [B, A, 4]
