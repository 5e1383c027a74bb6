"""The notebook runs from top to bottom, in an empty folder, and its detector is exported as it predicts."""

import re
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra dev, is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat, of the extra dev, is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel, of the extra dev, is not installed")
    pytest.importorskip("pandas", reason="pandas, of the extra dev, is not installed")
    monkeypatch.setenv("PYTHONPATH", str(QUICKSTART.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests
    notebook = nbformat.read(QUICKSTART, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    said = ["".join(one.get("text", "") for one in several) for several in outputs]
    assert float(re.search(r"AP50 (\d\.\d+)", said[2])[1]) > 0.2  # type: ignore[index]
    assert "image/png" in outputs[3][-1].data  # the picture with boxes
    assert "'nms_fp32.onnx'" in said[5]
    pytorch = re.search(r"<Detections: [^>]*>", outputs[3][-1].data["text/plain"])
    assert pytorch is not None
    assert pytorch[0] in said[6]  # the exported file finds the same
