"""TFRecord files of the Object Detection API: frames, Examples, splits, the cache of their pictures, damage."""

import hashlib
import io
import json
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.embedded import EmbeddedPictures
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.formats.record_files import crc32c, mask, read_example, read_records
from ssdlite.datasets.formats.tfrecord import PICTURE
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

TENSORBOARDS = bytes.fromhex("090000000000000037f97139313233343536373839e5b08ac7")  # its RecordWriter of b"123456789"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssdlite" / "pictures"


def picture(seed: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def field(number: int, content: bytes) -> bytes:
    length, sizes = len(content), b""
    while length > 127:
        sizes += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + sizes + bytes([length]) + content


def example(**features: object) -> bytes:
    """``image__encoded`` is image/encoded; lists of texts, floats or integers up to 127."""
    entries = b""
    for name, given in features.items():
        values = given if isinstance(given, list) else [given]
        if all(isinstance(value, (bytes, str)) for value in values):
            texts = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
            feature = field(1, b"".join(field(1, text) for text in texts))
        elif all(isinstance(value, float) for value in values):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = field(3, field(1, bytes(values)))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def labeled(seed: int, *objects: tuple[str, float, float, float, float], **others: object) -> bytes:
    columns = [[one[i] for one in objects] for i in range(5)]
    features: dict[str, object] = {
        "image__encoded": picture(seed),
        "image__filename": f"../../{seed}.jpg",
        "image__height": 40,
        "image__width": 80,
        "image__object__class__text": columns[0],
    }
    for i, side in enumerate(("xmin", "ymin", "xmax", "ymax"), start=1):
        features[f"image__object__bbox__{side}"] = columns[i]
    return example(**(features | others))


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", mask(crc32c(length))) + data + struct.pack("<I", mask(crc32c(data)))


def write(path: Path, *records: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(frame, records)))
    return path


def objects(index: DetectionIndex) -> list[list[tuple[str, list[float]]]]:
    rows = [(index.class_names[label], box) for label, box in zip(index.labels, index.boxes.tolist(), strict=True)]
    ends = index.offsets.tolist()
    return [rows[ends[i] : ends[i + 1]] for i in range(len(index))]


OWL, CAT = ("owl", 0.125, 0.25, 0.5, 0.5), ("cat", 0.25, 0.0, 1.0, 0.75)
OWL_BOX, CAT_BOX = ("owl", [10.0, 10.0, 40.0, 20.0]), ("cat", [20.0, 0.0, 80.0, 30.0])


def test_checksums() -> None:
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283
    assert frame(b"123456789") == TENSORBOARDS


def test_examples_as_protobuf_writes_them() -> None:
    """The hexadecimal bytes are google.protobuf's."""
    rows = (
        ("0a0d0a0b0a016112060a040a027879", "a", [b"xy"]),
        ("0a130a110a0166120c120a0a080000003f0000803f", "f", [0.5, 1.0]),
        ("0a180a160a016912111a0f0a0d01ac02ffffffffffffffffff01", "i", [1, 300, -1]),
    )
    for text, name, expected in rows:
        found = read_example(memoryview(bytes.fromhex(text)), {name}, PICTURE)[name]
        assert [bytes(value) if isinstance(value, memoryview) else value for value in found] == expected
        assert read_example(memoryview(bytes.fromhex(text)), {"other"}, PICTURE) == {}


def test_pictures_and_boxes(tmp_path: Path, cache: Path) -> None:
    """Two pictures and a background one, which are written to the cache once, under no name of the file's."""
    file = write(tmp_path / "data" / "owls.tfrecord", labeled(1, OWL, CAT), labeled(2, OWL), labeled(3))
    split = load_split(tmp_path / "data")
    assert objects(split) == [[OWL_BOX, CAT_BOX], [OWL_BOX], []]
    digest = hashlib.sha256(picture(2)).hexdigest()[:32]
    assert split.paths[1] == str(cache / digest[:2] / f"{digest}.jpg")
    assert Path(split.paths[1]).read_bytes() == picture(2)
    total = sum(len(picture(seed)) for seed in (1, 2, 3))
    assert split.notes == (f"{file}: the pictures are read from {cache}, to which {total} bytes were written",)
    assert load_split(file).notes == (f"{file}: the pictures are read from {cache}",)
    Path(split.paths[1]).write_bytes(b"cut off")
    load_split(file)
    assert Path(split.paths[1]).read_bytes() == picture(2)
    assert not list(cache.rglob(".*"))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.record", "val.record"], ["train", "val"]),
        (["train.tfrecord", "test.tfrecords"], ["test", "train"]),
        (["coco_train.record-00000-of-00002", "coco_train.record-00001-of-00002"], ["train"]),
        (["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"], ["train"]),
        (["train/cells.tfrecord", "valid/cells.tfrecord"], ["train", "valid"]),
        (["annotations/train.record", "annotations/test.record"], ["test", "train"]),
        (["owls.TFRecord"], ["all"]),
    ],
)
def test_splits(tmp_path: Path, names: list[str], splits: list[str]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / "data" / name, labeled(number, OWL))
    assert sorted(find_splits(tmp_path / "data").splits) == splits
    found = [one for split in splits for one in objects(load_split(tmp_path / "data", split))]
    assert found == [[OWL_BOX]] * len(names)


def test_the_label_map_has_names_and_their_order(tmp_path: Path) -> None:
    """As Roboflow lays it beside the records; without texts the ids are looked up."""
    without_text = labeled(1, OWL, CAT, image__object__class__label=[1, 2])
    without_text = without_text.replace(b"image/object/class/text", b"image/object/class/none")
    write(tmp_path / "data" / "train" / "pets.tfrecord", labeled(0, OWL, CAT), without_text)
    load = lambda: load_split(tmp_path / "data")  # noqa: E731
    assert load().class_names == ("1", "2", "cat", "owl")
    label_map = tmp_path / "data" / "train" / "pets_label_map.pbtxt"
    label_map.write_text('item {\n    name: "owl",\n    id: 1,\n}\nitem {\n    name: "cat"\n    id: 2\n}\n')
    assert load().class_names == ("owl", "cat")
    assert objects(load()) == [[OWL_BOX, CAT_BOX]] * 2
    label_map.write_text("item { id: 1")
    with pytest.raises(DataError, match=r"pets_label_map\.pbtxt: not protobuf's text format, or damaged"):
        load()


def test_groups_and_difficult_ones_are_ignored(tmp_path: Path) -> None:
    marks = {"image__object__is_crowd": [0, 1], "image__object__difficult": [0, 0]}
    write(tmp_path / "data" / "a.record", labeled(1, OWL, CAT, **marks))
    assert load_split(tmp_path / "data").ignore.tolist() == [False, True]


def test_a_picture_without_a_stated_size_is_measured(tmp_path: Path) -> None:
    record = labeled(1, OWL).replace(b"image/height", b"image/hoehe!")
    write(tmp_path / "data" / "a.record", record, labeled(2, CAT, image__encoded=picture(2, "PNG")))
    split = load_split(tmp_path / "data")
    assert objects(split) == [[OWL_BOX], [CAT_BOX]]
    assert [Path(path).suffix for path in split.paths] == [".jpg", ".png"]


def test_other_record_files_are_not_claimed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data / "events.tfrecord", b"123456789")
    write(data / "classes.tfrecord", example(image__encoded=picture(1), image__class__label=3))
    (data / "text.record").write_text("a record of something else\n" * 20)
    (data / "empty.record").write_bytes(b"")
    with pytest.raises(DataError, match="no annotations found"):
        load_split(data)


BAD = {
    "pixels": (
        labeled(1, ("owl", 10.0, 10.0, 40.0, 20.0)),
        "record 2 (../../1.jpg), object 1: expected fractions of the picture's width and height, got 10, 10, 40, 20",
    ),
    "no class": (labeled(1, OWL, image__object__class__text=[]), "record 2: expected a class of each of 1 box, got 0"),
    "an odd count": (
        labeled(1, OWL, image__object__bbox__ymax=[0.5, 0.5]),
        "record 2: expected as many xmin, ymin, xmax and ymax, got 1, 1, 1, 2",
    ),
    "no picture": (
        labeled(1, OWL, image__encoded=b"<html>"),
        "record 2 (../../1.jpg): expected a picture in image/encoded, got none",
    ),
    "no Example": (b"\x0a\xff", "record 2: it ends early"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named_or_skipped(tmp_path: Path, name: str) -> None:
    record, error = BAD[name]
    file = write(tmp_path / "data" / "a.record", labeled(0, CAT), record, labeled(2, OWL))
    with pytest.raises(DataError) as caught:
        load_split(tmp_path / "data")
    assert str(caught.value).splitlines()[1] == f"  {file}: {error}"
    found = objects(load_split(tmp_path / "data", options=LoadOptions(skip_bad=True)))
    assert found == [[CAT_BOX], [OWL_BOX]]


def test_damaged_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.record", labeled(0, CAT), labeled(1, OWL))
    data = file.read_bytes()
    second = len(frame(labeled(0, CAT)))
    huge = struct.pack("<Q", 1 << 29)
    for damaged, error in (
        (data[:-1], "record 2: the file ends within it: it is cut off"),
        (data[: second + 5], "record 2: the file ends within it: it is cut off"),
        (
            data[:second] + b"\0" + data[second + 1 :],
            "record 2: expected a record of a TFRecord file: the checksum of its length is another one",
        ),
        (
            data[:second] + huge + struct.pack("<I", mask(crc32c(huge))),
            "record 2: expected a record of at most 268435456 bytes, got 536870912",
        ),
        (
            b"\x1f\x8b" + data,
            "record 1: expected a TFRecord file, got one compressed by gzip: decompress it (gzip -d)",
        ),
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            list(read_records(file))
        assert str(caught.value) == f"{file}, {error}"


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.record-00001-of-00003", labeled(0, CAT))
    with pytest.raises(DataError, match="expected 3 files, got 1: 2 files missing, such as 00000"):
        load_split(tmp_path / "data")
    assert objects(load_split(tmp_path / "data", options=LoadOptions(skip_bad=True))) == [[CAT_BOX]]


def test_the_checksum_of_the_data_where_it_is_affordable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With google-crc32c, for which the table stands in here."""
    fast = types.ModuleType("google_crc32c")
    fast.value = crc32c  # type: ignore[attr-defined]
    fast.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "google_crc32c", fast)
    file = write(tmp_path / "data" / "a.record", labeled(0, CAT), labeled(1, OWL), labeled(2, OWL))
    data = bytearray(file.read_bytes())
    data[len(frame(labeled(0, CAT))) + 500] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_split(tmp_path / "data")
    assert f"\n  {file}: record 2: damaged: the checksum of its data is another one\n" in str(caught.value)
    assert len(load_split(tmp_path / "data", options=LoadOptions(skip_bad=True))) == 2


def test_the_cache_leaves_the_disk_some_room() -> None:
    with pytest.raises(DataError, match=r"a\.record: its pictures take up to 1000000000\.0 GB, and the disk of .* has"):
        EmbeddedPictures(10**18, "a.record").path_of(picture(1))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(tmp_path / "data" / "a.record", labeled(0, CAT))
    with pytest.raises(DataError, match=r"a\.record: its pictures cannot be written to .* \(Not a directory\); XDG_CA"):
        load_split(tmp_path / "data")


def test_it_is_loaded_and_audited(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("valid", 2)):
        records = [labeled(10 * count + number, OWL, CAT) for number in range(count)]
        write(tmp_path / "data" / split / "pets.tfrecord", *records)
    found = load_data(tmp_path / "data")
    assert (len(found.train), len(found.val), found.train.class_names) == (4, 2, ("cat", "owl"))
    arguments = [str(tmp_path / "data"), "--anchors", "default", "--output", str(tmp_path / "report")]
    assert check_tool.main(arguments) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["splits"]["train"]["classes"] == {"cat": 4, "owl": 4}
