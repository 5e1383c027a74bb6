"""The models of the bundles with reference vectors (``golden_bundles``), and the steps of a report on them."""

from ssdlite.export.verify.report import StepResult, VerifyReport

RAW, DECODED, NMS, FLOAT = (
    "raw.uint8_NCHW.onnx",
    "decoded.uint8_NCHW.onnx",
    "nms.uint8_NCHW.onnx",
    "decoded.float32_NHWC.onnx",
)
LETTERBOX = "decoded.float32_NCHW.onnx"


def step_of(report: VerifyReport, file: str, step: str) -> StepResult:
    (model,) = [one for one in report.models if one.file == file]
    (result,) = [one for one in model.steps if one.step == step]
    return result
