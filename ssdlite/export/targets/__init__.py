"""What a detector can be exported for: one module for each runtime, and the one dict of them all."""

from __future__ import annotations

from ssdlite.export.targets.base import Target
from ssdlite.export.targets.coreml import CoreMlTarget
from ssdlite.export.targets.executorch import ExecuTorchTarget
from ssdlite.export.targets.litert import LiteRtTarget
from ssdlite.export.targets.ncnn import NcnnTarget
from ssdlite.export.targets.onnxruntime import OnnxRuntimeTarget
from ssdlite.export.targets.openvino import OpenVinoTarget
from ssdlite.export.targets.web import WebTarget

TARGETS: dict[str, Target] = {  # by the runtime's name in ``ssdlite.runtime.backends.BACKENDS``; the first can do most
    "onnxruntime": OnnxRuntimeTarget(),
    "openvino": OpenVinoTarget(),
    "litert": LiteRtTarget(),
    "executorch": ExecuTorchTarget(),
    "ncnn": NcnnTarget(),
    "coreml": CoreMlTarget(),
    "web": WebTarget(),
}
