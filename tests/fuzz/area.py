"""What an area of the fuzzer is, and what all of them share.

An area is ``prepare(folder)``, once in each process, and ``attack(material, random, folder)``, once a case, in an empty
folder. What ends in one of ``EXPECTED`` was answered; anything else that is raised is a fault.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ssdlite.errors import SsdliteError
from tests.fuzz.mutations import deep_recursion

DATA = Path(__file__).parents[1] / "data"
EXPECTED = (SsdliteError,)


class Area(NamedTuple):
    cases: int  # of a whole campaign
    prepare: Callable[[Path], Any]
    attack: Callable[[Any, Random, Path], object]
    expected: tuple[type[Exception], ...] = EXPECTED


def copy_files(source: Path, target: Path, *names: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and (not names or path.name in names):
            shutil.copyfile(path, target / path.name)


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with deep_recursion():
        path.write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))


def prepare_nothing(folder: Path) -> None:
    return None
