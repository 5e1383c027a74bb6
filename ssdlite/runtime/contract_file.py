"""Reading contracts, which anyone may have written: types, ranges, names of files and counts are all checked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends import BACKENDS
from ssdlite.runtime.contract import (
    CONTRACT_FILE,
    CONTRACT_FORMAT,
    CONTRACT_VERSION,
    INTEGER_MEANS,
    MAX_SIDE,
    OUTPUTS,
    UNDECODED,
    AnchorSpec,
    Contract,
    Meaning,
    ModelSpec,
    PostprocessSpec,
)
from ssdlite.runtime.operating_points import check_operating_points, operating_threshold
from ssdlite.runtime.plain import PlainError, from_plain, parse_json

NAMES_IN_VERSION_1 = {
    "background_slot": "background_index",
    "colour_order": "color_order",
    "half_pixel_centres": "half_pixel_centers",
    "licence": "license",
    "quantisation": "quantization",
    "quantised_layers": "quantized_layers",
}
MAX_CONTRACT_BYTES = 64 << 20
MAX_BATCH = 1024
CLASS_LIMIT = 100_000  # the same in a configuration, which this package does not import
ANCHOR_LIMIT = 500_000
MAX_MODELS = 100


def parse_contract(text: str | bytes, where: str) -> Contract:
    """The contract that ``text`` (JSON) holds, wholly checked: types, ranges, names of files, agreement of counts.

    Raises:
        ContractError: says where, what was expected and what came.
    """
    if len(text) > MAX_CONTRACT_BYTES:
        raise ContractError(f"{where}: a contract of {len(text)} bytes, more than the {MAX_CONTRACT_BYTES} allowed")
    try:
        values = parse_json(text)
        if not isinstance(values, dict) or values.get("format") != CONTRACT_FORMAT:
            raise PlainError(f"not a contract of ssdlite: expected an object with format {CONTRACT_FORMAT!r}")
        version = values.get("format_version")
        if version == 1:
            _rename_parts(values)
        elif version not in (2, CONTRACT_VERSION):
            raise PlainError(f"format version {version!r}; this version of ssdlite reads 1 to {CONTRACT_VERSION}")
        contract = from_plain(Contract, values | {"format_version": CONTRACT_VERSION}, "contract")
        if version != CONTRACT_VERSION:
            contract = _with_operating_threshold(contract)
        _check_contract(contract)
    except PlainError as error:
        raise ContractError(f"{where}: {error}") from None
    return contract


def _rename_parts(values: dict[str, Any]) -> None:
    """A document of version 1 becomes one of version 2, in place: some names were spelled otherwise."""
    models = values.get("models")
    models = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    parts = [values.get("resize"), values.get("postprocess"), values.get("provenance"), *models]
    parts += [model.get(name) for model in models for name in ("input", "quantisation")]
    for part in parts:
        for old, new in NAMES_IN_VERSION_1.items():
            if isinstance(part, dict) and old in part:
                part[new] = part.pop(old)
    resize = values.get("resize")
    if isinstance(resize, dict) and resize.get("padding_position") == "centre":
        resize["padding_position"] = "center"


def _with_operating_threshold(contract: Contract) -> Contract:
    """What versions before 3 did not state, as an export states it today."""
    score, source = operating_threshold(contract.operating_points or {})
    spec = replace(contract.postprocess, operating_threshold=score, operating_threshold_source=source)
    return replace(contract, postprocess=spec)


def read_contract(bundle: Path | str) -> Contract:
    """The contract of a bundle folder. Raises ContractError."""
    path = Path(bundle) / CONTRACT_FILE
    try:
        if path.stat().st_size > MAX_CONTRACT_BYTES:
            raise ContractError(f"{path}: larger than the {MAX_CONTRACT_BYTES} bytes allowed")
        return parse_contract(path.read_bytes(), str(path))
    except OSError as error:
        raise ContractError(f"{path}: cannot be read as the contract of a bundle ({error.strerror})") from None


def _check_contract(contract: Contract) -> None:
    count = len(contract.class_names)
    _expect(1 <= count <= CLASS_LIMIT, f"class_names: expected 1 to {CLASS_LIMIT} names, got {count}")
    _expect(len(set(contract.class_names)) == count, "class_names: names must differ")
    _expect(
        len(contract.category_ids) in (0, count),
        f"category_ids: expected {count}, one per class, or none, got {len(contract.category_ids)}",
    )
    _expect(0 <= contract.resize.padding_value <= 255, "resize.padding_value: expected 0 to 255")
    _check_postprocess(contract.postprocess)
    check_operating_points(contract.operating_points or {}, contract.class_names, "operating_points")
    rename = contract.provenance.rename or ()
    _expect(
        len(rename) <= CLASS_LIMIT and all("=" in one for one in rename), "provenance.rename: expected OLD=NEW each"
    )
    _expect(1 <= len(contract.models) <= MAX_MODELS, f"models: expected 1 to {MAX_MODELS}, got {len(contract.models)}")
    files = [name for model in contract.models for name in model.files]
    _expect(len(set(files)) == len(files), "models: files must differ")
    for name in files:
        _expect(is_plain_file_name(name), f"models: expected the name of a file in the bundle, got {name[:80]!r}")
    if contract.anchors is not None:
        _check_anchors(contract.anchors)
    for model in contract.models:
        _check_model(model, contract)


def is_plain_file_name(name: str) -> bool:
    """Whether ``name`` is a file's name and nothing else: no folder, no hidden file, nothing that a system refuses."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", name) is not None


def _check_postprocess(spec: PostprocessSpec) -> None:
    for name in ("score_threshold", "nms_threshold", "operating_threshold"):
        _expect(0 <= getattr(spec, name) <= 1, f"postprocess.{name}: expected 0 to 1, got {getattr(spec, name)}")
    for name in ("candidates_per_class", "max_detections", "max_candidates"):
        value = getattr(spec, name)
        _expect(1 <= value <= ANCHOR_LIMIT, f"postprocess.{name}: expected 1 to {ANCHOR_LIMIT}, got {value}")
    _expect(spec.background_index == 0, f"postprocess.background_index: expected 0, got {spec.background_index}")


def _check_anchors(spec: AnchorSpec) -> None:
    _expect(
        1 <= len(spec.values) <= ANCHOR_LIMIT,
        f"anchors: expected 1 to {ANCHOR_LIMIT}, got {len(spec.values)}",
    )
    _expect(all(0 < v < 1e6 for v in spec.box_code_scales), "anchors.box_code_scales: expected positive numbers")
    _expect(0 < spec.max_log_scale <= 20, f"anchors.max_log_scale: expected 0 to 20, got {spec.max_log_scale}")
    values = np.array(spec.values, np.float64)
    within = (np.abs(values[:, :2]) <= 16).all() and (values[:, 2:] > 0).all() and (values[:, 2:] <= 16).all()
    _expect(bool(within), "anchors.values: expected centres and positive sizes as fractions of the input")


def _check_model(model: ModelSpec, contract: Contract) -> None:
    where = f"model {model.file}"
    spec = model.input
    known = ", ".join(map(repr, BACKENDS))
    _expect(model.runtime in BACKENDS, f"{where}: runtime: expected one of {known}, got {model.runtime[:60]!r}")
    _expect(
        32 <= spec.height <= MAX_SIDE and 32 <= spec.width <= MAX_SIDE,
        f"{where}: input: expected sides of 32 to {MAX_SIDE}, got {spec.height} x {spec.width}",
    )
    _expect(
        spec.batch is None or 1 <= spec.batch <= MAX_BATCH,
        f"{where}: input: expected a batch of 1 to {MAX_BATCH}, got {spec.batch}",
    )
    _expect(all(abs(v) <= 1e6 for v in spec.mean), f"{where}: input.mean: expected finite numbers, got {spec.mean}")
    _expect(all(1e-6 <= v <= 1e6 for v in spec.std), f"{where}: input.std: expected positive numbers, got {spec.std}")
    integer = spec.mean == (INTEGER_MEANS.get(spec.type),) * 3 and spec.std == (1.0, 1.0, 1.0)
    _expect(
        spec.type not in INTEGER_MEANS or integer,
        f"{where}: input: {'an int8' if spec.type == 'int8' else 'a uint8'} tensor cannot be normalised by the app",
    )
    meanings = tuple(output.meaning for output in model.outputs)
    _expect(
        meanings == OUTPUTS[model.variant],
        f"{where}: outputs: a {model.variant} model has {', '.join(OUTPUTS[model.variant])}, got {', '.join(meanings)}",
    )
    _expect(
        model.weights_file is not None or not BACKENDS[model.runtime].has_weights_file,
        f"{where}: weights_file is missing",
    )
    own_threshold = model.score_threshold
    _expect(
        own_threshold is None or (model.variant == "nms" and 0 <= own_threshold <= 1),
        f"{where}: score_threshold: expected 0 to 1, of an nms model alone, got {own_threshold} of {model.variant}",
    )
    for name, value in (model.sha256 or {}).items():
        known_file = name in model.files and re.fullmatch("[0-9a-f]{64}", value) is not None
        _expect(known_file, f"{where}: sha256: expected 64 digits for a file of the model, got {value[:80]!r}")
    needs_anchors = model.variant in UNDECODED
    _expect(not needs_anchors or contract.anchors is not None, f"{where}: a model of {model.variant} needs anchors")
    _check_outputs(model, contract, where)


def _check_outputs(model: ModelSpec, contract: Contract, where: str) -> None:
    """Every output's shape follows from the classes, the anchors and the batch."""
    batch, classes, limit = model.input.batch, len(contract.class_names), contract.postprocess.max_detections
    shapes = {output.meaning: output.shape for output in model.outputs}
    if model.variant == "nms":
        expected: dict[Meaning, tuple[int | None, ...]] = {
            "boxes": (batch, limit, 4),
            "scores": (batch, limit),
            "labels": (batch, limit),
            "count": (batch,),
        }
    else:
        first = model.outputs[0].shape
        count = first[1] if len(first) == 3 else None
        _expect(
            isinstance(count, int) and 1 <= count <= ANCHOR_LIMIT,
            f"{where}: outputs: expected [batch, anchors, columns], got {list(first)}",
        )
        if model.variant in UNDECODED and contract.anchors is not None:
            anchors = len(contract.anchors.values)
            _expect(count == anchors, f"{where}: outputs: {count} anchors, the contract lists {anchors}")
        columns = {"class_logits": classes + 1, "scores": classes, "box_deltas": 4, "boxes": 4}
        expected = {meaning: (batch, count, columns[meaning]) for meaning in OUTPUTS[model.variant]}
    for meaning, shape in expected.items():
        _expect(
            shapes[meaning] == shape,
            f"{where}: output {meaning}: expected shape {list(shape)}, got {list(shapes[meaning])}",
        )


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise PlainError(message)
