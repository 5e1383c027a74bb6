"""The recipes: values of options that go together, for what is not given. Needs no torch."""

from __future__ import annotations

from typing import Any, Literal

from ssdlite.config import AnchorsName, AssignerName, BoxLossName, ClassLossName
from ssdlite.validation import Config

AUTO = "auto"


class Recipe(Config, frozen=True, kw_only=True):
    """Defaults of the options of the same names."""

    anchors: AnchorsName = "default"
    finest_stride: Literal[8, 16] | None = None
    deepen_heads: bool = False
    loss: ClassLossName = "multibox"
    box_loss: BoxLossName = "smooth_l1"
    box_weight: float | None = None
    matcher: AssignerName = "ssd"
    epochs: int = 60
    batch_size: int = 16
    lr: float | None = None  # of such batches; the root of another size takes it along
    backbone_lr: float = 1.0
    augment: str = "ssdlite"
    mosaic: float = 0.0


RECIPES: dict[str, Recipe] = {
    # what is not given is decided from the data: ssdlite/training/decide.py
    AUTO: Recipe(),
    # arXiv 1512.02325 with the optimiser of today: the reference that the others are measured against
    "ssd": Recipe(),
    # for the built-in shapes, of which there are as many as one likes
    "shapes": Recipe(epochs=10, augment="flip"),
    # a few hundred pictures and no weights; chosen on BCCD's validation split and the cards, docs/notes/frontier.md
    "scratch": Recipe(
        anchors="fit",
        finest_stride=8,
        loss="qfl",
        box_loss="giou",
        matcher="atss",
        batch_size=8,
        lr=0.004,
        mosaic=0.5,
    ),
    # a few hundred pictures and the weights of a detector; chosen on BCCD's validation split, docs/notes/ablations.md
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


def recipe_defaults() -> dict[str, str]:
    """By option what is taken: ``decided from the data; with --recipe 60 (10 for shapes, 30 for small-data)``."""
    return {name: f"decided from the data; with --recipe {_values(name)}" for name in Recipe.__struct_fields__}


def _values(name: str) -> str:
    usual, *others = ((recipe, getattr(values, name)) for recipe, values in RECIPES.items() if recipe != AUTO)
    recipes: dict[Any, list[str]] = {}
    for recipe, value in others:
        if value != usual[1]:
            recipes.setdefault(value, []).append(recipe)
    told = ", ".join(f"{as_given(value)} for {' and '.join(names)}" for value, names in recipes.items())
    return told if usual[1] is None else f"{as_given(usual[1])}" + (f" ({told})" if told else "")


def as_given(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
