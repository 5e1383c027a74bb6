"""Command lines from dataclasses: what the help says of each option, and what is wrong with arguments in one line.

The help says the default that will be used. Where that is decided later (None, or nothing), the option's docstring ends
with it: ``Default: the preset's.``
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import (
    MISSING,
    MISSING_NONPROP,
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from ssdlite.errors import ConfigError

DEFAULT = "Default: "  # begins the last sentence of an option's docstring
NOTHING = ("None", "")  # as tyro writes a default that says nothing
KINDS = {  # by what the help calls the values
    "INT [INT]": "one or two whole numbers (HEIGHT WIDTH)",
    "INT": "a whole number",
    "FLOAT": "a number",
}
METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}
DATA_NAMES = {"--annotations": "--data"}  # the name that data have in other programs
T = TypeVar("T")


@dataclass(frozen=True)
class DataArguments:
    """Of a command whose first argument is a data set; of one that has ``--data``, ``DATA_NAMES`` is its other name."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder or annotation file of a data set in any known format (docs/data.md). Default: that of --annotations."""
    annotations: Path | None = None
    """The same as PATH, by the name that it has in other programs. Default: PATH."""

    @property
    def source(self) -> Path:
        """Raises ConfigError where none is given, or both."""
        given = [path for path in (self.data, self.annotations) if path is not None]
        if len(given) != 1:
            wrong = f"both: {given[0]} and {given[1]}" if given else "neither"
            raise ConfigError(f"expected a data set, either as PATH or as --annotations, got {wrong}")
        return given[0]


def parse_arguments(
    options: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    description: str | None,
    defaults: T | None = None,
    recipes: Mapping[str, str] | None = None,
) -> T:
    """``arguments`` as the dataclass or Config ``options``.

    Args:
        defaults: values of options that are not among the arguments.
        recipes: of an option whose default is a recipe's, what that is.

    Raises:
        ConfigError: says in one line which option is wrong, what was expected and what came.
    """
    with _errors_in_one_line(program), _described_defaults(recipes or {}):
        return tyro.cli(
            options,
            args=arguments,
            prog=program,
            description=description,
            default=MISSING_NONPROP if defaults is None else defaults,
            config=(tyro.conf.OmitArgPrefixes,),
        )


def pick_arguments(options: type[T], arguments: Sequence[str]) -> T:
    """Those of ``arguments`` that are in ``options``, whatever the others are."""
    known, _ = tyro.cli(options, args=arguments, return_unknown_args=True, add_help=False)
    return known


def with_full_names(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """``words`` with the flags' own names for the other ones in ``names``.

    Raises:
        ConfigError: a flag is there by both of its names.
    """
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    for name, own in names.items():
        if {name, own} <= given:
            raise ConfigError(f"{name} and {own}: expected one of them, two names of the same option")
    parts = (word.partition("=") for word in words)
    return [names.get(name, name) + equals + value for name, equals, value in parts]


# --- What the help says.


@contextmanager
def _described_defaults(recipes: Mapping[str, str]) -> Iterator[None]:
    registry = ConstructorRegistry()
    asking = False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        """What tyro's own rules make of a struct, with other words about each field."""
        nonlocal asking
        if asking:
            return None
        asking = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return replace(spec, fields=tuple(_described(field, recipes) for field in spec.fields))

    with registry:
        yield


def _described(field: StructFieldSpec, recipes: Mapping[str, str]) -> StructFieldSpec:
    """The field with its text and its default as two, and without the None that an option is when it is not given."""

    def text() -> tuple[str, str]:
        """What the docstring says of the option, and of its default."""
        found = field.helptext() if callable(field.helptext) else field.helptext
        words = " ".join((found or "").split())
        said, _, default = words.rpartition(DEFAULT) if DEFAULT in words else (words, "", "")
        return said.strip(), default.removesuffix(".")

    def hint(label: str) -> str:
        if label not in NOTHING:
            return f"(default: {label})"
        if field.default in (MISSING, MISSING_NONPROP):
            return "(required)"
        default = text()[1].replace("the recipe's", recipes.get(field.name, "the recipe's"), 1)
        return f"(default: {default})"

    metavar = None if field.default == () else _metavar(field.type)  # tyro's own says that there may be none
    described: Any = Annotated[field.type, tyro.conf.arg(help_behavior_hint=hint, metavar=metavar)]
    return replace(field, type=described, helptext=lambda: text()[0] or None)


def _metavar(kind: Any) -> str | None:
    """How the help calls the values of an option that may be None, without that, or of several; None for others."""
    if get_origin(kind) is Annotated:
        return _metavar(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return _metavar_of_one(kind)
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) not in (Union, UnionType) or len(parts) == len(get_args(kind)):
        return None
    if len(parts) == 2 and parts[0] in METAVARS and get_args(parts[1]) == (parts[0], parts[0]):
        return f"{METAVARS[parts[0]]} [{METAVARS[parts[0]]}]"
    names = [name for part in parts if (name := _metavar_of_one(part)) is not None]
    return "|".join(names) if len(names) == len(parts) else None


def _metavar_of_one(part: Any) -> str | None:
    if part is bool:
        return "{True,False}"
    if get_origin(part) is Literal:
        return "{" + ",".join(map(str, get_args(part))) + "}"
    if get_origin(part) is tuple:
        name = _metavar_of_one(get_args(part)[0])
        return f"{name} [{name} ...]"
    return METAVARS.get(part)


# --- What a person reads where something is wrong.

FRAME = "\u2502\u2570\u256f"  # of the boxes around tyro's messages, drawn in Unicode or ASCII
RULE = {"\u2500", "-", " "}
HELP_INDENT = " " * 9  # of an option's text, below its name


@contextmanager
def _errors_in_one_line(program: str) -> Iterator[None]:
    """What the argument parser finds wrong, which it prints in a box before it exits, as a ConfigError."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            yield
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        raise ConfigError(f"{_without_box(told.getvalue())}; see {program} --help") from None


def _without_box(text: str) -> str:
    """The first part of a boxed message, and the option that it names as a similar one."""
    lines = [line.strip(FRAME).rstrip() for line in text.splitlines()[1:]]  # the first is a heading
    parts = [list(part) for is_rule, part in groupby(lines, lambda line: set(line) <= RULE) if not is_rule]
    if not parts:
        return " ".join(text.split())
    words = " ".join(line.strip() for line in parts[0] if not line.startswith(HELP_INDENT))
    message = words.partition(" Got errors:")[0].strip().rstrip(".")
    rest = [line.strip() for part in parts[1:] for line in part]
    if message.startswith("Unrecognized"):
        similar = [line.split()[0] for line in rest if line.startswith("--")] if len(parts) > 2 else []
        typed = message.partition(": ")[2].split(",")[0]  # the beginning of an option is likelier meant for that one
        likeliest = sorted(similar, key=lambda option: not option.startswith(typed))[:1]
        return message + "".join(f"; did you mean {option}?" for option in likeliest)
    return _by_option(message, next((line for line in rest if line.startswith("--")), ""))


def _by_option(message: str, usage: str) -> str:
    """``--option: expected ..., got ...`` for the parser's own words; ``usage`` is the option's line in the help."""
    choice = re.fullmatch(r"invalid choice (.*) for argument '(\S+)'\. Expected one of \((.*)\)", message)
    if choice:
        value, option, known = choice.groups()
        names = [name.strip().strip("'\"") for name in known.split(",")]
        if "None" in names:  # tyro made a set of them, whose order changes from run to run
            names = sorted((name for name in names if name not in NOTHING), key=lambda name: (len(name), name))
        return f"{option}: expected one of {', '.join(filter(None, names))}, got {value}"
    missing = re.match(r"Missing value for argument '([^']+)'", message)
    if missing:
        return f"{missing[1]}: expected a value, got none"
    parsing = re.fullmatch(r"Error parsing (\S+): (.*)", message)
    if not parsing:
        return message
    option, problem = parsing.groups()
    if not option.startswith("-"):  # a part of the options, which says itself what is wrong
        return problem
    kind = next((words for metavar, words in KINDS.items() if metavar in usage.split(maxsplit=1)[-1]), "another value")
    values = re.search(r"(\[[^[]*\]|'[^']*')$", problem)
    return f"{option}: expected {kind}, got {values[1].strip('[]')}" if values else f"{option}: {problem}"
