"""A name means one thing: no class and no constant is defined twice in the tree, unless by the same words."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("ssdlite", "backbones", "heads", "datasets", "tools")


def definitions(path: Path) -> list[tuple[str, str]]:
    """(name, what it is) of the classes, constants and types at the top of a module."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.append((node.name, f"class in {path}"))
        elif isinstance(node, ast.Assign):
            found += [(t.id, ast.unparse(node.value)) for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append((node.target.id, f"{node.annotation} in {path}"))
    return [(name, what) for name, what in found if name[0].isupper()]


def test_no_name_means_two_things() -> None:
    meanings = defaultdict(set)
    modules = 0
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            modules += 1
            for name, what in definitions(path):
                meanings[name].add(what)
    assert modules > 100
    assert {name: sorted(what) for name, what in meanings.items() if len(what) > 1} == {}


def test_the_test_can_see_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Source: ...\nLIMIT = 3\nKinds = int | str\n_private = 1\n")
    assert [name for name, _ in definitions(tmp_path / "a.py")] == ["Source", "LIMIT", "Kinds"]
