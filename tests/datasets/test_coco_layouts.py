"""COCO annotations are found wherever their file lies, whatever it is called and however it names its pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool
from ssdlite.tools import eval_det, train_det
from tests.datasets.written_files import write


def coco(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """A file with one object in each picture, its box (1, 2, 11, 22) in the first, (2, 2, 12, 22) in the second."""
    return {
        "info": {"description": "exported", "year": 2024},
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1 + i, 2, 10, 20], "area": 200, "iscrowd": 0}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
        **more,
    }


AB = ("a.jpg", "b.jpg")
CAPTIONS = {
    "images": [{"id": 0, "file_name": "a.jpg"}],
    "annotations": [{"id": 0, "image_id": 0, "caption": "a cat"}],
}
PANOPTIC = coco(AB) | {"annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": []}]}
OTHERS: dict[str, Any] = {
    "captions.json": CAPTIONS,
    "panoptic.json": PANOPTIC,
    "contract.json": {"format": "ssdlite", "classes": ["cat"]},
    "package.json": {"name": "viewer", "dependencies": {}},
    "config.json": "{not JSON",
    "._result.json": "\0\5\x16\7",
}
AB_PICTURES: dict[str, Any] = {"images/a.jpg": None, "images/b.jpg": None}


@pytest.mark.parametrize(("files", "splits", "found"), [
    ({"result.json": coco(["images/a.jpg", "images/b.jpg"]), **AB_PICTURES}, ["all"], AB),  # Label Studio's export
    ({"result.json": coco(["images\\1\\a.jpg", "images\\1\\b.jpg"]), **AB_PICTURES}, ["all"], AB),
    ({"labels.json": coco(AB), "data/a.jpg": None, "data/b.jpg": None}, ["all"], AB),  # FiftyOne's
    ({"annotations.json": coco(AB), **AB_PICTURES}, ["all"], AB),
    ({"_annotations.coco.json": coco(AB), "a.jpg": None, "b.jpg": None}, ["all"], AB),
    ({"annotations/instances_default.json": coco(AB), **AB_PICTURES}, ["all"], AB),  # CVAT's
    ({"Annotations/Cards.JSON": coco(AB), **AB_PICTURES}, ["all"], AB),
    ({"bccd_train.json": coco(AB), **AB_PICTURES}, ["train"], AB),
    ({"train.json": coco(["a.jpg"]), "val.json": coco(["b.jpg"]), **AB_PICTURES}, ["train", "val"], ["a.jpg"]),
    (
        {"annotations/train.json": coco(["a.jpg"]), "annotations/val.json": coco(["b.jpg"]), **AB_PICTURES},
        ["train", "val"],
        ["a.jpg"],
    ),
    (
        {"train_labels.json": coco(["a.jpg"]), "coco-test.json": coco(["b.jpg"]), **AB_PICTURES},
        ["test", "train"],
        ["a.jpg"],
    ),
    (
        {
            "train/annotations.json": coco(["a.jpg"]), "train/a.jpg": None,
            "valid/annotations.json": coco(["a.jpg"]), "valid/a.jpg": None,
        },
        ["train", "valid"],
        ["a.jpg"],
    ),
    (
        {
            "train/labels.json": coco(["a.jpg"]), "train/data/a.jpg": None,
            "test/labels.json": coco(["a.jpg"]), "test/data/a.jpg": None,
        },
        ["test", "train"],
        ["a.jpg"],
    ),
    ({"cards/annotations/train.json": coco(AB), "cards/images/a.jpg": None, "cards/images/b.jpg": None}, ["train"], AB),
    ({"result.json": coco(AB), "images/one/a.jpg": None, "images/two/b.jpg": None}, ["all"], AB),
    ({"result.json": coco(["old/a.jpg", "older/b.jpg"]), **AB_PICTURES}, ["all"], AB),
    ({"result.json": coco(["old/A.JPG", "b.png"]), **AB_PICTURES}, ["all"], AB),
    ({"result.json": coco(["a%20b.jpg", "100%.jpg"]), "x/a b.jpg": None, "x/100%.jpg": None}, ["all"],
     ["a b.jpg", "100%.jpg"]),
    ({"result.json": coco([r"C:\pictures\a.jpg", "/home/ann/pictures/b.jpg"]), **AB_PICTURES}, ["all"], AB),
    ({"result.json": coco(["../../label-studio/media/upload/1/a.jpg", "..\\..\\media\\b.jpg"]), **AB_PICTURES}, ["all"],
     AB),
    ({"result.json": coco(["http://localhost:8080/data/upload/1/a.jpg", "s3://bucket/b.jpg"]), **AB_PICTURES}, ["all"],
     AB),
    ({"result.json": coco(["images/1a2b3c4d-a.jpg", "images/0f0f0f0f-b.jpg"]), **AB_PICTURES}, ["all"], AB),
    ({"result.json": coco(AB), **AB_PICTURES, **OTHERS}, ["all"], AB),
    ({"boxes.json": coco(AB), "keypoints.json": coco(AB[:1]), **AB_PICTURES}, ["all"], AB),
    ({"keypoints.json": coco(AB), **AB_PICTURES}, ["all"], AB),
    ({"annotations/all.json": coco(AB), **AB_PICTURES, **{f"annotations/{k}": v for k, v in OTHERS.items()}},
     ["all"], AB),
])  # fmt: skip
def test_the_file_and_its_pictures_are_found(
    tmp_path: Path, files: dict[str, Any], splits: Sequence[str], found: Sequence[str]
) -> None:
    write(tmp_path, files)
    layout = find_splits(tmp_path)
    assert (layout.format.name, list(layout.splits)) == ("COCO", splits)
    index = load_split(tmp_path, "train" if "train" in splits else splits[0])
    assert [Path(path).name for path in index.paths] == list(found)
    assert index.boxes.tolist() == [[1 + i, 2, 11 + i, 22] for i in range(len(found))]


@pytest.mark.parametrize("name", ["result.json", "anything at all.json", "annotations/instances_train.json"])
def test_the_file_itself_can_be_given(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: coco(AB), "other.json": coco(["c.jpg"]), **AB_PICTURES})
    data = load_data(tmp_path / name)
    assert sorted(Path(path).name for path in (*data.train.paths, *data.val.paths)) == ["a.jpg", "b.jpg"]
    (tmp_path / "images").rename(tmp_path.parent / f"{tmp_path.name}-pictures")
    elsewhere = LoadOptions(images=f"{tmp_path}-pictures")
    assert len(load_split(tmp_path / name, options=elsewhere)) == 2


@pytest.mark.parametrize("content", [CAPTIONS, PANOPTIC, {"shapes": []}, [], "no JSON"])
def test_other_json_is_none(tmp_path: Path, content: Any) -> None:
    write(tmp_path, {"result.json": content, **AB_PICTURES})
    with pytest.raises(DataError, match=r"no annotations found\. Looked for annotations/instances_"):
        find_splits(tmp_path, LoadOptions(data_format="coco"))


def test_a_large_file_is_looked_at_beyond_its_head(tmp_path: Path) -> None:
    content = coco(AB, info={"text": "x" * 3_000_000})
    write(tmp_path, {"result.json": dict(sorted(content.items(), key=lambda item: item[0] == "categories"))})
    write(tmp_path, AB_PICTURES)
    assert len(load_split(tmp_path)) == 2


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"result.json": json.dumps(coco(AB))[:150], **AB_PICTURES})
    with pytest.raises(DataError, match=r"result\.json: not valid JSON \(Unterminated string"):
        load_data(tmp_path)


def test_a_folder_of_several_data_sets_is_none(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"annotations/train.json": coco(AB), **AB_PICTURES})
    with pytest.raises(DataError, match="no annotations found"):
        find_splits(tmp_path)


def test_the_folder_of_the_annotations_can_be_given(tmp_path: Path) -> None:
    write(tmp_path, {"annotations/train.json": coco(AB), **AB_PICTURES})
    assert load_split(tmp_path / "annotations").paths == tuple(str(tmp_path / name) for name in AB_PICTURES)


def test_a_file_for_each_picture_is_not_looked_into(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write(tmp_path, {f"{name}.jpg": None, f"{name}.json": coco([f"{name}.jpg"])})
    with pytest.raises(DataError, match="no annotations found"):
        find_splits(tmp_path, LoadOptions(data_format="coco"))


def test_a_picture_of_another_split_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path, {
        "annotations/train.json": coco(AB), "train/a.jpg": None, "val/a.jpg": None, "val/b.jpg": None,
        "result.json": coco(["train/a.jpg", "train/b.jpg"]),
    })  # fmt: skip
    for data in (tmp_path, tmp_path / "result.json"):
        with pytest.raises(DataError, match=r"train/b\.jpg: no such image file"):
            load_split(data)


@pytest.mark.parametrize(("names", "error"), [
    (["x/a.jpg", "y/a.jpg"], r"'y/a\.jpg': .*images/one/a\.jpg is already that of 'x/a\.jpg'"),
    (["x/b.jpg"], r"b\.jpg': expected one picture of that name, found 2: images/one/b\.jpg, images/two/b\.jpg"),
])  # fmt: skip
def test_pictures_that_could_be_meant_are_not_guessed(tmp_path: Path, names: Sequence[str], error: str) -> None:
    write(tmp_path, {"images/one/a.jpg": None, "images/one/b.jpg": None, "images/two/b.jpg": None})
    write(tmp_path, {"result.json": coco(names)})
    with pytest.raises(DataError, match=error):
        load_split(tmp_path)


@pytest.mark.parametrize("name", ["{outside}/b.jpg", "../outside/b.jpg", "images/../../outside/b.jpg", "//host/b.jpg"])
def test_a_path_to_a_file_outside_is_refused_though_one_inside_has_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"outside/b.jpg": None, "data/images/a.jpg": None, "data/images/sub/b.jpg": None})
    write(tmp_path / "data", {"result.json": coco(["a.jpg", name.format(outside=tmp_path / "outside")])})
    with pytest.raises(DataError, match=r"result\.json: .*refused: this image path leads out of") as caught:
        load_split(tmp_path / "data", options=LoadOptions(skip_bad=True))
    hint = "; if the pictures are there, name their folder with --images"
    assert str(caught.value).endswith(hint) == (not name.startswith("//"))


def test_absolute_paths_to_a_folder_that_is_named_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"pictures/one/a.jpg": None, "pictures/two/a.jpg": None, "ann/pictures/a.jpg": None})
    write(tmp_path / "ann", {"result.json": coco([str(tmp_path / "pictures" / "two" / "a.jpg")])})
    index = load_split(tmp_path / "ann", options=LoadOptions(images=str(tmp_path / "pictures")))
    assert index.paths == (str(tmp_path / "pictures" / "two" / "a.jpg"),)


def test_an_absolute_path_inside_is_that_picture(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.jpg": None, "two/a.jpg": None, "result.json": coco([str(tmp_path / "two" / "a.jpg")])})
    assert load_split(tmp_path).paths == (str(tmp_path / "two" / "a.jpg"),)


def test_a_missing_picture_of_another_machine_can_be_skipped(tmp_path: Path) -> None:
    names = ["/home/ann/a.jpg", "/home/ann/b.jpg", "/home/ann/c.jpg"]
    write(tmp_path, {"result.json": coco(names), **AB_PICTURES})
    with pytest.raises(DataError, match=r"/home/ann/c\.jpg: no such image file"):
        load_split(tmp_path)
    assert len(load_split(tmp_path, options=LoadOptions(skip_bad=True))) == 2


def test_annotations_is_another_name_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"labels.json": coco(AB), **AB_PICTURES})
    file, report = str(tmp_path / "labels.json"), str(tmp_path / "report")
    assert (
        check_tool.main(["--annotations", file, "--anchors", "default", "--output", report]) == 1
    )  # one picture is too few to train on
    assert (
        check_tool.main([f"--annotations={file}", "--anchors", "default", "--output", report]) == 1
    )  # one picture is too few to train on
    assert json.loads((tmp_path / "report" / "report.json").read_text())["splits"]["all (to train)"]["images"] == 1
    capsys.readouterr()
    for program, arguments in ((train_det, ["--epochs", "1"]), (eval_det, [file])):
        assert program.main([*arguments, "--annotations", file, "--data", str(tmp_path)]) == 2
        message = "error: --annotations and --data: expected one of them, two names of the same option\n"
        assert capsys.readouterr().err.endswith(message)
        (tmp_path / "empty").mkdir(exist_ok=True)
        given = [*arguments, f"--annotations={tmp_path / 'none.json'}", "--output", str(tmp_path / "empty" / "run")]
        assert program.main(given) == 2
        assert "none.json" in capsys.readouterr().err or program is eval_det
    for given, got in (([str(tmp_path), "--annotations", file], f"both: {tmp_path} and {file}"), ([], "neither")):
        assert check_tool.main(given) == 2
        message = f"error: expected a data set, either as PATH or as --annotations, got {got}\n"
        assert capsys.readouterr().err.endswith(message)
