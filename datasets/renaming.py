"""Classes under other names, and several as one: what ``--rename`` does to annotations as they were read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from ssdlite.datasets.formats.base import Annotations
from ssdlite.datasets.index import label_names, match_classes


def rename_classes(found: Annotations, renames: Mapping[str, str]) -> Annotations:
    """``found`` with the new names of ``renames``, by the old ones, whatever their case and spacing.

    Classes that come to have one name are one, with the place and the category id of that which had the name before,
    else of the first of them.
    """
    old = list(renames)
    known = {*found.class_names, *found.class_order}
    new = {name: name for name in known} | {name: renames[old[i]] for name, i in label_names(old, known).items()}
    origin: dict[str, int] = {}  # of a new name: the class whose place and id it has
    for position, name in enumerate(found.class_names):
        if new[name] not in origin or new[name] == name:
            origin[new[name]] = position
    names = sorted(origin, key=lambda name: origin[name])
    place = {name: position for position, name in enumerate(names)}
    label_of = np.array([place[new[name]] for name in found.class_names], np.int64)
    return replace(
        found,
        class_names=names,
        classes=label_of[found.classes],
        category_ids=[found.category_ids[origin[name]] for name in names] if found.category_ids else (),
        class_order=list(dict.fromkeys(new[name] for name in found.class_order)),
    )


def unknown_names(names: Collection[str], known: Collection[str]) -> list[str]:
    """Those of ``names`` that none of ``known`` has, in any case and spacing."""
    names = list(names)
    return [name for name, place in zip(names, match_classes(names, sorted(known)), strict=True) if place is None]
