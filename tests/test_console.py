"""Tables of figures are whole on a narrow console, and where the output is no console."""

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
