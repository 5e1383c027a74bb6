"""A format of data is one object and one entry: a table of boxes, defined here alone, goes all the way."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.dataset import DetectionDataset, collate
from ssdlite.datasets.formats import DATA_FORMATS
from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, DataFormat
from ssdlite.datasets.formats.files import ImageFiles
from ssdlite.datasets.formats.options import LoadOptions, ReadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.datasets.samples import BadSample
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.errors import ConfigError, DataError
from ssdlite.tools import check_data as check_tool
from ssdlite.tools import eval_det
from ssdlite.training.options import TrainOptions
from ssdlite.training.runs import train


class CsvFormat:
    """``boxes.csv``: split, file, x, y, width, height, class; an image without objects has a line without a class."""

    name = "CSV"
    looked_for = "boxes.csv"

    def find_splits(self, root: Path) -> list[str]:
        return sorted({row["split"] for row in self._rows(root)})

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        files, table = ImageFiles(root), root / "boxes.csv"
        builder = AnnotationsBuilder(str(table))
        positions: dict[str, int] = {}
        for line, row in enumerate(self._rows(root), start=2):
            name = row["file"]
            if row["split"] != split:
                continue
            if name not in positions:
                if not (path := files.find(name)):
                    bad.add("bad-image", root / name, "no such image file")
                    continue
                positions[name] = builder.add_image(path)
            if row["class"]:
                x, y, width, height = (float(row[key]) for key in ("x", "y", "width", "height"))
                box = (x, y, x + width, y + height)
                builder.add_object(positions[name], row["class"], box, table, f"line {line}")
        return builder.build()

    def order_classes(self, names: set[str]) -> list[str]:
        return sorted(names)

    def _rows(self, root: Path) -> list[dict[str, str]]:
        path = root / "boxes.csv"
        return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


ROWS = [
    "split,file,x,y,width,height,class",
    *(f"train,{i}.png,{4 + i},8,40,32,{'disc' if i % 2 else 'box'}" for i in range(6)),
    "train,6.png,0,0,0,0,",
    "val,7.png,10,10,30,40,disc",
    "val,8.png,70,20,60,20,box",  # reaches outside
    "val,8.png,5,5,0,9,box",  # no area
    "test,9.png,1,2,30,40,owl",
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(DATA_FORMATS, "csv")  # its place is taken: behind all others
    monkeypatch.setitem(DATA_FORMATS, "csv", CsvFormat())
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "boxes.csv").write_text("\n".join(ROWS) + "\n")
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_the_formats_that_come_with_it_are_of_the_kind() -> None:
    formats: list[DataFormat] = list(DATA_FORMATS.values())
    assert [one.name for one in formats][:2] == ["COCO", "VOC"]


def test_it_is_recognized_loaded_and_mended(data: Path) -> None:
    assert find_splits(data).splits == ("test", "train", "val")
    found = load_data(data)
    assert found.train.class_names == found.val.class_names == ("box", "disc")
    assert found.train.category_ids == (1, 2)
    assert found.train.sizes.tolist() == [[64, 96]] * 7
    assert found.train.offsets.tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert found.train.boxes[:2].tolist() == [[4, 8, 44, 40], [5, 8, 45, 40]]
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.train.areas.tolist() == [1280] * 6
    assert not found.train.ignore.any()
    assert found.val.boxes.tolist() == [[10, 10, 40, 50], [70, 20, 96, 40]]
    assert [(p.kind, p.detail) for p in found.val.problems] == [
        ("clipped", "line 10 (box)"),
        ("zero-size", "line 11 (box)"),
    ]
    assert f"{data}: CSV annotations with the splits test, train, val" in found.notes
    assert load_split(data, "train").class_names == ("box", "disc", "owl")


class ListedCsvFormat(CsvFormat):
    """The same, each split with the class list of its own lines."""

    def order_classes(self, names: set[str]) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("kind", [CsvFormat, ListedCsvFormat])
def test_classes_are_chosen_whatever_the_format_does(
    data: Path, kind: type[CsvFormat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATA_FORMATS, "csv", kind())
    one = load_data(data, LoadOptions(classes=("disc",)))
    assert (one.train.class_names, one.train.labels.tolist()) == (("disc",), [0, 0, 0])
    assert one.train.offsets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert load_data(data, LoadOptions(classes=("disc", "box"))).train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    of_a_checkpoint = load_split(data, "val", LoadOptions(classes=("cat", "DISC", "dog")), allow_absent=True)
    assert (of_a_checkpoint.class_names, of_a_checkpoint.labels.tolist()) == (("cat", "DISC", "dog"), [1])
    with pytest.raises(DataError, match="no class 'cat'; known, nearest first: box, disc"):
        load_data(data, LoadOptions(classes=("cat",)))


def test_what_cannot_be_used_is_one_error_or_skipped(data: Path, tmp_path: Path) -> None:
    (data / "0.png").unlink()
    (data / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        load_data(data)
    assert f"{data / 'boxes.csv'}: 2 of its images or annotations cannot be used" in str(caught.value)
    assert f"{data / '0.png'}: no such image file" in str(caught.value)
    assert load_data(data, LoadOptions(skip_bad=True)).train.problem_counts() == {"bad-image": 2}
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"no annotations found\. The folder is empty\. Formats .* or CSV \(docs/data\.md\)$"
    ):
        load_data(tmp_path / "empty")
    with pytest.raises(DataError, match=r"expected a folder with COCO, VOC.* or \w+ annotations, found no"):
        load_data(tmp_path / "none")


def test_it_is_audited(data: Path, tmp_path: Path) -> None:
    (data / "5.png").write_bytes((data / "7.png").read_bytes())
    assert check_tool.main([str(data), "--anchors", "default", "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["splits"]["val"]["classes"] == {"box": 1, "disc": 1}
    assert [(f["kind"], Path(f["file"]).name) for f in report["findings"]] == [
        ("clipped", "boxes.csv"),
        ("zero-size", "boxes.csv"),
        ("leak", "7.png"),
    ]


@pytest.mark.usefixtures("without_pictures")
def test_it_is_trained_on_and_scored(data: Path, tmp_path: Path) -> None:
    dataset = DetectionDataset(load_data(data).train, DetectionTransform((64, 64), "stretch", "flip"))
    samples = [dataset[i] for i in range(3)]
    assert not any(isinstance(sample, BadSample) for sample in samples)
    assert collate(samples).labels.tolist() == [[0], [1], [0]]
    small = {"preset": "ssdlite192_mobilenet_v2_050", "width_mult": 0.25, "image_size": 64, "batch_size": 4}
    train(TrainOptions().override(**small, data=str(data), output=str(tmp_path / "run"), workers=0, epochs=1))
    arguments = [tmp_path / "run" / "last.pt", "--data", data, "--split", "val", "--output", tmp_path / "eval"]
    assert eval_det.main([*map(str, arguments), "--workers", "0", "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (figures["split"], figures["images"], figures["objects"]) == ("table/val", 2, 2)
    assert set(figures["per_class"]) == {"box", "disc"}
    assert 0 <= figures["AP50"] <= 1


def _voc_beside(data: Path, boxes: dict[int, int]) -> None:
    """VOC files of the first pictures, each with so many objects of one class, in place of the table's splits."""
    (data / "Annotations").mkdir()
    for i, count in boxes.items():
        corners = "<xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax>"
        item = f"<object><name>owl</name><bndbox>{corners}</bndbox></object>"
        (data / "Annotations" / f"{i}.xml").write_text(f"<annotation>{item * count}</annotation>")


def test_two_formats_with_the_same_objects_are_no_question(data: Path) -> None:
    _voc_beside(data, dict.fromkeys((0, 1, 2, 3, 4, 5, 7, 9), 1) | {6: 0, 8: 2})
    found = load_data(data)
    assert found.train.class_names == ("owl",)
    assert f"{data}: CSV annotations are there too; the VOC ones are used" in found.notes


def test_two_formats_that_differ_are_asked_for_by_name(data: Path) -> None:
    _voc_beside(data, {0: 1, 1: 3})
    with pytest.raises(DataError) as caught:
        load_data(data)
    assert str(caught.value) == (
        f"{data}: expected annotations of one format, found several that differ: VOC, 4 objects in 2 pictures "
        "(--data-format voc); CSV, 10 objects in 9 pictures (--data-format csv)"
    )
    assert load_data(data, LoadOptions(data_format="voc")).train.class_names == ("owl",)
    assert load_data(data, LoadOptions(data_format="csv")).train.class_names == ("box", "disc")
    with pytest.raises(ConfigError, match="unknown data format 'cvs'; did you mean 'csv'"):
        load_data(data, LoadOptions(data_format="cvs"))
    with pytest.raises(DataError, match=r"no annotations found. Looked for annotations/instances_\*\.json"):
        load_data(data, LoadOptions(data_format="coco"))


def test_the_folder_of_the_pictures_can_be_named(data: Path, tmp_path: Path) -> None:
    _voc_beside(data, {0: 1, 1: 1})
    elsewhere = tmp_path / "labels"
    elsewhere.mkdir()
    (data / "Annotations").rename(elsewhere / "Annotations")
    split = load_split(elsewhere, options=LoadOptions(images=str(data)))
    assert [Path(path).name for path in split.paths] == ["0.png", "1.png"]
