"""What executes an exported network: one module for each runtime, and the one dict of them all."""

from __future__ import annotations

from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.backends.coreml import CoreMlBackend
from ssdlite.runtime.backends.executorch import ExecuTorchBackend
from ssdlite.runtime.backends.litert import LiteRtBackend
from ssdlite.runtime.backends.ncnn import NcnnBackend
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.backends.openvino import OpenVinoBackend
from ssdlite.runtime.backends.web import WebBackend

BACKENDS: dict[str, type[Backend]] = {  # by the name that contracts give the runtime; the first is preferred
    "onnxruntime": OnnxBackend,
    "openvino": OpenVinoBackend,
    "litert": LiteRtBackend,
    "executorch": ExecuTorchBackend,
    "ncnn": NcnnBackend,
    "coreml": CoreMlBackend,
    "web": WebBackend,
}
