"""Finding pictures and videos, naming what is written for them, and videos themselves."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssdlite.errors import ConfigError, DataError
from ssdlite.images.media import PICTURE_FORMATS, VideoReader, VideoWriter, find_sources, save_picture


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def targets(paths: list[Path], output: Path) -> list[str]:
    return [source.target.as_posix() for source in find_sources(paths, output)[0]]


def test_folders_are_searched_with_their_subfolders_in_order(tmp_path: Path) -> None:
    touch(
        *(tmp_path / "in" / name for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "sub/c.mov", "sub/d.jfif"))
    )
    sources, problems, passed_over = find_sources([tmp_path / "in"], tmp_path / "out")
    assert problems == []
    assert passed_over == {".txt": 1}
    assert [(s.path.name, s.target.as_posix(), s.is_video) for s in sources] == [
        ("a.png", "a.png", False),
        ("b.JPG", "b.JPG", False),
        ("c.mov", "sub/c.mp4", True),
        ("d.jfif", "sub/d.jfif", False),
    ]


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    one, two, three = (tmp_path / folder / "x.jpg" for folder in "abc")
    shout, avi, mov = tmp_path / "X.JPG", tmp_path / "v.avi", tmp_path / "v.mov"
    numbered = tmp_path / "d" / "x_2.jpg"
    touch(one, two, three, shout, avi, mov, numbered)
    names = targets([one, two, tmp_path / "c", shout, numbered, avi, mov], tmp_path / "out")
    assert names == ["x.jpg", "x_2.jpg", "x_3.jpg", "X_4.JPG", "x_2_2.jpg", "v.mp4", "v_2.mp4"]


def test_each_file_is_used_once(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    given = [tmp_path / "in", tmp_path / "in" / "a.jpg", tmp_path / "link.jpg"]
    assert targets(given, tmp_path / "out") == ["a.jpg"]


def test_formats_that_cannot_be_written_become_png(tmp_path: Path) -> None:
    touch(tmp_path / "a.gif", tmp_path / "scan")
    assert targets([tmp_path / "a.gif", tmp_path / "scan"], tmp_path / "out") == ["a.gif.png", "scan.png"]


def test_an_earlier_output_inside_the_source_folder_is_not_searched(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "out" / "a.jpg", tmp_path / "out" / "sub" / "b.jpg")
    assert targets([tmp_path], tmp_path / "out") == ["a.jpg"]


def test_sources_are_never_overwritten(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    for given in (tmp_path, tmp_path / "a.jpg"):
        with pytest.raises(ConfigError, match=r"a\.jpg is a source; choose another folder with --output"):
            find_sources([given], tmp_path)


def test_what_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "notes.txt")
    sources, problems, _ = find_sources([tmp_path / "none.jpg", tmp_path / "in"], tmp_path / "out")
    assert sources == []
    assert problems == [
        f"{tmp_path / 'none.jpg'}: no such file or folder",
        f"{tmp_path / 'in'}: no pictures or videos in it",
    ]


@pytest.mark.parametrize(("suffix", "kind"), PICTURE_FORMATS.items())
def test_pictures_are_written_in_the_format_of_their_name(suffix: str, kind: str, tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (200, 30, 90)
    save_picture(tmp_path / f"a{suffix.upper()}", Image.fromarray(image))
    with Image.open(tmp_path / f"a{suffix.upper()}") as picture:
        assert picture.format == kind
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int)[:, :24] - image[:, :24]).max() < 12


def test_a_video_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    colours = [(220, 40, 40), (40, 200, 60), (50, 60, 210)]
    with VideoWriter(path, 12.0) as writer:
        for colour in colours:
            writer.write(np.full((60, 80, 3), colour, np.uint8))
        writer.write(np.full((30, 40, 3), colours[0], np.uint8))  # another size
        assert not path.exists(), "a video takes its name once it is complete"
    with VideoReader(path) as video:
        assert video.info.frames_per_second == pytest.approx(12)
        assert video.info.frame_count == 4
        frames = list(video)
    assert [frame.shape for frame in frames] == [(60, 80, 3)] * 4
    for frame, colour in zip(frames, [*colours, colours[0]], strict=True):
        assert np.abs(frame.mean(axis=(0, 1)) - colour).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_video_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "clip.mp4", 12.0) as writer:
        writer.write(np.zeros((40, 40, 3), np.uint8))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_something_else_than_a_video(tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"nonsense" * 100)
    before = cv2.utils.logging.getLogLevel(), dict(os.environ)
    with pytest.raises(DataError, match=r"bad\.mp4: cannot be read as a video"):
        VideoReader(path)
    assert (cv2.utils.logging.getLogLevel(), dict(os.environ)) == before


def test_a_video_is_written_through_a_link_with_its_mode(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    old = tmp_path / "films" / "old.mp4"
    old.touch()
    old.chmod(0o600)
    link = tmp_path / "clip.mp4"
    link.symlink_to(old)
    with VideoWriter(link, 12.0) as writer:
        writer.write(np.zeros((40, 40, 3), np.uint8))
    assert link.is_symlink()
    assert old.stat().st_mode & 0o777 == 0o600
    with VideoReader(old) as video:
        assert len(list(video)) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["clip.mp4", "films", "old.mp4"]


def test_a_folder_of_heic_names_what_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdlite.images.media.IMAGE_SUFFIXES", (".jpg",))  # as without pillow-heif
    (tmp_path / "IMG_1.HEIC").write_bytes(b"")
    assert find_sources([tmp_path]).problems == [
        f"{tmp_path}: no pictures or videos in it that can be read; for .heic and .heif, pip install pillow-heif"
    ]
