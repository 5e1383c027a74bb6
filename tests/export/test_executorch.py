"""ExecuTorch files: what they answer, what the contract says of them, and what goes wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import ssdlite
from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.errors import ContractError, ExportError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.bundle import write_contract
from ssdlite.export.graphs import NmsGraph, PlainHardSigmoid, RawGraph, model_spec, use_plain_activations
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.executorch import lower_to_xnnpack
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.golden import write_golden
from ssdlite.images.reading import read_image
from ssdlite.runtime import load_model, read_contract
from ssdlite.runtime.backends.executorch import ExecuTorchBackend
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.tools.lint_model import main as lint

HAS_EXECUTORCH = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(
    not HAS_EXECUTORCH, reason="executorch is not installed (the extra ssdlite[executorch], half a GB)"
)


@pytest.fixture(scope="module")
def exported(golden_bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the detector ``stretch``: decoded and raw, uint8 planes; not to be changed."""
    output = tmp_path_factory.mktemp("executorch") / "bundle"
    options = ExportOptions(
        checkpoint=golden_bundles / "stretch.pt", output=output, target=("executorch",), variant=("decoded", "raw")
    )
    before, said = dict(os.environ), list[str]()
    export_bundle(options, said.append)
    assert {name: value for name, value in os.environ.items() if before.get(name) != value} == {}
    left = [line.strip() for line in said if "outside XNNPACK" in line]
    assert left == 2 * [  # and nothing else
        (
            "one operator stays outside XNNPACK, the cast of the bytes, a pass over the input; --input-type float32 "
            "leaves it to the app"
        )
    ]
    return output


@needs_executorch
def test_files_answer_as_onnx_runtime_does_on_the_same_graph(exported: Path, golden_bundles: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), np.uint8)
    for variant in ("decoded", "raw"):
        session = onnxruntime.InferenceSession(str(golden_bundles / "stretch" / f"{variant}.uint8_NCHW.onnx"))
        model = load_model(exported, f"{variant}_fp32.pte", threads=1)
        assert (model.model.runtime, model.model.files) == ("executorch", (f"{variant}_fp32.pte",))
        answers = model.backend.run(images)
        for output, right in zip(session.get_outputs(), session.run(None, {"images": images}), strict=True):
            np.testing.assert_allclose(answers[output.name], right, atol=1e-4 * np.abs(right).max())
    assert verify_bundle(exported).passed


@needs_executorch
def test_an_input_of_another_memory_layout_is_read_as_what_it_is(exported: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    view = pixels.transpose(0, 3, 1, 2)
    backend = load_model(exported, "decoded_fp32.pte").backend
    right = backend.run(np.ascontiguousarray(view))["scores"]
    np.testing.assert_array_equal(backend.run(view)["scores"], right)
    view.flags.writeable = False
    np.testing.assert_array_equal(backend.run(view)["scores"], right)


@needs_executorch
@pytest.mark.parametrize("wrong", [
    np.zeros((1, 3, 96, 96), np.float32), np.zeros((1, 3, 96, 64), np.uint8), np.zeros((2, 3, 96, 96), np.uint8),
    np.zeros((3, 96, 96), np.uint8),
])  # fmt: skip
def test_wrong_inputs_are_refused(exported: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ContractError, match=r"expected the input 'images' uint8 \[1, 3, 96, 96\], got"):
        load_model(exported, "decoded_fp32.pte").backend.run(wrong)


@needs_executorch
def test_models_with_other_numbers_of_threads_take_turns(exported: Path) -> None:
    from executorch.extension.pybindings import _C

    picture = read_image(exported / "golden" / "image_1.png")
    one, two = (load_model(exported, "decoded_fp32.pte", threads=count) for count in (1, 2))
    (expected,) = one.predict(picture, score_threshold=0.1)
    assert len(expected) >= 5
    for model, count in ((two, 2), (one, 1), (pickle.loads(pickle.dumps(two)), 2)):
        (found,) = model.predict(picture, score_threshold=0.1)
        assert _C._threadpool_get_thread_count() == count
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@needs_executorch
def test_lint_names_what_a_file_leaves_outside_xnnpack(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint([str(exported)]) == 0
    said = capsys.readouterr().out
    assert "raw_fp32.pte on executorch: takes all but 1 operator, in 1 piece\n" in said
    assert "left to the CPU: dim_order_ops::_to_dim_order_copy 1\n" in said
    assert "what to do: --input-type float32\n" in said
    assert lint([str(exported / "decoded_fp32.pte"), "--strict"]) == 1


@needs_executorch
@pytest.mark.parametrize("options", [("benchmark", "--runs", "1"), ("lint",)])
def test_a_command_shows_none_of_the_lines_that_executorch_writes(exported: Path, options: tuple[str, ...]) -> None:
    """Neither in its own process nor in that whose memory it measures."""
    command = [sys.executable, "-m", "ssdlite.cli", options[0], str(exported / "raw_fp32.pte"), *options[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "raw_fp32.pte" in result.stdout


class Alone(nn.Module):
    """A network's only output as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


@needs_executorch
def test_hard_sigmoid_stays_inside_xnnpack() -> None:
    """MobileNetV3 has eight of them, which XNNPACK lacks, and hard-swishes, which it has."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector("ssdlite320_mobilenet_v3_large", num_classes=2, width_mult=0.1, image_size=64)
    spec = model_spec(detector, GraphOptions(variant="raw", input_type="float32"), "raw_fp32.pte")
    spec = replace(spec, runtime="executorch", outputs=(replace(spec.outputs[0], shape=(1, 8, 8, 8)),))
    network: Any = fold_batch_norms(detector.eval()).backbone.features
    use_plain_activations(network, (nn.Hardsigmoid,))

    def count(part: nn.Module) -> list[int]:
        return [sum(isinstance(one, kind) for one in part.modules()) for kind in (nn.Hardswish, PlainHardSigmoid)]

    assert count(network) == [20, 8]
    part = network[:5]  # to the first block with squeeze and excitation
    assert count(part) == [1, 1]
    assert lower_to_xnnpack(Alone(part), spec)[1] == []


# --- Faults, planted in a network of one convolution: lowering takes seconds for a whole detector.


class Blocks(nn.Module):
    """uint8 [1, 3, 32, 48] -> scores [1, 6, 3] and boxes [1, 6, 4], one for each block of 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 16, stride=16)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            weight = torch.randn(self.conv.weight.shape, generator=generator)
            self.conv.weight.copy_(weight + torch.arange(24.0).view(8, 3, 1, 1) % 5 * 0.02)
            nn.init.uniform_(self.conv.bias, -0.1, 0.1, generator=generator)  # type: ignore[arg-type]

    def logits(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.conv((pixels - 127.5) / 127.5)
        return found.flatten(2).transpose(1, 2)

    def scores(self, logits: Tensor) -> Tensor:
        return (0.5 * logits[..., :4]).softmax(-1)[..., 1:]

    def boxes(self, logits: Tensor) -> Tensor:
        low, sides = logits[..., 4:].mul(0.1).sigmoid().split(2, dim=-1)
        return torch.cat([0.5 * low, 0.5 * low + 0.1 + 0.4 * sides], -1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(images.float())
        return self.scores(logits), self.boxes(logits)


class WithBackground(Blocks):
    def scores(self, logits: Tensor) -> Tensor:
        return (0.5 * logits[..., :4]).softmax(-1)


Fault = Callable[[nn.Conv2d], object]


def swap_channels(conv: nn.Conv2d) -> None:
    conv.weight.copy_(conv.weight[:, [2, 1, 0]])


def shift_mean(conv: nn.Conv2d) -> None:
    """20 is added to the pixels before they are normalised."""
    assert conv.bias is not None
    conv.bias.add_(conv.weight.sum((1, 2, 3)) * 20 / 127.5)


def reorder(*channels: int) -> Fault:
    """Of the outputs: the scores' logits, background first, and the four of the boxes."""

    def change(conv: nn.Conv2d) -> None:
        for values in conv.parameters():
            values.copy_(values[list(channels)])

    return change


def damage_weights(conv: nn.Conv2d) -> None:
    conv.weight.view(-1)[::10] *= -1


def save_blocks(graph: nn.Module, contract: Contract, folder: Path) -> None:
    """The file that ``contract`` describes, with contract.json as an export of just this network writes it."""
    spec = contract.models[0]
    with torch.no_grad():
        shapes = [tuple(one.shape) for one in graph(torch.zeros(1, 3, 32, 48, dtype=torch.uint8))]
    own = replace(spec, outputs=tuple(replace(one, shape=two) for one, two in zip(spec.outputs, shapes, strict=True)))
    artifact, _ = lower_to_xnnpack(graph.eval(), own)
    artifact.save(folder, contract)
    write_contract(folder, replace(contract, models=(replace(spec, sha256=artifact.spec.sha256),)))


def plant(fault: Fault, folder: Path) -> None:
    """What lowering the network with that fault gives: other weights in the same file. Lowering takes seconds."""
    contract, conv = read_contract(folder), Blocks().conv
    (spec,) = contract.models
    content = (folder / spec.file).read_bytes()
    before = stored(conv)
    with torch.no_grad():
        fault(conv)
    for own, other in zip(before, stored(conv), strict=True):
        assert content.count(own) == 1
        content = content.replace(own, other)
    (folder / spec.file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    write_contract(folder, replace(contract, models=(replace(spec, sha256={spec.file: digest}),)))


def stored(conv: nn.Conv2d) -> list[bytes]:
    """Weights as XNNPACK takes them, the input's channels last, and biases."""
    return [
        values.detach().movedim(1, -1).numpy().tobytes() if values.ndim > 1 else values.detach().numpy().tobytes()
        for values in conv.parameters()
    ]


@pytest.fixture(scope="module")
def blocks(make_colour_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of ``Blocks``, with reference vectors; not to be changed."""
    _, contract = make_colour_model("decoded", file="blocks.pte", batch=1)
    (model,) = contract.models
    outputs = tuple(replace(one, shape=(1, 6, one.shape[2])) for one in model.outputs)
    contract = replace(contract, models=(replace(model, runtime="executorch", outputs=outputs),))
    folder = tmp_path_factory.mktemp("blocks")
    save_blocks(Blocks(), contract, folder)
    rng = np.random.default_rng(3)
    write_golden(folder, read_contract(folder), [rng.integers(40, 200, (32, 48, 3), np.uint8) for _ in range(2)])
    assert verify_bundle(folder).passed
    return folder


@pytest.fixture
def bundle(blocks: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(blocks, tmp_path / "bundle"))


@needs_executorch
@pytest.mark.parametrize(("fault", "likely"), [
    (swap_channels, "the network takes: channels in the order BGR instead of RGB"),
    (shift_mean, "another mean inside the network: about 20 grey levels too low"),
    (reorder(0, 1, 2, 3, 5, 4, 7, 6), "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1"),
    (reorder(0, 3, 1, 2, 4, 5, 6, 7), "labels off by one (+1)"),
    (damage_weights, "none of the usual mistakes: other or damaged weights"),
])  # fmt: skip
def test_verify_names_the_step_of_a_planted_fault(bundle: Path, fault: Fault, likely: str) -> None:
    plant(fault, bundle)
    expect_named(bundle, likely)


@needs_executorch
def test_verify_names_a_background_that_was_not_removed(bundle: Path) -> None:
    save_blocks(WithBackground(), read_contract(bundle), bundle)
    expect_named(bundle, "background not removed")


def expect_named(bundle: Path, likely: str) -> None:
    report = verify_bundle(bundle)
    assert report.failed_steps() == {"blocks.pte": ["outputs"]}
    (model,) = report.models
    (outputs,) = [step for step in model.steps if step.step == "outputs"]
    assert (outputs.likely or "").startswith(likely)
    assert model.notes == ("blocks.pte: not the file that the reference vectors were made with (SHA-256)",)


@needs_executorch
@pytest.mark.parametrize("damage", [
    lambda content: content[:-1],
    lambda content: content[:200],
    lambda content: b"no program",
    lambda content: content[:60] + b"\xff" * 40 + content[100:],
    lambda content: content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:],
])  # fmt: skip
def test_a_damaged_file_is_refused_before_executorch_reads_it(bundle: Path, damage: Callable[[bytes], bytes]) -> None:
    path = bundle / "blocks.pte"
    path.write_bytes(damage(path.read_bytes()))
    for opened in (bundle, path):
        with pytest.raises(ContractError, match=r"blocks\.pte: damaged, or not the file that was exported.*SHA-256$"):
            load_model(opened)
    assert verify_bundle(bundle).failed_steps() == {"blocks.pte": ["outputs"]}


@needs_executorch
def test_other_damage_and_contracts_that_do_not_fit(bundle: Path) -> None:
    contract = read_contract(bundle)
    (spec,) = contract.models

    def refuse(**changes: Any) -> str:
        write_contract(bundle, replace(contract, models=(replace(spec, **changes),)))
        with pytest.raises(ContractError) as caught:
            load_model(bundle)
        return str(caught.value)

    assert refuse(sha256=None).endswith(
        "blocks.pte: its contract states no SHA-256, and a damaged file ends the process"
    )
    other = replace(spec.input, height=64)
    assert "the contract promises one input, 'pixels' uint8 [1, 3, 64, 48]" in refuse(input=other)
    (bundle / "blocks.pte").write_bytes(b"")
    assert "blocks.pte: expected a model of 1 to" in refuse()
    (bundle / "blocks.pte").unlink()
    assert "blocks.pte: no such file" in refuse()
    with pytest.raises(ContractError, match="needs a contract that names its outputs"):
        ExecuTorchBackend.open(bundle / "blocks.pte", None, None)


@needs_executorch
def test_an_operator_that_executorch_lacks_is_named_with_its_module(golden_bundles: Path) -> None:
    detector = ssdlite.load_detector(golden_bundles / "stretch.pt").eval()
    options = GraphOptions(variant="nms")
    graph = NmsGraph(RawGraph(detector, options), options.max_candidates)
    with pytest.raises(ExportError, match=r"^ExecuTorch has no ssdlite::suppress \(graph\)$"):
        lower_to_xnnpack(graph.eval(), model_spec(detector, options, "nms.pte"))

    class Inverse(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.linalg.inv(images[..., :32, :32])

    spec: ModelSpec = model_spec(detector, GraphOptions(input_type="float32"), "inverse.pte")
    with pytest.raises(ExportError, match=r"^ExecuTorch has no aten::linalg_inv \(head\)$"):
        lower_to_xnnpack(nn.Sequential(OrderedDict(head=Inverse())), spec)


@pytest.mark.parametrize(("options", "message"), [
    ({"batch": "dynamic"}, "--batch: got dynamic, but executorch takes 1 or 2 to 1024"),
    (
        {"layout": "NHWC"},
        ("--layout NHWC: is for onnxruntime, openvino, litert, coreml and web, none of which is among "
        "--target executorch"),
    ),
    ({"variant": ("nms",)}, "--variant: got nms, but executorch has decoded, raw"),
    ({"precision": ("int8",), "calibration_folder": Path()}, "--precision: got int8, but executorch has fp32"),
])  # fmt: skip
def test_what_executorch_cannot_do_is_refused_at_once(
    golden_bundles: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    weights = golden_bundles / "stretch.pt"
    with pytest.raises((ExportError, ssdlite.errors.ConfigError)) as caught:
        export_bundle(ExportOptions(checkpoint=weights, output=tmp_path / "bundle", target=("executorch",), **options))
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_missing_package_says_what_to_install(
    golden_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    contract = read_contract(golden_bundles / "stretch")
    (tmp_path / "a.pte").write_bytes(b"any")
    with pytest.raises(ContractError, match=r'running it needs executorch: pip install "ssdlite\[executorch\]"$'):
        ExecuTorchBackend.open(tmp_path / "a.pte", contract.models[0], None)
    options = ExportOptions(
        checkpoint=golden_bundles / "stretch.pt", output=tmp_path / "bundle", target=("executorch",)
    )
    with pytest.raises(ExportError, match=r'^executorch is not installed: pip install "ssdlite\[executorch\]"$'):
        export_bundle(options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pte"]
