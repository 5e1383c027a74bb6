"""Files are written whole or not at all, into what the name stands for, and with the mode that they had."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from ssdlite.datasets.shapes import generate_shapes
from ssdlite.errors import ConfigError
from ssdlite.export.bundle import CONTRACT_FILE, staged_folder
from ssdlite.files import (
    prepare_folder,
    remove_forgotten,
    save_json_list,
    temporary_path,
    write_atomically,
    write_json,
    write_text,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new, but")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"AP": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("link", ["there", "nested"])
def test_a_link_stays_one_and_its_target_is_replaced(tmp_path: Path, link: str) -> None:
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "real.json"
    target.write_text("old")
    (tmp_path / "there").symlink_to("store/real.json")
    (tmp_path / "nested").symlink_to(tmp_path / "there")
    write_text(tmp_path / link, "new")
    assert target.read_text() == "new"
    assert (tmp_path / "there").is_symlink() and (tmp_path / "nested").is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["real.json"]


def test_a_link_to_a_file_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("later.txt")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "later.txt").read_text() == "new"


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o444, 0o755])
def test_a_file_keeps_its_mode(tmp_path: Path, permissions: int) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(permissions)
    write_text(path, "new")
    assert (path.read_text(), mode(path)) == ("new", permissions)


def test_a_secret_is_not_open_to_others_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(0o600)

    def write(file: BinaryIO) -> None:
        (partial,) = (other for other in tmp_path.iterdir() if other != path)
        assert mode(partial) == 0o600

    write_atomically(path, write)


def test_a_new_file_has_the_mode_that_the_process_gives_files(tmp_path: Path) -> None:
    program = (
        "import os, sys, threading; from ssdlite.files import write_text; os.umask(0o027)\n"
        "threads = [threading.Thread(target=write_text, args=(f'{sys.argv[1]}/{i}', 'x')) for i in range(16)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; print(oct(os.umask(0)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o640}
    assert done.stdout == "0o27\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    write_json(fifo, [1, 2])
    reader.join(10)
    assert received == [b"[\n  1,\n  2\n]\n"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert list(tmp_path.iterdir()) == [fifo]


def test_standard_output_and_devices_are_written_to() -> None:
    program = "from ssdlite.files import write_text; write_text('/dev/null', 'x'); write_text('/dev/stdout', 'out')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "out"
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_fifo_gets_nothing_of_a_write_that_fails(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match="Out of range"):
        write_json(fifo, float("nan"))
    assert list(tmp_path.iterdir()) == [fifo]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    for name in ("store", "data", "bundle"):
        (tmp_path / name).mkdir()
    (tmp_path / "data").rename(tmp_path / "store" / "data")
    (tmp_path / "bundle").rename(tmp_path / "store" / "bundle")
    (tmp_path / "store" / "bundle" / CONTRACT_FILE).write_text("{}")
    for name in ("data", "bundle", "later"):
        (tmp_path / name).symlink_to(tmp_path / "store" / name)
    for images in (1, 2):
        generate_shapes(tmp_path / "data", train_images=images, val_images=1)
    for name in ("bundle", "later"):
        with staged_folder(tmp_path / name, overwrite=True) as folder:
            (folder / "new").touch()
        assert [path.name for path in (tmp_path / "store" / name).iterdir()] == ["new"]
    assert len(list((tmp_path / "store" / "data" / "train").iterdir())) == 2
    assert all((tmp_path / name).is_symlink() for name in ("data", "bundle", "later"))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["bundle", "data", "later"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/out: cannot be written"):
        prepare_folder(tmp_path / "file" / "out")
    prepare_folder(tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new" / "out") == []  # noqa: PTH208


def test_a_list_is_written_one_value_a_line(tmp_path: Path) -> None:
    save_json_list(tmp_path / "a.json", [{"a": 1}, {"b": "é"}])
    assert (tmp_path / "a.json").read_text("utf-8") == '[\n{"a": 1},\n{"b": "é"}\n]\n'
    save_json_list(tmp_path / "a.json", [])
    assert (tmp_path / "a.json").read_text().split() == ["[", "]"]
    with pytest.raises(ConfigError, match="cannot be written"):
        save_json_list(tmp_path / "a.json" / "b.json", [])


@pytest.mark.skipif(os.name != "posix", reason="asks the system for a process by its number")
def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    """Not what others still write, and nothing with another name."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    own, others = temporary_path(tmp_path / "a.pt"), temporary_path(tmp_path / "bundle")
    forgotten = [own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")) for own in (own, others)]
    own.touch()
    forgotten[0].touch()
    forgotten[1].mkdir()
    (forgotten[1] / "raw.onnx").touch()
    elsewhere = tmp_path / f".a.another_host-{ended.pid}-0123456789abcdef.part.pt"
    elsewhere.touch()
    (tmp_path / ".a.part").touch()
    remove_forgotten(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, elsewhere, tmp_path / ".a.part"])
    assert own.name.startswith(".a.")
    assert own.name.endswith(".part.pt")
