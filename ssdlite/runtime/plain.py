"""Dataclasses and named tuples from untrusted JSON and back, by the standard library alone: apps need no other."""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ssdlite.errors import quote

T = TypeVar("T")


class PlainError(ValueError):
    """A value is not what a dataclass says it must be; the message names the place and both."""


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: NaN, Infinity, numbers beyond float64 and keys that come twice are errors, as is deep nesting.

    Raises:
        PlainError: says what is wrong.
    """

    def refuse(name: str) -> Any:
        raise PlainError(f"{name} is not a number of JSON")

    try:
        return json.loads(text, parse_constant=refuse, parse_int=_parse_int, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise PlainError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise PlainError("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise PlainError(f"it is not JSON ({error})") from None


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """``value``, of dicts, lists, strings and numbers, as the dataclass ``kind``; types checked, unknown names refused.

    Raises:
        PlainError: names the place, as ``where.field[3].other``.
    """
    result: T = _convert(kind, value, where)
    return result


def to_plain(value: Any) -> Any:
    """The inverse: dataclasses as dicts without their fields that are None, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: to_plain(item) for name, item in pairs if item is not None}
    if isinstance(value, dict):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """A dataclass as compact JSON text."""
    return json.dumps(to_plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _parse_int(digits: str) -> int:
    if len(digits) > 20:
        raise PlainError(f"the number {digits[:20]}... is too large")
    return int(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise PlainError("a name comes twice in one object")
    return result


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if isinstance(kind, type) and (is_dataclass(kind) or hasattr(kind, "_fields")):
        return _convert_record(kind, value, where)
    if origin in (Union, types.UnionType):
        (inner,) = [option for option in get_args(kind) if option is not type(None)]
        return None if value is None else _convert(inner, value, where)
    if origin is Literal:
        if value not in get_args(kind) or isinstance(value, (list, dict)):
            raise PlainError(f"{where}: expected one of {', '.join(map(repr, get_args(kind)))}, got {_show(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(get_args(kind), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise PlainError(f"{where}: expected an object, got {_show(value)}")
        return {name: _convert(get_args(kind)[1], item, f"{where}.{name}") for name, item in value.items()}
    return _convert_scalar(kind, value, where)


def _convert_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise PlainError(f"{where}: expected an object, got {_show(value)}")
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        needed = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}
    else:
        needed = {name: name not in kind._field_defaults for name in kind._fields}
    for name in value:
        if name not in needed:
            raise PlainError(f"{where}: unknown name {_show(name)}; known: {', '.join(needed)}")
    for name, is_needed in needed.items():
        if is_needed and name not in value:
            raise PlainError(f"{where}: {name!r} is missing")
    return kind(**{name: _convert(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _convert_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise PlainError(f"{where}: expected a list, got {_show(value)}")
    if items[-1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(items):
        raise PlainError(f"{where}: expected {len(items)} values, got {len(value)}")
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(items, value, strict=True)))


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise PlainError(f"{where}: expected {_NAMES[kind]}, got {_show(value)}")
    if kind is float and not math.isfinite(value):
        raise PlainError(f"{where}: expected a finite number, got {value}")
    return value


_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _show(value: Any) -> str:
    if not isinstance(value, (str, int, float, bool)) and value is not None:
        return f"a {type(value).__name__}"
    return quote(value)
