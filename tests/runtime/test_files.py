"""Bundles and exported files that are missing, damaged, hostile or contradict themselves: one clear error each."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ssdlite.errors import ConfigError, ContractError
from ssdlite.runtime.backends import base
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import METADATA_KEY, Contract
from ssdlite.runtime.files import is_exported
from ssdlite.runtime.model import load_model
from ssdlite.runtime.plain import to_json

WHITE = np.full((32, 48, 3), 255, np.uint8)


@pytest.fixture
def bundle(make_colour_model: Callable[..., Any], tmp_path: Path) -> Path:
    """All three variants, contract.json, and the contract in each file as well."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    specs, whole = [], None
    for variant in ("raw", "decoded", "nms"):
        model, contract = make_colour_model(variant, file=f"{variant}.onnx")
        onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
        onnx.save(model, folder / f"{variant}.onnx")
        specs += contract.models
        whole = whole or contract
    assert isinstance(whole, Contract)
    (folder / "contract.json").write_text(to_json(replace(whole, models=tuple(specs))))
    return folder


def change_contract(bundle: Path, change: Callable[[Any], object]) -> None:
    document = json.loads((bundle / "contract.json").read_text())
    change(document)
    (bundle / "contract.json").write_text(json.dumps(document))


def refuse(path: Path, *arguments: str) -> str:
    """The message, of one line, with which it is refused."""
    with pytest.raises(ContractError) as caught:
        load_model(path, *arguments, threads=1)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


# -- which file ------------------------------------------------------------------------------------------------------


def test_a_bundle_gives_the_nms_model_unless_told_otherwise(bundle: Path):
    assert load_model(bundle).model.file == "nms.onnx"
    for name in ("raw.onnx", "decoded.onnx", "nms.onnx"):
        for detector in (load_model(bundle, name), load_model(str(bundle / name)), load_model(bundle / name, name)):
            assert detector.model.file == name
            (found,) = detector.predict(WHITE)
            assert found.names == ["red", "green", "blue"]
    assert refuse(bundle, "best.onnx") == "no model 'best.onnx'; there are raw.onnx, decoded.onnx, nms.onnx"
    assert "can be chosen in a bundle" in refuse(bundle / "raw.onnx", "nms.onnx")


def test_without_nms_it_is_decoded_and_then_raw(bundle: Path):
    change_contract(bundle, lambda d: d["models"].pop(2))
    assert load_model(bundle).model.file == "decoded.onnx"
    change_contract(bundle, lambda d: d["models"].pop(1))
    assert load_model(bundle).model.file == "raw.onnx"


def test_fp32_comes_before_int8(bundle: Path):
    (bundle / "small.onnx").write_bytes((bundle / "nms.onnx").read_bytes())
    change_contract(
        bundle, lambda d: d["models"].insert(0, d["models"][2] | {"file": "small.onnx", "precision": "int8"})
    )
    assert load_model(bundle).model.file == "nms.onnx"
    assert load_model(bundle, "small.onnx").model.precision == "int8"


def test_what_looks_exported(bundle: Path):
    assert all(map(is_exported, (bundle, Path("a.onnx"), Path("a.ORT"), Path("a.ncnn.param"))))
    assert not any(map(is_exported, (Path("best.pt"), Path("nowhere"), bundle / "contract.json")))


def test_a_contract_beside_the_file_serves_one_without_metadata(bundle: Path, make_colour_model: Callable[..., Any]):
    model, _ = make_colour_model("raw")
    onnx.save(model, bundle / "raw.onnx")
    assert load_model(bundle / "raw.onnx").model.variant == "raw"
    onnx.save(model, bundle / "other.onnx")
    assert refuse(bundle / "other.onnx").startswith("no model 'other.onnx'; there are")


def test_ort_files(bundle: Path, tmp_path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "nms.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(bundle / "nms.onnx"), options, providers=["CPUExecutionProvider"])
    (found,) = load_model(tmp_path / "nms.ort", threads=1).predict(WHITE)
    assert found.names == ["red", "green", "blue"]
    (tmp_path / "cut.ort").write_bytes((tmp_path / "nms.ort").read_bytes()[:300])
    assert "cut.ort: ONNX Runtime cannot load it" in refuse(tmp_path / "cut.ort")


# -- missing and damaged ---------------------------------------------------------------------------------------------


def test_missing_files(bundle: Path, tmp_path: Path):
    assert refuse(tmp_path / "none.onnx").endswith("none.onnx: no such model file")
    assert "contract.json: no such file; a bundle has to have it" in refuse(tmp_path)
    (bundle / "nms.onnx").unlink()
    assert refuse(bundle).endswith("nms.onnx: no such file; contract.json lists it")
    (bundle / "nms.onnx").mkdir()
    assert refuse(bundle).endswith("nms.onnx: no such file; contract.json lists it")
    assert "contract.json: no such file" in refuse(bundle / "nms.onnx")
    assert "cannot be read" in refuse(tmp_path / ("a" * 300 + ".onnx"))


def test_links_out_of_the_bundle(bundle: Path, tmp_path: Path):
    (tmp_path / "outside.onnx").write_bytes((bundle / "nms.onnx").read_bytes())
    (bundle / "nms.onnx").unlink()
    (bundle / "nms.onnx").symlink_to(tmp_path / "outside.onnx")
    assert refuse(bundle).endswith("nms.onnx: a link that leads out of the bundle is not followed")
    (bundle / "contract.json").rename(tmp_path / "contract.json")
    (bundle / "contract.json").symlink_to(tmp_path / "contract.json")
    assert refuse(bundle).endswith("contract.json: a link that leads out of the bundle is not followed")
    (bundle / "contract.json").unlink()
    (bundle / "contract.json").symlink_to(bundle / "contract.json")
    assert "contract.json: no such file" in refuse(bundle)


def test_links_within_the_bundle_are_followed(bundle: Path):
    (bundle / "nms.onnx").rename(bundle / "v1.onnx")
    (bundle / "nms.onnx").symlink_to("v1.onnx")
    assert load_model(bundle).model.file == "nms.onnx"


@pytest.mark.parametrize("name", ["../raw.onnx", "/etc/passwd", "a/b.onnx", "..", ".hidden", "a\\b", "a\x00b", ""])
def test_paths_in_place_of_names(bundle: Path, name: str):
    change_contract(bundle, lambda d: d["models"][2].update(file=name))
    assert "expected the name of a file in the bundle" in refuse(bundle)


def test_damaged_files(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    whole = (bundle / "nms.onnx").read_bytes()
    for content in (b"", b"\x00", b"not a model", whole[:100], whole[:-7], b"\x3a\x00" + whole[:50], b"\xff" * 500):
        (tmp_path / "bad.onnx").write_bytes(content)
        assert refuse(tmp_path / "bad.onnx").startswith(f"{tmp_path / 'bad.onnx'}: ")
    (bundle / "contract.json").write_text("{")
    assert "contract.json: it is not JSON" in refuse(bundle)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_onnx_runtimes_own_messages_stay_as_they_were(bundle: Path, capfd: pytest.CaptureFixture[str]):
    """Its logger belongs to the process: an app that has sessions of its own still hears of them."""
    import onnxruntime

    load_model(bundle).predict(WHITE)
    options = onnxruntime.SessionOptions()
    for value in ("a", "b"):  # of which the default logger warns
        options.add_session_config_entry("session.load_model_format", value)
    assert "already exists with value [a]" in capfd.readouterr().err


def test_flipped_bytes_never_get_through_as_anything_but_an_error_or_a_model(bundle: Path):
    whole, random = (bundle / "nms.onnx").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(0, 256)
        try:
            OnnxBackend(bytes(content), 1)
        except ContractError:
            refused += 1
    assert refused > 30


def test_a_model_larger_than_any_detector(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "MAX_MODEL_BYTES", 1000)
    assert "expected a model of 1 to 1000 bytes, got" in refuse(bundle)


def test_a_device_is_no_model(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "pipe.onnx")
    assert refuse(tmp_path / "pipe.onnx").endswith("no such model file")


def test_threads():
    with pytest.raises(ConfigError, match="threads: expected 1 or more, got 0"):
        load_model("a.onnx", threads=0)


# -- contracts that are not this file's ------------------------------------------------------------------------------


def test_an_onnx_file_without_a_contract(make_colour_model: Callable[..., Any], tmp_path: Path):
    onnx.save(make_colour_model("nms")[0], tmp_path / "a.onnx")
    message = refuse(tmp_path / "a.onnx")
    assert "has no contract" in message and "export the checkpoint with `ssdlite export`" in message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "images"}, "the contract promises one input, 'images' uint8 [1, 3, 32, 48]; the file has 'pixels'"),
        ({"type": "float32"}, "the contract promises one input, 'pixels' float32 [1, 3, 32, 48]; the file has"),
        ({"layout": "NHWC"}, "'pixels' uint8 [1, 32, 48, 3]; the file has 'pixels' uint8 [1, 3, 32, 48]"),
        ({"height": 48, "width": 32}, "'pixels' uint8 [1, 3, 48, 32]; the file has"),
        ({"height": 4096, "width": 4096}, "'pixels' uint8 [1, 3, 4096, 4096]; the file has"),
        ({"batch": 2}, "'pixels' uint8 [2, 3, 32, 48]; the file has"),
        ({"batch": None}, "'pixels' uint8 [any, 3, 32, 48]; the file has"),
        ({"name": "x" * 5000}, f"'{'x' * 60}' uint8"),
        ({"name": "a\nb"}, r"'a\nb' uint8"),
    ],
)
def test_another_input_than_promised(
    make_colour_model: Callable[..., Any], tmp_path: Path, spec: dict[str, Any], message: str
):
    model, _ = make_colour_model("nms", batch=1)
    _, contract = make_colour_model("nms", **({"batch": 1} | spec))
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
    onnx.save(model, tmp_path / "a.onnx")
    assert message in refuse(tmp_path / "a.onnx")


def rename_output(contract: Contract) -> Contract:
    outputs = (replace(contract.models[0].outputs[0], name="other"), *contract.models[0].outputs[1:])
    return replace(contract, models=(replace(contract.models[0], outputs=outputs),))


def more_detections(contract: Contract) -> Contract:
    outputs = [replace(output, shape=(1, 4, *output.shape[2:])) for output in contract.models[0].outputs[:3]]
    model = replace(contract.models[0], outputs=(*outputs, contract.models[0].outputs[3]))
    return replace(contract, models=(model,), postprocess=replace(contract.postprocess, max_detections=4))


def other_type(contract: Contract) -> Contract:
    outputs = [replace(output, type="float32") for output in contract.models[0].outputs]
    return replace(contract, models=(replace(contract.models[0], outputs=tuple(outputs)),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_output, "promises outputs 'other', 'out_count', 'out_labels', 'out_scores'; the file has 'out_boxes'"),
        (more_detections, "promises 'out_boxes' float32 [1, 4, 4]; the file has 'out_boxes' float32 [1, 3, 4]"),
        (other_type, "promises 'out_labels' float32 [1, 3]; the file has 'out_labels' int32 [1, 3]"),
    ],
)
def test_other_outputs_than_promised(
    make_colour_model: Callable[..., Any], tmp_path: Path, change: Callable[[Contract], Contract], message: str
):
    model, contract = make_colour_model("nms", batch=1)
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(change(contract))})
    onnx.save(model, tmp_path / "a.onnx")
    assert message in refuse(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"format": "ssdlite-contract"}', "[" * 5000, '{"format": NaN}', "\x00"]
)
def test_contracts_that_are_none(make_colour_model: Callable[..., Any], tmp_path: Path, text: str):
    model, _ = make_colour_model("nms")
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, tmp_path / "a.onnx")
    assert refuse(tmp_path / "a.onnx").startswith(f"the contract in {tmp_path / 'a.onnx'}: ")


def test_a_file_for_another_runtime(make_colour_model: Callable[..., Any], tmp_path: Path):
    model, contract = make_colour_model("raw")
    spec = replace(contract.models[0], runtime="ncnn", weights_file="a.bin")
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(replace(contract, models=(spec,)))})
    onnx.save(model, tmp_path / "a.onnx")
    assert refuse(tmp_path / "a.onnx").endswith("its contract says that it runs in ncnn")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda d: d.update(class_names=["green", "red", "blue"]), "class_names"),
        (lambda d: d["resize"].update(mode="letterbox"), "resize"),
        (lambda d: d["boxes"].update(format="yxyx"), "boxes"),
        (lambda d: d["postprocess"].update(score_threshold=0.5), "postprocess"),
        (lambda d: d["models"][2]["input"].update(color_order="BGR"), "input"),
    ],
)
def test_a_bundle_and_its_file_contradict_each_other(bundle: Path, change: Callable[[Any], object], fact: str):
    change_contract(bundle, change)
    assert refuse(bundle).endswith(f"nms.onnx: contract.json and the file's own metadata differ about its {fact}")


def test_measurements_may_be_added_later(bundle: Path):
    latency = {"median_ms": 3.5, "threads": 1, "runs": 100, "runtime": "onnxruntime", "processor": "some"}
    change_contract(bundle, lambda d: d["models"][2].update(latency=latency))
    assert load_model(bundle).model.latency is not None


def test_a_model_that_fails_when_it_runs(make_colour_model: Callable[..., Any], tmp_path: Path):
    """It looks up a box by the picture's brightness, and there is only one box."""
    model, contract = make_colour_model("decoded")
    for node in model.graph.node:
        if "out_boxes" in node.output:
            node.output[0] = "unused"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "flat"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Cast", ["colours"], ["brightness"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("Reshape", ["brightness", "flat"], ["places"]),
            onnx.helper.make_node("Gather", ["box", "places"], ["out_boxes"], axis=0),
        ]
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ContractError, match=r"a\.onnx: ONNX Runtime cannot run it \(.*idx=255"):
        load_model(tmp_path / "a.onnx", threads=1).predict(WHITE)
    with pytest.raises(ContractError, match=r"'out_boxes': expected float32 \[1, 1, 4\], got float32 \[3, 1, 4\]"):
        load_model(tmp_path / "a.onnx", threads=1).predict(WHITE * 0)
