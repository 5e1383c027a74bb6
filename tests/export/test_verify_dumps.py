"""What an app wrote is compared step by step with the reference vectors, and a mistake is named where it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ssdlite.errors import ContractError
from ssdlite.export.verify.bundle import verify_bundle
from tests.export.golden_models import DECODED, FLOAT, LETTERBOX, NMS, RAW, step_of


@pytest.fixture
def dump(golden_bundles: Path, tmp_path: Path) -> Path:
    """What a faultless app would write."""
    return Path(shutil.copytree(golden_bundles / "stretch" / "golden", tmp_path / "dump"))


def read(folder: Path, name: str, kind: str, shape: tuple[int, ...]) -> Any:
    return np.fromfile(folder / name, kind).reshape(shape)


def test_a_faultless_dump_passes(golden_bundles: Path, dump: Path) -> None:
    report = verify_bundle(golden_bundles / "stretch", dump=dump)
    assert report.passed
    assert [one.step for one in report.models[0].steps] == ["picture", "resize", "input", "outputs", "detections"]


def keep_only(dump: Path, *ends: str) -> None:
    for path in dump.iterdir():
        if not path.name.endswith(ends):
            path.unlink()


def pillow(rgb: Any) -> Any:
    return np.asarray(Image.fromarray(rgb).resize((96, 96), Image.Resampling.BILINEAR))


def letterboxed(rgb: Any) -> Any:
    """image_2 only, 75 x 200: 36 rows of picture in 96."""
    canvas = np.full((96, 96, 3), 114, np.uint8)
    canvas[30:66] = cv2.resize(rgb, (96, 36), interpolation=cv2.INTER_LINEAR)
    return canvas


def aligned(rgb: Any) -> Any:
    import torch

    planes = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(planes, (96, 96), mode="bilinear", align_corners=True)
    return resized[0].permute(1, 2, 0).round().byte().numpy()


@pytest.mark.parametrize(("resize", "likely"), [
    (lambda rgb: cv2.resize(rgb, (96, 96))[..., ::-1], "channels in the order BGR instead of RGB"),
    (letterboxed, "letterbox instead of stretch"),
    (pillow, "smoothed while shrinking (antialias, as Pillow's BILINEAR)"),
    (aligned, "corners of the pictures aligned (align_corners)"),
    (lambda rgb: cv2.resize(rgb, (96, 96), interpolation=cv2.INTER_NEAREST), "nearest pixel instead of bilinear"),
    (lambda rgb: cv2.resize(np.rot90(rgb), (96, 96)), "turned by 90 degrees"),
])  # fmt: skip
def test_a_wrongly_resized_picture_in_a_dump(
    golden_bundles: Path, dump: Path, resize: Callable[[Any], Any], likely: str
) -> None:
    keep_only(dump, "image_2.resized.bin")
    golden = golden_bundles / "stretch"
    np.ascontiguousarray(resize(read(golden / "golden", "image_2.rgb.bin", "u1", (75, 200, 3)))).tofile(
        dump / "image_2.resized.bin"
    )
    report = verify_bundle(golden, dump=dump)
    (model,) = report.models
    assert [(one.step, one.status) for one in model.steps] == [("resize", "fail")]
    assert (model.steps[0].likely or "").startswith(likely)


def test_of_equally_good_explanations_the_simplest_is_given(golden_bundles: Path, dump: Path) -> None:
    """image_0 has the input's size, at which every way to resize is the same."""
    keep_only(dump, "image_0.resized.bin")
    rgb = read(golden_bundles / "stretch" / "golden", "image_0.rgb.bin", "u1", (96, 96, 3))
    np.ascontiguousarray(rgb[..., ::-1]).tofile(dump / "image_0.resized.bin")
    report = verify_bundle(golden_bundles / "stretch", dump=dump, model=DECODED)
    likely = step_of(report, DECODED, "resize").likely
    assert likely == "channels in the order BGR instead of RGB (differs then by 0 on average)"


def test_only_the_step_that_makes_the_mistake_fails(golden_bundles: Path, dump: Path) -> None:
    """An app with BGR tensors: its outputs and detections are wrong as well, but follow from its input."""
    from ssdlite.runtime.model import load_model

    golden = golden_bundles / "stretch"
    detector = load_model(golden, DECODED)
    keep_only(dump, "image_2.resized.bin", "image_2.uint8_NCHW.bin")
    tensor = np.ascontiguousarray(read(dump, "image_2.uint8_NCHW.bin", "u1", (1, 3, 96, 96))[:, ::-1])
    tensor.tofile(dump / "image_2.uint8_NCHW.bin")
    outputs = detector.infer(tensor)
    for meaning, values in outputs.items():
        values.tofile(dump / f"image_2.{DECODED}.{meaning}.bin")
    report = verify_bundle(golden, dump=dump)
    assert report.failed_steps() == {DECODED: ["input"]}
    assert step_of(report, DECODED, "input").likely == "channels in the order BGR instead of RGB"
    assert step_of(report, DECODED, "outputs").status == "pass"


def test_outputs_alone_tell_what_the_network_was_fed(golden_bundles: Path, dump: Path) -> None:
    from ssdlite.runtime.model import load_model

    golden = golden_bundles / "stretch"
    tensor = read(dump, "image_1.float32_NHWC.bin", "<f4", (1, 96, 96, 3))
    keep_only(dump, "nothing")
    for change, likely in (
        (lambda values: np.ascontiguousarray(values[..., ::-1]), "channels in the order BGR instead of RGB"),
        (lambda values: values * 127.5 + 127.5, "another normalisation: not normalised: values 0..255"),
    ):
        for meaning, values in load_model(golden, FLOAT).infer(change(tensor)).items():
            values.tofile(dump / f"image_1.{FLOAT}.{meaning}.bin")
        report = verify_bundle(golden, dump=dump)
        assert report.failed_steps() == {FLOAT: ["outputs"]}
        assert step_of(report, FLOAT, "outputs").likely == f"the network was fed: {likely}"


@pytest.mark.parametrize(("resize", "likely"), [
    (letterboxed, "letterbox instead of stretch"),
    (lambda rgb: cv2.resize(rgb, (96, 96))[..., ::-1], "channels in the order BGR instead of RGB"),
    (lambda rgb: cv2.resize(rgb, (96, 96), interpolation=cv2.INTER_NEAREST), "nearest pixel instead of bilinear"),
])  # fmt: skip
def test_detections_alone_tell_what_the_network_was_fed(
    golden_bundles: Path, tmp_path: Path, resize: Callable[[Any], Any], likely: str
) -> None:
    """The whole way of an app, of which only the end was written down."""
    from ssdlite.images.geometry import fit_window
    from ssdlite.runtime.model import load_model

    golden = golden_bundles / "stretch"
    rgb = read(golden / "golden", "image_2.rgb.bin", "u1", (75, 200, 3))
    detector = load_model(golden, DECODED)
    (found,) = detector.detect(np.ascontiguousarray(resize(rgb))[None].transpose(0, 3, 1, 2))
    own = found.to_picture(fit_window((75, 200), (96, 96), "stretch"), (75, 200)).above(0.3)
    (tmp_path / f"image_2.{DECODED}.detections.json").write_text(json.dumps(own.to_list()))
    report = verify_bundle(golden, dump=tmp_path)
    assert report.failed_steps() == {DECODED: ["detections"]}
    assert step_of(report, DECODED, "detections").likely == f"the network was fed: {likely}"


@pytest.mark.parametrize(("change", "likely"), [
    (lambda x: ((x + 1) * 127.5 - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375], "ImageNet's mean and std"),
    (lambda x: (x + 1) / 2, "values 0..1"),
    (lambda x: x[..., ::-1], "channels in the order BGR instead of RGB"),
    (lambda x: x.transpose(0, 3, 1, 2), "layout NCHW instead of NHWC"),
    (lambda x: (x + 1) * 127.5, "values 0..255"),
])  # fmt: skip
def test_a_wrong_tensor_in_a_dump(golden_bundles: Path, dump: Path, change: Callable[[Any], Any], likely: str) -> None:
    tensor = read(dump, "image_1.float32_NHWC.bin", "<f4", (1, 96, 96, 3))
    keep_only(dump, "image_1.float32_NHWC.bin")
    np.ascontiguousarray(change(tensor), np.float32).tofile(dump / "image_1.float32_NHWC.bin")
    report = verify_bundle(golden_bundles / "stretch", dump=dump, model=FLOAT)
    assert report.failed_steps() == {FLOAT: ["input"]}
    assert likely in (step_of(report, FLOAT, "input").likely or "")


def test_a_tensor_alone_shows_a_letterbox(golden_bundles: Path, dump: Path) -> None:
    keep_only(dump, "image_2.uint8_NCHW.bin")
    rgb = read(golden_bundles / "stretch" / "golden", "image_2.rgb.bin", "u1", (75, 200, 3))
    np.ascontiguousarray(letterboxed(rgb).transpose(2, 0, 1)).tofile(dump / "image_2.uint8_NCHW.bin")
    report = verify_bundle(golden_bundles / "stretch", dump=dump)
    assert report.failed_steps() == {RAW: ["input"]}
    assert (step_of(report, RAW, "input").likely or "").startswith("letterbox instead of stretch")


def test_a_tensor_of_another_type_is_recognised_by_its_size(golden_bundles: Path, dump: Path) -> None:
    keep_only(dump, "image_0.uint8_NCHW.bin")
    (dump / "image_0.uint8_NCHW.bin").write_bytes(bytes(96 * 96 * 3 * 4))
    report = verify_bundle(golden_bundles / "stretch", dump=dump)
    result = step_of(report, RAW, "input")
    assert result.likely == "the tensor holds float32; this model takes uint8 and normalises inside"


def swap(box: list[float]) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


@pytest.mark.parametrize(("change", "likely"), [
    (lambda one: one | {"label": one["label"] + 1}, "labels off by one (+1), names right"),
    (lambda one: one | {"label": one["label"] + 1, "name": f"class_{(one['label'] + 1) % 3}"},
     "labels off by one (+1)"),
    (lambda one: one | {"name": f"class_{(one['label'] - 1) % 3}"}, "names off by one (-1), labels right"),
    (lambda one: one | {"box": swap(one["box"])}, "boxes in the order y0, x0, y1, x1 instead of x0, y0, x1, y1"),
    (lambda one: one | {"box": [*one["box"][:2], one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]]},
     "boxes as x, y, width, height instead of corners"),
    (lambda one: one | {"box": [v * s for v, s in zip(one["box"], (96 / 200, 96 / 75) * 2, strict=True)]},
     "boxes in pixels of the input, not of the picture"),
    (lambda one: one | {"box": [v / s for v, s in zip(one["box"], (200, 75) * 2, strict=True)]},
     "boxes as fractions of the input"),
])  # fmt: skip
@pytest.mark.parametrize("file", [DECODED, NMS])
def test_wrong_detections_in_a_dump(
    golden_bundles: Path, dump: Path, file: str, change: Callable[[dict[str, Any]], dict[str, Any]], likely: str
) -> None:
    path = dump / f"image_2.{file}.detections.json"
    keep_only(dump, path.name)
    path.write_text(json.dumps([change(one) for one in json.loads(path.read_text())]))
    report = verify_bundle(golden_bundles / "stretch", dump=dump)
    assert report.failed_steps() == {file: ["detections"]}
    assert (step_of(report, file, "detections").likely or "").startswith(likely)


def test_boxes_in_whole_pixels_are_noticed_where_the_outputs_are_known(golden_bundles: Path, dump: Path) -> None:
    keep_only(
        dump, f"image_2.{DECODED}.detections.json", f"image_2.{DECODED}.scores.bin", f"image_2.{DECODED}.boxes.bin"
    )
    path = dump / f"image_2.{DECODED}.detections.json"
    found = [one | {"box": [float(round(v)) for v in one["box"]]} for one in json.loads(path.read_text())]
    path.write_text(json.dumps(found))
    report = verify_bundle(golden_bundles / "stretch", dump=dump)
    assert report.failed_steps() == {DECODED: ["detections"]}
    assert (step_of(report, DECODED, "detections").likely or "").startswith("boxes differ by less than a pixel")


def test_detections_without_suppression_in_a_dump(golden_bundles: Path, tmp_path: Path) -> None:
    """Every score of 0.3 and more, straight from the reference outputs."""
    folder = golden_bundles / "letterbox" / "golden"
    scores = read(folder, f"image_0.{LETTERBOX}.scores.bin", "<f4", (192, 3))
    boxes = read(folder, f"image_0.{LETTERBOX}.boxes.bin", "<f4", (192, 4)) * 96  # the picture has the input's size
    found = [
        {"name": f"class_{k}", "label": int(k), "score": float(scores[a, k]), "box": boxes[a].tolist()}
        for a, k in np.argwhere(scores >= 0.3)
    ]
    (tmp_path / f"image_0.{LETTERBOX}.detections.json").write_text(json.dumps(found))
    report = verify_bundle(golden_bundles / "letterbox", dump=tmp_path)
    result = step_of(report, LETTERBOX, "detections")
    assert result.status == "fail"
    assert "no suppression" in result.text or result.likely == "no non-maximum suppression"


def test_a_dump_without_known_names_is_refused(golden_bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "image0.resized").write_bytes(b"")
    with pytest.raises(ContractError, match=r"nothing to compare; expected files named as in .* got image0.resized"):
        verify_bundle(golden_bundles / "stretch", dump=tmp_path)
