"""What to do next, in sentences with the figures that say so, from what an analysis counted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from ssdlite.evaluation.analysis.analyze import Analysis
from ssdlite.evaluation.analysis.confusion import SizeBucket
from ssdlite.evaluation.analysis.trained import TrainedWith
from ssdlite.files import counted, listing

FEW_OBJECTS = 20  # of a class, whose figures a few more pictures may change much
GREAT_LOSS = 0.02  # of AP50, of one kind of error, that is worth doing something about
HARDLY_LEARNED = 0.05  # of AP50
MOST_NAMED = 3  # classes or pairs of classes in a sentence
MUCH_CONFUSED = 0.2  # of the objects of a class, from which it may as well be one with the other
UNSURE_SHARE = 0.5  # of the objects that are missed, from which that they are seen is worth saying
ERROR_MEANINGS = {
    "classification": "objects are found but called by another class",
    "localization": "objects are found but their boxes fit badly",
    "both": "boxes lie badly on objects of another class",
    "duplicate": "one object is found several times",
    "background": "things are found where no annotated object is",
    "missed": "objects are not found",
}


def advice(analysis: Analysis, trained: TrainedWith) -> list[str]:
    """The most useful first; never empty."""
    objects = int((~analysis.index.ignore).sum())
    if not objects:
        return ["No object is annotated in these pictures: nothing can be said of what is found."]
    if not len(analysis.every) and not analysis.confusions():
        return [_nothing_found(objects, trained)]
    counts = [count for count in analysis.index.object_counts().values() if count]
    few, all_few = _few_objects(analysis), max(counts) < FEW_OBJECTS
    lines = [
        *(few if all_few else ()),
        *_about_unfound(analysis, trained),
        *_about_length(analysis, trained),
        *(() if trained.is_short else _about_errors(analysis, trained)),
        *(() if trained.is_short else _about_suspects(analysis)),
        *(() if all_few else few),
    ]
    return lines or ["Nothing stands out. More pictures of what the detector will see in use help most."]


def remedies(trained: TrainedWith) -> dict[str, str]:
    """By kind of error, what helps that the detector has not got already."""
    giou = "with --box-loss giou or " if trained.box_loss == "smooth_l1" else ""
    nms = "" if trained.nms_threshold is None else f" than its {trained.nms_threshold:g}"
    return {
        "classification": (
            "see below which are confused, label them by one rule everywhere, add pictures that show the difference"
        ),
        "localization": (
            f"check that the annotated boxes are tight; train {giou}with {_larger_input(trained)}, which costs time"
        ),
        "both": "add pictures of the classes that are confused below",
        "duplicate": f"take a lower --nms-threshold{nms} (eval and export take it)",
        "background": "label forgotten objects (last section); add pictures of such backgrounds without objects",
        "missed": "add pictures with objects like those (results by object size show which they are)",
    }


def finer_look(trained: TrainedWith) -> str:
    """What lets a detector see smaller objects."""
    finer = "" if trained.finest_stride is not None and trained.finest_stride <= 8 else "--finest-stride 8 or "
    return f"train with {finer}{_larger_input(trained)}, or take pictures from nearer"


def _larger_input(trained: TrainedWith) -> str:
    size = trained.image_size
    return "a larger --image-size" + ("" if size is None else f" than its {size}")


def _nothing_found(objects: int, trained: TrainedWith) -> str:
    remedy = trained.ended_early or "see that the data have the detector's classes, under the same names"
    return f"Nothing was found at all, at any score, and there {_are(objects)} to find. {_sentence(remedy)}."


def _are(objects: int) -> str:
    return f"{'is' if objects == 1 else 'are'} {counted(objects, 'object')}"


def _about_unfound(analysis: Analysis, trained: TrainedWith) -> Iterator[str]:
    unfound = analysis.unfound()
    if not unfound:
        return
    told = [f"{name} (of {counted(count, 'object')}{_called(analysis, name)})" for name, count in unfound.items()]
    first = "train longer (see the next line), and if that changes nothing, " if trained.ended_early else ""
    taken = any(annotated in unfound for annotated, *_ in analysis.confusions())
    labels = "see that the boxes of the classes that are confused carry the right name, and " if taken else ""
    yield (
        f"Never found, at any score: {listing(told, MOST_NAMED)}. {_sentence(first + labels)}"
        "look whether there are enough such objects to learn from (ssdlite check-data counts them), and add pictures."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text else ""


def _called(analysis: Analysis, name: str) -> str:
    others = [f"{count} called {detected}" for one, detected, count in analysis.confusions() if one == name]
    return f", {listing(others, 2)}" if others else ""


def _about_length(analysis: Analysis, trained: TrainedWith) -> Iterator[str]:
    if early := trained.ended_early:
        rest = " What else stands here is of a detector that has hardly learned." if trained.is_short else ""
        yield f"{_sentence(early)}.{rest}"
    elif 0 < (ap := analysis.weights.AP50 or 0) < HARDLY_LEARNED:
        otherwise = "it needs more pictures to learn from" if trained.evaluations else "train longer"
        yield (
            f"Hardly anything is right yet (AP50 is {ap:.3f}): see in the worst pictures that boxes and names of the "
            f"annotations are as the detector has learned them; where they are, {otherwise}."
        )


def _about_errors(analysis: Analysis, trained: TrainedWith) -> Iterator[str]:
    details = {"classification": _about_confusions, "background": _about_background, "missed": _about_missed}
    for kind, loss in sorted(analysis.weights.loss.items(), key=lambda pair: -pair[1]):
        if loss < GREAT_LOSS:
            continue
        remedy = details[kind](analysis, trained) if kind in details else f"{_sentence(remedies(trained)[kind])}."
        if remedy:
            count = analysis.error_counts[kind]
            times = f" ({counted(count, 'time')})" if count else ""
            what = f"{_sentence(ERROR_MEANINGS[kind])}{times}"
            yield f"{what}: without these errors AP50 would be {loss:.3f} higher. {remedy}"


def _about_confusions(analysis: Analysis, trained: TrainedWith) -> str:
    """Nothing where all of it is of classes that are never found, which is said already."""
    unfound = analysis.unfound()
    pairs = [pair for pair in analysis.confusions() if pair[0] not in unfound]
    if not pairs:
        return "" if analysis.confusions() else f"{_sentence(remedies(trained)['classification'])}."
    told = listing([f"{one} called {other} ({counted(count, 'time')})" for one, other, count in pairs], MOST_NAMED)
    annotated, detected, count = pairs[0]
    start = (
        f"Most often: {told}. See that these are labeled alike everywhere, and add pictures that show the difference"
    )
    if count < MUCH_CONFUSED * analysis.index.object_counts()[annotated]:
        return f"{start}."
    rename = shlex.quote(f"{_escaped(annotated)}={_escaped(detected)}")
    return f"{start}; where the difference does not matter, make them one class with --rename {rename}."


def _escaped(name: str) -> str:
    """As --rename takes it."""
    return re.sub(r"([,=])", r"\\\1", name)


def _about_background(analysis: Analysis, trained: TrainedWith) -> str:
    del trained
    if unlabeled := len(analysis.suspects["unlabeled"]):
        return (
            f"In {counted(unlabeled, 'place')} the detector is sure: look at them in the last section, and label what "
            "is an object; if none is, add pictures of such backgrounds without objects."
        )
    return "Add pictures of such backgrounds without objects, so that it learns to leave them alone."


def _about_missed(analysis: Analysis, trained: TrainedWith) -> str:
    """Nothing where all that is missed is of classes that are never found, which is said already."""
    small, *others = analysis.pixel_sizes
    total, large = _sum_of([small, *others]), _sum_of(others)
    missed = total.objects - total.found
    if missed <= sum(analysis.unfound().values()):
        return ""
    if small.objects >= FEW_OBJECTS and large.objects and 2 * small.share < large.share:
        return (
            f"Of small objects ({small.meaning}) {small.share:.0%} are found, of the others {large.share:.0%}: "
            f"{finer_look(trained)}."
        )
    if (unsure := total.found_at_any_score - total.found) >= UNSURE_SHARE * missed:
        return (
            f"Of {missed} that are not found at the thresholds, {unsure} are seen with a lower score: more pictures "
            "like them make the detector surer, and a lower threshold finds them, with more false alarms."
        )
    return f"{_sentence(remedies(trained)['missed'])}."


def _sum_of(buckets: list[SizeBucket]) -> SizeBucket:
    rows = [(one.objects, one.found, one.found_at_any_score) for one in buckets]
    return SizeBucket("", "", *(sum(column) for column in zip(*rows, strict=True)))


def _about_suspects(analysis: Analysis) -> Iterator[str]:
    if count := sum(map(len, analysis.suspects.values())):
        yield (
            f"{counted(count, 'annotation')} may be wrong or missing: the last section shows them, and it is cheap to "
            "correct those that are."
        )


def _few_objects(analysis: Analysis) -> list[str]:
    counts = analysis.index.object_counts()
    few = [name for name, count in counts.items() if 0 < count < FEW_OBJECTS]
    if not few:
        return []
    rough = "one more or less that is found changes their figures much"
    return [f"There are fewer than {FEW_OBJECTS} objects of {listing(few)} here: {rough}. Score on more to be sure."]
