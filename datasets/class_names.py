"""Which class of a data set or of another detector is which of ours: by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ssdlite.errors import DataError
from ssdlite.wording import listing

NAMED = 20  # classes that an error lists


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """For each of our class names the place of theirs: the same name, else one that differs in case or spacing only."""
    exact = {name: label for label, name in reversed(list(enumerate(theirs)))}
    alike = {_plain_name(name): label for label, name in reversed(list(enumerate(theirs)))}
    return [exact.get(name, alike.get(_plain_name(name))) for name in ours]


def label_names(class_names: Sequence[str], known: Iterable[str]) -> dict[str, int]:
    """The label of every name of ``known`` that is one of ``class_names``, as ``match_classes`` sees it."""
    known = sorted(known)
    matches = match_classes(class_names, known)
    return {known[match]: label for label, match in enumerate(matches) if match is not None}


def select_classes(
    known: Sequence[str], classes: Sequence[str] | None, source: str, *, allow_absent: bool = False
) -> tuple[str, ...]:
    """The class names to use: all ``known`` ones, or ``classes`` in the order given.

    Raises:
        DataError: a name is given twice or is not known (with ``allow_absent``: none of them is, case and spacing
            aside).
    """
    if classes is None:
        return tuple(known)
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"{source}: expected different class names, got {', '.join(classes) or 'none'}")
    unknown = [name for name in classes if name not in set(known)]
    if unknown and not (allow_absent and label_names(classes, known)):
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        nearest_first = listing(near + [name for name in known if name not in near], NAMED)
        asked = listing([repr(name) for name in unknown])
        raise DataError(f"{source}: no class {asked}; known, nearest first: {nearest_first}")
    return tuple(classes)


def _plain_name(name: str) -> str:
    return "".join(character for character in name.casefold() if not character.isspace() and character not in "-_")
