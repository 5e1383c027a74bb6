"""Data from Python: each form of them gives the boxes and classes that it was made of."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssdlite.datasets import as_data_path, load_data
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_split
from ssdlite.errors import DataError
from ssdlite.images.reading import read_image

BOXES = [[1.0, 2, 11, 22], [5, 5, 30, 25]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssdlite" / "data"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def split(data: Any, **options: Any) -> DetectionIndex:
    """The only split of data whose training and validation pictures are the same."""
    return load_data(as_data_path(data, data, **options)).train


def objects(index: DetectionIndex) -> list[list[tuple[str, list[float]]]]:
    """By picture."""
    records = [index.record(position) for position in range(len(index))]
    return [
        [(index.class_names[label], box) for box, label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True)]
        for one in records
    ]


TWO = [[("cat", BOXES[0]), ("dog", BOXES[1])], []]


def test_a_path_stays_as_it_is(tmp_path: Path) -> None:
    assert as_data_path(str(tmp_path)) == tmp_path
    with pytest.raises(DataError, match="val and class_names go with data from Python"):
        as_data_path(tmp_path, class_names=["cat"])


def test_a_sequence_of_pixels_and_paths(pixels: np.ndarray, tmp_path: Path, cache: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "Photo.PNG")
    data = [(pixels, BOXES, ["cat", "dog"]), (tmp_path / "Photo.PNG", [], [])]
    index = split(data)
    assert objects(index) == TWO
    assert index.class_names == ("cat", "dog")
    for path in index.paths:
        assert np.array_equal(read_image(path), pixels)
    assert as_data_path(data) == as_data_path(data) != as_data_path(data[:1])
    assert len(list(cache.iterdir())) == 3  # each once, and nothing half written
    assert index.name == "data-from-python/train"  # in messages and tables
    assert as_data_path(iter(data)) == as_data_path(data)


def test_a_validation_split(pixels: np.ndarray) -> None:
    splits = load_data(as_data_path([(pixels, BOXES, ["cat", "dog"])], [(pixels, BOXES[1:], ["dog"])]))
    assert objects(splits.train) == TWO[:1]
    assert objects(splits.val) == [[("dog", BOXES[1])]]
    assert splits.val.class_names == ("cat", "dog")


class TorchData(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As torchvision's detectors are trained on: floats in 0..1, class 0 the background."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> Any:
        image = torch.from_numpy(self.pixels).permute(2, 0, 1) / 255
        count = 2 - 2 * (position % 2)  # knows no end
        return image, {"boxes": torch.tensor(BOXES)[:count].reshape(-1, 4), "labels": torch.tensor([1, 2])[:count]}


def test_a_torch_dataset_with_targets_of_torchvision(pixels: np.ndarray) -> None:
    index = split(TorchData(pixels), class_names=["__background__", "cat", "dog"])
    assert objects(index) == TWO
    assert index.class_names == ("cat", "dog")
    assert np.array_equal(read_image(index.paths[0]), pixels)
    assert split(TorchData(pixels)).class_names == ("1", "2")
    with pytest.raises(DataError, match="train example 0: expected labels that number the 2 class_names from 0, got 2"):
        split(TorchData(pixels), class_names=["cat", "dog"])


class HuggingFaceData:
    features = {"image": None, "objects": {"category": SimpleNamespace(feature=SimpleNamespace(names=["cat", "dog"]))}}  # noqa: RUF012

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __iter__(self) -> Iterator[Any]:
        picture = Image.fromarray(self.pixels)
        yield {"image": picture, "objects": {"bbox": [[1, 2, 10, 20], [5, 5, 25, 20]], "category": [0, 1]}}
        yield {"image": picture, "objects": {"bbox": [], "category": []}}


def test_objects_as_a_list_of_pairs_or_none(pixels: np.ndarray) -> None:
    pairs = [{"bbox": [1, 2, 10, 20], "category": 0}, {"bbox": [5, 5, 25, 20], "category": 1}]
    for empty in ([], None, {"bbox": None, "category": None}):
        data = [{"image": pixels, "objects": pairs}, {"image": pixels, "objects": empty}]
        assert objects(split(data, class_names=["cat", "dog"])) == TWO
    for wrong, message in (
        ([3], "example 0: expected an object with bbox and category, got 3"),
        ([{"category": 0}], "example 0: expected bbox or bboxes or boxes or box, got"),
        (
            [{"bbox": [1, 2, 3], "category": 0}],
            r"example 0, box 0: expected bbox \[x, y, width, height\], got \[1, 2, 3\]",
        ),
        ({"bbox": [None], "category": [0]}, r"example 0, box 0: expected bbox \[x, y, width, height\], got None"),
        (
            {"bbox": [[1, 2, 3, 4]], "category": [None]},
            "example 0: expected a class as a name or a whole number, got None",
        ),
    ):
        with pytest.raises(DataError, match=message):
            as_data_path([{"image": pixels, "objects": wrong}])


def test_a_hugging_face_dataset(pixels: np.ndarray) -> None:
    assert objects(split(HuggingFaceData(pixels))) == TWO
    with pytest.raises(TypeError, match="got dict; give one of train, test"):
        as_data_path({"train": HuggingFaceData(pixels), "test": None})


def test_a_table_of_pandas(pixels: np.ndarray, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas, of the extra dev, is not installed")
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("a.png", "a.png", "b.png")]
    columns = {"path": names, "label": ["cat", "dog", None]}
    corners = dict(zip(("x1", "y1", "x2", "y2"), zip(*BOXES, [None] * 4, strict=True), strict=True))
    assert objects(split(pandas.DataFrame(columns | corners))) == TWO
    sides = [[1, 2, 10, 20], [5, 5, 25, 20], None]
    assert objects(split(pandas.DataFrame(columns | {"bbox": sides}))) == TWO
    with pytest.raises(DataError, match=r"a table: .*; ymax is missing among path, label, x1, y1, x2"):
        split(pandas.DataFrame(columns | corners).drop(columns="y2"))


@pytest.fixture
def table(pixels: np.ndarray, tmp_path: Path) -> Any:
    """Makes a table of ``a.png``, ``a.png`` and ``b.png``, which has no objects."""
    pandas = pytest.importorskip("pandas", reason="pandas, of the extra dev, is not installed")
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("a.png", "a.png", "b.png")]
    corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), zip(*BOXES, [None] * 4, strict=True), strict=True))
    return lambda **columns: pandas.DataFrame({"filename": names} | corners | columns)


def test_numbers_of_classes_in_a_table(table: Any) -> None:
    for numbers in ([0, 1, 0], [0, 1, None], [0.0, 1.0, float("nan")], np.array([0, 1, 1], np.uint8)):
        assert objects(split(table(**{"class": numbers}), class_names=["cat", "dog"])) == TWO
        assert split(table(**{"class": numbers})).class_names == ("0", "1")
    with pytest.raises(DataError, match=r"example 0: expected a class as a name or a whole number, got 0\.5"):
        split(table(**{"class": [0.5, 1, 0]}))


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan"])
def test_a_class_that_is_missing_in_a_table(table: Any, missing: Any) -> None:
    with pytest.raises(DataError, match="a table: row 1: expected a class, got"):
        split(table(**{"class": ["cat", missing, None]}))
    assert split(table(**{"class": ["None", "NA", missing]})).class_names == ("NA", "None")


def test_fractions_in_a_table(table: Any) -> None:
    """Pictures of 50 x 40 pixels."""
    corners = {"xmin": [0.02, 0.1, None], "ymin": [0.05, 0.125, None], "xmax": [0.22, 0.6, None]}
    ymax = {"ymax": [0.55, 0.625, None]}
    assert objects(split(table(**{"class": ["cat", "dog", None]}, **corners, **ymax))) == TWO
    out = {"ImageID": "filename", "LabelName": ["cat"] * 3, "IsGroupOf": [0, 1, 0], "YMin": [0.05, 0.125, 0]}
    out |= {"XMin": [0.02, 0.1, 0], "XMax": [0.22, 0.6, 1.02], "YMax": [0.55, 0.625, 1]}
    open_images = table(**out).drop(columns=["xmin", "ymin", "xmax", "ymax"])
    index = split(open_images.assign(ImageID=open_images["filename"]).drop(columns="filename"))
    assert objects(index) == [[("cat", BOXES[0]), ("cat", BOXES[1])], [("cat", [0, 0, 50, 40])]]
    assert index.ignore.tolist() == [False, True, False]
    many = [0.22] * 9 + [30.0]
    wrong = table(**{"class": ["cat"] * 3}).iloc[[0] * 10].assign(xmin=0.02, ymin=0.05, xmax=many, ymax=0.55)
    with pytest.raises(
        DataError, match=r"a table: row 9: expected fractions as in the other rows, got 0\.02, 0\.05, 30, 0"
    ):
        split(wrong)


def test_a_column_of_splits_in_a_table(table: Any) -> None:
    both = table(split=["train", "train", "Test"], **{"class": ["cat", "dog", None]})
    path = as_data_path(both)
    assert find_splits(path).splits == ("Test", "train")
    assert objects(load_split(path, "train")) == TWO[:1]
    assert len(load_split(path, "test")) == 1
    with pytest.raises(DataError, match="val: expected none beside a table with the splits Test, train"):
        as_data_path(both, both)
    with pytest.raises(DataError, match=r"a table: .* names of splits that a folder can have, got '\.\./out'"):
        as_data_path(both.assign(split=["train", "train", "../out"]))
    assert find_splits(as_data_path(both.assign(split="train"))).splits == ("train",)


def test_a_split_that_was_loaded(pixels: np.ndarray) -> None:
    index = split([(pixels, BOXES, ["cat", "dog"]), (pixels, [], [])])
    assert objects(split(index)) == TWO


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (("none.jpg", [], []), "none.jpg: no such image file"),
        ((np.zeros((4, 4, 3), np.uint8), BOXES, ["cat"]), "expected as many boxes as labels, got 2 and 1"),
        ((np.zeros((4, 4, 3), np.uint8), [[1, 2, 3]], ["cat"]), r"expected boxes \[N, 4\] .* got \(1, 3\)"),
        ((np.zeros((4, 4, 3), np.uint8), [[1, 2, 3, float("nan")]], ["cat"]), "expected boxes of finite numbers"),
        ((np.zeros((4, 4), np.uint8), [], []), r"expected RGB \[H, W, 3\]"),
        ((np.zeros((4, 4, 3), np.uint8), [[0, 0, 2, 2]], [" cat"]), "expected class names without .* got ' cat'"),
        ("photo.jpg", "expected .picture, boxes, labels.* got str"),
    ],
)
def test_what_cannot_be_used_is_said(example: Any, message: str, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        as_data_path([example])
    assert list(cache.iterdir()) == []


EMPTY_PICTURE = np.zeros((100, 200, 3), np.uint8)
GOOD = (EMPTY_PICTURE, [[10, 10, 30, 40]], ["cat"])


def test_a_wrong_box_is_named_as_it_was_given() -> None:
    data = [GOOD, (EMPTY_PICTURE, [[10, 10, 30, 40], [30, 10, 10, 40]], ["cat", "dog"])]
    with pytest.raises(DataError) as caught:
        split(data)
    assert (
        "annotation example 1, box 1: expected bbox [x, y, width, height], got a negative size in "
        "[30.0, 10.0, -20.0, 30.0] (corners 30, 10, 10, 40)"
    ) in str(caught.value)
    loaded = load_data(as_data_path(data, data), LoadOptions(skip_bad=True))
    assert loaded.train.object_counts() == {"cat": 2, "dog": 0}
    data = [GOOD, (EMPTY_PICTURE, [[100, 10, 330, 40], [30, 10, 30, 40]], ["dog", "cat"])]
    assert [problem.detail for problem in split(data).problems] == [
        "annotation example 1, box 0 (dog) of 000001.png",
        "annotation example 1, box 1 (cat) of 000001.png",
    ]


def test_a_wrong_row_of_a_table_is_named(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    Image.fromarray(EMPTY_PICTURE).save(tmp_path / "a.png")
    columns = {"path": [str(tmp_path / "a.png")] * 3, "label": ["cat"] * 3, "x1": [1, 9, 3], "y1": [1, 2, 3]}
    index = split(pandas.DataFrame(columns | {"x2": [11, 12, 250], "y2": [11, 12, 13]}))
    assert [problem.detail for problem in index.problems] == ["annotation row 2 (cat) of 000000.png"]


FRACTIONS = (
    "data from Python, train: expected boxes in pixels, got 2 boxes of less than one each, the first with the corners "
    "0.1, 0.1, 0.3, 0.4 (example 0, box 0 (cat)); they look like fractions of the picture's width and height"
)
WITH_SIZES = (
    "data from Python, train: expected boxes as xmin, ymin, xmax, ymax, got what looks like x, y of the upper left "
    "corner, width, height: 6 of 7 boxes do not fit their pictures as they stand, the first 30, 60, 20, 30 in a "
    "picture of 200 x 100 (example 1, box 0 (cat)); read so, 7 of 7 fit. Correct the annotations: write x + width and "
    "y + height"
)
WITH_CORNERS = (
    "data from Python, train: expected boxes as x, y of the upper left corner, width, height, got what looks like the "
    "corners x1, y1, x2, y2: 6 of 6 boxes do not fit their pictures as they stand, the first 120, 50, 190, 90 in a "
    "picture of 200 x 100 (example 0, box 0 (cat)); read so, 6 of 6 fit."
)


@pytest.mark.parametrize(("data", "message"), [
    ([(EMPTY_PICTURE, [[0.1, 0.1, 0.3, 0.4]], ["cat"])] * 2, FRACTIONS),
    ([GOOD, (EMPTY_PICTURE, [[30, 60, 20, 30], [20, 50, 10, 5], [150, 20, 40, 10]] * 2, ["cat"] * 6)], WITH_SIZES),
    ([{"image": EMPTY_PICTURE, "objects": {"bbox": [[120, 50, 190, 90]] * 3, "category": ["cat"] * 3}}] * 2,
     WITH_CORNERS),
])  # fmt: skip
def test_boxes_in_another_unit_or_order_are_one_error(data: Any, message: str, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        as_data_path(data)
    assert message in str(caught.value)
    assert list(cache.iterdir()) == []
