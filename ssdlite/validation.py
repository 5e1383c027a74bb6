"""Configurations: frozen structs that check every value they are given, in Python and from files alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from ssdlite.errors import ConfigError, quote

MOST_COMPARED = 100  # characters of a name for which a similar one is sought
C = TypeVar("C", bound="Config")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every configuration. A value of a wrong type, or a name that is not in a Literal, is a ConfigError.

    Subclasses check ranges, and what has to agree, in ``check``.
    """

    def __post_init__(self) -> None:
        for name, kind in _types(type(self)).items():
            given = getattr(self, name)
            value = _checked(name, given, kind)
            if value is not given:
                msgspec.structs.force_setattr(self, name, value)  # numpy's numbers as Python's, lists as tuples
        self.check()

    def check(self) -> None:
        """Raises ConfigError for values that are out of range or do not go together."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON and checkpoints."""
        return dict(msgspec.to_builtins(self))

    def changed(self: C, **changes: Any) -> C:
        """A copy with other values.

        Raises:
            ConfigError: an unknown name, listing the known ones, or a value that is refused.
        """
        require_known(changes, self.__struct_fields__, "option")
        return msgspec.structs.replace(self, **changes)


def convert(values: Any, kind: type[C], what: str) -> C:
    """Plain values, which anyone may have written, as ``kind``: types checked, unknown names refused in every part.

    Raises:
        ConfigError: names ``what`` and the offending place.
    """
    try:
        if not isinstance(values, Mapping):
            raise ConfigError(f"expected options by name, got {_describe(values)}")
        _require_known_in_parts(values, kind)
        return msgspec.convert(values, kind, strict=True)
    except (ConfigError, msgspec.ValidationError) as error:
        raise ConfigError(f"{what}: {error}") from None
    except (RecursionError, UnicodeEncodeError) as error:
        raise ConfigError(f"{what}: expected options by name, got what cannot be read ({error})") from None


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with ``message`` where the condition does not hold."""
    if not condition:
        raise ConfigError(message)


def require_kind(name: str, value: Any, kind: type[C]) -> C:
    """``value``, which has to be a ``kind``. Raises ConfigError that names both."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {_describe(value)}")
    return value


def require_known(names: Iterable[Any], known: Iterable[str], kind: str) -> None:
    """Raises ConfigError for the first of ``names`` that is not ``known``; ``kind`` says what they are names of."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {kind} {quote(name)}{suggest(str(name), known)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...? Known: ...`` for an error about an unknown name."""
    known = list(known)
    close = difflib.get_close_matches(name[:MOST_COMPARED], known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" Known: {', '.join(known)}"


@cache
def _types(kind: type[Config]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hints[name] for name in kind.__struct_fields__}


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _checked(name: str, value: Any, kind: Any) -> Any:
    if _is_config(kind):
        return require_kind(name, value, kind)
    _check_choice(name, value, kind)
    try:
        plain = msgspec.to_builtins(value, enc_hook=_numpy_to_builtin)
        return msgspec.convert(plain, kind, strict=True)  # whole numbers become floats where those belong
    except (TypeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{name}: {error}") from None


def _check_choice(name: str, value: Any, kind: Any) -> None:
    choices = _choices(kind)
    if choices and value not in choices:
        known = ", ".join(str(choice) for choice in choices if choice is not None)
        raise ConfigError(f"{name}: expected one of {known}, got {quote(value)}")


def _choices(kind: Any) -> tuple[Any, ...]:
    """Of a Literal, or of one that may be None; empty for other types."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    literals = [part for part in parts if part is not type(None)]
    if not literals or any(get_origin(part) is not Literal for part in literals):
        return ()
    return tuple(choice for part in literals for choice in get_args(part)) + (None,) * (len(literals) < len(parts))


def _numpy_to_builtin(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__} does not belong there")


def _require_known_in_parts(values: Mapping[Any, Any], kind: type[Config]) -> None:
    types = _types(kind)
    require_known(values, types, "option")
    for name, value in values.items():
        _check_choice(name, value, types[name])
        if _is_config(types[name]) and isinstance(value, Mapping):
            try:
                _require_known_in_parts(value, types[name])
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {quote(value)}"
