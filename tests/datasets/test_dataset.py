"""Samples: the right pixels and boxes, the same augmentation on every run, bad pictures reported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ssdlite.datasets.dataset import BadSample, DetectionDataset, Sample
from ssdlite.datasets.index import DetectionIndex


def make_index(folder: Path) -> DetectionIndex:
    """Two pictures: a grey one with two objects, and a sideways one (stored 6 x 4, upright 4 x 6) with none."""
    Image.new("L", (8, 5), 50).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4), (1, 2, 3)).save(folder / "b.png", exif=exif)
    return DetectionIndex(
        name="two",
        class_names=("cat", "dog"),
        category_ids=(1, 2),
        paths=(str(folder / "a.png"), str(folder / "b.png")),
        image_ids=np.array([11, 22]),
        sizes=np.array([[5, 8], [6, 4]], np.int32),
        offsets=np.array([0, 2, 2]),
        boxes=np.array([[0, 0, 4, 4], [1, 1, 8, 5]], np.float32),
        labels=np.array([1, 0]),
        areas=np.array([16, 28], np.float32),
        ignore=np.array([False, True]),
    )


def draw_number(sample: Sample, rng: np.random.Generator) -> Sample:
    sample.boxes = np.full((1, 4), rng.random(), np.float32)
    return sample


def first(samples: list[Sample | BadSample]) -> Sample | BadSample:
    return samples[0]


def numbers(dataset: DetectionDataset) -> list[float]:
    return [number_of(dataset[i]) for i in range(len(dataset))]


def number_of(sample: Sample | BadSample) -> float:
    assert isinstance(sample, Sample)
    return float(sample.boxes[0, 0])


def test_a_sample_has_the_picture_and_its_objects(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path))
    sample = dataset[0]
    assert isinstance(sample, Sample)
    assert sample.image.shape == (5, 8, 3)
    assert sample.image.dtype == np.uint8
    assert (sample.image == 50).all()
    assert sample.boxes.tolist() == [[0, 0, 4, 4], [1, 1, 8, 5]]
    assert sample.labels.tolist() == [1, 0]
    assert sample.ignore.tolist() == [False, True]
    assert (sample.image_id, sample.position, sample.window) == (11, 0, None)
    assert len(dataset) == 2


def test_a_picture_without_objects_has_empty_arrays_and_stands_upright(tmp_path: Path) -> None:
    sample = DetectionDataset(make_index(tmp_path))[1]
    assert isinstance(sample, Sample)
    assert sample.image.shape == (6, 4, 3)
    assert sample.boxes.shape == (0, 4)
    assert (sample.labels.shape, sample.ignore.shape) == ((0,), (0,))


def test_changing_a_sample_leaves_the_index_alone(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path))
    sample = dataset[0]
    assert isinstance(sample, Sample)
    sample.boxes += 100
    sample.labels[:] = 7
    again = dataset[0]
    assert isinstance(again, Sample)
    assert again.boxes[0].tolist() == [0, 0, 4, 4]
    assert again.labels.tolist() == [1, 0]


@pytest.mark.parametrize("spoil", [
    lambda path: path.unlink(),
    lambda path: path.write_text("no picture"),
    lambda path: path.write_bytes(path.read_bytes()[:45]),
    lambda path: Image.new("RGB", (9, 9)).save(path),
])  # fmt: skip
def test_a_bad_picture_is_reported_not_raised(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    dataset = DetectionDataset(make_index(tmp_path), draw_number)
    spoil(tmp_path / "a.png")
    bad = dataset[0]
    assert isinstance(bad, BadSample)
    assert bad.position == 0
    assert "a.png" in bad.error
    assert isinstance(dataset[1], Sample)


def test_random_numbers_depend_on_seed_epoch_and_position_alone(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    dataset = DetectionDataset(index, draw_number, seed=5)
    drawn = numbers(dataset)
    assert drawn == [np.float32(np.random.default_rng([5, 0, i]).random()) for i in range(2)]
    assert numbers(dataset) == drawn
    dataset.set_epoch(1)
    assert numbers(dataset) == [np.float32(np.random.default_rng([5, 1, i]).random()) for i in range(2)]
    assert numbers(DetectionDataset(index, draw_number, seed=6)) != drawn


def test_persistent_loader_processes_see_the_epoch(tmp_path: Path) -> None:
    dataset = DetectionDataset(make_index(tmp_path), draw_number, seed=5)
    loader = DataLoader(
        dataset, 1, num_workers=1, persistent_workers=True, collate_fn=first, multiprocessing_context="fork"
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        expected = [np.float32(np.random.default_rng([5, epoch, i]).random()) for i in range(2)]
        assert [number_of(sample) for sample in loader] == expected
