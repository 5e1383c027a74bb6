"""The report on disk: ``report.html`` for people, and the same as ``report.json``."""

from __future__ import annotations

from pathlib import Path

from ssdlite.evaluation.analysis.analyze import analyze
from ssdlite.evaluation.analysis.page import render_page
from ssdlite.evaluation.coco import Evaluator, Metrics
from ssdlite.files import save_json, write_text, writing

PAGE_FILE = "report.html"
REPORT_FILE = "report.json"


def write_report(folder: Path, evaluator: Evaluator, metrics: Metrics, model: Path) -> tuple[Path, Path]:
    """Write what the ``evaluator`` has collected of ``model``, and its ``metrics`` -> the page and the JSON file.

    Raises:
        ConfigError: a file cannot be written.
    """
    analysis = analyze(evaluator.index, evaluator.state())
    page, report = folder / PAGE_FILE, folder / REPORT_FILE
    save_json(report, {"checkpoint": str(model), **metrics.to_dict(), **analysis.to_dict()})
    with writing(page):
        write_text(page, render_page(analysis, metrics, "/".join(model.parts[-2:])))
    return page, report
