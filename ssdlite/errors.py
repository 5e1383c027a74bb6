"""The errors that a user can cause. Each says what was expected, what came, and where."""

from __future__ import annotations

import reprlib
from typing import Any

MOST_CHARACTERS = 2000  # of a message, which may quote megabytes of a damaged file
KEPT_CHARACTERS = 1500, 400  # of its beginning and its end where it is longer


class _Quoting(reprlib.Repr):
    """Entries of nested containers are left out, also of those that are subclasses, whose own ``repr`` writes all."""

    def repr_instance(self, x: Any, level: int) -> str:
        shorten = (
            (dict, self.repr_dict),
            (list, self.repr_list),
            (tuple, self.repr_tuple),
            (set, self.repr_set),
            (frozenset, self.repr_frozenset),
        )
        return next((found for kind, found in shorten if isinstance(x, kind)), super().repr_instance)(x, level)


_quoting = _Quoting()
_quoting.maxstring = _quoting.maxother = _quoting.maxlong = 80
_quoting.maxlevel = 3


class SsdliteError(Exception):
    """Base of every error that stands for a mistake in what was given, not in this code.

    The command lines print its message alone, without a traceback, and exit with status 2. A very long one is cut in
    the middle; lone surrogates are escaped, so that it can be written wherever text can.
    """

    def __str__(self) -> str:
        text = super().__str__().encode("utf-8", "backslashreplace").decode()
        if len(text) <= MOST_CHARACTERS:
            return text
        first, last = KEPT_CHARACTERS
        return f"{text[:first]} [... {len(text) - first - last} characters left out ...] {text[-last:]}"


def is_text(value: str) -> bool:
    """Whether it can be written in UTF-8: damaged JSON and file names may hold lone surrogates, which cannot."""
    return value.isascii() or value.encode("utf-8", "replace").decode() == value


def quote(value: Any) -> str:
    """``repr`` for an error's message: short, whatever the value holds."""
    return _quoting.repr(value)


class ConfigError(SsdliteError, ValueError):
    """An unknown option, preset or value; the message names the known ones."""


class DataError(SsdliteError, ValueError):
    """An annotation file or image that is missing, malformed or contradictory; the message names the file."""


class CheckpointError(SsdliteError, ValueError):
    """A checkpoint that is not ours, is damaged, or does not fit."""


class ContractError(SsdliteError, ValueError):
    """An exported model or bundle that is not ours, is damaged, or contradicts itself."""


class ExportError(SsdliteError, RuntimeError):
    """A model cannot be exported as asked, or is not as accurate as was demanded."""


class TrainingError(SsdliteError, RuntimeError):
    """Training cannot go on, for example because the loss is no longer finite."""


class ProcessError(SsdliteError, RuntimeError):
    """One of several processes that train or score together has ended, and the others cannot go on without it."""
