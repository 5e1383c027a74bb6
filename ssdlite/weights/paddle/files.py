"""Arrays by name out of PaddlePaddle's .pdparams files, which are pickles: interpreted here, so nothing in them runs.

``paddle.save`` (python/paddle/framework/io.py) pickles a state dict, by protocol 2 to 4, as a dict of numpy arrays by
name, with a table of the parameters' other names in it; a tensor that stands within something else as a call of
``tuple`` for its name and its array. That needs few of pickle's operations and half a dozen functions, which have
stand-ins of ours; whatever else a pickle asks for is refused by its name.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssdlite.errors import CheckpointError, quote
from ssdlite.protobuf import DamagedError
from ssdlite.stored_tensors import MAX_NAME, StoredTensor, check_stored
from ssdlite.weights.raw_tensors import DAMAGE, MAX_RANK
from ssdlite.weights.source import PADDLE, check_size, damaged_file, file_kind, require_file

NAME_TABLE = "StructuredToParameterName@@"  # of the parameters' names in Paddle's own graph
MAX_OPERATIONS = 300_000  # of a pickle; a state dict has 30 for each of its few hundred tensors
MAX_ARGUMENTS = 10  # of a function, and parts of a state
MAX_ARRAY_SIDE = 2**31
ARRAY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # that torch has too
BYTE_ORDERS = ("<", ">", "=", "|")


def load_pdparams(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a .pdparams file by their names, in memory of their own.

    Raises:
        CheckpointError: no such file, truncated, hostile (code is refused, not run), or no arrays by name.
    """
    path = Path(path)
    require_file(path)
    if file_kind(path) != PADDLE:
        raise CheckpointError(f"{path}: expected a {PADDLE}, got something else")
    check_size(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            arrays = dict(_named_arrays(PickleInterpreter(content).run()))
    except PickledCodeError as error:
        raise CheckpointError(f"{path}: cannot be read as a {PADDLE} ({error})") from None
    except DAMAGE as error:
        raise damaged_file(path, PADDLE, error) from error
    if not arrays:
        raise CheckpointError(f"{path}: expected arrays by name, the file has none")
    check_stored((_describe(name, array) for name, array in arrays.items()), path, path.stat().st_size)
    return {name: array.tensor() for name, array in arrays.items()}


def _named_arrays(content: Any) -> Iterator[tuple[str, PickledArray]]:
    if not isinstance(content, Mapping):
        raise DamagedError(f"expected a dict of arrays by name, got a {_kind(content)}")
    for name, value in content.items():
        if name == NAME_TABLE:
            continue
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(array, PickledArray) or array.data is None:
            raise DamagedError(f"{quote(name)}: expected an array, got a {_kind(array)}")
        yield name, array


def _kind(value: Any) -> str:
    return {PickledArray: "array without values", PickledType: "dtype"}.get(type(value), type(value).__name__)


def _describe(name: str, array: PickledArray) -> StoredTensor:
    held = len(array.data or b"")
    return StoredTensor(name, array.shape, held, held, id(array.data))


# --- What stands for the functions and objects that a pickled array is put together from.


class PickledCodeError(ValueError):
    """A pickle asks for something that is not needed for arrays, and that may do anything."""


class PickledName(NamedTuple):
    """A function or a class by its name, which is not imported."""

    module: str
    name: str


class PickledType:
    """Of an array's elements. Its byte order comes after it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)

    def build(self, state: Any) -> None:
        """``state`` as of ``numpy.dtype.__setstate__``: a version, the byte order, and what structured types have."""
        _, order, *rest = state
        if order not in BYTE_ORDERS or any(part is not None for part in rest[:3]):
            raise DamagedError("arrays of structured elements")
        self.order = order


class PickledArray:
    """An array: its shape, and its bytes once they are there."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.element: PickledType | None = None
        self.by_column = False
        self.data: bytes | None = None

    def tensor(self) -> Tensor:
        """A copy, in this machine's byte order and row by row."""
        assert self.element is not None and self.data is not None  # of a built one
        dtype = self.element.dtype
        values = np.frombuffer(self.data, dtype).reshape(self.shape, order="F" if self.by_column else "C")
        return torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C"))

    def build(self, state: Any) -> None:
        """``state`` as of ``numpy.ndarray.__setstate__``: a version, shape, dtype, whether in columns, bytes."""
        _, shape, element, by_column, data = state
        if not isinstance(element, PickledType) or not isinstance(data, bytes) or not isinstance(by_column, bool | int):
            raise DamagedError("an array whose state is not one")
        if len(shape) > MAX_RANK or not all(type(side) is int and 0 <= side < MAX_ARRAY_SIDE for side in shape):
            raise DamagedError(f"an array of the shape {quote(shape)}")
        needed = math.prod(shape) * element.dtype.itemsize
        if needed != len(data):
            raise DamagedError(f"an array {list(shape)} of {element.code} in {len(data)} bytes")
        self.shape, self.element, self.by_column, self.data = tuple(shape), element, bool(by_column), data


def _make_array(kind: Any, *_: Any) -> PickledArray:
    if kind != NDARRAY:
        raise DamagedError(f"an array of the class {quote(kind)}")
    return PickledArray()


def _make_type(code: Any, *_: Any) -> PickledType:
    if isinstance(code, str) and code.startswith("O"):
        raise PickledCodeError("it has an array of Python objects, which could run code")
    if code not in ARRAY_TYPES:
        raise DamagedError(f"expected arrays of {', '.join(ARRAY_TYPES)}, got {quote(code)}")
    return PickledType(code)


def _make_tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):  # a copy of a long list, made over and over, would fill the memory
        raise DamagedError(f"a tuple made of a {_kind(value)}")
    return value


def _make_dict() -> dict[str, Any]:
    return {}


def _make_no_bytes() -> bytes:
    """How protocol 2 writes those of an empty array."""
    return b""


NDARRAY = PickledName("numpy", "ndarray")
ENCODE = PickledName("_codecs", "encode")  # how protocol 2 writes bytes
FUNCTIONS: dict[PickledName, Callable[..., Any]] = {
    PickledName("numpy.core.multiarray", "_reconstruct"): _make_array,
    PickledName("numpy._core.multiarray", "_reconstruct"): _make_array,
    PickledName("numpy", "dtype"): _make_type,
    PickledName("collections", "OrderedDict"): _make_dict,
    PickledName("__builtin__", "bytes"): _make_no_bytes,
    PickledName("builtins", "tuple"): _make_tuple,
    PickledName("__builtin__", "tuple"): _make_tuple,
}
KNOWN_NAMES = {NDARRAY, ENCODE, *FUNCTIONS}


# --- The machine that a pickle is a program for, without its powers.


class PickleInterpreter:
    """Runs the operations that ``pickle`` writes for dicts, lists, tuples, plain values and numpy arrays.

    Objects take no more memory than the operations and bytes of the file that make them: texts and bytes are shared by
    all that refer to them.
    """

    def __init__(self, content: Any) -> None:
        self.content = content
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded: dict[int, tuple[str, bytes]] = {}

    def run(self) -> Any:
        """The object that the pickle is of.

        Raises:
            PickledCodeError: it asks for anything that arrays do not need.
            DamagedError, or one of ``DAMAGE``: it is no pickle.
        """
        for number, (operation, argument, _) in enumerate(pickletools.genops(self.content)):
            if number >= MAX_OPERATIONS:
                raise DamagedError(f"more than {MAX_OPERATIONS} operations")
            if operation.name == "STOP":
                return self.stack.pop()
            act = OPERATIONS.get(operation.name)
            if act is None:
                raise PickledCodeError(f"its pickle has the operation {operation.name}, which arrays do not need")
            act(self, argument)
        raise DamagedError("cut off")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop_marked(self) -> list[Any]:
        """All behind the last mark."""
        place = self.marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def push_text_or_bytes(self, value: Any) -> None:
        """A string of Python 2's, whose characters are its bytes."""
        self.stack.append(value if isinstance(value, str) else value.decode("latin-1"))

    def push_tuple(self, size: int) -> None:
        values = self.stack[-size:]
        if len(values) < size:
            raise DamagedError("a tuple of what is not there")
        self.stack[-size:] = [tuple(values)]

    def append(self, values: list[Any]) -> None:
        self._container(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Names are the only keys: nested tuples would take as long to hash as they please."""
        items = self._container(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise DamagedError(f"expected names as keys, got a {_kind(key)}")
            items[key] = value

    def _container(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise DamagedError(f"something added to a {_kind(self.stack[-1])}")
        return self.stack[-1]

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def find(self, module: Any, name: Any) -> None:
        """Texts alone are names: of nested tuples, hashing and writing out take as long as they please."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError(
                f"expected the names of a module and a function, got a {_kind(module)} and {_kind(name)}"
            )
        found = PickledName(module, name)
        if found not in KNOWN_NAMES:
            asked = quote(f"{module[:MAX_NAME]}.{name[:MAX_NAME]}")
            raise PickledCodeError(f"it holds {asked}, which is no part of an array and could run code")
        self.stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise DamagedError("a call without arguments, or with too many")
        if function == ENCODE:
            self.stack.append(self._encode(*arguments))
        elif isinstance(function, PickledName) and function in FUNCTIONS:
            self.stack.append(FUNCTIONS[function](*arguments))
        else:
            raise PickledCodeError(f"it calls a {_kind(function)}")

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """The same bytes for the same text, however often it is asked for."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise DamagedError(f"bytes of a {_kind(text)} in {quote(encoding)}")
        if id(text) not in self.encoded:
            self.encoded[id(text)] = text, text.encode("latin-1")
        return self.encoded[id(text)][1]

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple) or len(state) > MAX_ARGUMENTS:
            raise DamagedError(f"a state that is a {_kind(state)}")
        if isinstance(target, PickledArray) and isinstance(state[-1], str):
            state = (*state[:-1], self._encode(state[-1]))  # by Python 2
        if not isinstance(target, (PickledArray, PickledType)):
            raise PickledCodeError(f"it gives a {_kind(target)} a state")
        target.build(state)


def _constant(value: Any) -> Callable[[PickleInterpreter, Any], None]:
    return lambda machine, _: machine.push(value)


OPERATIONS: dict[str, Callable[[PickleInterpreter, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), PickleInterpreter.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), PickleInterpreter.push),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), PickleInterpreter.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), PickleInterpreter.push_text_or_bytes),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": PickleInterpreter.mark,
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), PickleInterpreter.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])),
    "POP": lambda machine, _: machine.stack.pop(),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(*[machine.stack.pop(), machine.stack.pop()][::-1]),
    "REDUCE": PickleInterpreter.call,
    "BUILD": PickleInterpreter.build,
}
