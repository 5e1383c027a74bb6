"""Bundles and exported files that are missing, damaged, hostile or contradict themselves: one clear error each."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ssdlite import backends, onnx_wire
from ssdlite.backends import OnnxBackend
from ssdlite.contract import METADATA_KEY, Contract
from ssdlite.errors import ConfigError, ContractError
from ssdlite.model_files import is_exported
from ssdlite.plain import to_json
from ssdlite.runtime import load_model

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
    monkeypatch.setattr(backends, "MAX_MODEL_BYTES", 1000)
    assert "expected a model of 1 to 1000 bytes, got" in refuse(bundle)


def test_a_device_is_no_model(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "pipe.onnx")
    assert refuse(tmp_path / "pipe.onnx").endswith("no such model file")


def test_threads():
    with pytest.raises(ConfigError, match="threads: expected 1 or more, got 0"):
        load_model("a.onnx", threads=0)


# -- weights in other files ------------------------------------------------------------------------------------------


def external(name: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def plant_in_subgraph(model: onnx.ModelProto) -> None:
    branch = onnx.helper.make_graph([], "branch", [], [], [external("w")])
    node = onnx.helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "initializer": lambda model: model.graph.initializer.append(external("w")),
    "attribute": lambda model: model.graph.node.append(
        onnx.helper.make_node("Constant", [], ["w"], value=external("w"))
    ),
    "sparse": lambda model: model.graph.sparse_initializer.add().values.CopyFrom(external("w")),
    "function": lambda model: model.functions.add().node.append(
        onnx.helper.make_node("Constant", [], ["w"], value=external("w"))
    ),
    "subgraph": plant_in_subgraph,
    "training": lambda model: model.training_info.add().algorithm.initializer.append(external("w")),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_other_files_are_not_read(
    make_colour_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.chdir(tmp_path)
    np.arange(4, dtype=np.float32).tofile("secret.bin")
    model, contract = make_colour_model("nms")
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
    PLACES[place](model)
    Path("a.onnx").write_bytes(model.SerializeToString())
    assert refuse(Path("a.onnx")) == (
        "a.onnx: its weights lie in other files, which are not read; export it as one file"
    )


def test_the_walk_knows_every_way_to_a_tensor():
    """The messages and field numbers that it follows are those of the onnx package from which a tensor is in reach."""
    found: dict[str, dict[int, str]] = {}

    def visit(message: Any) -> None:
        if message.name in found:
            return
        found[message.name] = {f.number: f.message_type.name for f in message.fields if f.message_type is not None}
        for field in message.fields:
            if field.message_type is not None:
                visit(field.message_type)

    visit(onnx.ModelProto.DESCRIPTOR)
    reaching = {"TensorProto"}
    while more := {name for name, own in found.items() if set(own.values()) & reaching} - reaching:
        reaching |= more
    expected = {
        name: {number: inner for number, inner in found[name].items() if inner in reaching} for name in reaching
    }
    longer = {"Training": "TrainingInfoProto"}
    ours = {
        longer.get(name, f"{name}Proto"): {number: longer.get(inner, f"{inner}Proto") for number, inner in own.items()}
        for name, own in onnx_wire.MESSAGES.items()
    }
    assert ours == expected
    fields = onnx.TensorProto.DESCRIPTOR.fields_by_name
    assert fields["external_data"].number == onnx_wire.TENSOR_EXTERNAL_DATA
    assert fields["data_location"].number == onnx_wire.TENSOR_DATA_LOCATION


def test_nesting_has_an_end():
    message = b""
    for _ in range(400):  # a graph in an attribute in a node in a graph ...
        for key in (b"\x32", b"\x2a", b"\x0a"):
            message = key + onnx_varint(len(message)) + message
    with pytest.raises(ContractError, match="not an ONNX model, or damaged"):
        onnx_wire.check_self_contained(b"\x3a" + onnx_varint(len(message)) + message, "a.onnx")


def onnx_varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


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
        (lambda d: d["models"][2]["input"].update(colour_order="BGR"), "input"),
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
    """Its reshape only fits an input of another size than the one that it declares."""
    model, contract = make_colour_model("decoded")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 11]), "wrong"))
    for node in model.graph.node:
        if "out_boxes" in node.output:
            node.output[0] = "fine"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["fine", "wrong"], ["out_boxes"]))
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(contract)})
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ContractError, match=r"a\.onnx: (ONNX Runtime cannot (run|load) it|the contract promises)"):
        load_model(tmp_path / "a.onnx", threads=1).predict(WHITE)
