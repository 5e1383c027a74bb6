"""Label Studio's own exports: JSON, with its tasks as they are, and JSON-MIN, with one object a task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from msgspec import Raw

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems, Box
from ssdlite.datasets.formats.finding import Found, find_pictures
from ssdlite.datasets.formats.json_files import decode_json, number, read_head, read_json
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.outlines import Point, box_of_ellipse, box_of_points, box_of_turned
from ssdlite.datasets.formats.splits import find_split_files
from ssdlite.errors import DataError, quote
from ssdlite.files import counted, listing
from ssdlite.images.geometry import Size
from ssdlite.images.reading import IMAGE_SUFFIXES, read_header

OWN_KEYS = re.compile(
    rb'"(?:was_cancelled|completions|annotation_id|total_annotations|(?:rectangle|polygon)labels)"\s*:'
)
LABEL_KEYS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")
IMAGE_KEYS = ("image", "img", "picture", "photo", "url", "file")  # of a task's data, the first that it has


class LabelStudioFormat:
    """Rectangles, polygons and ellipses in percent of the picture; of several annotators the first one's."""

    name = "Label Studio"
    looked_for = "a JSON or JSON-MIN export of Label Studio"

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_files(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        file = _find_files(root)[split]
        base = root if root.is_dir() else file.parent
        places = (base / "images", base / split, base, file.parent / "images", file.parent)
        folders = [Path(options.images)] if options.images else list(dict.fromkeys(places))
        builder = AnnotationsBuilder(str(file))
        tasks = list(_read_tasks(file, builder.notes, bad))
        pictures = find_pictures([task.image for task in tasks], folders, base, file)
        _add_tasks(builder, file, tasks, pictures, bad)
        return builder.build()

    def order_classes(self, names: set[str]) -> Sequence[str]:
        return sorted(names)


def _find_files(root: Path) -> dict[str, Path]:
    return find_split_files(root, ".json", lambda files: [file for file in files if is_label_studio(file)])


def is_label_studio(path: Path) -> bool:
    head = read_head(path)
    return head.startswith(b"[") and OWN_KEYS.search(head) is not None


class Task(NamedTuple):
    number: int  # in the file, from 1
    where: str  # for messages
    image: str
    results: list[dict[str, Any]]  # with a "value", or in JSON-MIN being it


def _read_tasks(file: Path, notes: list[str], bad: BadItems) -> Iterator[Task]:
    """The tasks that were completed; how many were not goes to ``notes``, and how many several times."""
    left_out: Counter[str] = Counter()
    several = 0
    seen: set[str] = set()  # pictures of JSON-MIN, which has an entry for each annotator
    for count, raw in enumerate(read_json(file, list[Raw], "an export of Label Studio"), start=1):
        where = f"task {count}"
        try:
            task = decode_json(raw, dict[str, Raw])
            where += f" (id {bytes(task['id'])[:20].decode('utf-8', 'replace')})" if "id" in task else ""
            annotations = task.get("annotations", task.get("completions"))
            if annotations is not None and "data" in task:
                completed, reason = _completed(decode_json(annotations, list[dict[str, Raw]]))
                if not completed:
                    left_out[reason] += 1
                    continue
                several += len(completed) > 1
                image = _image_name(decode_json(task["data"], dict[str, Any]))
                results = decode_json(completed[0].get("result", Raw(b"[]")), list[dict[str, Any]])
            else:
                fields = decode_json(raw, dict[str, Any])
                image, results = _image_name(fields), _min_results(fields)
                if image in seen:
                    several += 1
                    continue
                seen.add(image)
        except DataError as error:
            bad.add("bad-annotation", file, f"{where}: {error}")
        else:
            yield Task(count, where, image, results)
    if left_out:
        reasons = listing(f"{counted(count, 'task')} {reason}" for reason, count in sorted(left_out.items()))
        notes.append(f"{file}: left out: {reasons}")
    if several:
        notes.append(
            f"{file}: {counted(several, 'more annotation')} of pictures that have one; the first of each is used"
        )


def _completed(annotations: Sequence[dict[str, Raw]]) -> tuple[list[dict[str, Raw]], str]:
    """Those that were not cancelled; where there are none, why."""
    completed = [one for one in annotations if bytes(one.get("was_cancelled", b"false")) != b"true"]
    return completed, "cancelled" if annotations else "not annotated"


def _min_results(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of JSON-MIN: under the names of the labeling tags, whatever those are."""
    lists = [value for value in fields.values() if isinstance(value, list)]
    return [
        entry
        for value in lists
        for entry in value
        if isinstance(entry, dict) and not entry.keys().isdisjoint(LABEL_KEYS)
    ]


def _image_name(data: Mapping[str, Any]) -> str:
    """The path of a task's picture without what its server put before it.

    Raises:
        DataError: there is none.
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    named = [texts[key] for key in IMAGE_KEYS if key in texts]
    others = [text for text in texts.values() if text.lower().partition("?")[0].endswith(IMAGE_SUFFIXES)]
    if not named and not others:
        raise DataError(f"expected the picture's address, got {listing(map(quote, data)) or 'nothing'}")
    address = (named or others)[0]
    if address.startswith("data:"):
        raise DataError("expected the picture's address, got the picture itself (data:)")
    return _plain_path(address)


def _plain_path(address: str) -> str:
    """``cards/a.jpg`` of ``/data/local-files/?d=cards/a.jpg``, and the path of other addresses."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d") if "/local-files" in parts.path else None
    except ValueError:
        return address
    if local:
        return local[0]
    path = parts.path if len(parts.scheme) > 1 or parts.query else address  # of a Windows path the scheme is the drive
    served = ("/data/upload/", "data/upload/")
    return path.lstrip("/") if len(parts.scheme) > 1 or path.startswith(served) else path


# --- Objects.


def _add_tasks(
    builder: AnnotationsBuilder, file: Path, tasks: Sequence[Task], pictures: Sequence[Found], bad: BadItems
) -> None:
    passed_over: Counter[str] = Counter()
    for task, found in zip(tasks, pictures, strict=True):
        if found.path is None:
            bad.add("bad-image", found.place, found.error)
            continue
        size = next((size for result in task.results if (size := _stated_size(result))), None)
        position = builder.add_image(found.path, size, task.number)
        for count, result in enumerate(task.results, start=1):
            where = f"{task.where}, result {count}"
            try:
                value, labels = _value(result)
                if not labels:
                    passed_over[str(result.get("type", "without a label"))] += 1
                    continue
                size = size or read_header(found.path).upright
                box = _box(value, size)
            except DataError as error:
                builder.add_unread(position, bad, file, f"{where}: {error}")
            else:
                for label in labels:
                    builder.add_object(position, label, box, file, where)
    if passed_over:
        kinds = listing(f"{kind} ({count})" for kind, count in sorted(passed_over.items()))
        builder.notes.append(f"{file}: what has no box or no label is passed over: {kinds}")


def _stated_size(result: Mapping[str, Any]) -> Size | None:
    """(height, width); what is no positive number counts as not stated."""
    height, width = (result.get(f"original_{side}") for side in ("height", "width"))
    if isinstance(height, int) and isinstance(width, int) and 0 < height < 1 << 31 and 0 < width < 1 << 31:
        return height, width
    return None


def _value(result: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The outline of a result, and its labels."""
    value = result.get("value", result)
    if not isinstance(value, dict):
        raise DataError(f"expected an object as value, got {quote(value)}")
    labels: Any = next((value[key] for key in LABEL_KEYS if key in value), [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"expected a list of labels, got {quote(labels)}")
    outlined = "points" in value or "x" in value
    return value, [label.strip() for label in labels if label.strip()] if outlined else []


def _box(value: Mapping[str, Any], size: Size) -> Box:
    """In pixels; angles are clockwise, of rectangles around their upper left corner."""
    height, width = size

    def share(key: str, side: float) -> float:
        return number(value.get(key), key) * side / 100

    rotation = number(value.get("rotation") or 0, "rotation")
    if "points" in value:
        return box_of_points(_points(value["points"], size))
    x, y = share("x", width), share("y", height)
    if "radiusX" in value:
        return box_of_ellipse((x, y), (share("radiusX", width), share("radiusY", height)), rotation)
    return box_of_turned((x, y, x + share("width", width), y + share("height", height)), rotation, (x, y))


def _points(points: object, size: Size) -> Iterator[Point]:
    height, width = size
    for point in points if isinstance(points, list) else [points]:
        if not isinstance(point, list) or len(point) != 2:
            raise DataError(f"expected points as [x, y], got {quote(point)}")
        yield number(point[0], "x") * width / 100, number(point[1], "y") * height / 100
