"""Pictures are found by the names that annotations give them, below their folder alone."""

from pathlib import Path

import pytest

from ssdlite.datasets.formats.files import AmbiguousPictureError, PictureTree


@pytest.fixture
def tree(tmp_path: Path) -> PictureTree:
    for name in ("train/a.JPG", "train/b.png", "test/b.png", "test/c.d.jpg", "test/.hidden.jpg", "notes.txt", "d.jpg"):
        path = tmp_path / "cards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "elsewhere.jpg").write_bytes(b"")
    (tmp_path / "cards" / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    return PictureTree(tmp_path / "cards")


@pytest.mark.parametrize(("name", "found"), [
    (r"C:\tensorflow\images\a.jpg", "train/a.JPG"),
    ("/home/someone/a.JPG", "train/a.JPG"),
    ("a", "train/a.JPG"),  # without an ending
    ("c.d", "test/c.d.jpg"),
    ("c.d.jpg", "test/c.d.jpg"),
    ("old/Test/b.png", "test/b.png"),  # of two the one whose folder agrees
    ("b.jpg", None),
    ("hidden.jpg", None),
    ("link.jpg", None),  # leads out of the folder
    ("../elsewhere.jpg", None),
    ("notes.txt", None),
    ("", None),
])  # fmt: skip
def test_a_foreign_path_is_found_by_its_name(tree: PictureTree, name: str, found: str | None) -> None:
    assert tree.find(name) == (found and str(tree.root / found))


def test_of_several_pictures_none_is_guessed(tree: PictureTree) -> None:
    with pytest.raises(AmbiguousPictureError, match=r"^'b\.png': expected one picture of that name, found 2: test/b"):
        tree.find("b.png")
    with pytest.raises(AmbiguousPictureError, match=r"found 2: test/b\.png, train/b\.png$"):
        tree.find_stem("B")
    assert tree.find_stem("b", near=tree.root / "train") == str(tree.root / "train/b.png")
    assert tree.find_stem("d") == str(tree.root / "d.jpg")
    assert tree.find_stem("e") is None
