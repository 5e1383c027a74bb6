"""Fixtures that more than one test file uses."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.examples.kotlin import Kotlin, find_kotlin
from tests.made_once import Trace, graphs_from, make_once, trace_once

# Before torch is imported. The tests' networks gain nothing from threads, and where other work has the processors
# torch's threads wait for one another: the same tests then take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"  # development data, which few have
SIZES = ["few", "all"] if SHARED.is_dir() else ["few"]


@pytest.fixture(scope="session")
def small_data() -> Path:
    """``bccd/`` and ``coco-cc/``: a few pictures of real data sets (tests/data/README.md)."""
    return DATA


@pytest.fixture(scope="session", params=SIZES)
def real_data(request: pytest.FixtureRequest) -> Path:
    """The same, and all of those data sets where the development data stand beside the repository."""
    return DATA if request.param == "few" else SHARED


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends without samples.jpg, curves.png and the report: half of the time of a run of two epochs."""
    from ssdlite.training import run_folder, trainer

    monkeypatch.setattr(trainer.Trainer, "_draw_samples", lambda *_: None)
    monkeypatch.setattr(trainer.Trainer, "_report", lambda self: None)
    monkeypatch.setattr(run_folder, "plot_curves", lambda history, path: None)


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """``export_onnx``, which takes seconds, called once for each detector and its options in all processes."""
    return partial(trace_once, tmp_path_factory)


@pytest.fixture(scope="module")
def traced_once(trace: Trace) -> Iterator[None]:
    """For modules that export bundles of one detector again and again, and test something else than its graph."""
    with graphs_from(trace):
        yield


@pytest.fixture(scope="session")
def golden_bundles(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    """Exported bundles with reference vectors, not to be changed: ``stretch`` (softmax; raw, decoded and nms in uint8
    NCHW, decoded in float32 NHWC), ``letterbox`` (sigmoid; decoded in float32 NCHW) and ``letterbox_softmax`` (raw and
    nms). Three classes, 96 x 96. Beside them ``stretch.pt`` and so on, the detectors.
    """
    from ssdlite.export.options import GraphOptions

    def make(folder: Path) -> None:
        options = [GraphOptions(variant=variant) for variant in ("raw", "decoded", "nms")]
        _write_bundle(
            folder / "stretch",
            [*options, GraphOptions(variant="decoded", input_type="float32", layout="NHWC")],
            {},
            trace,
        )
        settings = {"resize": "letterbox", "score_function": "sigmoid"}
        _write_bundle(folder / "letterbox", [GraphOptions(variant="decoded", input_type="float32")], settings, trace)
        _write_bundle(folder / "letterbox_softmax", options[::2], {"resize": "letterbox"}, trace)

    return make_once(tmp_path_factory, "bundles", make)


@pytest.fixture(scope="session")
def litert_bundle(golden_bundles: Path, tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    """``stretch`` in LiteRT, every variant, with reference vectors of its own; not to be changed. Boxes of nms files
    begin with y, labels and count are floats; anchors is MediaPipe's.
    """
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert, of the extra litert, which is not installed")
    from ssdlite.export import ExportOptions, export_bundle

    def make(folder: Path) -> None:
        options = ExportOptions(
            checkpoint=golden_bundles / "stretch.pt",
            output=folder / "bundle",
            target=("litert",),
            variant=("nms", "anchors", "decoded", "raw"),
        )
        with graphs_from(trace):
            export_bundle(options)

    return make_once(tmp_path_factory, "litert", make) / "bundle"


@pytest.fixture(scope="session")
def kotlin(tmp_path_factory: pytest.TempPathFactory) -> Kotlin:
    """The plain Kotlin of examples/android and the programs of tests/examples/programs.kt, compiled."""
    find_kotlin(Path())  # skips before anybody waits
    folder = make_once(tmp_path_factory, "kotlin", lambda folder: find_kotlin(folder).compile())
    return find_kotlin(folder)


@pytest.fixture(scope="session")
def built_package(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """``ssd-lite/``, a copy of what is packaged, so that nothing is left in the checkout; ``dist/``, with the sdist and
    the wheel made of it, as in `make dist`; ``site/``, where that is unpacked. None without build or setuptools.
    """
    if not (find_spec("build") and find_spec("setuptools")):
        return None
    return make_once(tmp_path_factory, "package", _build_package)


@pytest.fixture(scope="session")
def hide_undeclared(built_package: Path | None) -> Callable[..., str]:
    """Gives a program after which only what the wheel requires can be imported, ``names`` and what they require."""

    def program(*names: str) -> str:
        if built_package is None:
            pytest.skip("needs build and setuptools to build the wheel, which says what it requires")
        (metadata,) = (built_package / "site").glob("*.dist-info")
        allowed = _required((*names, *(PathDistribution(metadata).requires or ()))) | {"ssdlite"}
        owners = packages_distributions().items()
        hidden = [name for name, owned in owners if not {canonicalize_name(owner) for owner in owned} & allowed]
        hidden = sorted(set(hidden) - sys.stdlib_module_names)
        return f"import sys\nfor name in {hidden}:\n    sys.modules.setdefault(name, None)\n"

    return program


def _required(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that these mean and, of those installed here, require, without extras."""
    waiting, names = [Requirement(one) for one in requirements], set[str]()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in names or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        with suppress(PackageNotFoundError):
            waiting += map(Requirement, distribution(name).requires or ())
    return names


def _build_package(folder: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    source, output = folder / "ssd-lite", folder / "dist"
    source.mkdir()
    for name in ("ssdlite", "backbones", "heads", "datasets", "tools"):
        shutil.copytree(root / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("javascript", "web"):  # parts of the web page
        shutil.copytree(
            root / "examples" / name, source / "examples" / name, ignore=shutil.ignore_patterns("node_modules")
        )
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "would be ignored" not in said, said
    (wheel,) = output.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")


def _write_bundle(folder: Path, options: list, settings: dict, trace: Trace) -> None:
    """``raw.uint8_NCHW.onnx`` and so on, of a random detector that finds some tens of objects in noise."""
    import onnx
    import torch

    import ssdlite
    from ssdlite.checkpoint import Checkpoint, save_checkpoint
    from ssdlite.export.bundle import build_contract, write_contract
    from ssdlite.export.graphs import model_spec
    from ssdlite.export.onnx import attach_contract, opset_of
    from ssdlite.export.verify.golden import write_golden
    from ssdlite.runtime.contract import Provenance

    torch.manual_seed(0)
    detector = ssdlite.build_detector(
        "ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96, **settings
    ).eval()
    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    detector.head.classification.set_bias(torch.tensor([4.0, 0.0, 0.0, 0.0]))
    folder.mkdir()
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), folder.with_suffix(".pt"))
    specs, graphs = [], []
    for one in options:
        graph = trace(detector, one)
        graphs.append(graph)
        spec = model_spec(detector, one, f"{one.variant}.{one.input_type}_{one.layout}.onnx")
        specs.append(replace(spec, opset=opset_of(graph), ir_version=graph.ir_version))
    provenance = Provenance(checkpoint="best.pt", checkpoint_sha256="0" * 64, license="Apache-2.0")
    contract = build_contract(detector, specs, provenance, 1024)
    for spec, graph in zip(specs, graphs, strict=True):
        attach_contract(graph, contract.for_model(spec.file))
        onnx.save(graph, folder / spec.file)
    write_contract(folder, contract)
    write_golden(folder, contract, _noise_pictures())


def _noise_pictures() -> list:
    """Three pictures of coloured blocks with noise: square, standing and lying."""
    import numpy as np

    rng = np.random.default_rng(3)
    pictures = []
    for height, width in ((96, 96), (140, 90), (75, 200)):
        blocks = rng.integers(60, 196, (height // 10 + 1, width // 10 + 1, 3))
        large = blocks.repeat(10, axis=0).repeat(10, axis=1)[:height, :width]
        pictures.append((large + rng.integers(-20, 21, large.shape)).astype(np.uint8))
    return pictures


@pytest.fixture(scope="session")
def make_colour_model() -> Callable[..., Any]:
    """The function of that name in colour_model.py: small exported models that find colours, and their contracts."""
    return runpy.run_path(str(Path(__file__).with_name("colour_model.py")))["make_colour_model"]


@pytest.fixture
def colour_bundle(make_colour_model: Callable[..., Any], tmp_path: Path) -> Path:
    """nms.onnx with its contract inside, raw.onnx without, and the contract of both."""
    import onnx

    from ssdlite.runtime.contract import METADATA_KEY
    from ssdlite.runtime.plain import to_json

    folder = tmp_path / "bundle"
    folder.mkdir()
    model, contract = make_colour_model("nms", file="nms.onnx")
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
    onnx.save(model, folder / "nms.onnx")
    model, other = make_colour_model("raw", file="raw.onnx")
    onnx.save(model, folder / "raw.onnx")
    whole = replace(other, models=(*contract.models, *other.models))
    (folder / "contract.json").write_text(to_json(whole))
    return folder


@pytest.fixture
def colour_pictures(tmp_path: Path) -> Path:
    """COCO data of two pictures, 96 x 64, one red and one blue, each with one object where the models find it."""
    folder = tmp_path / "data"
    (folder / "val2017").mkdir(parents=True)
    annotations = []
    for number, colour in ((1, (255, 0, 0)), (3, (0, 0, 255))):
        Image.fromarray(np.full((64, 96, 3), colour, np.uint8)).save(folder / "val2017" / f"{number}.png")
        box = {"bbox": [24, 32, 48, 32], "area": 48 * 32, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": number, **box})
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in (1, 3)],
        "categories": [{"id": i, "name": n} for i, n in ((1, "red"), (2, "green"), (3, "blue"))],
        "annotations": annotations,
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder
