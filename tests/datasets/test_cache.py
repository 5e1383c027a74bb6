"""Pictures are decoded once, whichever process asks, and what training sees is the same."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ssdlite.datasets import cache as large_pictures
from ssdlite.datasets.cache import PictureCache
from ssdlite.datasets.dataset import DetectionDataset
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.errors import ConfigError

SIZES = np.array([[20, 30], [31, 17], [8, 8]], np.int32)


@pytest.fixture
def index(tmp_path: Path) -> DetectionIndex:
    for number, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return DetectionIndex(
        name="made/train",
        class_names=("thing",),
        category_ids=(1,),
        paths=tuple(str(tmp_path / f"{number}.png") for number in range(3)),
        image_ids=np.arange(3),
        sizes=SIZES,
        offsets=np.arange(4),
        boxes=np.array([[1, 1, 7, 7]] * 3, np.float32),
        labels=np.zeros(3, np.int64),
        areas=np.full(3, 36.0),
        ignore=np.zeros(3, np.bool_),
    )


def test_samples_are_the_same_and_files_are_read_once(index: DetectionIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = DetectionTransform((16, 16), "stretch", "ssd")
    plain, cached = DetectionDataset(index, transform), DetectionDataset(index, transform, cache=PictureCache(SIZES))
    reads = []
    original = large_pictures.read_image
    monkeypatch.setattr(
        large_pictures, "read_image", lambda path, *a, **k: reads.append(path) or original(path, *a, **k)
    )
    for epoch in range(4):
        for position in range(3):
            plain.set_epoch(epoch)
            cached.set_epoch(epoch)
            one, other = plain[position], cached[position]
            assert np.array_equal(one.image, other.image)
            assert np.array_equal(one.boxes, other.boxes)
    assert len(reads) == 4 * 3 + 3


def test_processes_share_it(index: DetectionIndex) -> None:
    cache = PictureCache(SIZES)
    loader = DataLoader(DetectionDataset(index, cache=cache), batch_size=None, num_workers=2)
    pictures = [sample.image for sample in loader]
    assert cache.filled.tolist() == [1, 1, 1]
    for position, picture in enumerate(pictures):
        assert np.array_equal(cache.get(position), picture)
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 2000
    assert np.array_equal(copy.get(1), pictures[1])


def test_a_kept_picture_cannot_be_spoilt_and_goes_with_the_cache() -> None:
    cache = PictureCache(SIZES)
    assert cache.get(2) is None
    cache.put(2, np.full((8, 8, 3), 7, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        cache.get(2)[0, 0, 0] = 1
    folder = cache.files[0].parent
    assert folder.exists()
    del cache
    gc.collect()
    assert not folder.exists()


def test_no_room_is_one_error() -> None:
    with pytest.raises(
        ConfigError, match=r"--cache: 4 pictures take 12000\.0 GB decoded, and the disk of .* has .* GB free"
    ):
        PictureCache(np.array([[1_000_000, 1_000_000]] * 4, np.int32))


def test_a_data_set_without_pictures() -> None:
    assert len(PictureCache(np.empty((0, 2), np.int32)).filled) == 0
