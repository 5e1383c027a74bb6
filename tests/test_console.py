"""Tables of figures are whole on a narrow console, and where the output is no console."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from ssdlite import console


def test_no_figure_is_cut_on_a_narrow_console(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "console", Console(width=20))
    table = Table()
    for heading in ("a model of some name", "median", "ratio"):
        table.add_column(heading)
    table.add_row("bundle/decoded_fp32.onnx", "1234.5678", "0.123456")
    console.print_table(table)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "bundle" in line]
    assert "bundle/decoded_fp32.onnx" in row and "1234.5678" in row and "0.123456" in row


def terminal(width: int) -> Console:
    return Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, highlight=False)


def printed(out: Console) -> list[str]:
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_a_line_wraps_between_words_and_keeps_long_ones_whole() -> None:
    out = terminal(40)
    console.print_line(
        "run folder: runs/train-001 (best.pt, last.pt, samples.png) a/path/that/is/longer/than/forty/columns.pt", out
    )
    assert printed(out) == [
        "run folder: runs/train-001 (best.pt,",
        "  last.pt, samples.png)",
        "  a/path/that/is/longer/than/forty/columns.pt",
    ]


def test_a_line_that_goes_to_a_file_is_one() -> None:
    out = Console(width=40, file=io.StringIO())
    console.print_line("run folder: runs/train-001 (best.pt, last.pt, samples.png) [and more]", out)
    assert printed(out) == ["run folder: runs/train-001 (best.pt, last.pt, samples.png) [and more]"]


@pytest.mark.parametrize("width", [40, 80])
def test_no_word_of_a_table_or_its_title_is_cut(width: int) -> None:
    out = terminal(width)
    table = Table(
        title="figures of data/photographs/validation/instances_val.json",
        caption="a caption of some length, below the table",
    )
    for heading in ("class", "average precision", "what it means"):
        table.add_column(heading)
    table.add_row("photographs_of_animals", "0.123456", "precision over thresholds between 0.5 and 0.95")
    console.print_table(table, out)
    text = " ".join(printed(out))
    for word in ("instances_val.json", "caption", "precision", "photographs_of_animals", "0.123456", "thresholds"):
        assert word in text, text


def test_something_is_due_by_time_and_not_by_steps() -> None:
    now = [100.0]
    interval = console.Interval(0.5, lambda: now[0])
    due = []
    for now[0] in (100.0, 100.1, 100.4, 100.5, 100.6, 160.0, 160.1):
        due.append(interval.is_due())
    assert due == [True, False, False, True, False, True, False]


def test_a_slow_rate_is_not_nothing() -> None:
    rates = (0.0123, 0.31, 3.14, 9.96, 10.4, 1234.5)
    expected = ["0.012", "0.31", "3.1", "10", "10", "1234"]
    assert [console.format_rate(rate) for rate in rates] == [f"{rate} images/s" for rate in expected]


def test_metrics_stand_beside_the_threshold_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"AP": 0.5, "AP50": 0.75, "AP75": None}
    point = {"score_threshold": 0.375, "precision": 0.9, "recall": 0.8, "f1": 0.847}
    console.print_metrics(
        "val", {**figures, "per_class": {"cat": figures, "dog": figures}, "operating_points": {"cat": point}}
    )
    rows = [re.findall(r"[\w.-]+", line) for line in capsys.readouterr().out.splitlines()]
    assert ["cat", "0.500", "0.750", "-", "0.375", "0.900", "0.800"] in rows
    assert ["dog", "0.500", "0.750", "-", "-", "-", "-"] in rows
    assert ["all", "0.500", "0.750", "-"] in rows


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "epoch 12/60  20% 0.31 images/s 0:00:00"),
        (80, "epoch 12/60 ━━━              2400/12000 0.31 images/s 0:00:00 left -:--:--"),
    ],
)
def test_progress_fits_the_console(width: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = terminal(width)
    monkeypatch.setattr(console, "console", out)
    progress = console.training_progress(True)
    progress.add_task("epoch 12/60", total=12_000, completed=2400, rate="0.31 images/s", figures="loss 3.1  lr 2.0e-03")
    out.print(progress.get_renderable())
    assert printed(out) == [shown]
