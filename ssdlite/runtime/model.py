"""Run an exported model with numpy and onnxruntime alone, and Pillow or OpenCV for pictures. No torch.

Everything about the model, from the size of its input to its class names, comes from its contract.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdlite.detections import Detections
from ssdlite.errors import ConfigError, ContractError
from ssdlite.images.geometry import CropWindow, ImageArray, InputTransform, Size
from ssdlite.images.prediction import Picture, predict_pictures
from ssdlite.runtime.backends.base import Array, Network
from ssdlite.runtime.contract import BoxSpec, Contract, Meaning, ModelSpec, PostprocessSpec, Provenance
from ssdlite.runtime.files import open_model
from ssdlite.runtime.postprocess import (
    boxes_to_pixels,
    class_scores,
    decode_boxes,
    in_xy_order,
    likely_anchors,
    select_detections,
)

MAX_INPUT_VALUES = 1 << 28  # 1 GiB in float32; batches and sides that are allowed one by one could exhaust memory


def load_model(path: str | Path, model: str | None = None, *, threads: int | None = None) -> RuntimeDetector:
    """The detector of an exported file or bundle.

    Args:
        path: a bundle's folder, a file with its contract inside (.onnx, .ort, .tflite, .xml), or a file in a bundle.
        model: which of a bundle's files; by default the first of variant nms, else decoded, else raw, in fp32 if
            there is one.
        threads: for one image; by default the runtime's own choice.

    Raises:
        ContractError: no such file or model, no contract, a damaged or hostile file, or a contract that is not
            this file's.
        ConfigError: an impossible number of threads.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: expected 1 or more, got {threads}")
    return RuntimeDetector(*open_model(Path(path), model, threads))


class RuntimeDetector:
    """An exported model with the interface of ``Detector``.

    Attributes:
        contract: of the bundle or the file.
        model: the one of the contract's models that is run.
        backend: what runs it.

    Raises:
        ContractError: the contract asks for something that this runtime does not do.
    """

    def __init__(self, contract: Contract, model: ModelSpec, backend: Network) -> None:
        self.contract = contract
        self.model = model
        self.backend = backend
        _check_supported(contract, model)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.contract.class_names

    @property
    def provenance(self) -> Provenance:
        """Where the weights come from."""
        return self.contract.provenance

    @property
    def operating_threshold(self) -> float:
        """The score from which on detections are shown, of the contract."""
        return self.contract.postprocess.operating_threshold

    @property
    def input_size(self) -> Size:
        return self.model.input.height, self.model.input.width

    @property
    def _boxes(self) -> BoxSpec:
        return self.contract.boxes_of(self.model)

    @property
    def input_transform(self) -> InputTransform:
        return InputTransform(self.input_size, self.contract.resize.mode, self.contract.resize.padding_value)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[Detections]:
        """Detect in pictures of any size: paths, PIL images, RGB arrays [H, W, 3] or tensors [3, H, W] in 0..255.

        Returns one ``Detections`` per picture, boxes in that picture's own (upright) pixels, best first, only those
        with at least ``score_threshold``, by default the ``operating_threshold``. A single picture gives a list of one.

        Raises:
            DataError: a file is missing or not a picture.
            TypeError, ValueError: something else than a picture, or an array of another shape or type.
            ContractError: the model fails, or its outputs are not those of its contract.
        """
        return predict_pictures(self, images, score_threshold, batch_size)

    def detect(self, images: npt.NDArray[np.uint8]) -> list[Detections]:
        """images [B, 3, H, W] RGB in 0..255 of the input's size -> what was found in each, in input pixels."""
        return self.postprocess(self.infer_batch(images))

    def infer_batch(self, images: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """images [B, 3, H, W] RGB in 0..255 of the input's size -> the network's outputs by their meaning."""
        return self.infer(self.to_input(images))

    def preprocess(self, image: ImageArray) -> tuple[Array, CropWindow]:
        """A picture [H, W, 3] RGB of any size -> (the very input tensor, of a batch of 1; what of it is shown)."""
        input_transform = self.input_transform
        window = input_transform.window((image.shape[0], image.shape[1]))
        return self.to_input(window.render(image, input_transform.fill)[None].transpose(0, 3, 1, 2)), window

    def to_input(self, images: npt.NDArray[np.uint8]) -> Array:
        """images [B, 3, H, W] RGB in 0..255 of the input's size -> the tensor as the contract wants it."""
        height, width = self.input_size
        if images.dtype != np.uint8 or images.shape != (len(images), 3, height, width):
            raise ValueError(f"expected uint8 images [B, 3, {height}, {width}], got {images.dtype} {images.shape}")
        spec = self.model.input
        planes: Array = images if spec.color_order == "RGB" else images[:, ::-1]
        if spec.type != "uint8":
            mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
            planes = ((planes.astype(np.float32) - mean) / std).astype(spec.type, copy=False)
        return np.ascontiguousarray(planes if spec.layout == "NCHW" else planes.transpose(0, 2, 3, 1))

    def infer(self, inputs: Array) -> dict[str, Array]:
        """The network alone: inputs [B, ...] as ``preprocess`` gives them -> its outputs [B, ...] by their meaning.

        Where the model's batch is fixed, it runs as often as it takes, the last time with pictures of zeros.
        """
        spec = self.model.input
        expected = (len(inputs), *spec.shape[1:])
        if inputs.dtype != spec.type or inputs.shape != expected:
            raise ValueError(f"expected {spec.type} {list(expected)}, got {inputs.dtype} {list(inputs.shape)}")
        count = max(len(inputs), 1)
        step = spec.batch or count
        parts = [self._run(inputs[start : start + step], step) for start in range(0, count, step)]
        meanings = [output.meaning for output in self.model.outputs]
        return {meaning: np.concatenate([part[meaning] for part in parts]) for meaning in meanings}

    def postprocess(self, outputs: Mapping[str, Array], score_threshold: float = 0.0) -> list[Detections]:
        """Outputs by their meaning -> what was found in each image, in input pixels, best first, from
        ``score_threshold`` on.

        Raises:
            ContractError: counts or labels that the contract does not allow.
        """
        if self.model.variant == "nms":
            return [one.above(score_threshold) for one in self._unpad(outputs)]
        if "box_deltas" in outputs:
            scored: Iterable[tuple[Array, Array]] = self._decode(outputs, score_threshold)
        else:
            scored = zip(
                outputs["scores"], boxes_to_pixels(outputs["boxes"], self._boxes, self.input_size), strict=True
            )
        spec, names = self.contract.postprocess, self.class_names
        return [select_detections(scores, boxes, spec, names, score_threshold) for scores, boxes in scored]

    def _decode(self, outputs: Mapping[str, Array], score_threshold: float) -> Iterator[tuple[Array, Array]]:
        """Box deltas, and logits or scores -> for each image scores [R, K] and boxes [R, 4] of the anchors that may
        be above the threshold."""
        spec, anchors = self.contract.postprocess, self.contract.anchors
        assert anchors is not None  # the contract's own check
        for number, deltas in enumerate(outputs["box_deltas"]):
            if "class_logits" in outputs:
                logits = outputs["class_logits"][number]
                chosen = likely_anchors(logits, spec, score_threshold)
                scores = class_scores(logits[chosen], spec.score_function)
            else:
                least = max(spec.score_threshold, score_threshold)
                chosen = np.flatnonzero(outputs["scores"][number].max(axis=1) >= least)
                scores = outputs["scores"][number][chosen]
            yield scores, decode_boxes(in_xy_order(deltas[chosen], self._boxes), anchors, self.input_size, chosen)

    def with_thresholds(
        self,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> RuntimeDetector:
        """The same detector with other thresholds; None leaves one as it is.

        Raises:
            ConfigError: out of range, or the model is of variant nms, which has its own built in.
        """
        given = {"score_threshold": score_threshold, "nms_threshold": nms_threshold, "max_detections": max_detections}
        own = self.contract.postprocess_of(self.model)
        changes = {name: value for name, value in given.items() if value not in (None, getattr(own, name))}
        if changes and self.model.variant == "nms":
            name = next(iter(changes))
            raise ConfigError(
                f"{self.model.file}: {name} {getattr(own, name)} is built into a model of variant nms, and cannot be "
                f"{changes[name]}; use a raw or decoded one, or a checkpoint"
            )
        spec: PostprocessSpec = replace(own, **changes)  # type: ignore[arg-type]
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(spec, name) <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, got {getattr(spec, name)}")
        if not 1 <= spec.max_detections <= 100_000:
            raise ConfigError(f"max_detections: expected 1 to 100000, got {spec.max_detections}")
        return RuntimeDetector(replace(self.contract, postprocess=spec), self.model, self.backend)

    def _run(self, inputs: Array, batch: int) -> dict[Meaning, Array]:
        """One call of the network with a batch of ``batch``, filled up where ``inputs`` are fewer."""
        count = len(inputs)
        if count < batch:
            inputs = np.concatenate([inputs, np.zeros((batch - count, *inputs.shape[1:]), inputs.dtype)])
        values = self.backend.run(inputs)
        result: dict[Meaning, Array] = {}
        for spec in self.model.outputs:
            value = values.get(spec.name)
            shape = (batch, *spec.shape[1:])
            if value is None or value.shape != shape or value.dtype != spec.type:
                got = "nothing" if value is None else f"{value.dtype} {list(value.shape)}"
                raise ContractError(
                    f"{self.model.file}: output {spec.name[:60]!r}: expected {spec.type} {list(shape)}, got {got}"
                )
            result[spec.meaning] = value[:count]
        return result

    def _unpad(self, outputs: Mapping[str, Array]) -> list[Detections]:
        boxes = boxes_to_pixels(outputs["boxes"], self._boxes, self.input_size)
        result = []
        for number, found in enumerate(outputs["count"].tolist()):
            count = int(found)  # LiteRT's own operator gives a float
            scores, labels = outputs["scores"][number], outputs["labels"][number]
            if not 0 <= count <= len(scores):
                raise ContractError(f"{self.model.file}: expected a count of 0 to {len(scores)}, got {count}")
            labels = labels[:count].astype(np.int64)
            if ((labels < 0) | (labels >= len(self.class_names))).any():
                raise ContractError(
                    f"{self.model.file}: expected labels of 0 to {len(self.class_names) - 1}, got {labels.tolist()}"
                )
            result.append(Detections(boxes[number, :count], scores[:count], labels, self.class_names))
        return result


def _check_supported(contract: Contract, model: ModelSpec) -> None:
    """Refuse what a contract may say but this runtime does not do. Raises ContractError."""
    spec, resize = model.input, contract.resize
    if resize.antialias or not resize.half_pixel_centers or spec.value_range != (0.0, 255.0):
        raise ContractError(
            f"{model.file}: expected resizing with half-pixel centres and without antialiasing, and values of 0 to "
            "255 before mean and std; the contract asks for something else"
        )
    values = 3 * (spec.batch or 1) * spec.height * spec.width
    if values > MAX_INPUT_VALUES:
        raise ContractError(
            f"{model.file}: expected an input of at most {MAX_INPUT_VALUES} values, got {values}: {list(spec.shape)}"
        )
