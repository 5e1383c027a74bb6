"""VOC's files where annotation tools put them: beside the pictures, in parallel folders, split by split."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data
from tests.conftest import SHARED

LABELIMG = """<annotation verified="yes">
\t<folder>cards</folder>
\t<filename>{name}</filename>
\t<path>C:\\tensorflow_cards\\train\\{name}</path>
\t<source><database>Unknown</database></source>
\t<size><width>64</width><height>48</height><depth>3</depth></size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>{label}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
\t\t<bndbox><xmin>10</xmin><ymin>5</ymin><xmax>30</xmax><ymax>25</ymax></bndbox>
\t</object>
</annotation>
"""
BOX = [10, 5, 30, 25]  # LabelImg writes positions on the picture


def xml(name: str, label: str = "ace") -> str:
    return LABELIMG.format(name=name, label=label)


def write(root: Path, files: dict[str, Any]) -> Path:
    """Pictures of 64 x 48 pixels where there is no text."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (64, 48)).save(path, "PNG" if path.suffix == ".png" else "JPEG")
        else:
            path.write_bytes(text.encode())
    return root


def pictures(index: DetectionIndex, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in index.paths]


LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {
    "LabelImg, in one folder": (
        {"a.JPG": None, "a.xml": xml("a.JPG"), "b.jpg": None, "b.xml": xml("b.jpg"), "classes.txt": "ace\n"},
        {"all": ["a.JPG", "b.jpg"]},
    ),
    "in the folders of the splits": (
        {"train/a.JPG": None, "train/a.xml": xml("a.JPG"), "test/b.jpeg": None, "test/b.XML": xml("b.jpeg")},
        {"test": ["test/b.jpeg"], "train": ["train/a.JPG"]},
    ),
    "Roboflow": (
        {"README.dataset.txt": "", "README.roboflow.txt": "cards - v1",
         "train/a_jpg.rf.0f.jpg": None, "train/a_jpg.rf.0f.xml": "\ufeff" + xml("a_jpg.rf.0f.jpg"),
         "valid/b_png.rf.1c.jpg": None, "valid/b_png.rf.1c.xml": xml("b_png.rf.1c.jpg").replace("\n", "\r\n")},
        {"train": ["train/a_jpg.rf.0f.jpg"], "valid": ["valid/b_png.rf.1c.jpg"]},
    ),
    "one folder deeper": (
        {"images/train/a.jpg": None, "images/train/a.xml": xml("a.jpg"),
         "images/test/b.jpg": None, "images/test/b.xml": xml("b.jpg")},
        {"test": ["images/test/b.jpg"], "train": ["images/train/a.jpg"]},
    ),
    "images and annots": (
        {"images/a.png": None, "annots/a.xml": xml("a.png")}, {"all": ["images/a.png"]},
    ),
    "Images and XMLs": ({"Images/a.png": None, "XMLs/a.xml": xml("a.png")}, {"all": ["Images/a.png"]}),
    "images and labels": ({"images/a.png": None, "labels/a.xml": xml("a.png")}, {"all": ["images/a.png"]}),
    "pictures in the folder itself": ({"a.png": None, "annotations/a.xml": xml("a.png")}, {"all": ["a.png"]}),
    "annotations in a folder of annotations": (
        {"images/a.jpg": None, "annotations/xmls/a.xml": xml("a.jpg"), "annotations/README": ""},
        {"all": ["images/a.jpg"]},
    ),
    "side by side in each split": (
        {"train/images/a.jpg": None, "train/annotations/a.xml": xml("a.jpg"),
         "val/images/b.jpg": None, "val/annotations/b.xml": xml("b.jpg")},
        {"train": ["train/images/a.jpg"], "val": ["val/images/b.jpg"]},
    ),
    "split by split on each side": (
        {"images/train/a.jpg": None, "annotations/train/a.xml": xml("a.jpg"),
         "images/val/a.jpg": None, "annotations/val/a.xml": xml("a.jpg")},
        {"train": ["images/train/a.jpg"], "val": ["images/val/a.jpg"]},
    ),
    "split annotations of pictures that are not": (
        {"images/a.jpg": None, "annotations/train/a.xml": xml("a.jpg"),
         "images/b.jpg": None, "annotations/val/b.xml": xml("b.jpg")},
        {"train": ["images/a.jpg"], "val": ["images/b.jpg"]},
    ),
    "pictures in a folder of another name": (
        {"scans/a.jpg": None, "annotations/a.xml": xml("a.jpg")}, {"all": ["scans/a.jpg"]},
    ),
    "endings before .xml": (
        {"images/a.jpg": None, "annotations/a.jpg.xml": xml("x"),
         "images/b.png": None, "annotations/b.png.xml": xml("")},
        {"all": ["images/a.jpg", "images/b.png"]},
    ),
    "a folder for each day": (
        {"monday/a.jpg": None, "monday/a.xml": xml("a.jpg"), "friday/b.jpg": None, "friday/b.xml": xml("b.jpg")},
        {"all": ["friday/b.jpg", "monday/a.jpg"]},
    ),
    "an archive with one folder": (
        {"cards/train/a.jpg": None, "cards/train/a.xml": xml("a.jpg"), "__MACOSX/cards/train/._a.xml": ""},
        {"train": ["cards/train/a.jpg"]},
    ),
    "MakeSense": (
        {"images/a.jpg": None,
         "labels_my-project-name_2024-05-01-10-30-00/a.xml":
            xml("a.jpg").replace("Unknown", "Unspecified").replace("C:\\tensorflow_cards\\train\\", "/my-project/")},
        {"all": ["images/a.jpg"]},
    ),
    "a devkit's year in an archive with one folder": (
        {"cards/VOC2007/Annotations/a.xml": xml("a.jpg"), "cards/VOC2007/JPEGImages/a.jpg": None,
         "cards/VOC2007/ImageSets/Main/test.txt": "a\n"},
        {"test": ["cards/VOC2007/JPEGImages/a.jpg"]},
    ),
    "image sets in an archive with one folder": (
        {"cards/Annotations/a.xml": xml("a.jpg"), "cards/JPEGImages/a.jpg": None,
         "cards/ImageSets/Main/test.txt": "a\n"},
        {"test": ["cards/JPEGImages/a.jpg"]},
    ),
    "CVAT": (
        {"labelmap.txt": "# label:color_rgb:parts:actions\nace:255,0,0::\n",
         "ImageSets/Main/default.txt": 'a\nmonday/b\n"monday/c d"\n',
         "JPEGImages/a.jpg": None, "Annotations/a.xml": xml("a.jpg"),
         "JPEGImages/monday/b.png": None, "Annotations/monday/b.xml": xml("monday/b.png"),
         "JPEGImages/monday/c d.png": None, "Annotations/monday/c d.xml": xml("monday/c d.png")},
        {"default": ["JPEGImages/a.jpg", "JPEGImages/monday/b.png", "JPEGImages/monday/c d.png"]},
    ),
    "CVAT with nothing but sub-folders": (
        {"ImageSets/Main/default.txt": "monday/b\n",
         "JPEGImages/monday/b.jpg": None, "Annotations/monday/b.xml": xml("monday/b.jpg")},
        {"default": ["JPEGImages/monday/b.jpg"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognized(tmp_path: Path, layout: str) -> None:
    files, splits = LAYOUTS[layout]
    root = write(tmp_path / "cards", files)
    found = find_splits(root)
    assert (found.format.name, found.splits) == ("VOC", tuple(splits))
    for split, paths in splits.items():
        index = load_split(root, split)
        assert pictures(index, root) == paths
        assert index.boxes.tolist() == [BOX] * len(paths)
        assert index.class_names == ("ace",)
        assert index.problems == ()


@pytest.mark.parametrize(("stated", "there", "taken"), [
    ("a", ["a.JPG"], "a.JPG"),
    ("a.png", ["a.jpg"], "a.jpg"),
    ("IMG_1.jpg", ["a.Jpeg"], "a.Jpeg"),
    ("a.xml", ["a.jpg"], "a.jpg"),
    ("", ["a.webp"], "a.webp"),
    ("IMG_1.jpg", ["IMG_1.jpg"], "IMG_1.jpg"),
    ("IMG_1", ["IMG_1.JPG"], "IMG_1.JPG"),
    ("IMG_1.bmp", ["IMG_1.JPG"], "IMG_1.JPG"),
    ("C:\\cards\\a.jpg", ["a.jpg"], "a.jpg"),
    ("/home/ann/cards/a.png", ["a.JPG"], "a.JPG"),
    ("../old/a.png", ["a.jpg", "a.png"], "a.png"),
    ("a.png", ["a.jpg", "a.png"], "a.png"),  # which of them is stated
])  # fmt: skip
def test_the_picture_is_that_of_the_xmls_name_else_the_named_one(
    tmp_path: Path, stated: str, there: list[str], taken: str
) -> None:
    root = write(tmp_path / "cards", dict.fromkeys(there) | {"a.xml": xml(stated)})
    index = load_split(root)
    assert (pictures(index, root), index.boxes.tolist(), index.problems) == ([taken], [BOX], ())


@pytest.mark.parametrize(("pictures_in", "annotations_in"), [("", ""), ("images/", "annots/")])
def test_several_pictures_of_one_name_are_an_error_or_skipped(
    tmp_path: Path, pictures_in: str, annotations_in: str
) -> None:
    files = {f"{pictures_in}{name}": None for name in ("a.png", "a.jpg", "b.jpg")}
    files |= {f"{annotations_in}{stem}.xml": xml(stem) for stem in "ab"}  # type: ignore[misc]
    root = write(tmp_path / "cards", files)
    with pytest.raises(DataError) as caught:
        load_split(root)
    line = f"\n  {root / annotations_in / 'a.xml'}: expected one picture called 'a', found 2: a.jpg, a.png\n"
    assert line in str(caught.value)
    index = load_split(root, options=LoadOptions(skip_bad=True))
    assert pictures(index, root) == [f"{pictures_in}b.jpg"]
    assert index.problem_counts() == {"bad-image": 1}


def test_a_missing_picture_is_an_error_or_skipped(tmp_path: Path) -> None:
    root = write(tmp_path / "cards", {"train/a.JPG": None, "train/a.xml": xml("a.JPG"), "train/b.xml": xml("b.JPG")})
    with pytest.raises(DataError, match=r"/train/b\.JPG: no such image file\n"):
        load_split(root)
    assert len(load_split(root, options=LoadOptions(skip_bad=True))) == 1


def test_pictures_without_xml_are_not_used_and_counted_but_empty_xml_is_background(tmp_path: Path) -> None:
    files = dict.fromkeys([f"images/{name}" for name in ("a.jpg", "b.jpg", "c.jpg", "d.JPG", "._d.jpg")])
    empty = "<annotation><filename>b.jpg</filename></annotation>"
    annotations = {"annots/train/a.xml": xml("a.jpg"), "annots/train/b.xml": empty, "annots/val/c.xml": xml("c.jpg")}
    root = write(tmp_path / "cards", files | annotations)
    found = load_split(root, "train")
    assert pictures(found, root) == ["images/a.jpg", "images/b.jpg"]
    assert found.offsets.tolist() == [0, 1, 1]
    assert found.notes[-1] == f"{root}: 1 picture without an XML file: not used"  # c is of the other split
    write(root, {"annots/train/d.xml": xml("d.JPG")})
    assert len(load_split(root, "train").notes) == 1


def test_corners_and_image_ids_are_those_of_all_splits(tmp_path: Path) -> None:
    own = xml("a.jpg").replace("Unknown", "mine")
    files = {"train/a.jpg": None, "train/a.xml": own, "val/a.jpg": None, "val/a.xml": own}
    root = write(tmp_path / "cards", files)
    assert load_split(root, "train").boxes.tolist() == [[9, 4, 30, 25]]
    write(root, {"val/a.xml": own.replace("<xmin>10", "<xmin>0")})
    train, val = load_split(root, "train"), load_split(root, "val")
    assert (train.boxes.tolist(), val.boxes.tolist()) == ([BOX], [[0, 5, 30, 25]])
    assert (train.image_ids.tolist(), val.image_ids.tolist()) == ([1], [2])


@pytest.mark.parametrize("files", [
    {"annotations.xml": "<annotations><version>1.1</version></annotations>", "images/a.jpg": None},
    {"a.jpg": None, "a.xml": "<note>no annotation</note>"},
    {"old/deep/a.jpg": None, "old/deep/a.xml": xml("a.jpg"), "new/b.jpg": None},  # one of several data sets
    {"docs/a.xml": xml("a.jpg"), "images/a.jpg": None},
])  # fmt: skip
def test_what_is_anothers_is_not_claimed(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no annotations found"):
        find_splits(write(tmp_path / "data", files), LoadOptions(data_format="voc"))


@pytest.mark.parametrize("linked", ["train", "images", "annots"])
def test_a_folder_that_is_a_link_out_of_the_data_is_refused(tmp_path: Path, linked: str) -> None:
    inside = {"train": {"a.jpg": None, "a.xml": xml("a.jpg")}, "images": {"a.jpg": None}, "annots": {"a.xml": xml("a")}}
    write(tmp_path / "secret", inside[linked])
    root = tmp_path / "cards"
    for name in set() if linked == "train" else {"images", "annots"} - {linked}:
        write(root / name, inside[name])
    root.mkdir(exist_ok=True)
    (root / linked).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=rf"{linked}: refused: this link leads out of the data folder, to .*secret"):
        load_split(root, options=LoadOptions(skip_bad=True))


def test_a_link_back_is_no_second_split(tmp_path: Path) -> None:
    root = write(tmp_path / "cards", {"train/a.jpg": None, "train/a.xml": xml("a.jpg")})
    (root / "train" / "train").symlink_to(root)
    assert pictures(load_split(root), root) == ["train/a.jpg"]


def test_tables_of_the_same_boxes_beside_are_no_question(tmp_path: Path) -> None:
    files = {f"{split}/{name}": None for split in ("train", "test") for name in ("a.JPG", "b.jpg", "c.jpg")}
    annotations = {str(Path(name).with_suffix(".xml")): xml(Path(name).name) for name in files}
    rows = [f"{name},64,48,ace,10,5,30,25\n" for name in ("a.JPG", "b.jpg", "c.jpg")]
    table = "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows)
    tables = {"train_labels.csv": table, "test_labels.csv": table}
    root = write(tmp_path / "cards", files | annotations | tables)
    found = load_data(root, val_split="test")
    assert f"{root}: CSV annotations are there too; the VOC ones are used" in found.notes
    assert pictures(found.train, root) == ["train/a.JPG", "train/b.jpg", "train/c.jpg"]
    assert pictures(found.val, root) == ["test/a.JPG", "test/b.jpg", "test/c.jpg"]
    assert check_data.main([str(root), "--output", str(tmp_path / "report")]) == 0


@pytest.mark.skipif(not (SHARED / "cards").is_dir(), reason="needs the playing cards beside the repository")
def test_the_playing_cards_as_they_were_published() -> None:
    train, test = (load_split(SHARED / "cards", split) for split in ("train", "test"))
    assert (len(train), len(train.labels), len(test), len(test.labels)) == (296, 527, 67, 143)
    assert train.class_names == test.class_names == ("ace", "jack", "king", "nine", "queen", "ten")
    assert train.problems == test.problems == ()
    record = train.record([Path(path).name for path in train.paths].index("IMG_2385.JPG"))
    assert (record.boxes.tolist(), record.labels.tolist()) == ([[92, 183, 223, 348]], [2])


def test_the_folder_of_the_pictures_can_be_named(tmp_path: Path) -> None:
    names = ("train/a", "val/b")
    root = write(tmp_path / "xml", {f"{name}.xml": xml(name) for name in names})
    images = write(tmp_path / "images", {"train/a.jpg": None, "b.JPG": None, "val/c.jpg": None})
    options = LoadOptions(images=str(images))
    assert pictures(load_split(root, "train", options), images) == ["train/a.jpg"]
    assert pictures(load_split(root, "val", options), images) == ["b.JPG"]
