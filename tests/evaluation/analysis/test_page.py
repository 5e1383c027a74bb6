"""The page of a report: parsed, complete, self-contained, and deaf to what names in it say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.detections import Detections
from ssdlite.evaluation import Evaluator
from ssdlite.evaluation.analysis.analyze import analyze
from ssdlite.evaluation.analysis.drawn import Drawer
from ssdlite.evaluation.analysis.page import SECTIONS
from ssdlite.evaluation.analysis.report import write_report
from ssdlite.tools import eval_det
from tests.evaluation.analysis.made import BOX, FAR, NAMES, found, make_index

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{title} %s \u202e & <b>")
VOID = {"meta", "img", "br", "circle", "path", "rect", "polyline"}


class Page(HTMLParser):
    """Elements and texts; every element that is opened has to be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for known, attributes in self.tags if known == tag]


def make_evaluator(folder: Path, names: tuple[str, ...]) -> Evaluator:
    """A cat found, a dog taken for a cat, an owl missed, a dog where nothing is annotated."""
    index = make_index([(0, "cat", BOX, False), (0, "dog", FAR, False), (1, "owl", BOX, False)], 3)
    pixels = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    for position in (0, 1):
        Image.fromarray(pixels).save(folder / f"<{position}&>.png")
    index = replace(index, class_names=names, paths=tuple(str(folder / f"<{i}&>.png") for i in range(3)))
    evaluator = Evaluator(index)
    first = found(("cat", FAR, 0.92), ("cat", BOX, 0.9), ("dog", [60, 0, 90, 20], 0.91), ("dog", [60, 5, 95, 20], 0.1))
    evaluator.update(0, replace(first, class_names=names))
    evaluator.update(2, replace(found(("cat", BOX, 0.95)), class_names=names))
    return evaluator


@pytest.mark.parametrize("names", [NAMES, HOSTILE])
def test_the_page_is_whole_and_shuts_everything_else_out(tmp_path: Path, names: tuple[str, ...]) -> None:
    evaluator = make_evaluator(tmp_path, names)
    html, report = write_report(tmp_path, evaluator, evaluator.compute(), Path("/a/b/<i>x", "<b>.pt"))
    text = html.read_text(encoding="utf-8")
    page = Page(text)
    assert [one for one in page.values("section", "id") if one] == list(SECTIONS)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "i", "b"} == {"i", "b"}
    assert len(page.values("b", "class")) == 4  # the cards' figures, and no one else's
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    sources = page.values("img", "src")
    assert len(sources) == 2 * 2 + 3  # the worst pictures and the annotations to look at, but for those of a lost file
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in str(page.values("meta", "content"))
    words = "".join(page.words)
    assert "<i>x/<b>.pt" in page.words  # and not where that lies
    assert "<i>x/<b>.pt on made/val: SSD-Lite report" in page.words  # the title
    assert all(name in words for name in names)
    assert f"{tmp_path.name}/<0&>.png" in words and str(tmp_path.parent) not in words
    values = json.loads(report.read_text(encoding="utf-8"))
    assert list(values["per_class"]) == list(names)
    assert values["operating_points"][names[0]]["score_threshold"] == pytest.approx(0.9)


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    index = replace(make_index([(0, "cat", BOX, False)], 1), paths=("folder/\udcff.png",))
    evaluator = Evaluator(index)
    html, report = write_report(tmp_path, evaluator, evaluator.compute(), Path("x.pt"))
    assert "folder/\\udcff.png" in html.read_text()
    assert json.loads(report.read_text())["worst_pictures"][0]["file"] == "folder/\\udcff.png"


def test_pictures_end_where_the_bytes_or_the_seconds_do(tmp_path: Path) -> None:
    evaluator = make_evaluator(tmp_path, NAMES)
    one = analyze(evaluator.index, evaluator.state())
    panes = Drawer(one).panes(0)
    assert panes is not None
    size = sum(len(pane) - len("data:image/jpeg;base64,") for pane in panes)
    assert Drawer(one, most_bytes=size).panes(0) == panes
    drawer = Drawer(one, most_bytes=size - 1)
    assert drawer.panes(0) is None and drawer.panes(1) is None
    assert Drawer(one, seconds=-1).panes(0) is None
    assert Drawer(one).panes(2) is None  # there is no such file


@pytest.mark.parametrize("objects", [[], [(0, "cat", BOX, False)]])
@pytest.mark.parametrize("detections", [found(), found(("cat", BOX, 0.9))])
def test_a_page_of_little_or_nothing(tmp_path: Path, objects: list, detections: Detections) -> None:
    index = make_index(objects, 1)
    evaluator = Evaluator(index)
    evaluator.update(0, detections)
    html, _ = write_report(tmp_path, evaluator, evaluator.compute(), Path("x.pt"))
    assert [one for one in Page(html.read_text()).values("section", "id") if one] == list(SECTIONS)


def test_eval_writes_a_report_of_a_real_detector(small_data: Path, tmp_path: Path) -> None:
    common = ["openimages", "--data", str(small_data / "coco-cc"), "--workers", "0", "--output"]
    assert eval_det.main([*common, str(tmp_path / "a")]) == 0
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert report["AP50"] == metrics["AP50"] > 0.2
    assert report["operating_points"] == metrics["operating_points"]
    page = Page((tmp_path / "a" / "report.html").read_text())
    assert "openimages" in page.words and len(page.values("img", "src")) > 4
    assert eval_det.main([*common, str(tmp_path / "b"), "--no-report"]) == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["coco_results.json", "metrics.json"]
