"""What to do next, in sentences, from what an analysis counted."""

from __future__ import annotations

from collections.abc import Iterator

from ssdlite.evaluation.analysis.analyze import Analysis
from ssdlite.files import counted, listing

FEW_OBJECTS = 20  # of a class, whose figures a few more pictures may change much
GREAT_LOSS = 0.02  # of AP50, of one kind of error, that is worth doing something about
REMEDIES = {  # of a kind of error: (what it means, what to do)
    "classification": ("objects are found but called by another class", "look at the confusions below"),
    "localization": (
        "objects are found but their boxes fit badly",
        "check that the annotated boxes are tight; train longer, with --box-loss giou or a larger --image-size",
    ),
    "both": (
        "boxes lie badly on objects of another class",
        "train on more pictures of the classes that are confused below",
    ),
    "duplicate": ("one object is found several times", "lower --nms-threshold (eval and export take it)"),
    "background": (
        "things are found where no annotated object is",
        "look for objects that were not labeled (last section); add pictures of such backgrounds without objects",
    ),
    "missed": (
        "objects are not found",
        "add pictures with such objects and train longer; see by size below which ones they are",
    ),
}


def advice(analysis: Analysis) -> list[str]:
    """The most promising first; never empty."""
    if not (~analysis.index.ignore).any():
        return ["No object is annotated in these pictures: nothing can be said of what is found."]
    lines = [*_about_sizes(analysis), *_about_errors(analysis), *_about_confusions(analysis), *_about_data(analysis)]
    return lines or ["Nothing stands out. More pictures of what the detector will see in use help most."]


def _about_errors(analysis: Analysis) -> Iterator[str]:
    if not len(analysis.every):
        yield "Nothing was found at all: train longer, or see whether the classes and the data are the right ones."
        return
    for kind, loss in sorted(analysis.weights.loss.items(), key=lambda pair: -pair[1]):
        if loss >= GREAT_LOSS:
            what, remedy = REMEDIES[kind]
            yield f"AP50 would be {loss:.3f} higher without {kind} errors ({what}): {remedy}."


def _about_sizes(analysis: Analysis) -> Iterator[str]:
    small, *others = analysis.pixel_sizes
    objects, found = (sum(getattr(one, name) for one in others) for name in ("objects", "found"))
    if not small.objects or not objects:
        return
    small_share, share = small.found / small.objects, found / objects
    if small.objects >= FEW_OBJECTS and small_share < share / 2:
        yield (
            f"Of small objects {small_share:.0%} are found, of the others {share:.0%}: train with --finest-stride 8 or "
            "a larger --image-size, or take pictures from nearer."
        )


def _about_confusions(analysis: Analysis) -> Iterator[str]:
    for annotated, detected, count in analysis.confusions()[:3]:
        if count >= 3:
            yield (
                f"{annotated} is taken for {detected} {counted(count, 'time')}: see that both are labeled alike "
                f'everywhere, or make them one class with --rename "{annotated}={detected}".'
            )


def _about_data(analysis: Analysis) -> Iterator[str]:
    suspects = sum(map(len, analysis.suspects.values()))
    if suspects:
        yield f"{suspects} annotations look wrong or missing: the last section shows them; correcting them is cheap."
    few = [name for name, count in analysis.index.object_counts().items() if 0 < count < FEW_OBJECTS]
    if few:
        yield f"There are fewer than {FEW_OBJECTS} objects of {listing(few)} here: their figures are rough."
