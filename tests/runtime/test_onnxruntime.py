"""Models whose weights lie in other files are found without the onnx package, wherever in the model they are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ssdlite.errors import ContractError
from ssdlite.runtime.backends import onnxruntime as onnx_wire
from ssdlite.runtime.contract import METADATA_KEY
from ssdlite.runtime.model import load_model
from ssdlite.runtime.plain import to_json


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
    with pytest.raises(ContractError) as caught:
        load_model("a.onnx", threads=1)
    assert str(caught.value) == "a.onnx: its weights lie in other files, which are not read; export it as one file"


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
    assert onnx.SparseTensorProto.DESCRIPTOR.fields_by_name["dims"].number == onnx_wire.SPARSE_TENSOR_DIMS


@pytest.mark.parametrize("place", ["graph", "attribute"])
def test_sparse_tensors_are_no_way_to_fill_the_memory(place: str):
    """A file of 150 bytes would take 1 GiB and more: ONNX Runtime fills sparse tensors up with zeros."""
    sparse = onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(np.ones(1, np.float32), "w"), onnx.numpy_helper.from_array(np.zeros(1, np.int64)),
        [1 << 14, 1 << 14],
    )  # fmt: skip
    model = onnx.ModelProto()
    if place == "graph":
        model.graph.sparse_initializer.append(sparse)
    else:
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    with pytest.raises(ContractError) as caught:
        onnx_wire.check_self_contained(model.SerializeToString(), "a.onnx")
    assert str(caught.value) == "a.onnx: expected at most 1073741824 bytes of sparse tensors, got 2147483648"
    sparse.dims[:] = [4, 4]
    small = onnx.ModelProto()
    small.graph.sparse_initializer.append(sparse)
    onnx_wire.check_self_contained(small.SerializeToString(), "a.onnx")


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
