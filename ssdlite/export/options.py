"""What to export, as one dataclass: the command line and the pipeline share it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.errors import ConfigError
from ssdlite.runtime.contract import ActivationType, InputLayout, InputType, Precision, Variant

LOWEST_OPSET = 13  # per-channel QuantizeLinear; ONNX Runtime 1.6 of 2020 has it
HIGHEST_OPSET = 23  # newer ones are a matter of torch's exporter and ONNX Runtime alone
BatchKind = Literal["1", "2 to 1024", "dynamic"]
LintName = Literal["ort-mobile", "nnapi", "coreml", "xnnpack", "openvino", "executorch", "ncnn"]
CALIBRATION_OPTIONS = ("calibration_folder", "calibration_split", "calibration_images", "activation_type")
MAX_CANDIDATES = 2048  # pairs of anchor and class that enter NMS (docs/notes/performance.md)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What is inside an exported graph.

    Attributes:
        variant: ``raw`` ends with logits and deltas, ``anchors`` with scores and deltas, ``decoded`` with scores and
            boxes, ``nms`` with detections.
        input_type: ``uint8`` is normalised inside, as is ``int8`` (pixels less 128, for quantised LiteRT files alone);
            ``float32`` comes normalised from the app.
        batch: images per call; None leaves it free.
        opset: of ONNX; None takes the lowest that serves.
        max_candidates: bound on what reaches non-maximum suppression in the ``nms`` variant.
    """

    variant: Variant = "decoded"
    input_type: InputType = "uint8"
    layout: InputLayout = "NCHW"
    batch: int | None = 1
    precision: Precision = "fp32"
    opset: int | None = None
    max_candidates: int = MAX_CANDIDATES


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of ``ssdlite export``."""

    checkpoint: Path
    """The checkpoint, such as best.pt of a training."""
    output: Path | None = None
    """Folder for the bundle: models, contract.json, reference vectors, model card; must not exist yet, or be empty.
    Default: bundle in the folder of the run that the checkpoint is of, else NAME-bundle after the checkpoint."""
    target: tuple[str, ...] = ("onnxruntime",)
    """The runtimes to write for: onnxruntime, openvino (needs the extra ssdlite[openvino]), litert (ssdlite[litert]),
    executorch (ssdlite[executorch]), ncnn (ssdlite[ncnn]), coreml (ssdlite[coreml]), web (a page for browsers; needs
    the npm package onnxruntime-web)."""
    variant: tuple[Variant, ...] = ()
    """How far the graph goes: raw logits and deltas; scores and deltas for MediaPipe to decode (anchors); scores and
    boxes of all anchors; or final detections. Each target writes those that it has. Default: the one that serves most
    apps, nms for onnxruntime, openvino, litert and coreml, decoded for executorch, ncnn and web."""
    precision: tuple[Precision, ...] = ()
    """Of the weights, and for int8 of the arithmetic; int8 needs --data or --calibration-folder, but for coreml, where
    it is of the weights alone. Each target writes those that it has. Default: fp32, fp16 for coreml."""

    input_type: InputType = "uint8"
    """uint8: the graph takes RGB bytes and normalises inside; float32: the app normalises; int8: bytes less 128, for
    int8 files of litert."""
    layout: InputLayout | None = None
    """Order of the input's axes: planes first, or pixels as cameras give them. Default: NCHW, which executorch and ncnn
    have alone, and NHWC for litert and coreml, which have that alone."""
    batch: str = "1"
    """Images per call: a number, or dynamic."""
    opset: int | None = None
    """ONNX operator set, 13 to 23, of onnxruntime and web. Default: the lowest that has what the graph needs."""
    score_threshold: float | None = None
    """Built into nms models and stated for the others. Default: the checkpoint's setting."""
    nms_threshold: float | None = None
    """IoU above which NMS drops the lower-scoring of two boxes. Default: the checkpoint's setting."""
    max_detections: int | None = None
    """Detections an image, the size of an nms model's outputs. Default: the checkpoint's setting."""
    max_candidates: int = MAX_CANDIDATES
    """Most pairs of anchor and class that enter NMS inside nms models of onnxruntime, openvino and web."""

    web_runtime: str | None = None
    """For web: folder or .tgz file of the npm package onnxruntime-web, or npm to fetch it. Default: the one in
    node_modules here or in a folder above."""
    ort: bool = False
    """Beside each .onnx file write an .ort file, for ONNX Runtime Mobile, and the list of operators for a reduced build
    of it."""
    lint: tuple[LintName, ...] = ()
    """Say what these would refuse of the .onnx files and web pages or leave to the CPU, as ssdlite lint does, openvino
    and executorch also of their own files. Default: not said."""

    data: Path | None = None
    """Folder or annotation file of a data set in any known format (docs/data.md), also --annotations: int8 is
    calibrated on its training split, all are scored on the other. Default: nothing is scored."""
    split: str | None = None
    """Which split to score on. Default: the one that the checkpoint's run was told to validate on, if the data have it,
    else the one that training takes by itself."""
    calibration_split: str | None = None
    """Which split to calibrate on. Default: the training split."""
    calibration_folder: Path | None = None
    """Folder of pictures to calibrate on, in place of --data's. Default: those of --data."""
    calibration_images: int = 64
    """Most pictures to calibrate on, taken evenly from all."""
    activation_type: Literal["auto", "uint8", "int8"] = "auto"
    """Of int8 models: uint8 is the faster on x86 and what NNAPI takes, int8 what XNNPACK takes, and the only one of
    litert; auto is int8 where xnnpack is the only --lint."""
    reading: ReadOptions = READ_OPTIONS
    max_ap_drop: float | None = None
    """Fail when a file's AP is this much below PyTorch's; int8 keeps layers in float until it holds.
    Default: any drop is taken."""

    golden_images: int = 3
    """Pictures in the reference vectors: from the scored split of --data, or synthetic scenes without it."""
    license: str | None = None
    """Of the weights, for the contract and the model card; such as MIT. Default: of openimages its own, of others
    that it is not stated."""
    overwrite: bool = False
    """Replace a bundle of the same name."""

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output"):  # which Python code may give as strings
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    def check(self) -> None:
        """Raises ConfigError for values out of range, and for what does not go together, whatever the targets are."""
        for name in ("target", "variant", "precision"):
            values = getattr(self, name)
            if (not values and name == "target") or len(set(values)) < len(values):
                raise ConfigError(f"--{name}: expected one or more different ones, got {', '.join(values) or 'none'}")
        if self.batch != "dynamic" and not (self.batch.isdecimal() and 1 <= int(self.batch) <= 1024):
            raise ConfigError(f"--batch: expected 1 to 1024 or dynamic, got {self.batch!r}")
        if self.opset is not None and not LOWEST_OPSET <= self.opset <= HIGHEST_OPSET:
            raise ConfigError(f"--opset: expected {LOWEST_OPSET} to {HIGHEST_OPSET}, got {self.opset}")
        if not 1 <= self.max_candidates <= 100_000:
            raise ConfigError(f"--max-candidates: expected 1 to 100000, got {self.max_candidates}")
        if self.calibration_images < 1:
            raise ConfigError(f"--calibration-images: expected 1 or more, got {self.calibration_images}")
        if not 1 <= self.golden_images <= 100:
            raise ConfigError(f"--golden-images: expected 1 to 100, got {self.golden_images}")
        if self.max_ap_drop is not None and not 0 <= self.max_ap_drop <= 1:
            raise ConfigError(f"--max-ap-drop: expected 0 to 1, got {self.max_ap_drop}")
        self._check_together()

    def _check_together(self) -> None:
        """Raises ConfigError for options that need another one."""
        for option, value, purpose in (
            ("--max-ap-drop", self.max_ap_drop, " to measure the accuracy on"),
            ("--split", self.split, ", whose split it names"),
            ("--calibration-split", self.calibration_split, ", whose split it names"),
        ):
            if value is not None and self.data is None:
                raise ConfigError(f"{option} needs --data{purpose}")
        if self.calibration_split is not None and self.calibration_folder is not None:
            raise ConfigError(
                "--calibration-split, --calibration-folder: expected one of them, since either calibrates"
            )

    @property
    def bundle(self) -> Path:
        """The folder to write."""
        if self.output is not None:
            return self.output
        run = self.checkpoint if self.checkpoint.is_dir() else self.checkpoint.parent
        of_run = self.checkpoint.exists() and (run / "config.json").is_file()
        return run / "bundle" if of_run else Path(f"{self.checkpoint.stem}-bundle")

    @property
    def thresholds(self) -> dict[str, float]:
        """The detector's settings that were asked for in place of its own."""
        names = ("score_threshold", "nms_threshold", "max_detections")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def activations(self) -> ActivationType:
        if self.activation_type != "auto":
            return self.activation_type
        return "int8" if self.lint == ("xnnpack",) else "uint8"

    def graph(self, variant: Variant, precision: Precision) -> GraphOptions:
        return GraphOptions(
            variant=variant,
            precision=precision,
            input_type=self.input_type,
            layout=self.layout or "NCHW",
            batch=None if self.batch == "dynamic" else int(self.batch),
            opset=self.opset,
            max_candidates=self.max_candidates,
        )
