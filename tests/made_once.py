"""What one of the processes of pytest-xdist makes and the others wait for: folders, and graphs of detectors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    import onnx

    from ssdlite.detector import Detector
    from ssdlite.export.options import GraphOptions

Trace = Callable[["Detector", "GraphOptions"], "onnx.ModelProto"]


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, which ``make`` fills where it is not there yet; not to be changed."""
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(name)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def trace_once(factory: pytest.TempPathFactory, detector: Detector, options: GraphOptions) -> onnx.ModelProto:
    """What ``export_onnx`` gives of a detector of these very weights, settings and modules; to be changed at will.

    Settings of post-processing count for the variant that has it inside, and how a picture is resized for none.
    """
    import msgspec
    import onnx

    from ssdlite.config import override
    from ssdlite.export.onnx import export_onnx

    settings = msgspec.structs.asdict(override(detector.config, resize="stretch"))
    if options.variant != "nms":
        del settings["postprocess"]
    digest = hashlib.sha256(f"{detector}{settings}{options}".encode())
    for name, tensor in detector.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    folder = make_once(
        factory,
        f"graph-{digest.hexdigest()[:16]}",
        lambda folder: onnx.save(export_onnx(detector, options), folder / "model.onnx"),
    )
    return onnx.load(folder / "model.onnx")


@contextmanager
def graphs_from(trace: Trace) -> Iterator[None]:
    """Exports of whole bundles take their graphs from ``trace`` meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssdlite.export.targets.job.export_onnx", trace)
        yield
