"""The built-in data set: the same for everybody, complete or absent, and with boxes that fit."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ssdlite.datasets import shapes as shape_scenes
from ssdlite.datasets.loading import load_data
from ssdlite.datasets.shapes import draw_scene, generate_shapes
from ssdlite.errors import DataError
from ssdlite.images.reading import read_image


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, train_images=50, val_images=25, seed=7)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_ordinary_reader_reads_it_without_a_problem(shapes: Path) -> None:
    data = load_data(shapes)
    assert (len(data.train), len(data.val)) == (50, 25)
    assert data.train.class_names == ("circle", "square", "triangle")
    assert data.train.problems == data.val.problems == ()
    assert set(data.train.labels.tolist()) == {0, 1, 2}


def test_scenes_are_as_promised(shapes: Path) -> None:
    index = load_data(shapes).train
    counts = np.diff(index.offsets)
    assert np.flatnonzero(counts == 0).tolist() == [24, 49]
    assert counts.max() <= 8
    short, long = index.sizes.min(axis=1), index.sizes.max(axis=1)
    assert (short >= 192).all()
    assert (short <= 256).all()
    assert (long >= 256).all()
    assert (long <= 320).all()
    widths = index.boxes[:, 2:] - index.boxes[:, :2]
    assert widths.min() >= 5
    assert (index.areas <= widths.prod(axis=1)).all()
    assert (index.areas >= 0.1 * widths.prod(axis=1)).all()


def test_boxes_are_tight_around_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scenes with and without paint differ in the pixels of their shapes; one shape's are its box."""
    monkeypatch.setattr(shape_scenes, "_photograph", lambda rng, canvas: canvas)
    single = 0
    for seed in range(40):
        scenes = []
        for paint in (0.0, 1000.0):
            monkeypatch.setattr(shape_scenes, "_paint", partial(add_paint, paint))
            scenes.append(draw_scene(np.random.default_rng(seed), with_objects=True))
        difference = (scenes[1].image.astype(float) - scenes[0].image)[..., 0]
        rows, columns = np.nonzero(difference >= 499)
        if len(scenes[0].objects) == 1:
            single += 1
            (shape,) = scenes[0].objects
            assert shape.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert shape.area == len(rows)
    assert single >= 3


def add_paint(amount: float, rng: np.random.Generator, patch: np.ndarray, alpha: np.ndarray, label: int) -> None:
    patch += amount * alpha[..., None]


def test_the_same_seed_gives_the_same_files_and_another_one_others(shapes: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / "again", train_images=50, val_images=25, seed=7)
    assert contents(tmp_path / "again") == contents(shapes)
    generate_shapes(tmp_path / "other", train_images=2, val_images=1, seed=8)
    assert (tmp_path / "other/train/000000.jpg").read_bytes() != (shapes / "train/000000.jpg").read_bytes()


def test_more_images_keep_the_first_ones(shapes: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / "few", train_images=3, val_images=1, seed=7)
    for number in range(3):
        name = f"train/{number:06d}.jpg"
        assert (tmp_path / "few" / name).read_bytes() == (shapes / name).read_bytes()


def test_splits_share_no_picture(shapes: Path) -> None:
    pictures = [path.read_bytes() for path in shapes.rglob("*.jpg")]
    assert len(set(pictures)) == 75


def test_the_file_is_ordinary_coco_json(shapes: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert set(content["annotations"][0]) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    assert [category["id"] for category in content["categories"]] == [1, 2, 3]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])


def test_a_complete_folder_is_left_alone_and_other_settings_replace_it(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    generate_shapes(folder, train_images=2, val_images=1)
    before = (folder / "train/000000.jpg").stat().st_mtime_ns
    generate_shapes(folder, train_images=2, val_images=1)
    assert (folder / "train/000000.jpg").stat().st_mtime_ns == before
    generate_shapes(folder, train_images=3, val_images=1)
    assert len(list((folder / "train").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="expected a new folder or generated shapes, found other files"):
        generate_shapes(tmp_path, train_images=2, val_images=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail_later(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_scene(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("ssdlite.datasets.shapes.draw_scene", fail_later)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "shapes", train_images=5, val_images=1)
    assert list(tmp_path.iterdir()) == []


def test_pictures_can_be_read_as_they_are_described(shapes: Path) -> None:
    index = load_data(shapes).val
    for i in range(5):
        record = index.record(i)
        assert read_image(record.path).shape[:2] == record.size
