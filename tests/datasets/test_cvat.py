"""CVAT for images 1.1, as CVAT writes it."""

from pathlib import Path

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>12</id><name>cards</name><size>4</size><mode>annotation</mode><overlap>0</overlap>
      <labels>
        <label><name>ace</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
        <label><name>king</name><color>#33ddff</color><type>any</type><attributes></attributes></label>
      </labels>
    </task>
    <dumped>2024-05-17 09:12:44.318+00:00</dumped>
  </meta>
"""
SHAPES = """
    <box label="king" source="manual" occluded="0" xtl="10.50" ytl="4.25" xbr="30.00" ybr="24.00" z_order="0">
      <attribute name="worn">true</attribute>
    </box>
    <polygon label="ace" source="manual" occluded="1" points="5.00,6.00;15.50,2.00;12.00,20.00" z_order="1"></polygon>
    <box label="ace" occluded="0" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90.00" z_order="0"></box>
    <ellipse label="ace" occluded="0" cx="30" cy="20" rx="10" ry="5" rotation="90.0" z_order="0"></ellipse>
    <mask label="king" occluded="0" rle="2, 3" left="7" top="8" width="9" height="10" z_order="0"></mask>
    <points label="ace" source="manual" occluded="0" points="1,1;2,2" z_order="0"></points>
    <polyline label="ace" source="manual" occluded="0" points="1,1;2,2" z_order="0"></polyline>
    <points label="ace" source="manual" occluded="0" points="3,3" z_order="0"></points>
    <tag label="ace" source="manual"></tag>
"""


def image(number: int, name: str, shapes: str = "", subset: str = "") -> str:
    marked = f' subset="{subset}"' if subset else ""
    return f'  <image id="{number}" name="{name}"{marked} width="64" height="48">{shapes}\n  </image>\n'


def box(label: str = "ace", corners: tuple[object, ...] = (1, 2, 11, 22)) -> str:
    given = " ".join(f'{key}="{value}"' for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
    return f'<box label="{label}" occluded="0" {given} z_order="0"/>'


def write(root: Path, *images: str, pictures: tuple[str, ...] = (), head: str = HEAD) -> Path:
    root.mkdir(exist_ok=True)
    (root / "annotations.xml").write_text(head + "".join(images) + "</annotations>\n")
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / name)
    return root / "annotations.xml"


def test_boxes_and_the_boxes_around_other_shapes(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        image(0, "b.jpg", SHAPES),
        image(1, "sub/a.jpg"),
        pictures=("images/b.jpg", "images/sub/a.jpg"),
    )
    for data in (tmp_path, file):
        layout = find_splits(data)
        assert (layout.format.name, layout.splits) == ("CVAT", ("all",))
        index = load_split(data)
        assert [Path(path).name for path in index.paths] == ["b.jpg", "a.jpg"]
        assert (index.image_ids.tolist(), index.offsets.tolist()) == ([1, 2], [0, 5, 5])
        assert index.class_names == ("ace", "king")
        assert index.labels.tolist() == [1, 0, 0, 0, 1]
        assert index.boxes.tolist() == [
            [10.5, 4.25, 30, 24],
            [5, 2, 15.5, 20],
            [25, 15, 35, 35],
            [25, 10, 35, 30],
            [7, 8, 16, 18],
        ]
        assert index.notes == (f"{file}: what has no box is passed over: points (2), polyline (1), tag (1)",)


def test_subsets_are_splits(tmp_path: Path) -> None:
    write(
        tmp_path,
        image(0, "a.jpg", box(), "Train"),
        image(1, "a.jpg", box("king"), "Validation"),
        image(2, "b.jpg", box(), "Train"),
        pictures=("images/Train/a.jpg", "images/Train/b.jpg", "images/Validation/a.jpg"),
    )
    assert find_splits(tmp_path).splits == ("Train", "Validation")
    data = load_data(tmp_path)
    assert [Path(path).parent.name for path in data.train.paths] == ["Train", "Train"]
    assert [Path(path).parent.name for path in data.val.paths] == ["Validation"]
    assert (data.train.image_ids.tolist(), data.val.image_ids.tolist()) == ([1, 3], [2])
    assert (data.train.labels.tolist(), data.val.labels.tolist()) == ([0, 0], [1])


def test_classes_stand_in_the_order_of_the_labels(tmp_path: Path) -> None:
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("queen", "king", "ace"))
    head = f"<annotations><meta><project><labels>{labels}</labels></project></meta>"
    write(tmp_path, image(0, "a.jpg", box("ace") + box("king") + box("ten")), pictures=("a.jpg",), head=head)
    assert load_split(tmp_path).class_names == ("king", "ace", "ten")


def test_a_file_for_each_split_and_pictures_that_moved(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split, image(0, f"old/{split}.jpg", box(), "default"), pictures=(f"images/{split}.PNG",))
    assert find_splits(tmp_path).splits == ("test", "train")
    assert load_split(tmp_path, "train").boxes.tolist() == [[1, 2, 11, 22]]


@pytest.mark.parametrize(("shape", "error"), [
    (box(corners=(1, 2, "x", 4)), "image 'a.jpg', box 1: expected a number as xbr, got 'x'"),
    (box(label=" "), "image 'a.jpg', box 1: expected a label, got none"),
    ('<box label="ace" xtl="1" ytl="2" xbr="3"/>', "image 'a.jpg', box 1: expected a number as ybr, got None"),
    ('<polygon label="ace" points="1,2;3"/>', "polygon 1: expected points as x,y;x,y;..., got '1,2;3'"),
    ('<polygon label="ace" points=""/>', "polygon 1: expected points, got none"),
    ('<ellipse label="ace" cx="1" cy="1" rx="1" ry="1" rotation="inf"/>', "expected an angle in degrees, got inf"),
])  # fmt: skip
def test_a_malformed_shape_is_named_or_skipped(tmp_path: Path, shape: str, error: str) -> None:
    file = write(tmp_path, image(0, "a.jpg", shape + box()), pictures=("a.jpg",))
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{file}: " in str(caught.value) and error in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).boxes.tolist() == [[1, 2, 11, 22]]


@pytest.mark.parametrize(("head", "images", "error"), [
    (HEAD, '<track id="0" label="ace"><box frame="0" outside="0" xtl="1"/></track>',
     "expected CVAT for images 1.1, got the tracks of a video; export the task as CVAT for images 1.1"),
    ('<!DOCTYPE a [<!ENTITY x "y">]>\n<annotations><version>&x;</version>', "", "refused: document types and entities"),
    (HEAD, "<image>", "not well-formed XML (mismatched tag: line 14"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, head: str, images: str, error: str) -> None:
    file = write(tmp_path, images, head=head)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path)
    assert str(caught.value).startswith(f"{file}: {error}")


def test_missing_pictures_are_named_or_skipped(tmp_path: Path) -> None:
    write(tmp_path, image(0, "a.jpg", box()), image(1, "b.jpg", box()), pictures=("images/b.jpg",))
    with pytest.raises(DataError, match=r"images/a\.jpg: no such image file"):
        load_split(tmp_path)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).image_ids.tolist() == [2]


def test_it_is_audited(tmp_path: Path) -> None:
    data = tmp_path / "cards"
    write(data, *(image(i, f"{i}.jpg", box()) for i in range(4)), pictures=tuple(f"images/{i}.jpg" for i in range(4)))
    assert check_tool.main([str(data), "--anchors", "default", "--output", str(tmp_path / "report")]) == 0
    assert len(load_data(data).train) == 3


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, image(0, "a.jpg", box()), pictures=("a.jpg",))
    monkeypatch.setattr("ssdlite.datasets.formats.cvat.MAX_CVAT_BYTES", 100)
    with pytest.raises(DataError, match=rf"{file}: expected an annotation file of at most 100 bytes, got \d+"):
        load_data(tmp_path)
