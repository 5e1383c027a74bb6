"""Named training recipes: the values of options of ``ssdlite train`` that the user does not give. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssdlite.config import suggest
from ssdlite.errors import ConfigError

ClassLossName = Literal["multibox", "focal", "qfl"]
BoxLossName = Literal["smooth_l1", "giou", "diou", "ciou"]
MatcherName = Literal["ssd", "atss", "simota"]
AnchorsName = Literal["default", "fit"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults of the options of the same names (``ssdlite.train_options``)."""

    anchors: AnchorsName = "default"
    finest_stride: Literal[8, 16] | None = None
    deepen_heads: bool = False
    loss: ClassLossName = "multibox"
    box_loss: BoxLossName = "smooth_l1"
    box_weight: float | None = None
    matcher: MatcherName = "ssd"
    epochs: int = 60
    batch_size: int = 16
    augment: str = "ssdlite"
    mosaic: float = 0.0
    backbone_lr: float = 1.0


RECIPES: dict[str, Recipe] = {
    # arXiv 1512.02325 with the optimiser of today: the reference that the others are measured against
    "ssd": Recipe(),
    # for the built-in shapes, of which there are as many as one likes
    "shapes": Recipe(epochs=10, augment="flip"),
    # a few hundred pictures and no weights; chosen on BCCD's validation split, docs/results.md
    "scratch": Recipe(anchors="fit", finest_stride=8, matcher="atss", batch_size=8),
    # a few hundred pictures and the weights of a detector; chosen on BCCD's validation split, docs/results.md
    "small-data": Recipe(
        anchors="fit",
        finest_stride=8,
        deepen_heads=True,
        loss="qfl",
        box_loss="giou",
        box_weight=6.0,
        matcher="simota",
        batch_size=8,
        epochs=30,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Raises ConfigError for an unknown name, listing the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]
