"""A .param file is checked before ncnn reads it; needs no ncnn."""

from pathlib import Path

import pytest

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.ncnn import check_param

SOUND = """7767517
3 4
Input in0 0 1 in0
Split s 1 2 in0 a b
Concat c 2 1 a b out0 0=0 -23301=2,1,2
"""


def test_a_sound_file_passes(tmp_path: Path) -> None:
    (tmp_path / "a.param").write_text(SOUND)
    check_param(tmp_path / "a.param")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", "expected 7767517 in its first line, got '7767518'"),
        ("3 4", "2147483647 4", "line 2: expected the counts of layers and blobs, 3 4, got '2147483647 4'"),
        ("3 4", "3 3", "line 2: expected the counts of layers and blobs, 3 4, got '3 3'"),
        ("3 4", "-1 4", "line 2: expected the counts of layers and blobs, 3 4, got '-1 4'"),
        ("Split s 1 2", "Split s 1 99999", "line 4: expected 1 inputs and 99999 outputs"),
        ("Split s 1 2", "Split s -1 2", "line 4: expected a type, a name, and the numbers of inputs and outputs"),
        ("2 1 a b", "2 1 a z", "line 5: no layer before gives the input 'z'"),
        ("a b\n", "a a\n", "line 4: an output has the name of another blob"),
        ("=2,1,2", "=2000000000,1,2", "line 5: expected an array of '2000000000' values, got 2"),
        (" 0=0", " x=0", "line 5: expected values as number=value, got 'x=0'"),
    ],
)
def test_damage_is_named_by_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.param").write_text(SOUND.replace(old, new, 1))
    with pytest.raises(ContractError) as error:
        check_param(tmp_path / "a.param")
    assert str(error.value) == f"{tmp_path / 'a.param'}: {message}"
