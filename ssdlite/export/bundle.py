"""A bundle: the folder with the exported models and all that an app needs to know of them."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssdlite.checkpoint import current_versions
from ssdlite.config import DetectorConfig
from ssdlite.detector import Detector
from ssdlite.errors import ConfigError
from ssdlite.files import remove_forgotten, temporary_path, write_text, writing
from ssdlite.heads.boxes import MAX_LOG_SCALE, BoxCode, CenterSizeCode, DistanceCode
from ssdlite.images.geometry import LETTERBOX_FILL
from ssdlite.runtime.contract import (
    CONTRACT_FILE,
    UNDECODED,
    AnchorSpec,
    BoxCodeName,
    Contract,
    ModelSpec,
    PostprocessSpec,
    Provenance,
    ResizeSpec,
)
from ssdlite.runtime.operating_points import OperatingPoint, operating_threshold

CARD_FILE = "README.md"  # the model card, where hubs and people look for it


@contextmanager
def staged_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write in that takes the name ``output`` when all went well, and vanishes when not.

    Raises:
        ConfigError: ``output`` cannot be written, or is there and not a bundle that may be replaced.
    """
    _require_free(output, overwrite)
    target = output.resolve()  # a link stays one: what it points to is replaced
    with writing(output):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_forgotten(target.parent)
        folder = temporary_path(target)
        folder.mkdir()
    try:
        yield folder
        with writing(output):
            _move(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_contract(
    detector: Detector,
    models: Sequence[ModelSpec],
    provenance: Provenance,
    max_candidates: int,
    operating_points: dict[str, OperatingPoint] | None = None,
) -> Contract:
    """The facts about ``detector`` and these exported ``models`` of it."""
    config = detector.config
    threshold, source = operating_threshold(operating_points or {})
    if config.postprocess.score_threshold > threshold:  # below it nothing is found
        threshold, source = config.postprocess.score_threshold, "score_threshold"
    has_deltas = any(model.variant in UNDECODED for model in models)
    return Contract(
        name=describe(config),
        class_names=config.class_names,
        category_ids=config.category_ids,
        resize=ResizeSpec(mode=config.input.resize, padding_value=LETTERBOX_FILL),
        postprocess=PostprocessSpec(
            score_function=config.head.score_function,
            score_threshold=config.postprocess.score_threshold,
            nms_threshold=config.postprocess.nms_threshold,
            candidates_per_class=config.postprocess.candidates_per_class,
            max_detections=config.postprocess.max_detections,
            max_candidates=max_candidates,
            operating_threshold=threshold,
            operating_threshold_source=source,
        ),
        anchors=anchor_spec(detector) if has_deltas else None,
        models=tuple(models),
        provenance=provenance,
        operating_points=operating_points or None,
    )


def exported_provenance(origin: Provenance, metrics: dict[str, Any], license: str | None) -> Provenance:
    """That of a checkpoint with what it says of itself, and what exports it; ``license`` in place of its own."""
    figures = ((name, value) for name, value in metrics.items() if isinstance(value, (int, float)))
    return replace(
        origin,
        license=license or origin.license,
        metrics={name: float(value) for name, value in figures if math.isfinite(value)},
        versions=_export_versions() | origin.versions,
    )


def write_contract(folder: Path, contract: Contract) -> None:
    """contract.json, indented, with lists of numbers on one line each: there is one for every anchor."""
    text = json.dumps(contract.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    number_list = r"\[\n[\s\d.,eE+-]+\]"  # with a line break, which no string of JSON has
    text = re.sub(number_list, lambda match: " ".join(match[0].split()), text)
    write_text(folder / CONTRACT_FILE, text + "\n")


def describe(config: DetectorConfig) -> str:
    """The field's name for such a detector, as those of the presets: ``ssdlite320_mobilenet_v2``."""
    kind = "litepan" if config.neck.name == "pan" else "ssdlite" if config.head.conv == "separable" else "ssd"
    height, width = config.input.size
    side = str(width) if height == width else f"{width}x{height}"
    multiplier = "" if config.backbone.width_mult == 1 else f"_{round(config.backbone.width_mult * 100):03d}"
    return f"{kind}{side}_{config.backbone.name.removesuffix('_reduced')}{multiplier}"


BOX_CODE_NAMES: dict[type[BoxCode], BoxCodeName] = {CenterSizeCode: "center_size", DistanceCode: "distances"}


def anchor_spec(detector: Detector) -> AnchorSpec:
    """Of a head whose box code is in ``BOX_CODE_NAMES``."""
    height, width = detector.config.input.size
    corners = detector.anchors.double().cpu().numpy() / [width, height, width, height]
    centers, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return AnchorSpec(
        box_code=BOX_CODE_NAMES[type(detector.head.box_code)],
        box_code_scales=detector.config.head.box_code_scales,
        max_log_scale=MAX_LOG_SCALE,
        values=tuple(
            (_short(x), _short(y), _short(w), _short(h))
            for (x, y), (w, h) in zip(centers.tolist(), sizes.tolist(), strict=True)
        ),
    )


def _short(value: float) -> float:
    """Seven digits: as precise as the float32 that apps compute with, without the noise of its rounding."""
    return float(f"{value:.7g}")


def _export_versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return current_versions() | {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def _require_free(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    is_bundle = (output / CONTRACT_FILE).is_file()
    if not output.is_dir() or (any(output.iterdir()) and not is_bundle):
        raise ConfigError(f"{output}: expected a free name for the bundle; something else is there")
    if is_bundle and not overwrite:
        raise ConfigError(f"{output}: a bundle is there already; --overwrite replaces it")


def _move(folder: Path, output: Path) -> None:
    """Put ``folder`` in the place of ``output``, which is absent, empty, or a bundle that may go."""
    if not output.exists():
        folder.replace(output)
        return
    old = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".old"))
    output.replace(old)
    try:
        folder.replace(output)
    except OSError:
        old.replace(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
