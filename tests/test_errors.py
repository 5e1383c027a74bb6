"""Messages can be written anywhere, and are short, whatever they quote."""

from collections import OrderedDict
from collections.abc import Callable

import pytest

from ssdlite.config import DetectorConfig
from ssdlite.errors import ConfigError, DataError, quote


class Size(tuple[object, ...]):
    pass


def test_a_long_message_is_cut_in_the_middle() -> None:
    text = str(DataError("a" * 3000 + "b" * 2000))
    assert text == "a" * 1500 + " [... 3100 characters left out ...] " + "b" * 400


def test_a_message_of_a_usual_length_is_whole() -> None:
    assert str(DataError("x" * 2000)) == "x" * 2000


def test_lone_surrogates_are_escaped() -> None:
    assert str(DataError("class \ud800 of 类别")) == "class \\ud800 of 类别"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("softmx", "'softmx'"),
        ("a" * 100_000, "'" + "a" * 37 + "..." + "a" * 38 + "'"),
        ([1, 2], "[1, 2]"),
        (10**3, "1000"),
    ],
)
def test_what_is_quoted_is_short(value: object, expected: str) -> None:
    assert quote(value) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (lambda value: OrderedDict(a=(value, value)), "{'a': ({'a': (...)}, {'a': (...)})}"),
        (lambda value: Size((value, value)), "((((...), (...)), ((...), (...))), (((...), (...)), ((...), (...))))"),
    ],
)
def test_what_refers_to_the_same_over_and_over_is_quoted_in_no_time(
    kind: Callable[[object], object], expected: str
) -> None:
    """Kinds whose own ``repr`` would write 2**60 parts out."""
    value: object = None
    for _ in range(60):
        value = kind(value)
    quoted = quote(value)
    assert quoted == expected


@pytest.mark.parametrize("depth", [5000, 100_000])
def test_a_configuration_that_is_nested_deeply_is_refused(depth: int) -> None:
    value: object = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(ConfigError, match="detector configuration: ") as caught:
        DetectorConfig.from_dict({"version": 2, "head": {"conv": value}})
    assert len(str(caught.value)) < 500


def test_a_configuration_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="class_names: expected text"):
        DetectorConfig.from_dict({"version": 2, "class_names": ["\ud800"], "category_ids": [1]})
