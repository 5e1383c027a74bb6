"""Label Studio's JSON and JSON-MIN, as it exports them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.errors import DataError
from ssdlite.tools import check_data as check_tool


def result(value: dict[str, Any], kind: str = "rectanglelabels", **more: Any) -> dict[str, Any]:
    return {
        "original_width": 200, "original_height": 100, "image_rotation": 0, "value": value, "id": "kz2q", "type": kind,
        "from_name": "label", "to_name": "image", "origin": "manual", **more,
    }  # fmt: skip


def rectangle(label: str = "cat", box: tuple[float, ...] = (10, 20, 30, 40), rotation: float = 0) -> dict[str, Any]:
    """In percent; of a picture of 200 x 100 pixels (20, 20, 80, 60)."""
    sides = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return result({**sides, "rotation": rotation, "rectanglelabels": [label]})


def annotation(*results: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    return {
        "id": 7, "completed_by": 1, "result": list(results), "was_cancelled": cancelled, "ground_truth": False,
        "created_at": "2024-05-17T09:12:44.318Z", "lead_time": 12.3, "prediction": {}, "result_count": len(results),
    }  # fmt: skip


def task(number: int, image: str, *annotations: dict[str, Any], predictions: Any = ()) -> dict[str, Any]:
    return {
        "id": number, "annotations": list(annotations), "file_upload": image.rpartition("/")[2], "drafts": [],
        "predictions": list(predictions), "data": {"image": image}, "meta": {}, "total_annotations": len(annotations),
    }  # fmt: skip


def write(root: Path, tasks: Any, *pictures: str, name: str = "project-1-at-2024-05-17-09-12-1a2b3c4d.json") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(tasks), encoding="utf-8")
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(root / picture)
    return root / name


def test_rectangles_polygons_and_ellipses_become_boxes(tmp_path: Path) -> None:
    shapes = [
        rectangle(),
        rectangle("dog", (50, 20, 20, 30), 90),  # around (100, 20): 40 x 30 px become 30 x 40, to the left
        result({"points": [[5, 10], [20, 5], [15, 60]], "closed": True, "polygonlabels": ["dog"]}, "polygonlabels"),
        result({"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": 90, "ellipselabels": ["cat"]}),
        result({"x": 1, "y": 1, "width": 2, "height": 2}, "rectangle"),
        result({"x": 1, "y": 1, "width": 2, "height": 2, "labels": ["cat", "dog"]}, "labels"),
        result({"format": "rle", "rle": [0, 1], "brushlabels": ["cat"]}, "brushlabels"),
        {"value": {"choices": ["indoor"]}, "from_name": "where", "to_name": "image", "type": "choices"},
    ]
    tasks = [task(31, "/data/upload/1/1a2b3c4d-a.jpg", annotation(*shapes)), task(30, "b.jpg", annotation())]
    file = write(tmp_path, tasks, "images/1a2b3c4d-a.jpg", "images/b.jpg")
    for data in (tmp_path, file):
        layout = find_splits(data)
        assert (layout.format.name, layout.splits) == ("Label Studio", ("all",))
        index = load_split(data)
        assert index.class_names == ("cat", "dog")
        assert [Path(path).name for path in index.paths] == ["1a2b3c4d-a.jpg", "b.jpg"]
        assert (index.image_ids.tolist(), index.offsets.tolist()) == ([1, 2], [0, 6, 6])
        assert index.labels.tolist() == [0, 1, 1, 0, 0, 1]
        assert index.boxes.round(3).tolist() == [
            [20, 20, 80, 60],
            [70, 20, 100, 60],
            [10, 5, 40, 60],
            [90, 30, 110, 70],
            [2, 1, 6, 3],
            [2, 1, 6, 3],
        ]
        skipped = "brushlabels (1), choices (1), rectangle (1)"
        assert index.notes == (f"{file}: what has no box or no label is passed over: {skipped}",)


@pytest.mark.parametrize(("address", "picture"), [
    ("/data/upload/1/1a2b3c4d-a.jpg", "images/1a2b3c4d-a.jpg"),
    ("/data/upload/1/1a2b3c4d-a.jpg", "photos/a.jpg"),  # as it was called before the upload
    ("/data/upload/1a2b3c4d-a%20b.jpg", "a b.jpg"),
    ("/data/upload/1/1a2b3c4d-Küche_1_2.JPG", "photos/Küche 1 (2).JPG"),  # the upload replaced blanks, dropped brackets
    ("/data/local-files/?d=cards/day%201/a.jpg", "day 1/a.jpg"),
    ("/data/local-files/?d=cards\\a.jpg", "cards/a.jpg"),
    ("http://localhost:8080/data/upload/1/1a2b3c4d-a.jpg?token=1", "a.jpg"),
    ("s3://bucket/cards/a.jpg", "a.JPG"),
    ("https://host/d?fileuri=x", None),
    ("upload/1/a.jpg", "images/a.jpg"),
    (r"C:\cards\a.jpg", "a.jpg"),
])  # fmt: skip
def test_addresses_of_pictures(tmp_path: Path, address: str, picture: str | None) -> None:
    pictures = [picture] if picture else []
    tasks = [task(1, address, annotation(rectangle())), task(2, "z.jpg", annotation(rectangle()))]
    write(tmp_path, tasks, *pictures, "z.jpg")
    index = load_split(tmp_path, options=LoadOptions(skip_bad=True))
    found = [str(Path(path).relative_to(tmp_path)) for path in index.paths]
    assert found == [*pictures, "z.jpg"]


def test_cancelled_and_missing_annotations_and_predictions_are_not_used(tmp_path: Path) -> None:
    first, second = annotation(rectangle("cat")), annotation(rectangle("dog"), rectangle("dog"))
    file = write(
        tmp_path,
        [
            task(1, "a.jpg", annotation(rectangle("owl"), cancelled=True), first, second),
            task(2, "b.jpg", annotation(rectangle("owl"), cancelled=True)),
            task(3, "c.jpg", predictions=[{"result": [rectangle("owl")], "score": 0.9}]),
            task(4, "d.jpg", annotation(), predictions=[{"result": [rectangle("owl")], "score": 0.9}]),
        ],
        *(f"{stem}.jpg" for stem in "abcd"),
    )
    index = load_split(tmp_path)
    assert [Path(path).name for path in index.paths] == ["a.jpg", "d.jpg"]
    assert (index.class_names, index.offsets.tolist()) == (("cat",), [0, 1, 1])
    assert index.notes == (
        f"{file}: left out: 1 task cancelled, 1 task not annotated",
        f"{file}: 1 more annotation of pictures that have one; the first of each is used",
    )


def test_completions_of_earlier_versions(tmp_path: Path) -> None:
    old = {"id": 0, "data": {"image": "a.jpg"}, "completions": [{"id": 1, "result": [rectangle()]}], "predictions": []}
    write(tmp_path, [old], "a.jpg")
    assert load_split(tmp_path).boxes.tolist() == [[20, 20, 80, 60]]


def test_json_min(tmp_path: Path) -> None:
    def entry(number: int, image: str, **more: Any) -> dict[str, Any]:
        return {"image": image, "id": number, **more, "annotator": 1, "annotation_id": number, "lead_time": 3.2}

    shape = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "original_width": 200, "original_height": 100}
    points = {"points": [[5, 10], [20, 5], [15, 60]], "original_width": 200, "original_height": 100}
    cat, dog = {**shape, "rectanglelabels": ["cat"]}, {**points, "polygonlabels": ["dog"]}
    tasks = [
        entry(1, "/data/upload/1/1a2b3c4d-a.jpg", label=[cat], outline=[dog], comment="worn"),
        entry(2, "/data/upload/1/1a2b3c4d-b.jpg"),
        entry(1, "/data/upload/1/1a2b3c4d-a.jpg", label=[cat, cat]),
    ]
    file = write(tmp_path, tasks, "a.jpg", "b.jpg")
    index = load_split(tmp_path)
    assert index.offsets.tolist() == [0, 2, 2]
    assert index.boxes.tolist() == [[20, 20, 80, 60], [10, 5, 40, 60]]
    assert index.notes == (f"{file}: 1 more annotation of pictures that have one; the first of each is used",)


def test_a_result_without_the_pictures_size_takes_that_of_its_file(tmp_path: Path) -> None:
    shape = rectangle()
    del shape["original_width"], shape["original_height"]
    write(tmp_path, [task(1, "a.jpg", annotation(shape))], "a.jpg")
    assert load_split(tmp_path).boxes.tolist() == [[20, 20, 80, 60]]


@pytest.mark.parametrize(("change", "error"), [
    ({"value": 3}, "task 1 (id 5), result 1: expected an object as value, got 3"),
    ({"value": {"x": "a", "y": 1, "rectanglelabels": ["cat"]}}, "expected a number as x, got 'a'"),
    ({"value": {"x": 1, "y": 1, "width": 1, "rectanglelabels": ["cat"]}}, "expected a number as height, got None"),
    ({"value": {"x": 1, "rectanglelabels": [5]}}, "expected a list of labels, got [5]"),
    ({"value": {"points": [[1, 2], 3], "polygonlabels": ["cat"]}}, "expected points as [x, y], got 3"),
    ({"value": {"points": [], "polygonlabels": ["cat"]}}, "expected points, got none"),
])  # fmt: skip
def test_a_malformed_result_is_named_or_skipped(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    file = write(tmp_path, [task(5, "a.jpg", annotation({**rectangle(), **change}, rectangle()))], "a.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert f"{file}: task 1 (id 5), result 1: " in str(caught.value) and error in str(caught.value)
    assert load_split(tmp_path, options=LoadOptions(skip_bad=True)).boxes.tolist() == [[20, 20, 80, 60]]


def test_a_task_without_a_picture_is_named(tmp_path: Path) -> None:
    tasks = [task(1, "a.jpg", annotation(rectangle())), task(2, "b.jpg", annotation()) | {"data": {"text": "Hello"}}]
    tasks.append(task(3, "data:image/png;base64,AAAA", annotation()))
    write(tmp_path, tasks, "a.jpg")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path)
    assert "task 2 (id 2): expected the picture's address, got 'text'" in str(caught.value)
    assert "task 3 (id 3): expected the picture's address, got the picture itself (data:)" in str(caught.value)


@pytest.mark.parametrize(("text", "error"), [
    ('[{"was_cancelled": false, ', "not an export of Label Studio: Input data was truncated"),
    ('[{"was_cancelled": ' + "[" * 100_000, "not an export of Label Studio: the JSON is nested too deeply"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: {error}")


def test_a_file_for_each_split_is_audited(tmp_path: Path) -> None:
    for split in ("train", "val"):
        tasks = [task(i, f"{split}{i}.jpg", annotation(rectangle())) for i in range(2)]
        write(tmp_path / "cards", tasks, f"images/{split}0.jpg", f"images/{split}1.jpg", name=f"{split}.json")
    data = load_data(tmp_path / "cards")
    assert (len(data.train), len(data.val)) == (2, 2)
    arguments = [str(tmp_path / "cards"), "--anchors", "default", "--output", str(tmp_path / "report")]
    assert check_tool.main(arguments) == 0


def test_tasks_that_nobody_has_annotated_yet_are_named_as_the_cause(tmp_path: Path) -> None:
    file = write(tmp_path, [task(1, "a.jpg", predictions=[{"result": [rectangle()], "score": 0.9}])], "a.jpg")
    with pytest.raises(DataError) as caught:
        load_data(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected annotated objects, found none: {file}: left out: 1 task not annotated"
    )
