"""Tables of boxes as people have them: their columns, separators, splits, pictures, and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.datasets.formats.csv_tables import CsvTables
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def picture(path: Path, width: int = 80, height: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name) + ord(path.stem[-1])).integers(0, 256, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def table(path: Path, *rows: str, encoding: str = "utf-8", newline: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((newline.join(rows) + newline).encode(encoding))


def objects(index: DetectionIndex) -> dict[str, list[tuple[str, list[float]]]]:
    """By picture: the class and the corners of each object."""
    rows = [(index.class_names[label], box) for label, box in zip(index.labels, index.boxes.tolist(), strict=True)]
    ends = index.offsets.tolist()
    return {Path(path).name: rows[ends[i] : ends[i + 1]] for i, path in enumerate(index.paths)}


OWL, CAT = ("owl", [8.0, 4.0, 40.0, 20.0]), ("cat", [16.0, 10.0, 80.0, 40.0])

VARIANTS = {
    "TensorFlow's tutorials": [HEADER, "a.jpg,80,40,owl,8,4,40,20", "b.jpg,80,40,cat,16,10,80,40"],
    "any order and case": [
        "XMax,YMin,Label,X_Min,File_Name,y max,confirmed by",
        "40,4,owl,8,a.jpg,20,me",
        "80,10,cat,16,b.jpg,40,me",
    ],
    "corners called 1 and 2": ["image,x1,y1,x2,y2,label", "a.jpg,8,4,40,20,owl", "b.jpg,16,10,80,40,cat"],
    "corners called 0 and 1": ["path,label,x0,y0,x1,y1", "a.jpg,owl,8,4,40,20", "b.jpg,cat,16,10,80,40"],
    "left, top, right, bottom": [
        "img_path,left,top,right,bottom,category",
        "a.jpg,8,4,40,20,owl",
        "b.jpg,16,10,80,40,cat",
    ],
    "x, y and the box's width and height": [
        "image_path,x,y,width,height,class_name",
        "a.jpg,8,4,32,16,owl",
        "b.jpg,16,10,64,30,cat",
    ],
    "MakeSense": [
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
        "owl,8,4,32,16,a.jpg,80,40",
        "cat,16,10,64,30,b.jpg,80,40",
    ],
    "MakeSense, of before": ["owl,8,4,32,16,a.jpg,80,40", "cat,16,10,64,30,b.jpg,80,40"],
    "both widths": ["file,w,h,x,y,width,height,name", "a.jpg,32,16,8,4,80,40,owl", "b.jpg,64,30,16,10,80,40,cat"],
    "the box's center": [
        "image,x_center,y_center,width,height,class",
        "a.jpg,24,12,32,16,owl",
        "b.jpg,48,25,64,30,cat",
    ],
    "the box in one column": [
        "image_id,width,height,bbox,source,label",
        'a,80,40,"[8.0, 4.0, 32.0, 16.0]",me,owl',
        'b,80,40,"[16, 10, 64, 30]",me,cat',
    ],
    "fractions": ["image,label,xmin,ymin,xmax,ymax", "a.jpg,owl,0.1,0.1,.5,5e-1", "b.jpg,cat,0.2,0.25,1,1.0"],
    "RetinaNet, without a header": ["a.jpg,8,4,40,20,owl", "b.jpg,16,10,80,40,cat"],
    "TensorFlow's, without a header": ["a.jpg,80,40,owl,8,4,40,20", "b.jpg,80,40,cat,16,10,80,40"],
    "RetinaNet with the picture's size (SKU-110K)": ["a.jpg,8,4,40,20,owl,80,40", "b.jpg,16,10,80,40,cat,80,40"],
    "LISA's traffic signs": [
        "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y",
        "a.jpg;owl;8;4;40;20",
        "b.jpg;cat;16;10;80;40",
    ],
    "GTSRB": [
        "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,Class,Path",
        "80,40,8,4,40,20,owl,a.jpg",
        "80,40,16,10,80,40,cat,b.jpg",
    ],
    "the picture called name": ["name,x1,y1,x2,y2,species", "a.jpg,8,4,40,20,owl", "b.jpg,16,10,80,40,cat"],
    "BCCD's cell types": ["filename,cell_type,xmin,xmax,ymin,ymax", "a.jpg,owl,8,40,4,20", "b.jpg,cat,16,80,10,40"],
    "left, width, top, height": ["image,label,left,width,top,height", "a.jpg,owl,8,32,4,16", "b.jpg,cat,16,64,10,30"],
    "AutoML": ["TRAIN,gs://bucket/1/a.jpg,owl,0.1,0.1,,,0.5,0.5,,", "TRAIN,gs://x/b.jpg,cat,.2,.25,1,.25,1,1,.2,1"],
    "quoted": ['"filename","class","xmin","ymin","xmax","ymax"', '"a.jpg","owl",8,4,40,20', 'b.jpg,"cat",16,10,80,40,'],
    "foreign paths": [
        "path,class,xmin,ymin,xmax,ymax",
        "C:\\Users\\me\\pictures\\a.JPG,owl,8,4,40,20",
        "/content/drive/b.png,cat,16,10,80,40",
    ],
    "paths from another folder": [
        "path,class,xmin,ymin,xmax,ymax",
        "../pictures/a.jpg,owl,8,4,40,20",
        "./pictures/b.jpg,cat,16,10,80,40",
    ],
    "semicolons, decimal commas": [
        "filename;class;xmin;ymin;xmax;ymax",
        "a.jpg;owl;8,0;4,0;40,0;20,0",
        "b.jpg;cat;16,0;10;80;40,00",
    ],
    "tabs": [HEADER.replace(",", "\t"), "a.jpg\t80\t40\towl\t8\t4\t40\t20", "b.jpg\t80\t40\tcat\t16\t10\t80\t40"],
    "bars": [HEADER.replace(",", "|"), "a.jpg|80|40|owl|8|4|40|20", "b.jpg|80|40|cat|16|10|80|40"],
    "numbered rows of pandas": [f",{HEADER}", "0,a.jpg,80,40,owl,8,4,40,20", "1,b.jpg,80,40,cat,16.0,10.0,80.0,40.0"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "pictures" / "a.JPG")
    picture(tmp_path / "pictures" / "b.png")
    rows = [row.replace("b.jpg", "b.png").replace("a.jpg", "a.JPG") for row in VARIANTS[name]]
    table(tmp_path / "boxes.csv", *rows)
    assert find_splits(tmp_path).splits == ("all",)
    assert objects(load_split(tmp_path)) == {"a.JPG": [OWL], "b.png": [CAT]}
    assert objects(load_split(tmp_path / "boxes.csv")) == {"a.JPG": [OWL], "b.png": [CAT]}


@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\r"), ("utf-8-sig", "\n\n")]
)
def test_as_spreadsheets_write_text(tmp_path: Path, encoding: str, newline: str) -> None:
    picture(tmp_path / "käfer.jpg")
    rows = (HEADER, "käfer.jpg,80,40,Käfer,8,4,40,20")
    table(tmp_path / "boxes.csv", *rows, encoding=encoding, newline=newline)
    assert objects(load_split(tmp_path)) == {"käfer.jpg": [("Käfer", [8.0, 4.0, 40.0, 20.0])]}


def test_open_images(tmp_path: Path) -> None:
    """A table of many more pictures than are there, classes by their ids, groups to be ignored."""
    picture(tmp_path / "train" / "0001eeaf4aed83f9.jpg")
    picture(tmp_path / "validation" / "00075905539074f2.jpg")
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    train = tmp_path / "oidv6-train-annotations-bbox.csv"
    table(
        train,
        header,
        "0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.1,0.5,0.1,0.5,0,0,0",
        "0001eeaf4aed83f9,xclick,/m/01g317,1,0.2,1,0.25,1,0,0,1",
        "000595fe6fee6369,xclick,/m/02wbm,1,0,1,0,1,0,0,1",
    )
    table(tmp_path / "validation-annotations-bbox.csv", header, "00075905539074f2,x,/m/0cmf2,1,0,0.5,0,1,0,0,0")
    table(tmp_path / "class-descriptions-boxable.csv", "/m/01g317,Person", "/m/0cmf2,Airplane", "/m/02wbm,Food")
    found = load_data(tmp_path)
    assert (found.train.class_names, found.train.ignore.tolist()) == (("Person", "Airplane"), [False, True])
    assert objects(found.train) == {
        "0001eeaf4aed83f9.jpg": [("Airplane", [8.0, 4.0, 40.0, 20.0]), ("Person", [16.0, 10.0, 80.0, 40.0])]
    }
    assert objects(found.val) == {"00075905539074f2.jpg": [("Airplane", [0.0, 0.0, 40.0, 40.0])]}
    assert f"{train}: 1 picture of the table are not there: not used" in found.train.notes
    assert (
        f"{train}: boxes are read as fractions of the picture's width and height: as in all tables of this kind"
        in found.train.notes
    )


def test_retinanet_with_its_classes_and_background(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name)
    table(tmp_path / "annotations.csv", "images/b.jpg,,,,,", "images/a.jpg,8,4,40,20,owl", "images/a.jpg,1,2,3,4,cat")
    table(tmp_path / "classes.csv", "owl,0", "cat,1")
    split = load_split(tmp_path)
    assert split.class_names == ("owl", "cat")
    assert objects(split) == {"a.jpg": [OWL, ("cat", [1.0, 2.0, 3.0, 4.0])], "b.jpg": []}
    assert (
        f"{tmp_path / 'annotations.csv'}: 1 picture beside those of the table without a row in it, such as c.jpg: not "
        "used (a row with empty fields makes a background picture)"
    ) in split.notes


def test_splits_by_the_names_of_tables(tmp_path: Path) -> None:
    """As datitran's raccoons: data/ and images/; one name in both folders is the split's own."""
    for name in ("train/a.jpg", "train/b.jpg", "test/a.jpg"):
        picture(tmp_path / "images" / name)
    table(tmp_path / "data" / "train_labels.csv", HEADER, "a.jpg,80,40,owl,8,4,40,20", "b.jpg,80,40,cat,16,10,80,40")
    table(tmp_path / "data" / "test_labels.csv", HEADER, "a.jpg,80,40,cat,16,10,80,40")
    table(tmp_path / "metrics.csv", "epoch,loss,AP", "1,2.5,0.1")
    table(tmp_path / "files.csv", "filename,label", "a.jpg,owl")
    table(tmp_path / "detections.csv", "image,class,score,xmin,ymin,xmax,ymax", "a.jpg,owl,0.5,1,2,3,4")
    assert find_splits(tmp_path).splits == ("test", "train")
    assert objects(load_split(tmp_path, "train")) == {"a.jpg": [OWL], "b.jpg": [CAT]}
    test = load_split(tmp_path, "test")
    assert objects(test) == {"a.jpg": [CAT]}
    assert Path(test.paths[0]).parent.name == "test"
    assert test.class_names == ("cat", "owl")


def test_a_file_that_is_named_is_read_unless_it_is_of_another_format(tmp_path: Path) -> None:
    """Detections may be labels; the tables of VIA and of an imagefolder have objects in one column."""
    picture(tmp_path / "a.jpg")
    table(tmp_path / "found.csv", "image,class,score,xmin,ymin,xmax,ymax", "a.jpg,owl,0.5,8,4,40,20")
    with pytest.raises(DataError, match="no annotations found"):
        load_split(tmp_path)
    assert objects(load_split(tmp_path / "found.csv")) == {"a.jpg": [OWL]}
    for header in ("filename,file_size,region_count,region_shape_attributes", "file_name,objects"):
        table(tmp_path / "other.csv", header)
        assert CsvTables().find_splits(tmp_path / "other.csv") == []


def test_splits_by_folders(tmp_path: Path) -> None:
    """As Roboflow's: _annotations.csv in each."""
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "a_jpg.rf.1.jpg")
        table(tmp_path / split / "_annotations.csv", HEADER, "a_jpg.rf.1.jpg,80,40,owl,8,4,40,20")
    found = load_data(tmp_path)
    assert find_splits(tmp_path).splits == ("test", "train", "valid")
    assert [objects(part) for part in (found.train, found.val)] == [{"a_jpg.rf.1.jpg": [OWL]}] * 2
    assert find_splits(tmp_path / "train").splits == ("all",)


def test_splits_by_a_column(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name)
    table(tmp_path / "all.csv", "image,split,x,y,w,h", "a.jpg,train,8,4,32,16", "b.jpg,val,16,10,64,30")
    found = load_data(tmp_path)
    assert objects(found.train) == {"a.jpg": [("object", [8.0, 4.0, 40.0, 20.0])]}
    assert objects(found.val) == {"b.jpg": [("object", [16.0, 10.0, 80.0, 40.0])]}
    assert found.train.notes == (
        f"{tmp_path / 'all.csv'}: no column of classes: all objects are of one class, 'object'",
    )


def test_numbers_as_classes_keep_their_order(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    table(tmp_path / "a.csv", "image,class_id,x,y,w,h", "a.jpg,10,8,4,32,16", "a.jpg,9,8,4,32,16", "a.jpg,0,1,1,9,9")
    assert load_split(tmp_path).class_names == ("0", "9", "10")


def test_bad_rows_are_named_or_skipped(tmp_path: Path) -> None:
    tmp_path = tmp_path / "data" / "set"  # missing pictures are looked for two folders up, among those of no other test
    tmp_path.mkdir(parents=True)
    picture(tmp_path / "a.jpg")
    file = tmp_path / "boxes.csv"
    rows = [
        HEADER,
        "a.jpg,80,40,owl,8,4,40,20",
        "a.jpg,80,40,owl,8,4,40",
        "a.jpg,80,40,owl,8,four,40,20",
        "a.jpg,80,40,,8,4,40,20",
        ",80,40,owl,8,4,40,20",
        "a.jpg,80,40,owl,8,,40,20",
        "none.jpg,80,40,owl,8,4,40,20",
        "a.jpg,80,40,owl,60,4,120,20",
    ]
    table(file, *rows)
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert str(caught.value) == (
        f"{file}: 6 of its images or annotations cannot be used:\n"
        f"  {tmp_path / 'none.jpg'}: no such image file (line 8 of boxes.csv)\n"
        f"  {file}: line 3: expected 8 columns, got 7\n"
        f"  {file}: line 4: expected four numbers in xmin, ymin, xmax, ymax, got '8, four, 40, 20'\n"
        f"  {file}: line 5: expected a class, got none\n"
        f"  {file}: line 6: expected the name of a picture, got none\n"
        "  ... and 1 more\n"
        "1 of 2 pictures is missing (50%); put them beside the others, or name the folder that has them all with "
        "--images DIR.\n"
        "Correct them, or leave them out with --skip-bad (skip_bad=True)."
    )
    split = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert objects(split) == {"a.jpg": [OWL, ("owl", [60.0, 4.0, 80.0, 20.0])]}
    assert split.problem_counts() == {"bad-annotation": 5, "bad-image": 1, "clipped": 1}
    assert split.problems[5].detail == "line 7: expected four numbers in xmin, ymin, xmax, ymax, got '8, , 40, 20'"


def test_a_class_of_nan_is_missing_and_one_of_none_is_a_name(tmp_path: Path) -> None:
    """What ``str`` and numpy make of a missing class, where pandas leaves the field empty."""
    picture(tmp_path / "a.jpg")
    rows = [f"a.jpg,80,40,{name},8,4,40,20" for name in ("None", "NA", "nan", "NaN")]
    table(tmp_path / "boxes.csv", HEADER, *rows)
    with pytest.raises(
        DataError, match=r"line 4: expected a class, got 'nan'\n.* line 5: expected a class, got 'NaN'\n"
    ):
        load_split(tmp_path)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).class_names == ("NA", "None")


def test_a_row_in_pixels_among_fractions(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    file = tmp_path / "boxes.csv"
    good = ["a.jpg,owl,0.1,0.1,0.5,0.5"] * 18
    table(file, "image,label,xmin,ymin,xmax,ymax", *good, "a.jpg,owl,8,4,40,20", "a.jpg,owl,0.5,0.5,1.25,1")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"\n  {file}: line 20: expected fractions as in the other rows, got 8, 4, 40, 20\n" in str(caught.value)
    split = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    assert split.problem_counts() == {"bad-annotation": 1, "clipped": 1}
    assert objects(split) == {"a.jpg": [OWL] * 18 + [("owl", [40.0, 20.0, 80.0, 40.0])]}
    assert f"{file}: boxes are read as fractions of the picture's width and height: they are not over 1" in split.notes


def test_missing_columns_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    file = tmp_path / "boxes.csv"
    table(file, "filename,width,height,class,xmin,ymin,xmax", "a.jpg,80,40,owl,8,4,40")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    expected = (
        f"{file}, line 1: expected columns for the picture, the class and the box, such as filename, class, xmin, "
        "ymin, xmax, ymax; missing: "
    )
    assert str(caught.value) == f"{expected}ymax; got: filename, width, height, class, xmin, ymin, xmax"
    table(file, "filename,animal,xmin,ymin,xmax,ymax", "a.jpg,owl,8,4,40,20")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert str(caught.value) == (
        f"{expected}class; got: filename, animal, xmin, ymin, xmax, ymax; rename in the first line what holds it, such "
        "as animal -> class (of no known meaning: animal)"
    )
    table(file, "dateiname;klasse;xmin;ymin;xmax;ymax", "a.jpg;Eule;8;4;40;20")
    with pytest.raises(DataError) as caught:
        load_split(file)
    assert str(caught.value) == (
        f"{expected}filename, class; got: dateiname, klasse, xmin, ymin, xmax, ymax; rename in the first line what "
        "holds them, such as dateiname -> filename (of no known meaning: dateiname, klasse)"
    )
    table(file, "epoch,loss", "1,2.5")
    with pytest.raises(DataError) as caught:
        load_split(file)
    assert str(caught.value) == f"{expected}filename, class, xmin, ymin, xmax, ymax; got: epoch, loss"
    with pytest.raises(DataError, match="no annotations found"):
        load_split(tmp_path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            HEADER.encode() + b"\na.jpg,80,40,K\xe4fer,8,4,40,20\n",
            "line 2: expected text in UTF-8 (spread",
        ),
        (HEADER.encode() + b'\n"a.jpg,80\n' + b"x\n" * 100_000, "line 2: cannot be read as a table (field larger"),
        (HEADER.encode() + b"\n" + b"9" * 200_000, "line 2: expected a line of a table, got more than 131072 char"),
        (HEADER.encode("utf-16") + b"\n", "line 1: cannot be read as a table ('utf-16-le' codec can't decode byte"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, error: str) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"boxes.csv{'' if 'expected text' in error else ','}" in str(caught.value)
    assert error in str(caught.value)


def test_names_in_another_encoding_are_no_missing_pictures(tmp_path: Path) -> None:
    """As a German spreadsheet saves "CSV": the encoding is to blame, and no other folder has the pictures."""
    picture(tmp_path / "K\xe4fer.jpg")
    (tmp_path / "boxes.csv").write_bytes(HEADER.encode() + b"\nK\xe4fer.jpg,80,40,owl,8,4,40,20\n")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert "spreadsheets: save as 'CSV UTF-8'" in str(caught.value)
    assert "no such image file" not in str(caught.value) and "--images" not in str(caught.value)


def test_several_pictures_that_could_be_meant(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "two/a.jpg"):
        picture(tmp_path / name)
    table(tmp_path / "boxes.csv", HEADER, "three/a.jpg,80,40,owl,8,4,40,20")
    with pytest.raises(DataError, match=r"expected one picture of that name, found 2: one/a\.jpg, two/a\.jpg"):
        load_split(tmp_path)


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "secret" / "s.jpg")
    data = tmp_path / "data"
    picture(data / "a.jpg")
    (data / "link.jpg").symlink_to(tmp_path / "secret" / "s.jpg")
    for name in (f"{tmp_path}/secret/s.jpg", "../secret/s.jpg"):
        table(data / "boxes.csv", HEADER, "a.jpg,80,40,owl,8,4,40,20", f"{name},80,40,owl,8,4,40,20")
        with pytest.raises(DataError, match="refused: this image path leads out of"):
            load_split(data, options=LoadOptions(skip_bad=True))
    table(data / "boxes.csv", HEADER, "link.jpg,80,40,owl,8,4,40,20")
    with pytest.raises(DataError, match="this link leads out of the data folder"):
        load_split(data)


def test_it_is_audited(tmp_path: Path) -> None:
    data = tmp_path / "owls"
    for name in "abcde":
        picture(data / "images" / f"{name}.jpg")
    rows = [f"images/{name}.jpg,80,40,owl,8,4,40,20" for name in "abcde"]
    table(data / "labels.csv", HEADER, *rows, "images/a.jpg,80,40,owl,9,9,9,20")
    assert check_tool.main([str(data), "--anchors", "default", "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert sum(split["classes"]["owl"] for split in report["splits"].values()) == 5
    assert [(f["kind"], f["file"]) for f in report["findings"] if f["kind"] == "zero-size"] == [
        ("zero-size", str(data / "labels.csv"))
    ]
