"""Samples: the right pixels and boxes, the same augmentation on every run, bad pictures reported; and their batches."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ssdlite.datasets.dataset import DetectionDataset, ShuffledBatches, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.samples import BadSample, Sample
from ssdlite.errors import ConfigError
from ssdlite.images.geometry import CropWindow


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


def test_two_indexes_are_joined(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    both = index.subset([1, 0]).joined(index)
    assert [Path(path).name for path in both.paths] == ["b.png", "a.png", "a.png", "b.png"]
    assert both.image_ids.tolist() == [22, 11, 23, 24]
    assert both.offsets.tolist() == [0, 0, 2, 4, 4]
    assert [record.labels.tolist() for record in map(both.record, range(4))] == [[], [1, 0], [1, 0], []]
    assert both.record(2).ignore.tolist() == [False, True] and both.record(2).size == (5, 8)
    assert both.object_counts() == {"cat": 0, "dog": 2}


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


# -- samples to batches


WINDOW = CropWindow(0, 0, 8, 4, (4, 8))


def make_sample(position: int, boxes, labels, ignore=None) -> Sample:
    image = np.full((4, 8, 3), position, np.uint8)
    image[0, 1] = (10, 20, 30)
    return Sample(
        image,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.zeros(len(labels), bool) if ignore is None else np.array(ignore),
        image_id=100 + position,
        position=position,
        window=WINDOW,
    )


def test_objects_are_padded_to_the_most_of_the_batch():
    batch = collate(
        [
            make_sample(5, [[0, 0, 1, 1], [1, 1, 2, 2]], [7, 0]),
            make_sample(2, [], []),
            make_sample(9, [[3, 3, 4, 4]], [1]),
        ]
    )
    assert len(batch) == 3
    assert batch.boxes.tolist() == [
        [[0, 0, 1, 1], [1, 1, 2, 2]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[3, 3, 4, 4], [0, 0, 0, 0]],
    ]
    assert batch.labels.tolist() == [[7, 0], [-1, -1], [1, -1]]
    assert batch.boxes.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.positions == (5, 2, 9)
    assert batch.windows == (WINDOW,) * 3
    assert batch.bad == ()


def test_images_are_channels_first_and_stored_channels_last():
    batch = collate([make_sample(0, [], []), make_sample(1, [], [])])
    assert batch.images.shape == (2, 3, 4, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.images[1, :, 0, 1].tolist() == [10, 20, 30]
    assert batch.images[1, :, 3, 7].tolist() == [1, 1, 1]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_ignored_objects_have_a_label_of_their_own():
    batch = collate([make_sample(0, [[0, 0, 1, 1], [0, 0, 4, 4]], [3, 4], [False, True])])
    assert batch.labels.tolist() == [[3, -2]]
    assert batch.boxes[0, 1].tolist() == [0, 0, 4, 4]


def test_a_batch_without_any_object():
    batch = collate([make_sample(0, [], []), make_sample(1, [], [])])
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == (2, 0)


def test_unreadable_samples_are_left_out_and_listed():
    bad = BadSample(4, "x.jpg: cannot be read")
    batch = collate([make_sample(3, [[0, 0, 1, 1]], [0]), bad, make_sample(5, [], [])])
    assert batch.positions == (3, 5)
    assert batch.images.shape[0] == batch.boxes.shape[0] == len(batch.windows) == 2
    assert batch.bad == (bad,)


def test_nothing_but_unreadable_samples():
    batch = collate([BadSample(4, "x"), BadSample(5, "y")])
    assert len(batch) == 0
    assert batch.images.shape[0] == 0
    assert batch.boxes.shape == (0, 0, 4)
    assert [bad.position for bad in batch.bad] == [4, 5]


# -- which images make up a batch: all processes together must see what one would


def batches(length: int, batch_size: int, *, epoch: int = 0, seed: int = 0, **shard) -> list[list[int]]:
    sampler = ShuffledBatches(length, batch_size, seed=seed, **shard)
    sampler.epoch = epoch
    result = list(sampler)
    assert len(result) == len(sampler)
    return result


def test_every_image_once_where_batches_fit():
    found = batches(12, 4)
    assert [len(batch) for batch in found] == [4, 4, 4]
    assert sorted(chain(*found)) == list(range(12))
    assert all(type(position) is int for position in chain(*found))


def test_an_incomplete_last_batch_is_left_out():
    found = batches(11, 4)
    assert [len(batch) for batch in found] == [4, 4]
    assert len(set(chain(*found))) == 8


def test_left_out_images_differ_from_epoch_to_epoch():
    seen = {position for epoch in range(12) for position in chain(*batches(11, 4, epoch=epoch))}
    assert seen == set(range(11))


def test_fewer_images_than_a_batch_are_one_batch():
    (only,) = batches(3, 16)
    assert sorted(only) == [0, 1, 2]
    assert batches(1, 16) == [[0]]


def test_order_depends_on_seed_and_epoch_alone():
    assert batches(50, 5) == batches(50, 5)
    sampler = ShuffledBatches(50, 5, seed=0)
    assert list(sampler) == list(sampler) == batches(50, 5)
    assert batches(50, 5) != batches(50, 5, epoch=1)
    assert batches(50, 5) != batches(50, 5, seed=1)
    assert batches(50, 5, epoch=1) != batches(50, 5, seed=1)


@pytest.mark.parametrize(("length", "batch_size", "processes"), [(40, 8, 2), (41, 7, 2), (30, 9, 4), (5, 16, 3)])
def test_shards_together_are_the_batch(length, batch_size, processes):
    whole = batches(length, batch_size)
    shards = [batches(length, batch_size, rank=rank, processes=processes) for rank in range(processes)]
    for number, batch in enumerate(whole):
        parts = [shard[number] for shard in shards]
        assert sorted(chain(*parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_no_images_are_refused():
    with pytest.raises(ConfigError, match="no images"):
        ShuffledBatches(0, 4, seed=0)
