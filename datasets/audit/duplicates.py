"""Pictures that occur twice, pictures that look the same, and objects boxed twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex, Record
from ssdlite.errors import DataError
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image
from ssdlite.nms import pairwise_iou

DECODE_THREADS = 4
SAME_OBJECT_IOU = 0.9  # two boxes of one class that overlap like this are one object, boxed twice
TWO_CLASSES_IOU = 0.85  # boxes of different classes: an object annotated under two names
HASH_SIDE = 8
BAND_BITS = 16  # of the 64-bit hash: two hashes that differ in fewer bits than there are bands share a band
MAX_DIFFERENT_BITS = 3
THUMBNAIL_SIDE = 16
MAX_THUMBNAIL_DIFFERENCE = 6.0  # mean, of 255 grey levels; JPEG and resizing change about one
MAX_BAND_MEMBERS = 500  # larger groups, such as blank pictures, are compared with their neighbours in the list only


class Fingerprint(NamedTuple):
    """Of one decoded picture: digest of its pixels, difference hash, and thumbnail [256] uint8."""

    digest: bytes
    dhash: int
    thumbnail: npt.NDArray[np.uint8]


class SamePictures(NamedTuple):
    """Two files with the same, or probably the same, picture."""

    first: str
    second: str
    exact: bool


@dataclass(frozen=True)
class SameObject:
    """Two boxes of one picture that are probably one object."""

    file: str
    first: int  # positions among the picture's objects
    second: int
    class_names: tuple[str, str]
    iou: float
    box: tuple[float, float, float, float]  # of the first, xyxy pixels of the picture


def fingerprint(image: ImageArray) -> Fingerprint:
    """image [H, W, 3] -> its fingerprint; the hash compares neighbours in the rows of 8 x 9 grey fields."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    fields = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    bits = np.packbits(fields[:, 1:] > fields[:, :-1])
    thumbnail = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return Fingerprint(
        digest.digest(), int.from_bytes(bits.tobytes(), "big"), np.asarray(thumbnail, np.uint8).reshape(-1)
    )


def read_fingerprints(
    files: Sequence[tuple[str, tuple[int, int]]], progress: Callable[[], object] = lambda: None
) -> tuple[dict[str, Fingerprint], dict[str, str]]:
    """Decode every (path, annotated size) -> fingerprints by path, and what is wrong with the other files."""

    def read(file: tuple[str, tuple[int, int]]) -> Fingerprint | str:
        path, size = file
        try:
            image = read_image(path, size)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
        if image.shape[:2] != size:
            return f"expected {size[1]} x {size[0]} pixels, got {image.shape[1]} x {image.shape[0]}"
        return fingerprint(image)

    good: dict[str, Fingerprint] = {}
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for (path, _), result in zip(files, pool.map(read, files), strict=True):
            if isinstance(result, str):
                bad[path] = result
            else:
                good[path] = result
            progress()
    return good, bad


def same_pictures(prints: dict[str, Fingerprint]) -> list[SamePictures]:
    """Pairs of files with one picture: every file of a group with the group's first."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for path, found in prints.items():
        groups[found.digest].append(path)
    exact = [SamePictures(group[0], other, True) for group in groups.values() for other in group[1:]]
    firsts = [group[0] for group in groups.values()]
    return exact + [SamePictures(firsts[i], firsts[j], False) for i, j in _look_alikes([prints[p] for p in firsts])]


def _look_alikes(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs whose hashes and thumbnails nearly agree, in order."""
    found = set()
    for i, j in set(_candidates([p.dhash for p in prints])):
        if (prints[i].dhash ^ prints[j].dhash).bit_count() > MAX_DIFFERENT_BITS:
            continue
        difference = np.abs(prints[i].thumbnail.astype(np.int16) - prints[j].thumbnail).mean()
        if difference <= MAX_THUMBNAIL_DIFFERENCE:
            found.add((i, j))
    return sorted(found)


def _candidates(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for shift in range(0, HASH_SIDE * HASH_SIDE, BAND_BITS):
        bands: dict[int, list[int]] = defaultdict(list)
        for i, value in enumerate(hashes):
            bands[value >> shift & (1 << BAND_BITS) - 1].append(i)
        for members in bands.values():
            reach = len(members) if len(members) <= MAX_BAND_MEMBERS else 2
            for position, i in enumerate(members):
                yield from ((i, j) for j in members[position + 1 : position + reach])


def same_objects(index: DetectionIndex) -> Iterator[SameObject]:
    """Pairs of boxes that are probably one object; crowds and ``difficult`` ones apart."""
    for i in range(len(index)):
        yield from _same_objects_of(index.record(i), index.class_names)


def _same_objects_of(record: Record, class_names: Sequence[str]) -> Iterable[SameObject]:
    if len(record.labels) < 2:
        return
    same_class = record.labels[:, None] == record.labels[None]
    iou = pairwise_iou(record.boxes, record.boxes)
    usable = ~(record.ignore[:, None] | record.ignore[None])
    twice = np.triu(usable & (iou > np.where(same_class, SAME_OBJECT_IOU, TWO_CLASSES_IOU)), k=1)
    for first, second in np.argwhere(twice).tolist():
        x0, y0, x1, y1 = record.boxes[first].tolist()
        names = (class_names[record.labels[first]], class_names[record.labels[second]])
        yield SameObject(record.path, first, second, names, round(float(iou[first, second]), 3), (x0, y0, x1, y1))
