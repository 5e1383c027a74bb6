"""What lint says of files of one runtime: LiteRT, ncnn. (Core ML, ExecuTorch and OpenVINO: in their own tests.)"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ssdlite.errors import ContractError
from ssdlite.export.lint.lowered import examine_lowered
from ssdlite.export.lint.report import LintFinding
from ssdlite.export.lint.tflite import LiteRtGraph, gpu_verdict, taken_by
from ssdlite.runtime.backends.base import TensorInfo
from ssdlite.runtime.backends.litert import LiteRtOperator
from ssdlite.tools import lint_model

DETECTOR = Path(__file__).parents[1] / "data" / "shapes_detector.tflite"
PARAM = """7767517
5 5
Input in0 0 1 in0
Convolution conv 1 1 in0 a 0=4
Softmax soft 1 1 a b
{kind} last 1 1 b c
{kind} again 1 1 c d
"""


def operator(name: str, inputs: list[int], outputs: list[int]) -> LiteRtOperator:
    return LiteRtOperator(name, frozenset(inputs), tuple(outputs))


def test_xnnpack_has_what_lies_between_what_its_pieces_read_and_write() -> None:
    """0 -> CAST -> 1 -> CONV -> 2 -> CONV -> 3 -> CUSTOM -> 4 -> ADD (with 2) -> 5; 9 is a constant."""
    operators = [
        operator("CAST", [0], [1]),
        operator("CONV_2D", [1, 9], [2]),
        operator("CONV_2D", [2, 9], [3]),
        operator("Custom", [3], [4]),
        operator("ADD", [2, 4], [5]),
    ]
    pieces = [operator("DELEGATE", [1, 9], [2, 3]), operator("DELEGATE", [2, 4], [5])]
    assert taken_by(pieces, operators) == {1, 2, 4}
    assert taken_by([], operators) == set()


@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="needs ai-edge-litert, which is not installed")
def test_litert_is_asked_what_xnnpack_takes() -> None:
    """As many operators as there are pieces where XNNPACK has to make one of each."""
    from ai_edge_litert.interpreter import Interpreter

    apart = Interpreter(str(DETECTOR), experimental_disable_delegate_node_fusion=True)
    apart.allocate_tensors()
    pieces = sum(one["op_name"] == "DELEGATE" for one in apart._get_ops_details())
    cpu, gpu = examine_lowered(DETECTOR, [])
    assert (cpu.target, cpu.nodes, cpu.taken) == ("litert", 290, pieces)
    assert 0 < cpu.nodes - cpu.taken < 10 and cpu.partitions is not None and 1 <= cpu.partitions < 10
    assert cpu.clean  # its own kernels are on the CPU as well
    assert (gpu.target, gpu.nodes, gpu.taken, gpu.findings) == ("litert-gpu", 290, 290, [])
    assert [report.target for report in examine_lowered(DETECTOR, ["nnapi", "litert-gpu"])] == ["litert-gpu"]


@pytest.mark.parametrize(
    ("name", "kind", "shape", "why", "remedy"),
    [
        ("CONV_2D", "float32", (1, 8, 8, 3), None, None),
        ("CAST", "int32", (1, 8), None, None),
        ("CAST", "uint8", (1, 8), "the GPU delegate does not cast uint8 to float32", "--input-type float32"),
        ("SLICE", "float32", (1, 8, 4), None, None),
        (
            "SLICE",
            "float32",
            (8, 4),
            "the GPU delegate slices tensors of 3 or 4 axes alone",
            "another operator in the network",
        ),
        (
            "TFLite_Detection_PostProcess",
            "float32",
            (1, 8, 4),
            "not among the operators of LiteRT's GPU delegate",
            "--variant decoded",
        ),
        (
            "WHERE",
            "float32",
            (1, 8),
            "not among the operators of LiteRT's GPU delegate",
            "another operator in the network",
        ),
    ],
)
def test_rules_of_the_gpu_delegate(
    name: str, kind: str, shape: tuple[int, ...], why: str | None, remedy: str | None
) -> None:
    one = operator(name, [0], [1])
    graph = LiteRtGraph([one], [], {0: TensorInfo("x", kind, shape), 1: TensorInfo("y", "float32", shape)})
    verdict = gpu_verdict(one, graph)
    assert verdict is None if why is None else verdict == ("cpu", why, remedy)


@pytest.mark.skipif(find_spec("ncnn") is None, reason="needs ncnn, which is not installed (the extra ssdlite[ncnn])")
def test_ncnn_is_asked_which_layers_have_shaders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    param = tmp_path / "decoded.param"
    param.write_text(PARAM.format(kind="Sigmoid"))
    (report,) = examine_lowered(param, [])
    assert (report.target, report.nodes, report.taken, report.findings) == ("ncnn-vulkan", 4, 4, [])
    param.write_text(PARAM.format(kind="DetectionOutput"))
    (report,) = examine_lowered(param, [])
    why = "no Vulkan shader: the CPU does it, and data are copied there and back"
    assert report.findings == [LintFinding("cpu", why, "another operator in the network", "DetectionOutput", 2)]
    assert (report.nodes, report.taken, report.refused) == (4, 2, False)
    param.write_text(PARAM.format(kind="torch.topk"))
    assert lint_model.main([str(param)]) == 1
    assert "decoded.param on ncnn-vulkan: refused\n" in capsys.readouterr().out
    param.write_text(PARAM.format(kind="Sigmoid").replace("5 5", "5 6"))
    with pytest.raises(ContractError, match=r"line 2: expected the counts of layers and blobs, 5 5, got '5 6'"):
        examine_lowered(param, [])
    with pytest.raises(ContractError, match="no such model file"):
        examine_lowered(tmp_path / "gone.param", [])


@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="needs ai-edge-litert, which is not installed")
def test_a_command_shows_no_greeting_of_a_runtime_and_a_library_hides_none() -> None:
    def said(program: str) -> str:
        command = [sys.executable, "-c", program, str(DETECTOR)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    end = "import os; os.write(2, b'native\\n'); print('ours', file=sys.stderr)"
    assert said(f"import sys; from ssdlite.cli import main; main(['lint', *sys.argv[1:]]); {end}") == "native\nours\n"
    library = "import sys; from pathlib import Path; from ssdlite.runtime.backends.litert import LiteRtBackend; "
    assert "XNNPACK delegate" in said(f"{library} LiteRtBackend(Path(sys.argv[1]))")
