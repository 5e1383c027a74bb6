"""The documents are finished, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from ssdlite.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def sections(page: Path) -> set[str]:
    """The names by which GitHub links the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_nothing_is_left_open(document: Path) -> None:
    text = document.read_text()
    assert "PLACEHOLDER" not in text and "TODO" not in text
    for target, _, section in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        if "://" not in target:
            page = document.parent / target if target else document
            assert page.exists(), target
            assert not section or section in sections(page), f"{target}#{section}"


def test_the_readme_lists_every_preset() -> None:
    from ssdlite import list_detectors

    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == list_detectors()


def test_the_files_that_contributing_names_are_there() -> None:
    words = re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = [word for word in words if re.search(r"/$|\.(py|md|toml|jsonl)$", word) and "NAME" not in word]
    assert len(paths) > 40
    beside = {path.name for room in ("datasets", "ssdlite", "tests") for path in (ROOT / room).rglob("*.py")}
    assert [path for path in paths if not (ROOT / path).exists() and path not in beside] == []


def test_every_training_option_is_in_its_part_of_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`.+`) \|$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    table = {part: set(re.findall(r"\w+", options)) for part, options in rows}
    parts = {name: getattr(TrainOptions(), name) for name in TrainOptions.__struct_fields__ if name != "recipe"}
    assert table.items() >= {name: set(part.__struct_fields__) for name, part in parts.items()}.items()
