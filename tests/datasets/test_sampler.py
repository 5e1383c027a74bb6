"""Which images make up a batch: all processes together must see what one would."""

from itertools import chain

import pytest

from ssdlite.datasets.dataset import ShuffledBatches
from ssdlite.errors import ConfigError


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
