"""Class names from files: what a name may hold, in every kind of file alike."""

from pathlib import Path

import pytest

from ssdlite.errors import CheckpointError
from ssdlite.weights.class_names import name_rows, parse_labels, read_class_names

CASES = [("a\0b", r"'a\x00b'"), ("a\x1bb", r"'a\x1bb'"), ("a\x1cb", r"'a\x1cb'"), ("a\x85b", r"'a\x85b'")]


@pytest.mark.parametrize(("name", "shown"), CASES)
def test_a_control_character_in_a_name_is_answered_alike(name: str, shown: str, tmp_path: Path) -> None:
    labels, label_map = tmp_path / "labels.txt", tmp_path / "map.pbtxt"
    labels.write_bytes(f"cat\n{name}\n".encode())
    label_map.write_bytes(f"item {{ id: 1 name: 'cat' }} item {{ id: 2 name: '{name}' }}".encode())
    for file in (labels, label_map):
        with pytest.raises(CheckpointError) as caught:
            read_class_names(file)
        assert str(caught.value) == f"{file}: class name 2: expected no control characters, got {shown}"
    with pytest.raises(CheckpointError, match=r"m\.pth: class name 2: expected no control characters, got"):
        name_rows(3, ["cat", name], "softmax", "m.pth")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(ends: str) -> None:
    assert parse_labels(ends.join(["\ufeffcat ", "\tdog", "", ""]).encode(), "labels") == ("cat", "dog")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\r\n"])
def test_a_file_without_names_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="labels: expected a name a line, it is empty"):
        parse_labels(content, "labels")
