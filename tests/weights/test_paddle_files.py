"""PaddlePaddle's .pdparams, pickled as paddle.save does it: read without running anything, hostile ones refused."""

from __future__ import annotations

import collections
import pickle
import pickletools
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.errors import CheckpointError
from ssdlite.weights.paddle.files import load_pdparams

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn._mean": np.array([0.5, -1.5], np.float64),
    "half": np.array([[1, 2], [3, 4]], np.float16),
    "step": np.array(7, np.int64),
    "by_column": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big_endian": np.array([1.0, 256.0], ">f4"),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}
TABLE = {"StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.pdparams"


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_arrays_of_all_protocols(file: Path, protocol: int, kind: type[dict[str, Any]]) -> None:
    found = load_pdparams(written(file, kind(ARRAYS | TABLE), protocol))
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        native = expected.astype(expected.dtype.newbyteorder("="))
        assert torch.equal(found[name], torch.from_numpy(np.array(native, order="C"))), name
    found["conv.weight"] += 1  # memory of their own


class Pair:
    """A tensor within another object, as Paddle's ``reduce_varbase`` writes it: a call of ``tuple``."""

    def __init__(self, *entries: Any) -> None:
        self.entries = entries

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self.entries,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_and_arrays_in_pairs(file: Path, protocol: int) -> None:
    content = {"a": Pair("linear_0.w_0", ARRAYS["half"]), "b": ("other", ARRAYS["step"])}
    found = load_pdparams(written(file, content, protocol))
    assert found["a"].tolist() == [[1, 2], [3, 4]]
    assert found["b"].item() == 7


def test_older_and_newer_numpy(file: Path) -> None:
    """numpy 1 calls its module ``numpy.core``, numpy 2 ``numpy._core``."""
    for old, new in ((b"numpy.core.", b"numpy._core."), (b"numpy._core.", b"numpy.core.")):
        data = pickle.dumps({"a": ARRAYS["half"]}, protocol=2)
        file.write_bytes(data.replace(old, new))
        assert load_pdparams(file)["a"].shape == (2, 2)


def test_python_2_wrote_bytes_as_text(file: Path) -> None:
    """Short strings, whose characters are the bytes of the array."""
    text = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"  # 1 and -2
    file.write_bytes(
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85"
        b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + text
        + b"tbs."
    )
    assert load_pdparams(file)["a"].tolist() == [1.0, -2.0]


class Runs:
    """Makes a file where it is unpickled by a reader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["value", "in a pair", "beside arrays", "in an object array"])
def test_code_does_not_run(file: Path, protocol: int, place: str, tmp_path: Path) -> None:
    code = Runs(tmp_path / "ran")
    content: Any = {
        "value": {"a": code},
        "in a pair": {"a": ("a", code)},
        "beside arrays": ARRAYS | {"z": code},
        "in an object array": {"a": np.array([code, None], object)},
    }[place]
    written(file, content, protocol)
    with pytest.raises(CheckpointError, match=r"PaddlePaddle file|recognised|did not write"):
        ssdlite.import_weights(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Calls(eval, "1")}, "it holds '(builtins|__builtin__).eval', which is no part of an array and could run"),
        ({"a": Calls(getattr, "a", "upper")}, "it holds 'builtins.getattr'"),
        ({"a": np.array([None])}, "it has an array of Python objects, which could run code"),
        ({"a": np.array(["x"])}, "expected arrays of f2, f4, .* got 'U1'"),
        ({"a": np.zeros(2, np.complex64)}, "expected arrays of f2, f4, .* got 'c8'"),
        ({"a": np.zeros(2, [("x", "f4")])}, "got 'V4'"),
        ({"a": np.float32(3)}, "it holds 'numpy.*multiarray.scalar'"),
        ({"a": {1, 2}}, "it has the operation|its pickle has the operation EMPTY_SET"),
        ({"a": [1.0, 2.0]}, "'a': expected an array, got a list"),
        ({"a": {"b": ARRAYS["half"]}}, "'a': expected an array, got a dict"),
        ({"a": None}, "'a': expected an array, got a NoneType"),
        ({1: ARRAYS["half"]}, "expected names as keys, got a int"),
        ({(1, 2): ARRAYS["half"]}, "expected names as keys, got a tuple"),
        ([ARRAYS["half"]], "expected a dict of arrays by name, got a list"),
        (ARRAYS["half"], "expected a dict of arrays by name, got a array"),
        ({}, "expected arrays by name, the file has none"),
        (TABLE, "expected arrays by name, the file has none"),
    ],
)
def test_what_is_no_state_dict(file: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_pdparams(written(file, content))


def test_protocol_5_is_told_by_its_function(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it holds 'numpy.*_frombuffer'"):
        load_pdparams(written(file, {"a": ARRAYS["conv.weight"]}, protocol=5))


def test_files_that_are_cut_off_anywhere(file: Path) -> None:
    whole = pickle.dumps({"a": ARRAYS["half"], "b": ARRAYS["step"]}, protocol=4)
    for length in range(2, len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="a damaged or truncated PaddlePaddle file"):
            load_pdparams(file)


# --- Small files that would become large: in bytes of pickle, as no pickler writes them.

HEAD = b"\x80\x04"
SHARED = b"N\x85\x94" + b"h\x00h\x00\x86q\x00" * 40  # a tuple, remembered as 0, of 2**40 parts that are one
LIST = b"]" + b"(" + b"N" * 60_000 + b"e\x94"  # a list of 60,000, remembered as 0


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, function: str) -> bytes:
    return text(module) + text(function) + b"\x93"


def array(shape: bytes, data: bytes, kind: str = "f4") -> bytes:
    """Opcodes of an array: of opcodes of its shape and of its bytes."""
    made = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    element = name("numpy", "dtype") + text(kind) + b"\x89\x88\x87R"
    return made + b"(K\x01" + shape + element + b"\x89" + data + b"tb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"}" * 400_000 + b".", "more than 300000 operations", id="many objects"),
        pytest.param(
            LIST + (name("builtins", "tuple") + b"h\x00\x85R") * 20_000 + b".", "a tuple made of a list", id="copies"
        ),
        pytest.param(
            LIST + (name("collections", "OrderedDict") + b"h\x00\x85R") * 20_000 + b".", "TypeError|damaged", id="dicts"
        ),
        pytest.param(
            b"(" + b"N" * 60_000 + b"t\x94" + (name("numpy", "dtype") + b"h\x00R") * 20_000 + b".",
            "a call without arguments, or with too many",
            id="arguments",
        ),
        pytest.param(b"]\x94" + b"h\x00a" + b".", "expected a dict", id="a list in itself"),
        pytest.param(b"N" + b"\x85" * 100_000 + b".", "expected a dict", id="deep"),
        pytest.param(b"N" + b"r\xff\xff\xff\x7f" + b".", "expected a dict", id="a memo with a far number"),
        pytest.param(
            b"}" + text("a") + b"B\xff\xff\xff\xff" + b"abcs.", "damaged or truncated", id="bytes that are not there"
        ),
        pytest.param(b"\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.", "damaged or truncated", id="more bytes than memory"),
        pytest.param(
            b"}" + text("a") + array(b"J\xff\xff\xff\x7f\x85", b"C\x04abcd") + b"s.", "in 4 bytes", id="a large shape"
        ),
        pytest.param(
            b"}" + text("a") + array(b"K\x00J\xff\xff\xff\x7f\x86", b"C\x00") + b"s.", None, id="large but empty"
        ),
        pytest.param(
            b"}" + text("a") + array(b"J\xff\xff\xff\xff\x85", b"C\x04abcd") + b"s.", "the shape", id="negative"
        ),
        pytest.param(b"}" + text("a") + array(b"\x88\x85", b"C\x04abcd") + b"s.", "the shape", id="a flag as a side"),
        pytest.param(
            b"}" + text("a") + name("numpy", "dtype") + b")b" + b"s.", "gives a PickledName a state", id="a state"
        ),
        pytest.param(b"}" + text("a") + text("b") + text("c") + b"\x85Rs.", "it calls a str", id="a call of a text"),
        pytest.param(SHARED + text("b") + b"\x93.", "expected the names of .*, got a tuple and str", id="a module"),
        pytest.param(
            SHARED + text("b") + b"h\x00\x93.", "expected the names of .*, got a str and tuple", id="a function"
        ),
        pytest.param(
            SHARED + name("_codecs", "encode") + text("b") + b"h\x00\x86R.",
            r"bytes of a str in \(\(\(\(\.\.\.\), \(\.\.\.\)\), ",
            id="an encoding",
        ),
        pytest.param(
            SHARED + name("numpy", "dtype") + b"h\x00\x85R.",
            r"f8, .* got \(\(\(\(\.\.\.\), \(\.\.\.\)\), ",
            id="a type",
        ),
        pytest.param(
            SHARED + name("numpy.core.multiarray", "_reconstruct") + b"h\x00\x85R.",
            r"an array of the class \(\(\(\(\.\.\.\), \(\.\.\.\)\), ",
            id="a class",
        ),
        pytest.param(b"\x85.", "a tuple of what is not there", id="an empty stack"),
    ],
)
def test_hostile_pickles_end_soon(file: Path, content: bytes, message: str | None) -> None:
    file.write_bytes(HEAD + content)
    start = time.perf_counter()
    if message is None:
        assert load_pdparams(file)["a"].numel() == 0
    else:
        with pytest.raises(CheckpointError, match=message):
            load_pdparams(file)
    assert time.perf_counter() - start < 20


def test_many_arrays_of_the_same_bytes(file: Path) -> None:
    """One of 40 kB, referred to by two hundred arrays."""
    shared = b"B" + struct.pack("<I", 40_000) + bytes(40_000) + b"\x94"
    first = b"}(" + text("a0") + array(b"M\x10\x27\x85", shared)
    others = b"".join(text(f"a{number}") + array(b"M\x10\x27\x85", b"h\x00") for number in range(1, 200))
    file.write_bytes(HEAD + first + others + b"u.")
    with pytest.raises(CheckpointError, match="its tensors need 8000000 bytes, the file holds 40000"):
        load_pdparams(file)


def test_a_text_is_encoded_once_however_often_it_is_asked_for(file: Path) -> None:
    shared = text("a" * 40_000) + b"\x94"
    encode = name("_codecs", "encode")
    body = encode + shared + text("latin1") + b"\x86R0"
    file.write_bytes(HEAD + body + (encode + b"h\x00" + text("latin1") + b"\x86R") * 40_000 + b".")
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="expected a dict"):
        load_pdparams(file)
    assert time.perf_counter() - start < 20


def test_the_operations_that_paddle_writes_are_all_known() -> None:
    from ssdlite.weights.paddle.files import OPERATIONS

    for protocol in (2, 3, 4):
        data = pickle.dumps(ARRAYS | TABLE | {"a": ("b", ARRAYS["half"])}, protocol=protocol)
        used = {operation.name for operation, _, _ in pickletools.genops(data)}
        assert used - {"STOP"} <= set(OPERATIONS)
