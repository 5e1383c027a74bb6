"""The notebook runs from top to bottom away from the checkout, and its detector is exported as it predicts."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"
FILES_OF_THE_PACKAGE = """
import sys
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "ssdlite"), sep="\\n")
"""


def test_the_quickstart_runs_with_the_wheel(
    built_package: Path | None, hide_undeclared: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the notebook in an empty folder, the unpacked wheel and what it requires being the packages there."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra dev, is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat, of the extra dev, is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel, of the extra dev, is not installed")
    if built_package is None:
        warnings.warn("without build and setuptools there is no wheel: the checkout is tested instead", stacklevel=1)
    package = QUICKSTART.parents[1] if built_package is None else built_package / "site"
    before = "" if built_package is None else hide_undeclared("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests
    notebook = nbformat.read(QUICKSTART, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source = before + code[0].source
    notebook.cells.append(nbformat.v4.new_code_cell(FILES_OF_THE_PACKAGE))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    said = ["".join(one.get("text", "") for one in several) for several in outputs]
    assert float(re.search(r"AP50 (\d\.\d+)", said[2])[1]) > 0.7  # type: ignore[index]
    assert "image/png" in outputs[3][-1].data  # the picture with boxes
    assert "'nms_fp32.onnx'" in said[4]
    pytorch = re.search(r"<Detections: [^>]*>", outputs[3][-1].data["text/plain"])
    assert pytorch is not None
    assert 3 <= int(pytorch[0].split()[1]) <= 8, "of 6 shapes, each with one label"
    assert pytorch[0] in said[5]  # the exported file finds the same
    files = said[-1].split()
    assert str(package / "ssdlite" / "__init__.py") in files
    assert [file for file in files if not Path(file).is_relative_to(package)] == []
