"""The one in-memory form of annotated data, whatever format they came from, and whose class is which: by name."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.errors import DataError, quote
from ssdlite.files import counted, listing

MOST_CLASSES = 30_000  # of annotations; ImageNet's full list has 21,841
MAX_CLASS_NAME = 500  # characters
NAMED_CLASSES = 20  # classes that an error lists
SHOWN_IN_NOTE = 3
DECIDES_OTHERWISE = "decides otherwise)"  # ends a note on how data are read, behind the option that changes it
SHOWN_CAUSES = 6


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """For each of our class names the place of theirs: the same name, else one that differs in case or spacing only."""
    exact = {name: label for label, name in reversed(list(enumerate(theirs)))}
    alike = {_plain_name(name): label for label, name in reversed(list(enumerate(theirs)))}
    return [exact.get(name, alike.get(_plain_name(name))) for name in ours]


def label_names(class_names: Sequence[str], known: Iterable[str]) -> dict[str, int]:
    """The label of every name of ``known`` that is one of ``class_names``: itself, else but for case or spacing."""
    known = sorted(known)
    matches = match_classes(known, class_names)
    return {name: label for name, label in zip(known, matches, strict=True) if label is not None}


def one_spelling(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without those that differ from others in case, or in what separates words, only; small letters win.

    "Person" and "person" are one class; "t-shirt" and "tshirt", and the letters "A" and "a", are two.
    """
    best: dict[str, str] = {}
    for name in names:
        key = " ".join(re.split(r"[\s_-]+", name.casefold()))
        key = key if len(key) > 1 else name
        best[key] = min(best.get(key, name), name, key=lambda one: sum(character.isupper() for character in one))
    return tuple(best.values())


def select_classes(
    known: Sequence[str], classes: Sequence[str] | None, source: str, *, allow_absent: bool = False
) -> tuple[str, ...]:
    """The class names to use: all ``known`` ones, each in one spelling, or ``classes`` in the order given.

    ``allow_absent``: ``classes`` are those of a model.

    Raises:
        DataError: a name is given twice or is not known (with ``allow_absent``: none of them is, case and spacing
            aside).
    """
    if len(known) > MOST_CLASSES:
        raise DataError(f"{source}: expected at most {MOST_CLASSES} classes, got {len(known)}")
    if longest := [name for name in known if len(name) > MAX_CLASS_NAME]:
        raise DataError(
            f"{source}: expected class names of at most {MAX_CLASS_NAME} characters, got {quote(longest[0])}"
        )
    if classes is None:
        return one_spelling(known)
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"{source}: expected different class names, got {', '.join(classes) or 'none'}")
    unknown = [name for name in classes if name not in set(known)]
    if allow_absent and not label_names(classes, known):
        raise DataError(
            f"{source}: expected some of the model's classes, {listing(classes)}; got none of them, the data's are "
            f"{listing(known, NAMED_CLASSES)}; {suggest_renames(classes, known)}"
        )
    if unknown and not allow_absent:
        raise unknown_classes(unknown, known, source)
    return tuple(classes)


def suggest_renames(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How to say that a class of the data, ``theirs``, is one of the model, ``ours``; with those of similar names."""
    plain = {name.casefold(): name for name in reversed(ours)}
    pairs = []
    for name in theirs:
        for near in difflib.get_close_matches(name.casefold(), plain, n=1):
            pairs.append("=".join(re.sub(r"([,=])", r"\\\1", one) for one in (name, plain.pop(near))))
    return f'where two are the same, --rename "{",".join(pairs[:SHOWN_IN_NOTE]) or "theirs=ours"}" says so'


def unknown_classes(unknown: Sequence[str], known: Sequence[str], source: str) -> DataError:
    """The error for names that are not known, with those that are."""
    near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
    nearest_first = listing(near + [name for name in known if name not in near], NAMED_CLASSES)
    asked = listing([repr(name) for name in unknown])
    return DataError(f"{source}: no class {asked}; known, nearest first: {nearest_first}")


def _plain_name(name: str) -> str:
    """As ``match_classes`` compares; letters and marks are told apart by their case."""
    plain = "".join(character for character in name.casefold() if not character.isspace() and character not in "-_")
    return plain if len(plain) > 1 else name


# --- The images and objects of a split, and what was wrong with them.


class Problem(NamedTuple):
    """Something wrong in a data set that was mended or skipped: which kind, in which file, at which object."""

    kind: str  # one of the keys of PROBLEM_KINDS
    file: str
    detail: str


class ProblemKind(NamedTuple):
    """What such a problem is; a note says how many of ``noun`` were what: "2 boxes clipped"."""

    meaning: str
    noun: str
    what: str
    drops_box: bool = False


PROBLEM_KINDS = {
    "clipped": ProblemKind("box reached outside the image and was clipped", "box", "clipped"),
    "zero-size": ProblemKind("box without area was dropped", "box", "dropped (zero-size)", True),
    "not-finite": ProblemKind("box with NaN or infinite corners was dropped", "box", "dropped (not finite)", True),
    "outside": ProblemKind("box wholly outside the image was dropped", "box", "dropped (outside the image)", True),
    "other-spelling": ProblemKind("class is spelled in several ways; taken for one", "class", "spelled otherwise"),
    "number-as-text": ProblemKind(
        "number is written as text; read as a number", "entry", "with numbers as text (read)"
    ),
    "other-picture": ProblemKind(
        "annotation names another picture than the one of its own name, which was taken",
        "annotation",
        "naming another picture than their own",
    ),
    "bad-image": ProblemKind("image missing, unreadable or of another size; skipped", "image", "skipped"),
    "bad-annotation": ProblemKind(
        "annotation malformed, or for an unknown image or class; skipped", "annotation", "skipped"
    ),
}


class Record(NamedTuple):
    """One image of an index and its objects. ``size`` is (height, width), upright."""

    image_id: int
    path: str
    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    areas: npt.NDArray[np.float32]  # [N] pixels; COCO's own ``area`` (of the mask) where there is one
    ignore: npt.NDArray[np.bool_]  # [N] COCO crowd regions and VOC ``difficult``


@dataclass(frozen=True)
class DetectionIndex:
    """All images and boxes of one split, in columns: compact, and shared as it is with loader processes.

    The objects of image ``i`` stand at ``offsets[i]:offsets[i + 1]`` of the object columns.
    """

    name: str  # for messages, e.g. "bccd/train"
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the ids of the source file, by label; results are written with them
    paths: tuple[str, ...]
    image_ids: npt.NDArray[np.int64]  # [I]
    sizes: npt.NDArray[np.int32]  # [I, 2] height, width, upright
    offsets: npt.NDArray[np.int64]  # [I + 1]
    boxes: npt.NDArray[np.float32]  # [T, 4] xyxy pixels
    labels: npt.NDArray[np.int64]  # [T]
    areas: npt.NDArray[np.float32]  # [T]
    ignore: npt.NDArray[np.bool_]  # [T]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()  # what was decided by looking, for people

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, i: int) -> Record:
        objects = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return Record(
            image_id=int(self.image_ids[i]),
            path=self.paths[i],
            size=(int(self.sizes[i, 0]), int(self.sizes[i, 1])),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            areas=self.areas[objects],
            ignore=self.ignore[objects],
        )

    def subset(self, keep: Sequence[int], name: str | None = None) -> DetectionIndex:
        """The images at the positions ``keep``, in that order."""
        counts = [int(self.offsets[i + 1] - self.offsets[i]) for i in keep]
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in keep]
        objects = np.concatenate([*spans, np.empty(0, np.int64)]).astype(np.int64)
        return replace(
            self,
            name=self.name if name is None else name,
            paths=tuple(self.paths[i] for i in keep),
            image_ids=self.image_ids[list(keep)],
            sizes=self.sizes[list(keep)],
            offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            areas=self.areas[objects],
            ignore=self.ignore[objects],
        )

    def joined(self, other: DetectionIndex) -> DetectionIndex:
        """This one's images and then those of ``other``, of the same classes, with ids of their own."""
        first_id = int(self.image_ids.max(initial=0)) + 1
        return replace(
            self,
            name=f"{self.name} and {other.name}",
            paths=self.paths + other.paths,
            image_ids=np.concatenate([self.image_ids, np.arange(first_id, first_id + len(other), dtype=np.int64)]),
            sizes=np.concatenate([self.sizes, other.sizes]),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            boxes=np.concatenate([self.boxes, other.boxes]),
            labels=np.concatenate([self.labels, other.labels]),
            areas=np.concatenate([self.areas, other.areas]),
            ignore=np.concatenate([self.ignore, other.ignore]),
            problems=self.problems + other.problems,
            notes=self.notes + other.notes,
        )

    def object_counts(self) -> dict[str, int]:
        """The objects to find, those to be ignored left out, by class."""
        counts = np.bincount(self.labels[~self.ignore], minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    def absent_classes(self) -> list[str]:
        """The classes without an object to find."""
        return [name for name, count in self.object_counts().items() if not count]

    def sha256(self) -> str:
        """Of the pictures' file names and sizes, in order, and of all objects; not of pixels, nor of folders."""
        digest = hashlib.sha256()
        for names in (self.class_names, [Path(path).name for path in self.paths]):
            digest.update("\0".join(names).encode("utf-8", "surrogatepass") + b"\0\0")
        for column in (self.sizes, self.offsets, self.boxes, self.labels, self.ignore):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def problem_counts(self) -> dict[str, int]:
        return dict(Counter(problem.kind for problem in self.problems))


def describe_causes(problems: Sequence[Problem]) -> str:
    """The causes of what cannot be used: "3 x no such image file; 1 x box dropped (zero-size); the first: ..."."""
    problems = [one for one in problems if one.kind.startswith("bad-") or PROBLEM_KINDS[one.kind].drops_box]
    if not problems:
        return ""
    causes = [
        _cause(problem.detail) if problem.kind.startswith("bad-") else f"box {PROBLEM_KINDS[problem.kind].what}"
        for problem in problems
    ]
    kinds = [re.sub(r"\d+", "N", cause) for cause in causes]
    shown = dict(zip(reversed(kinds), reversed(causes), strict=True))  # of each kind the first
    counts = "; ".join(f"{count} x {shown[kind]}" for kind, count in Counter(kinds).most_common(SHOWN_CAUSES))
    first = problems[0]
    return f"{counts}; the first: {first.file}: {first.detail}"


def _cause(detail: str) -> str:
    """A problem without what is of the one file: "not well-formed XML (line 3, column 5)" -> "not well-formed XML"."""
    detail = re.sub(r"^(object|line|annotations?|images)\b[^:]*: ", "", detail)
    return re.split(r" \(|: |, got ", detail)[0]


def problem_notes(index: DetectionIndex) -> list[str]:
    """What was decided, and a line per kind of problem: "2 boxes dropped (zero-size): a.xml object 3 (RBC); ..."."""
    notes = list(index.notes)
    for kind, count in index.problem_counts().items():
        row = PROBLEM_KINDS[kind]
        examples = [p for p in index.problems if p.kind == kind][:SHOWN_IN_NOTE]
        shown = "; ".join(f"{Path(p.file).name} {p.detail}" for p in examples)
        more = f"; and {count - len(examples)} more" if count > len(examples) else ""
        notes.append(f"{index.name}: {counted(count, row.noun)} {row.what}: {shown}{more}")
    return notes
