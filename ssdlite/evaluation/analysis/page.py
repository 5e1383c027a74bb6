"""The report as one HTML page that needs nothing else: no network, no script. Names in it are untrusted text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from ssdlite.evaluation.analysis.advice import ERROR_MEANINGS, advice, finer_look, remedies
from ssdlite.evaluation.analysis.analyze import WORST_PICTURES, Analysis
from ssdlite.evaluation.analysis.confusion import SizeBucket
from ssdlite.evaluation.analysis.curves import RECALL_LEVELS
from ssdlite.evaluation.analysis.drawn import Drawer
from ssdlite.evaluation.analysis.matching import FloatArray
from ssdlite.evaluation.analysis.panels import FALSE_ALARM, HIT, IGNORED_LINE, MISSED
from ssdlite.evaluation.analysis.pictures import SUSPECT_KINDS, LabelSuspect
from ssdlite.evaluation.analysis.trained import TrainedWith
from ssdlite.evaluation.coco import Metrics
from ssdlite.files import counted, listing
from ssdlite.images.drawing import Outline
from ssdlite.runtime.operating_points import OperatingPoint

MOST_ROWS = 500  # of the table of classes
MOST_CURVES = 24  # classes with a curve of their own, those with the most objects
MOST_MATRIX = 20  # classes in the matrix of confusions, those that are confused most
SHOWN_SUSPECTS = 12  # of each kind
SECTIONS = {  # by id
    "next": "What to do next",
    "classes": "Classes",
    "errors": "What is lost, and why",
    "sizes": "Results by object size",
    "confusions": "Confusions",
    "worst": "The worst pictures",
    "labels": "Annotations to look at again",
}
NOTES = {  # what each section says, and what to do with it
    "next": """AP50 is the figure above, from 0 to 1; what a kind of error takes of it is what there is to gain. \
Counts on this page are at the score thresholds of the table below (ssdlite predict \
--score-threshold auto), with boxes that overlap the annotated one by half or more (IoU 0.5).""",
    "classes": """Threshold: the score from which on detections of the class give the best F1, the balance of \
precision (how many detections are right) and recall (how many objects are found). Choose a higher one where false \
alarms are worse, a lower one where misses are.""",
    "curves": "The further a curve reaches to the upper right, the better; the dot is the threshold.",
    "errors": """AP50 lost: what AP50 would gain without this kind of error, over all scores (TIDE, arXiv \
2008.08115). Start with the longest bar; the number of errors, at the thresholds, says less.""",
    "sizes": """Where small objects are missed that larger ones are not: {finer_look}. Found at any score but not at \
the threshold: the detector sees them and is not sure; more pictures of such objects help.""",
    "relative": "A picture is scaled to the network's input: what counts there is the size beside the picture's.",
    "confusions": """A row for the objects of each class: in the column of the same class they were found, in that \
of another called by that class (where the object was not found, also below the threshold, from a score of 0.3 on), \
in that of background missed. The row of background has detections where no object is. Classes that are taken for each \
other: label them by one rule, or make them one with --rename.""",
    "worst": """Those with the most errors; first the annotations, then the detections at the thresholds.""",
    "labels": """Where detector and annotations disagree most, and the annotations may be the ones that are wrong. \
Correct what is wrong and train again; what is right teaches what is hard.""",
}
PAGE_STYLE = """
:root { --ink: #1d2330; --soft: #5d6678; --line: #dfe3ea; --paper: #fff; --back: #f4f6f9; --blue: #2f7de1;
  --orange: #e06c10 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #a0a9ba; --line: #343b49; --paper: #1b202a;
  --back: #12161d; --blue: #62a5f5; --orange: #ff9a4a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px }
h1 { font-size: 1.6rem; margin: 8px 0 2px; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 0 0 4px }
h3 { font-size: 1rem; margin: 22px 0 6px }
p { margin: 4px 0 12px } .soft { color: var(--soft) } p.soft { max-width: 78ch }
nav { display: flex; flex-wrap: wrap; gap: 6px 16px; margin: 10px 0 18px; font-size: .92rem }
a { color: var(--blue); text-decoration: none } a:hover { text-decoration: underline }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 0 0 18px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 18px }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px }
.card b { display: block; font-size: 1.7rem; line-height: 1.25 } .card span { color: var(--soft); font-size: .88rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem; min-width: 100% }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--soft); font-weight: 600; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
td.text, th.text { text-align: left; white-space: normal; min-width: 170px }
td:first-child { min-width: 100px; max-width: 260px; white-space: normal; overflow-wrap: anywhere }
.bar { display: inline-block; width: 90px; height: 8px; border-radius: 4px; background: var(--line); margin-left: 8px;
  vertical-align: middle; overflow: hidden } .bar i { display: block; height: 100%; background: var(--blue) }
.bar.loss i { background: var(--orange) }
.matrix td, .matrix th { text-align: center; padding: 5px 4px }
.matrix td:first-child { text-align: left; max-width: 150px } .matrix th:first-child { white-space: normal }
.matrix thead th + th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; max-height: 220px;
  overflow: hidden }
code { font-size: .92em; white-space: nowrap }
ol, ul { margin: 4px 0; padding-left: 22px } li { margin: 6px 0; max-width: 90ch; overflow-wrap: anywhere }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px }
.curves figure, .tiles figure { margin: 0 }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere }
svg { width: 100%; height: auto; display: block }
.pair { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 4px }
.pair img, .tiles img { max-width: 100%; max-height: 480px; border-radius: 8px; display: block }
.pair img { max-width: calc(50% - 5px); object-fit: contain }
.picture { border-top: 1px solid var(--line); padding-top: 12px; margin-top: 16px }
.picture p { margin: 0; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px; align-items: end }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .92rem }
.key { display: inline-block; width: 26px; height: 16px; background: #5f5f5f; vertical-align: -3px }
@media (max-width: 640px) { main { padding: 12px 10px 40px } section { padding: 14px 12px }
  .pair img { max-width: 100% } td:first-child { white-space: normal; min-width: 90px } th, td { padding: 6px }
  .cards { grid-template-columns: 1fr 1fr } .card b { font-size: 1.4rem } .tiles { grid-template-columns: 1fr 1fr }
  .bar { width: 44px } }
"""
OPTION, CODE = r"--[a-z][a-z-]+( \d+| auto| giou)?", r"<code>\g<0></code>"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} on {split}: SSD-Lite report</title>
<style>{style}</style>
</head>
<body><main>
<h1>{title}</h1>
<p class="soft">{subtitle}</p>
<nav>{links}</nav>
<div class="cards">{cards}</div>
{sections}
</main></body>
</html>
"""


def render_page(analysis: Analysis, metrics: Metrics, title: str, trained: TrainedWith) -> str:
    """``title`` says what was scored; ``trained`` is what it has already, and need not be advised."""
    drawer = Drawer(analysis)
    index = analysis.index
    parts = {
        "next": _next(analysis, trained),
        "classes": _classes(analysis, metrics),
        "errors": _errors(analysis, trained),
        "sizes": _sizes(analysis, metrics, trained),
        "confusions": _confusions(analysis),
        "worst": _worst(analysis, drawer),
        "labels": _labels(analysis, drawer),
    }
    objects = sum(index.object_counts().values())
    return PAGE.format(
        title=escape(title),
        split=escape(index.name),
        style=PAGE_STYLE,
        subtitle=f"on {_name(index.name)}: {counted(len(index), 'picture')}, {counted(objects, 'object')} to find",
        links="".join(f'<a href="#{name}">{heading}</a>' for name, heading in SECTIONS.items()),
        cards=_cards(analysis, metrics),
        sections="\n".join(
            f'<section id="{name}"><h2>{heading}</h2>{parts[name]}</section>' for name, heading in SECTIONS.items()
        ),
    )


def _name(text: str) -> str:
    """Untrusted text, kept from turning the text around it."""
    return f"<bdi>{escape(text)}</bdi>"


def _prose(text: str) -> str:
    """A text of our own, or with names in it, whose options stand out and are not broken."""
    return re.sub(OPTION, CODE, escape(text))


def _note(section: str, **values: str) -> str:
    return f'<p class="soft">{_prose(NOTES[section].format(**values))}</p>'


def _legend(entries: Mapping[str, Outline]) -> str:
    keys = (
        f'<span class="key" style="border:3px {"dashed" if line.dash else "solid"} rgb{line.color}"></span> {text}'
        for text, line in entries.items()
    )
    return f'<p class="legend">{" ".join(f"<span>{key}</span>" for key in keys)}</p>'


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _bar(value: float | None, kind: str = "") -> str:
    width = 0 if value is None else min(100, max(0, round(100 * value)))
    return f'<span class="bar {kind}"><i style="width:{width}%"></i></span>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Headings and cells are HTML; a cell may bring its own ``<td``."""
    head = "".join(heading if heading.startswith("<th") else f"<th>{heading}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cards(analysis: Analysis, metrics: Metrics) -> str:
    matches = analysis.matches
    found, wrong = int((matches.objects >= 0).sum()), int(((matches.objects < 0) & ~matches.ignored).sum())
    objects = sum(analysis.index.object_counts().values())
    cards = (
        (_figure(metrics.AP), "AP, average precision over IoU 0.50 to 0.95: the usual single figure"),
        (_figure(metrics.AP50), "AP50, where a box counts that overlaps by half"),
        (_share(found, objects), f"of the objects are found (recall): {found} of {objects}"),
        (_share(found, found + wrong), f"of the detections are right (precision): {found} of {found + wrong}"),
    )
    return "".join(f'<div class="card"><b>{value}</b><span>{text}</span></div>' for value, text in cards)


def _next(analysis: Analysis, trained: TrainedWith) -> str:
    return f"<ol>{''.join(f'<li>{_prose(line)}</li>' for line in advice(analysis, trained))}</ol>" + _note("next")


def _classes(analysis: Analysis, metrics: Metrics) -> str:
    counts = {name: count for name, count in analysis.index.object_counts().items() if count}
    most = set(sorted(counts, key=lambda name: -counts[name])[:MOST_ROWS])
    shown = [name for name in counts if name in most]

    def rows() -> Iterator[list[str]]:
        for name in shown:
            own, point = metrics.per_class[name], analysis.points.get(name)
            values = [point.score_threshold, point.precision, point.recall, point.f1] if point else [None] * 4
            yield [
                _name(name),
                str(counts[name]),
                _figure(own.AP) + _bar(own.AP),
                _figure(own.AP50),
                *map(_figure, values),
            ]

    table = _table(["class", "objects", "AP", "AP50", "threshold", "precision", "recall", "F1"], rows())
    labels = {name: label for label, name in enumerate(analysis.index.class_names)}
    drawn = sorted(shown, key=lambda name: -counts[name])[:MOST_CURVES]
    curves = "".join(_curve(name, analysis.curves[labels[name]], analysis.points.get(name)) for name in drawn)
    left_out = f"<p>The {MOST_ROWS} classes with the most objects are shown.</p>" if len(counts) > MOST_ROWS else ""
    return (
        f"{_note('classes')}{left_out}{table}{_unscored(analysis)}<h3>Precision over recall</h3>"
        f'{_note("curves")}<div class="curves">{curves}</div>'
    )


def _unscored(analysis: Analysis) -> str:
    absent = analysis.index.absent_classes()
    if not absent:
        return ""
    names = listing([_name(name) for name in absent], 30)
    return f'<p class="soft">Not scored, as no object of them is annotated here: {names}.</p>'


def _curve(name: str, precision: FloatArray, point: OperatingPoint | None) -> str:
    line = " ".join(f"{x * 100:.0f},{100 - y * 100:.1f}" for x, y in zip(RECALL_LEVELS, precision, strict=True))
    dot = ""
    if point is not None:
        x, y = point.recall * 100, 100 - point.precision * 100
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--orange)"/>'
    return (
        '<figure><svg viewBox="-4 -4 108 108" role="img"><rect width="100" height="100" fill="none" '
        'stroke="var(--line)"/><path d="M0 50H100M50 0V100" stroke="var(--line)" stroke-width=".6"/>'
        f'<polyline points="{line}" fill="none" stroke="var(--blue)" stroke-width="2"/>{dot}</svg>'
        f"<figcaption>{_name(name)}, AP50 {precision.mean():.3f}</figcaption></figure>"
    )


def _errors(analysis: Analysis, trained: TrainedWith) -> str:
    helps = remedies(trained)
    loss = sorted(analysis.weights.loss.items(), key=lambda pair: -pair[1])
    largest = max(loss[0][1], 1e-9)
    rows = (
        [
            escape(kind),
            str(analysis.error_counts[kind]),
            f"{value:.3f}{_bar(value / largest, 'loss')}",
            f'<td class="text">{escape(ERROR_MEANINGS[kind])}</td>',
            f'<td class="text">{_prose(helps[kind])}</td>',
        ]
        for kind, value in loss
    )
    texts = (f'<th class="text">{heading}</th>' for heading in ("what it means", "what helps"))
    headings = ["kind of error", "errors", "AP50 lost", *texts]
    return _note("errors") + _table(headings, rows)


def _sizes(analysis: Analysis, metrics: Metrics, trained: TrainedWith) -> str:
    def rows(buckets: list[SizeBucket], *more: list[float | None]) -> Iterator[list[str]]:
        for number, one in enumerate(buckets):
            share = one.found / one.objects if one.objects else None
            yield [
                f"{escape(one.name)} <span class=soft>{escape(one.meaning)}</span>",
                str(one.objects),
                _share(one.found, one.objects) + _bar(share),
                _share(one.found_at_any_score, one.objects),
                *(_figure(column[number]) for column in more),
            ]

    headings = ["size of the object", "objects", "found", "found at any score"]
    pixels = rows(analysis.pixel_sizes, [metrics.AP_small, metrics.AP_medium, metrics.AP_large])
    relative = rows(analysis.relative_sizes)
    return (
        f"{_note('sizes', finer_look=finer_look(trained))}{_table([*headings, 'AP'], pixels)}"
        f"<h3>Beside the picture</h3>{_note('relative')}{_table(headings, relative)}"
    )


def _confusions(analysis: Analysis) -> str:
    counts, names = analysis.confusion, analysis.index.class_names
    wrong, totals = Counter[int](), Counter[int]()
    for (annotated, detected), count in counts.items():
        totals[annotated] += count
        wrong.update({annotated: count, detected: count} if annotated != detected else {})
    used = {label for pair in counts for label in pair if label < len(names)}
    shown = [*sorted(sorted(used, key=lambda label: (-wrong[label], label))[:MOST_MATRIX]), len(names)]
    labels = {label: _name(names[label]) for label in shown[:-1]} | {len(names): "<em>background</em>"}

    def row(i: int) -> list[str]:
        return [labels[i], *(_cell(counts.get((i, j), 0), totals[i], i == j) for j in shown)]

    matrix = _table(["annotated \\ found as", *(labels[i] for i in shown)], map(row, shown), "matrix")
    pairs = _table(
        ["annotated", '<th class="text">found as</th>', "times"],
        ([_name(a), f'<td class="text">{_name(b)}</td>', str(count)] for a, b, count in analysis.confusions()[:10]),
    )
    left_out = f"<p>The {MOST_MATRIX} classes with most errors are shown.</p>" if len(used) > MOST_MATRIX else ""
    confused = f"<h3>Taken for another</h3>{pairs}" if analysis.confusions() else "<p>None is taken for another.</p>"
    return _note("confusions") + left_out + matrix + confused


def _cell(count: int, total: int, is_right: bool) -> str:
    color = "47,125,225" if is_right else "224,108,16"
    style = f' style="background:rgba({color},{0.08 + 0.6 * count / max(1, total):.2f})"' if count else ' class="soft"'
    return f"<td{style}>{count or '·'}</td>"


def _worst(analysis: Analysis, drawer: Drawer) -> str:
    if not analysis.pictures:
        return "<p>No picture has an error at the thresholds.</p>"
    kinds = {"found": HIT, "missed": MISSED, "false alarm": FALSE_ALARM, "left out of the count": IGNORED_LINE}
    parts = [_note("worst"), _legend(kinds)]
    for one in analysis.pictures[:WORST_PICTURES]:
        panes = drawer.panes(one.position)
        images = "<p class=soft>(no picture: it cannot be read, or the page would be too large)</p>"
        if panes:
            views = zip(("annotations", "detections"), panes, strict=True)
            images = "".join(f'<img alt="{name}" src="{data}">' for name, data in views)
            images = f'<div class="pair">{images}</div>'
        parts.append(
            f'<div class="picture"><p>{_file(analysis, one.position)}: {one.found} found, {one.missed} missed, '
            f"{counted(one.false_alarms, 'false alarm')}</p>{images}</div>"
        )
    return "".join(parts)


def _labels(analysis: Analysis, drawer: Drawer) -> str:
    kinds = {"annotated, in doubt": MISSED, "found, not annotated": FALSE_ALARM, "annotated": HIT}
    parts = [_note("labels"), _legend(kinds)]
    for kind, meaning in SUSPECT_KINDS.items():
        suspects = analysis.suspects[kind]
        first = f", the first {SHOWN_SUSPECTS}" if len(suspects) > SHOWN_SUSPECTS else ""
        parts.append(f"<h3>{escape(meaning).capitalize()}: {len(suspects)}{first}</h3>")
        tiles = "".join(_tile(analysis, one, drawer.crop(one)) for one in suspects[:SHOWN_SUSPECTS])
        parts.append(f'<div class="tiles">{tiles}</div>')
    return "".join(parts)


def _tile(analysis: Analysis, one: LabelSuspect, source: str | None) -> str:
    image = f'<img alt="" src="{source}">' if source else ""
    annotated = f"annotated {_name(one.annotated)}" if one.annotated is not None else "not annotated"
    detected = f", found as {_name(one.detected)} {one.score:.2f}" if one.detected is not None else ""
    return f"<figure>{image}<figcaption>{annotated}{detected}; {_file(analysis, one.position)}</figcaption></figure>"


def _file(analysis: Analysis, position: int) -> str:
    """The file's name in its folder: the page may go to people whom the rest of the path is no business of."""
    return _name("/".join(Path(analysis.file(position)).parts[-2:]))
