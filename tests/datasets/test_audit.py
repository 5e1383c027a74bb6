"""Problems planted in small data sets are found, and the known ones of BCCD and coco-cc."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from ssdlite.anchors import torchvision_anchors
from ssdlite.config import PRESETS
from ssdlite.datasets.anchor_coverage import InputBoxes, _overlaps, measure_coverage
from ssdlite.datasets.audit.checks import (
    CheckOptions,
    DataCheck,
    _same_objects_of,
    check_data,
    fingerprint,
    same_pictures,
)
from ssdlite.datasets.audit.report import shortcomings
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import Record
from ssdlite.datasets.loading import load_data
from ssdlite.errors import ConfigError, DataError
from ssdlite.tools import check_data as tool

CONFIG = PRESETS["ssdlite320_mobilenet_v2"]
NAMES = ("cat", "dog")


def picture(seed: int) -> Image.Image:
    """96 x 64 pixels of smooth noise, of another scene for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)


def write_split(root: Path, split: str, boxes: dict[str, list[Any]]) -> None:
    """A COCO split; ``boxes`` by file name, each [x, y, width, height] of a cat, or (box, category id)."""
    images = [{"id": i, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(boxes)]
    objects = [
        (i, *(box if isinstance(box, tuple) else (box, 1))) for i, name in enumerate(boxes) for box in boxes[name]
    ]
    content = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": i, "bbox": box, "category_id": category, "iscrowd": 0}
            for n, (i, box, category) in enumerate(objects)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (root / split).mkdir(exist_ok=True)
    for name in boxes:
        number = int("".join(filter(str.isdigit, name)))
        picture(number).save(root / split / name, quality=95)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sound: four pictures to train on, two to validate on, a cat and a dog in each."""
    both = [[10, 10, 30, 30], ([50, 20, 30, 40], 2)]
    data = tmp_path / "all" / "set"
    write_split(data, "train", {f"{i}.png": both for i in range(4)})
    write_split(data, "val", {f"{i}.png": both for i in range(4, 6)})
    return data


def check(root: Path, **options: Any) -> DataCheck:
    return check_data(root, lambda train: CONFIG, CheckOptions(**options))


def found(report: DataCheck) -> list[tuple[str, str, str]]:
    return [(f.kind, f.split, Path(f.file).name) for f in report.findings]


def test_what_is_read_another_way_than_it_stands_there_is_found(data: Path) -> None:
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 3, "name": "Cat"})
    content["annotations"][0]["category_id"] = 3
    content["annotations"][1]["bbox"] = ["50", 20, 30, 40]
    file.write_text(json.dumps(content))
    picture(0).save(data / "train" / "0.png", save_all=True, append_images=[picture(8)])
    report = check(data)
    assert [(f.kind, f.is_problem, f.detail) for f in report.findings] == [
        ("number-as-text", True, "annotations[1] (id 1): Expected `float`, got `str` - at `$.bbox[0]`"),
        ("other-spelling", True, "'Cat' is taken for 'cat' (1 object)"),
        ("remark", False, "holds 2 frames, of which the first is read"),
    ]
    assert report.class_names == ("cat", "dog")


def test_sound_data_have_no_findings(data: Path) -> None:
    report = check(data)
    assert found(report) == []
    assert [(name, len(index), len(index.labels)) for name, index in report.splits.items()] == [
        ("train", 4, 8),
        ("val", 2, 4),
    ]
    # 30 x 30 of 96 x 64 pixels, stretched to 320 x 320
    assert report.train_boxes.sides[0].tolist() == pytest.approx([100, 150])


def test_the_same_picture_in_two_splits_is_a_leak(data: Path) -> None:
    Image.open(data / "train" / "1.png").save(data / "val" / "5.png", compress_level=1)  # other bytes, same pixels
    report = check(data)
    assert found(report) == [("leak", "train / val", "5.png")]
    assert report.findings[0].detail == f"the same as {data}/train/1.png"
    assert [finding.kind for finding in report.problems] == ["leak"]


def test_a_re_encoded_picture_is_a_probable_leak(data: Path) -> None:
    again = Image.open(data / "train" / "1.png").resize((480, 320))
    again.save(data / "copy.jpg", quality=60)
    Image.open(data / "copy.jpg").resize((96, 64)).save(data / "val" / "4.png")
    report = check(data)
    assert found(report) == [("probable-leak", "train / val", "4.png")]
    assert report.problems == []


def test_a_picture_twice_in_a_split(data: Path) -> None:
    (data / "train" / "3.png").write_bytes((data / "train" / "0.png").read_bytes())
    assert found(check(data)) == [("duplicate-image", "train", "3.png")]


def test_a_truncated_picture_is_named(data: Path) -> None:
    path = data / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:-200])  # its header still reads well
    assert found(check(data)) == [("undecodable", "train", "2.png")]
    assert found(check(data, decode=False)) == []


def test_an_object_boxed_twice(tmp_path: Path) -> None:
    boxes = [[10, 10, 40, 40], [11, 10, 40, 40], ([10, 11, 40, 40], 2), [60, 10, 20, 20], [62, 10, 20, 20]]
    write_split(tmp_path, "train", {"0.png": boxes, "1.png": [[0, 0, 9, 9], ([0, 0, 9, 9], 2)]})
    write_split(tmp_path, "val", {"2.png": [[0, 0, 9, 9]]})
    report = check(tmp_path)
    details = [(f.kind, f.detail) for f in report.findings]
    # 39 of 41 columns shared: IoU 0.951; shifted along the other axis too: 1521 / 1679 = 0.906; 18 of 22: 0.818
    assert details == [
        ("duplicate-box", "cat at [10, 10, 50, 50], IoU 0.95"),
        ("two-classes", "cat and dog at [10, 10, 50, 50], IoU 0.95"),
        ("two-classes", "cat and dog at [11, 10, 51, 50], IoU 0.91"),
        ("two-classes", "cat and dog at [0, 0, 9, 9], IoU 1.00"),
    ]


def test_everything_bad_is_listed_not_only_the_first(tmp_path: Path) -> None:
    boxes: dict[str, list[Any]] = {
        "0.png": [[10, 10, 30, 30], [50, 50, 0, 10], [80, 10, 40, 10]],
        "1.png": [[10, 10, 30, 30], ([1, 1, 5, 5], 7), [200, 200, 10, 10]],
        "2.png": [[10, 10, 30, 30]],
    }
    write_split(tmp_path, "train", boxes)
    write_split(tmp_path, "val", {"3.png": [[10, 10, 30, 30]]})
    (tmp_path / "train" / "2.png").unlink()
    kinds = sorted(finding.kind for finding in check(tmp_path).problems)
    assert kinds == ["bad-annotation", "bad-image", "clipped", "outside", "zero-size"]
    assert check(tmp_path).finding_counts()["absent-class"] == 1  # no dog


def test_one_split_is_divided_and_trainval_is_no_leak(tmp_path: Path, small_data: Path) -> None:
    write_split(tmp_path, "all", {f"{i}.png": [[10, 10, 30, 30]] for i in range(10)})
    report = check(tmp_path)
    assert [(name, len(index)) for name, index in report.splits.items()] == [
        ("all (to train)", 8),
        ("all (to validate)", 2),
    ]
    bccd = check(small_data / "bccd", train_split="trainval", val_split="test", decode=False)
    assert list(bccd.splits) == ["trainval", "test", "train", "val"]


def test_validating_on_a_part_of_the_training_data_is_a_leak(small_data: Path) -> None:
    report = check(small_data / "bccd", train_split="trainval", val_split="val")
    leaks = [finding for finding in report.findings if finding.kind == "leak"]
    assert len(leaks) == 7
    assert {(finding.split, finding.detail) for finding in leaks} == {("trainval / val", "the same file")}


def test_shortcomings_are_put_into_words() -> None:
    corners = np.array([[20, 20, 75, 75], [100, 40, 155, 95], [10, 10, 15, 15], [0, 0, 32, 32], [0, 0, 31, 32]])
    labels, images = np.array([0, 0, 1, 2, 2]), np.array([0, 0, 0, 1, 1])
    report = measure_coverage(
        torchvision_anchors((0.06, 0.14, 0.28, 0.42, 0.56, 0.7, 0.9), (2.0,)),
        InputBoxes(corners.astype(np.float32), labels, images, np.arange(5)),
        image_size=(320, 320),
        strides=CONFIG.strides,
        class_names=("cell", "speck", "pair"),
    )
    words = "\n".join(shortcomings(report))
    assert "cell: 100% of the boxes are served by a map that is too coarse for them (100% by one of stride 32" in words
    assert "speck: no anchor covers 100% of 1 boxes" in words
    assert (
        "speck: 100% of the boxes are small even for the finest map (stride 16); --finest-stride 8, which ssdlite "
        "train decides on by itself, or a larger --image-size would help them" in words
    )


def test_bccd(small_data: Path) -> None:
    report = check(small_data / "bccd")
    assert report.finding_counts() == {"zero-size": 2, "duplicate-box": 7}
    twice = {Path(f.file).stem.removeprefix("BloodImage_") for f in report.findings if f.kind == "duplicate-box"}
    assert twice == {"00020", "00100", "00104", "00251", "00284", "00331", "00403"}
    assert {name: len(index.labels) for name, index in report.splits.items()} == {
        "train": 139, "val": 112, "test": 25, "trainval": 251,
    }  # fmt: skip
    preset, proposed = report.anchors["preset"], report.anchors["proposed"]
    assert proposed.train.anchor_count <= report.budget == 2034
    assert proposed.val.for_class("Platelets").covered > 1.3 * preset.val.for_class("Platelets").covered


def test_coco_cc_has_one_vehicle_under_two_names(small_data: Path) -> None:
    report = check(small_data / "coco-cc")
    assert report.problems == []
    twice = [(Path(f.file).name, f.detail) for f in report.findings if f.kind == "two-classes"]
    assert [(name, detail[:13], detail[-8:]) for name, detail in twice] == [
        ("000000184324.jpg", "truck and bus", "IoU 0.88")
    ]


def test_fingerprints_tell_scenes_apart() -> None:
    prints = {str(i): fingerprint(np.array(picture(i))) for i in range(60)}
    assert same_pictures(prints) == []
    darker = (np.array(picture(7)) * 0.98).astype(np.uint8)
    (pair,) = same_pictures(prints | {"darker": fingerprint(darker)})
    assert pair == ("7", "darker", False)


def test_the_command_writes_text_json_and_pictures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert tool.main([str(data), "--output", str(folder), "--verbose"]) == 0
    text = capsys.readouterr().out
    for words in ("No problems found", "box sizes at 320 x 320", "preset (2034)", "proposed (", "stride"):
        assert words in text
    values = json.loads((folder / "report.json").read_text())
    assert values["splits"]["val"] == {
        "images": 2, "images_without_objects": 0, "objects": 4, "ignored": 0, "classes": {"cat": 2, "dog": 2},
    }  # fmt: skip
    assert len(values["anchors"]["proposed"]["config"]["levels"]) == 6
    assert values["anchors"]["budget"] == 2034
    for name in ("report.png", "samples.jpg"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 400


def test_what_is_printed_unasked_is_short(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there, by class, and the first of each kind of problem; the rest is in the report."""
    twice = [[10, 10, 30, 30]] * 5
    write_split(data, "train", {f"{i}.png": [*twice, ([50, 20, 30, 40], 2)] for i in range(4)})
    assert tool.main([str(data), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) < 30
    assert "anchors" not in text.partition("written: ")[0]
    assert any(line.split() == ["cat", "20", "2"] for line in lines)  # to train, to validate
    at = lines.index("duplicate-box (40): an object is boxed twice")
    assert [line.startswith("  train: train/0.png: cat at") for line in lines[at + 1 : at + 4]] == [True] * 3
    assert lines[at + 4] == "  ... and 37 more"
    assert "--verbose" in lines[-3]
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["findings"]) == 40


def test_reports_on_data_of_one_name_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a/cats", "b/cats"):
        write_split(tmp_path / place, "train", {f"{i}.png": [[10, 10, 30, 30]] for i in range(3)})
    arguments = ("--anchors", "default", "--no-decode")
    for source, folder in (("a/cats", "cats"), ("b/cats", "cats-2"), (str(tmp_path / "a" / "cats"), "cats")):
        assert tool.main([source, *arguments]) == 0
        assert f"written: runs/check/{folder}/report.json" in capsys.readouterr().out
    assert json.loads(Path("runs/check/cats-2/report.json").read_text())["data"] == "b/cats"
    file = "a/cats/annotations/instances_train.json"
    assert tool.main([file, *arguments]) == 0
    assert "written: runs/check/instances_train/report.json" in capsys.readouterr().out


def test_skip_bad_is_taken_as_training_takes_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train" / "3.png").unlink()
    arguments = [str(data), "--anchors", "default", "--strict", "--output", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    assert tool.main([*arguments, "--skip-bad"]) == 0
    assert capsys.readouterr().out.endswith(f"next: ssdlite train --data {data} --skip-bad\n")
    (data / "train" / "1.png").write_bytes((data / "train" / "0.png").read_bytes())  # which training does not leave out
    assert tool.main([*arguments, "--skip-bad"]) == 1


def last_lines(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> list[str]:
    """The verdict of the command and what to run next."""
    assert tool.main([*map(str, arguments), "--anchors", "default"]) == status
    return capsys.readouterr().out.splitlines()[-2:]


def test_the_command_ends_with_a_verdict_and_what_to_run_next(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "out")
    few = (
        "4 objects in 2 pictures to validate on: AP will differ by chance, one object being 0.25 of the recall; "
        "annotate more, 50 objects in 20 pictures at least, before small differences are believed"
    )
    assert last_lines(capsys, data, *output) == [
        f"verdict: usable with notes: 0 problems, 0 warnings; {few}",
        f"next: ssdlite train --data {data}",
    ]
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (values["verdict"]["level"], values["next"]) == ("usable with notes", f"ssdlite train --data {data}")
    (data / "train" / "3.png").write_bytes((data / "train" / "0.png").read_bytes())
    assert last_lines(capsys, data, *output)[0] == (
        f"verdict: usable with notes: 1 problem (1 duplicate-image), 0 warnings; {few}"
    )
    (data / "val" / "5.png").unlink()  # on which training stops
    given = (
        "--data-format", "coco", "--val-split", "val", "--rename", "cat=big cat", "--classes", "dog", "big cat"
    )  # fmt: skip
    verdict, command = last_lines(capsys, data, *given, *output)
    assert verdict.startswith(
        "verdict: usable with notes: 2 problems (1 bad-image, 1 duplicate-image), 0 warnings; 1 of 6 pictures "
        "is missing (17%); put them beside the others, or name the folder that has them all with --images DIR; "
        "2 objects in 1 picture "
    )
    assert command == (
        f"next: ssdlite train --data {data} --skip-bad --val-split val --classes dog 'big cat' --data-format coco "
        "--rename 'cat=big cat'"
    )


def test_a_split_that_training_does_not_read_asks_for_no_option(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(data, "test", {"6.png": [[10, 10, 30, 30]], "7.png": [[10, 10, 30, 30]]})
    (data / "test" / "7.png").unlink()
    assert last_lines(capsys, data, "--output", tmp_path / "out")[1] == f"next: ssdlite train --data {data}"
    path = data / "train" / "2.png"
    path.write_bytes(path.read_bytes()[:-200])  # found by decoding alone
    assert last_lines(capsys, data, "--output", tmp_path / "out")[1] == f"next: ssdlite train --data {data} --skip-bad"


def test_the_verdict_on_what_cannot_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "all" / "set"
    write_split(data, "train", {"0.png": [[10, 10, 30, 30]], "1.png": [[10, 10, 30, 30]]})
    write_split(data, "val", {"2.png": [[10, 10, 30, 30]]})
    (data / "train" / "1.png").unlink()
    verdict, command = last_lines(capsys, data, "--output", tmp_path / "out", status=1)
    assert verdict.startswith(
        "verdict: not usable: set/train: expected two or more usable images, got 1, to train on, so add "
        "pictures; what cannot be used: 1 x no such image file"
    )
    assert command == (
        "next: bring back the pictures (report.json names all of them); put them beside the others, or name the folder "
        "that has them all with --images DIR"
    )


def test_json_names_the_uncovered_boxes_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", {"0.png": [[10, 10, 30, 30]], "1.png": [[1, 1, 2, 2]] * 30})
    write_split(tmp_path, "val", {"2.png": [[10, 10, 30, 30]]})
    arguments = [str(tmp_path), "--json", "--anchors", "default", "--output", str(tmp_path / "out")]
    assert tool.main(arguments) == 0
    values = json.loads(capsys.readouterr().out)
    missed = values["anchors"]["preset"]["uncovered"]
    assert len(missed) == 30
    assert missed[3] == {
        "file": f"{tmp_path}/train/1.png", "object": 3, "class": "cat", "box": [1, 1, 3, 3], "input_size": [10.7, 16.0],
    }  # fmt: skip
    assert values["image_size"] == [512, 512]  # which training would take
    assert "proposed" not in values["anchors"]


def test_exit_status(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*more: str) -> int:
        return tool.main([str(data), "--output", str(tmp_path / "out"), *more])

    assert run("--anchors", "default", "--strict") == 0
    (data / "train" / "3.png").write_bytes((data / "train" / "0.png").read_bytes())
    assert run("--anchors", "default") == 0
    assert run("--anchors", "default", "--strict") == 1
    assert run("--preset", "ssdlite320_mobilenet_v4") == 2
    assert "did you mean 'ssdlite320_mobilenet_v" in capsys.readouterr().err
    assert run("--anchor-budget", "10") == 2
    assert "budget of 10 anchors is too small" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "nothing")]) == 2


def test_no_anchors_are_proposed_to_what_counts_in_strides(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(data), "--preset", "litepan320_small", "--verbose", "--output", str(tmp_path / "out")]
    assert tool.main(arguments) == 0
    said = capsys.readouterr().out
    assert "shapes of anchors say nothing to this detector" in said.replace("\n", " ")
    assert "cover every box" not in said and "proposed (" not in said


def test_data_without_objects_are_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", {"0.png": [], "1.png": []})
    write_split(tmp_path, "val", {"2.png": []})
    assert tool.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: draw boxes around the objects in these pictures")
    write_split(tmp_path, "val", {"2.png": [[10, 10, 30, 30]]})
    assert tool.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "next: train on a split that has objects, with --train-split val"
    write_split(tmp_path, "val", {"2.png": []})
    report = check(tmp_path)
    assert list(report.anchors) == ["preset"]
    assert report.finding_counts() == {"absent-class": 2}


def test_errors(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match="no folder of that name"):
        check(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="too small"):
        check(data, budget=3)
    with pytest.raises(DataError, match="zebra"):
        check(data, loading=LoadOptions(classes=("zebra",)))


def test_what_cannot_be_used_is_the_cause_of_too_few_pictures_to_divide(tmp_path: Path) -> None:
    write_split(tmp_path, "all", {f"{i}.png": [[10, 10, 30, 30]] for i in range(4)})
    for i in range(3):
        (tmp_path / "all" / f"{i}.png").unlink()
    with pytest.raises(
        DataError, match=r"two or more usable images, got 1, .*cannot be used: 3 x no such image file; "
    ):
        check(tmp_path)


def test_a_picture_with_very_many_objects_is_not_searched_for_repeated_ones(tmp_path: Path) -> None:
    """Its pairs would take gigabytes; those of one with fewer are looked at in parts."""
    boxes = np.random.default_rng(0).uniform(0, 900, (6000, 2)).round(1)
    record = Record(
        path="a.jpg",
        image_id=1,
        size=(1000, 1000),
        boxes=np.concatenate([boxes, boxes + 50], axis=1).astype(np.float32),
        labels=np.zeros(6000, np.int64),
        areas=np.full(6000, 2500, np.float32),
        ignore=np.zeros(6000, bool),
    )
    assert list(_same_objects_of(record, ["cat"])) == [("crowded", "6000 objects, more than 5000")]
    few = record._replace(**{name: getattr(record, name)[:4000] for name in ("boxes", "labels", "areas", "ignore")})
    few.boxes[3999] = few.boxes[0]
    found = [detail for kind, detail in _same_objects_of(few, ["cat"]) if detail.endswith("IoU 1.00")]
    corners = ", ".join(f"{value:g}" for value in few.boxes[0].tolist())
    assert f"cat at [{corners}], IoU 1.00" in found


def test_the_anchor_audit_of_a_crowded_picture_holds_few_pairs_at_once() -> None:
    """The figures of parts are those of the whole."""
    corners = np.random.default_rng(1).uniform(0, 280, (500, 2))
    sides = np.random.default_rng(2).uniform(5, 200, (500, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    anchors = np.concatenate([corners[:60], corners[:60] + 60], axis=1).astype(np.float32)
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(anchors)).numpy()
    with mock.patch("ssdlite.datasets.anchor_coverage.PAIRS_A_CHUNK", 1000):
        best, best_iou, rows, columns, over = _overlaps(boxes, anchors, 0.5)
    np.testing.assert_allclose(best_iou, iou.max(1), atol=1e-6)
    np.testing.assert_allclose(iou[np.arange(500), best], iou.max(1), atol=1e-6)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == set(zip(*np.nonzero(iou >= 0.5), strict=True))
    np.testing.assert_allclose(over, iou[rows, columns], atol=1e-6)


def test_how_the_data_were_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What training says of its data, as corners that are positions: on the screen and in the report."""
    for number in range(3):
        corners = "<xmin>0</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax>"
        item = f"<object><name>owl</name><bndbox>{corners}</bndbox></object>"
        (tmp_path / f"{number}.xml").write_text(f"<annotation>{item}</annotation>")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert tool.main([str(tmp_path), "--anchors", "default", "--output", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    for part in ("corners are read as positions on the picture", "1 picture without an XML file"):
        assert part in printed
        assert any(part in note for note in told)


def test_pictures_that_are_mostly_missing_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of them are enough; a folder nearby that has them is named. The others can be trained on."""
    data, photos = tmp_path / "all" / "set", tmp_path / "all" / "photos"
    write_split(data, "train", {f"{i}.png": [[10, 10, 30, 30]] for i in range(4)})
    write_split(data, "val", {f"{i}.png": [[10, 10, 30, 30]] for i in range(4, 6)})
    photos.mkdir()
    for name in ("train/0.png", "train/1.png", "val/4.png"):
        (data / name).unlink()
    verdict, command = last_lines(capsys, data, "--output", tmp_path / "out", status=1)
    where = "put them beside the others, or name the folder that has them all with --images DIR"
    assert verdict == f"verdict: not usable: 3 of 6 pictures are missing (50%); {where}"
    assert command == f"next: bring back the pictures (report.json names all of them); {where}"
    verdict, command = last_lines(capsys, data, "--skip-bad", "--output", tmp_path / "out")
    assert "3 problems (3 bad-image), 1 warning (1 absent-class); 3 of 6 pictures are missing (50%)" in verdict
    assert command == f"next: ssdlite train --data {data} --skip-bad"
    for i in range(6):
        picture(i).save(photos / f"{i}.png")
    found = f"{photos} has pictures of 3 of these names: --images {photos}"
    verdict, _ = last_lines(capsys, data, "--output", tmp_path / "out", status=1)
    assert verdict == f"verdict: not usable: 3 of 6 pictures are missing (50%); {found}"
    with pytest.raises(
        DataError, match=rf"\n2 of 4 pictures are missing \(50%\); {photos} has pictures of 2 of these "
    ):
        load_data(data)
    assert len(load_data(data, LoadOptions(images=str(photos))).train) == 4
    (photos / "5.png").unlink()
    assert last_lines(capsys, data, "--output", tmp_path / "out", status=1)[0].endswith(
        f"{photos} has pictures of 3 of these names: put them beside the others"
    )


def test_a_validation_split_that_is_too_small_to_measure_by_is_not_called_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 objects in 20 pictures are enough; as many in fewer, or fewer in as many, are not."""
    two, three = [[5, 5, 20, 20], ([35, 5, 20, 20], 2)], [[5, 5, 20, 20], [35, 5, 20, 20], ([65, 5, 20, 20], 2)]
    write_split(tmp_path, "train", {f"{i}.png": two for i in range(3)})
    arguments = (tmp_path, "--no-decode", "--output", tmp_path / "out")
    for boxes, count, told in (
        (
            three,
            17,
            "51 objects in 17 pictures to validate on: AP will differ by chance, one object being 0.02 of the ",
        ),
        (two, 24, "48 objects in 24 pictures to validate on: AP will differ by chance, one object being 0.02 of the "),
        (two, 1, "2 objects in 1 picture to validate on: AP will differ by chance, one object being 0.50 of the "),
    ):
        write_split(tmp_path, "val", {f"{i}.png": boxes for i in range(100, 100 + count)})
        verdict, command = last_lines(capsys, *arguments)
        assert verdict == (
            f"verdict: usable with notes: 0 problems, 0 warnings; {told}recall; annotate more, 50 objects in 20 "
            "pictures at least, before small differences are believed"
        )
        assert command == f"next: ssdlite train --data {tmp_path}"
    write_split(tmp_path, "val", {f"{i}.png": three for i in range(100, 120)})
    assert last_lines(capsys, *arguments)[0] == "verdict: sound: 23 images, 0 problems, 0 warnings"
