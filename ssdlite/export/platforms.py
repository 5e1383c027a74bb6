"""Which file of a bundle to ship on Android, iOS, the web and the desktop, where it goes, and why that one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ssdlite.runtime.contract import ModelSpec, Precision, Variant

Platform = Literal["Android", "iOS", "Web", "Desktop"]
EASIEST: tuple[Variant, ...] = ("nms", "anchors", "decoded", "raw")  # the least that is left to the app first
MEDIAPIPE: tuple[Variant, ...] = ("nms", "anchors")  # what MediaPipe Tasks takes
SAFEST: tuple[Precision, ...] = ("fp32", "fp16", "int8")  # the same on every processor first
LEFT_TO_THE_APP: dict[Variant, str] = {
    "nms": "boxes are selected inside, the app only scales them",
    "anchors": "MediaPipe decodes and selects boxes",
    "decoded": "the app selects boxes, by code to copy",
    "raw": "the app decodes and selects boxes, by code to copy",
}


IN_MEDIAPIPE = """\
{files} in MediaPipe's ObjectDetector: give it the upright picture, and the score threshold {threshold:g}, which it \
does not take from the file. It answers with names, scores, and boxes in whole pixels of the picture."""
IN_VISION = """\
{files} in Vision: give `VNCoreMLRequest` the picture with its orientation, and set `imageCropAndScaleOption` to \
`.scaleFill`. It answers with a `VNRecognizedObjectObservation` for each object from {threshold:g} on: \
`labels[0].identifier` is the class, `confidence` the score, and `boundingBox` the box, in fractions of the picture \
from its lower left corner. The inputs `confidenceThreshold` and `iouThreshold` change what is found."""
IN_PAGE = "{files} is the whole app: open it."


class PlatformUse(NamedTuple):
    """How a runtime's files are used on a platform.

    Attributes:
        package: what runs them; ``is_package`` where it is the name of something to install.
        place: where they go.
        why: this runtime.
        feeding: what an app does with them, where that is less than to resize, feed and select by itself: of these
            ``files``, with the ``threshold`` from which on to show detections.
        is_app: whether they are the whole app.
        precisions: all, the one to prefer first.
        variants: that it is for.
    """

    runtime: str
    package: str
    place: str
    why: str
    feeding: str = ""
    is_package: bool = True
    is_app: bool = False
    precisions: tuple[Precision, ...] = SAFEST
    variants: tuple[Variant, ...] = EASIEST

    def takes(self, model: ModelSpec) -> bool:
        return model.runtime == self.runtime and model.variant in self.variants


PLATFORMS: dict[Platform, tuple[PlatformUse, ...]] = {  # each target somewhere, the one to prefer first
    "Android": (
        PlatformUse(
            "litert",
            "com.google.mediapipe:tasks-vision",
            "app/src/main/assets/",
            "MediaPipe's ObjectDetector takes it as it is",
            feeding=IN_MEDIAPIPE,
            variants=MEDIAPIPE,
        ),
        PlatformUse(
            "litert", "com.google.ai.edge.litert:litert", "app/src/main/assets/", "XNNPACK, or the GPU's delegate"
        ),
        PlatformUse(
            "onnxruntime",
            "com.microsoft.onnxruntime:onnxruntime-android",
            "app/src/main/assets/",
            "runs every operator on any phone's CPU",
        ),
        PlatformUse(
            "executorch", "org.pytorch:executorch-android", "app/src/main/assets/", "XNNPACK, for PyTorch's apps"
        ),
        PlatformUse("ncnn", "ncnn-android", "app/src/main/assets/", "a small runtime, with Vulkan for GPUs"),
    ),
    "iOS": (
        PlatformUse(
            "coreml",
            "Vision and Core ML, parts of the system",
            "the Xcode project",
            "Vision takes it for a detector; the Neural Engine computes it, but for fp32",
            feeding=IN_VISION,
            is_package=False,
            precisions=("fp16", "int8", "fp32"),
            variants=("nms",),
        ),
        PlatformUse(
            "coreml",
            "Core ML, a part of the system",
            "the Xcode project",
            "the Neural Engine computes it, but for fp32",
            is_package=False,
            precisions=("fp16", "int8", "fp32"),
            variants=("decoded",),
        ),
        PlatformUse(
            "litert",
            "MediaPipeTasksVision",
            "Copy Bundle Resources",
            "MediaPipe's ObjectDetector takes it as it is",
            feeding=IN_MEDIAPIPE,
            variants=MEDIAPIPE,
        ),
        PlatformUse("litert", "TensorFlowLiteSwift", "Copy Bundle Resources", "XNNPACK, or the GPU's delegate"),
        PlatformUse(
            "onnxruntime", "onnxruntime-objc", "Copy Bundle Resources", "runs every operator on any phone's CPU"
        ),
        PlatformUse("executorch", "executorch.xcframework", "Copy Bundle Resources", "XNNPACK, for PyTorch's apps"),
        PlatformUse("ncnn", "ncnn.xcframework", "Copy Bundle Resources", "a small runtime"),
    ),
    "Web": (
        PlatformUse(
            "web",
            "any browser",
            "any web server or disk",
            "page, runtime and model in one, without network",
            feeding=IN_PAGE,
            is_package=False,
            is_app=True,
        ),
        PlatformUse(
            "onnxruntime", "onnxruntime-web/wasm", "the page's static files", "runs every operator in WebAssembly"
        ),
        PlatformUse(
            "litert",
            "@mediapipe/tasks-vision",
            "the page's static files",
            "MediaPipe's ObjectDetector takes it as it is",
            feeding=IN_MEDIAPIPE,
            variants=MEDIAPIPE,
        ),
    ),
    "Desktop": (
        PlatformUse("onnxruntime", "onnxruntime", "beside the program", "runs every operator"),
        PlatformUse("litert", "ai-edge-litert", "beside the program", "the file of the phone, to try it"),
        PlatformUse("openvino", "openvino", "beside the program", "made for Intel's processors"),
        PlatformUse("ncnn", "ncnn", "beside the program", "a small runtime"),
    ),
}


def feedings(models: Sequence[ModelSpec]) -> dict[str, list[ModelSpec]]:
    """By the words on it, files that some platform's use feeds by itself."""
    found: dict[str, list[ModelSpec]] = {}
    for use in _uses():
        if use.feeding and use.feeding not in found:
            found[use.feeding] = [model for model in models if use.takes(model)]
    return {feeding: own for feeding, own in found.items() if own}


def is_fed_by_app(model: ModelSpec) -> bool:
    """Whether an app has to resize, feed and select by itself in some use of the file."""
    uses = [use for use in _uses() if use.takes(model)]
    return not uses or any(not use.feeding for use in uses)


def _uses() -> Iterator[PlatformUse]:
    return itertools.chain.from_iterable(PLATFORMS.values())


class Shipment(NamedTuple):
    """The file for a platform; both None where the bundle has none for it, and ``targets`` are those to export for."""

    platform: Platform
    model: ModelSpec | None
    use: PlatformUse | None
    targets: tuple[str, ...]

    @property
    def why(self) -> str:
        if self.model is None or self.use is None:
            return f"export with --target {' or '.join(self.targets)}"
        return self.use.why if self.use.is_app else f"{self.use.why}; {LEFT_TO_THE_APP[self.model.variant]}"


def shipments(models: Sequence[ModelSpec]) -> list[Shipment]:
    """For each platform, of the files for its best runtime the one that works everywhere and leaves the least to do."""
    return [_shipment(platform, uses, models) for platform, uses in PLATFORMS.items()]


def _shipment(platform: Platform, uses: Sequence[PlatformUse], models: Sequence[ModelSpec]) -> Shipment:
    targets = tuple(dict.fromkeys(use.runtime for use in uses))
    use = next((use for use in uses if any(map(use.takes, models))), None)
    if use is None:
        return Shipment(platform, None, None, targets)
    own = [model for model in models if use.takes(model)]
    best = min(own, key=lambda model: (use.precisions.index(model.precision), EASIEST.index(model.variant)))
    return Shipment(platform, best, use, targets)
