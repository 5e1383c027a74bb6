"""Pictures decoded once, whichever process asks; large JPEGs decoded at a fraction, with the same part and boxes."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ssdlite.datasets import samples
from ssdlite.datasets.dataset import DetectionDataset, PictureCache
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.samples import BadSample, LargePicture, Sample, is_large, reduction
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.errors import ConfigError
from ssdlite.images.geometry import CropWindow
from ssdlite.images.reading import read_image

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
    original = samples.read_image
    monkeypatch.setattr(samples, "read_image", lambda path, *a, **k: reads.append(path) or original(path, *a, **k))
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


# -- large JPEGs


SIZE = (1003, 1501)  # height, width; no multiple of anything
BOX = (300, 200, 900, 700)


def picture() -> np.ndarray:
    """A red square on a gradient."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([rows * 0, rows // 8, columns // 8], axis=2).astype(np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (250, 20, 20)
    return pixels


def index_of(path: Path) -> DetectionIndex:
    return DetectionIndex(
        name="made/train",
        class_names=("square",),
        category_ids=(1,),
        paths=(str(path),),
        image_ids=np.array([5]),
        sizes=np.array([SIZE], np.int32),
        offsets=np.array([0, 1]),
        boxes=np.array([BOX], np.float32),
        labels=np.array([0]),
        areas=np.array([1.0]),
        ignore=np.array([False]),
    )


def save(path: Path, **options: object) -> Path:
    Image.fromarray(picture()).save(path, **options)
    return path


@pytest.mark.parametrize("times", [1, 2, 4, 8])
def test_a_reduced_picture_has_the_means_of_squares(tmp_path: Path, times: int) -> None:
    path = save(tmp_path / "a.jpg", quality=95)
    reduced = read_image(path, reduction=times)
    height, width = -(-SIZE[0] // times), -(-SIZE[1] // times)
    assert reduced.shape == (height, width, 3)
    whole = read_image(path)[: SIZE[0] // 8 * 8, : SIZE[1] // 8 * 8].astype(float)
    means = whole.reshape(SIZE[0] // 8 * 8 // times, times, SIZE[1] // 8 * 8 // times, times, 3).mean(axis=(1, 3))
    assert np.abs(reduced[: means.shape[0], : means.shape[1]] - means).mean() < 1.5


def test_what_is_no_upright_jpeg_comes_whole(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    assert read_image(save(tmp_path / "a.png"), reduction=4).shape == (*SIZE, 3)
    turned = save(tmp_path / "b.jpg", exif=exif)
    assert np.array_equal(read_image(turned, reduction=4), read_image(turned))


@pytest.mark.parametrize(
    ("span", "times"), [((320, 320), 1), ((639, 900), 1), ((640, 900), 2), ((1400, 1290), 4), ((9999, 9999), 8)]
)
def test_the_reduction_leaves_a_pixel_for_every_one_shown(span: tuple[int, int], times: int) -> None:
    assert reduction(CropWindow(7, 9, 7 + span[1], 9 + span[0], (320, 320))) == times


def test_only_jpegs_of_twice_the_size_are_large() -> None:
    assert is_large("a.JPG", (640, 640), (320, 320))
    assert not is_large("a.jpg", (640, 639), (320, 320))
    assert not is_large("a.png", (4000, 4000), (320, 320))


@pytest.mark.parametrize("augmentation", ["none", "ssd", "lsj", "topdown"])
def test_boxes_stay_on_their_objects(tmp_path: Path, augmentation: str) -> None:
    index = index_of(save(tmp_path / "a.jpg", quality=95))
    dataset = DetectionDataset(index, DetectionTransform((96, 96), "stretch", augmentation), seed=3, reduce_to=(96, 96))
    seen = 0
    for epoch in range(30):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        assert isinstance(sample, Sample)
        assert sample.file is None and sample.image.shape == (96, 96, 3)
        pixels = sample.image.astype(int)
        red = (pixels[..., 0] - pixels[..., 1:].max(axis=2)) > 60
        for x0, y0, x1, y1 in sample.boxes[~sample.ignore]:
            rows, columns = red.any(axis=1).nonzero()[0], red.any(axis=0).nonzero()[0]
            found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert np.abs(np.array(found) - (x0, y0, x1, y1)).max() <= 1.6
            seen += 1
    assert seen > 10


def test_the_same_is_shown_as_of_the_whole_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", quality=95)
    window = CropWindow(-100, 60, 1301, 961, (80, 120))
    image, shown = LargePicture(str(path), SIZE, 0).render(window, 114)
    assert (shown.x0, shown.y0, shown.x1, shown.y1) == (-104, 56, 1304, 968)
    whole = shown.render(read_image(path))
    assert np.abs(image.astype(int) - whole).mean() < 3


def test_one_that_cannot_be_decoded_is_a_bad_sample(tmp_path: Path) -> None:
    index = index_of(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    transform = DetectionTransform((96, 96), "stretch", "ssd")
    bad = DetectionDataset(index, transform, reduce_to=(96, 96))[0]
    assert isinstance(bad, BadSample)
    assert (bad.position, "cannot be read as an image" in bad.error) == (0, True)
    Image.fromarray(picture()[:900]).save(tmp_path / "a.jpg")
    bad = DetectionDataset(index, transform, reduce_to=(96, 96))[0]
    assert isinstance(bad, BadSample)
    assert "expected size (1003, 1501)" in bad.error
