"""The report on disk: ``report.html`` for people, and the same as ``report.json``."""

from __future__ import annotations

from pathlib import Path

from ssdlite.evaluation.analysis.advice import advice
from ssdlite.evaluation.analysis.analyze import analyze
from ssdlite.evaluation.analysis.page import render_page
from ssdlite.evaluation.analysis.trained import TrainedWith
from ssdlite.evaluation.coco import Evaluator, Metrics
from ssdlite.files import save_json, write_text, writing

PAGE_FILE = "report.html"
REPORT_FILE = "report.json"
NOTHING_KNOWN = TrainedWith()


def write_report(
    folder: Path, evaluator: Evaluator, metrics: Metrics, model: Path, trained: TrainedWith = NOTHING_KNOWN
) -> tuple[Path, Path]:
    """Write what the ``evaluator`` has collected of ``model``, and its ``metrics`` -> the page and the JSON file.

    ``trained``: what the model has already, which is not advised.

    Raises:
        ConfigError: a file cannot be written.
    """
    analysis = analyze(evaluator.index, evaluator.state())
    page, report = folder / PAGE_FILE, folder / REPORT_FILE
    told = {"checkpoint": str(model), **metrics.to_dict(), **analysis.to_dict(), "advice": advice(analysis, trained)}
    save_json(report, told)
    title = "/".join((model.resolve() if model.exists() else model).parts[-2:])
    with writing(page):
        write_text(page, render_page(analysis, metrics, title, trained))
    return page, report
