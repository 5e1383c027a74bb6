"""Samples to batches."""

import numpy as np
import torch

from ssdlite.datasets.dataset import BadSample, Sample, collate
from ssdlite.images.geometry import CropWindow

VIEW = CropWindow(0, 0, 8, 4, (4, 8))


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
        window=VIEW,
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
    assert batch.windows == (VIEW,) * 3
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
