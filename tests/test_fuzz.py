"""A slice of ``make fuzz``: hostile input is answered with an error of ours, or goes through."""

from pathlib import Path

import pytest

from tests.fuzz.area import Area
from tests.fuzz.areas import AREAS
from tests.fuzz.campaign import run_case
from tests.fuzz.mutations import mutate_bytes

CASES = 12  # of each area


@pytest.mark.parametrize("area", AREAS)
def test_hostile_input_is_answered(area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    material = AREAS[area].prepare(tmp_path)
    ends = []
    for number in range(CASES):
        folder = tmp_path / f"case_{number}"
        folder.mkdir()
        ends.append(run_case(area, 0, number, material, folder))
    assert [end for end in ends if end["end"] == "fault"] == []
    assert {"end": "answered"} in ends


def test_what_is_no_answer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack(material: object, random: object, folder: Path) -> None:
        raise KeyError("frozen_norms")

    monkeypatch.setitem(AREAS, "toy", Area(1, lambda folder: None, attack))
    end = run_case("toy", 0, 0, None, tmp_path)
    assert end["end"] == "fault"
    assert end["text"].endswith("KeyError: 'frozen_norms'")


def test_damage_is_the_same_each_time() -> None:
    from random import Random

    damaged = [mutate_bytes(bytes(range(200)), Random(f"{case}")) for case in (0, 0, 1)]
    assert damaged[0] == damaged[1] != damaged[2]
