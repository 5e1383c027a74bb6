"""The pictures of a split: their sizes from their headers, and boxes turned with those that lie on their side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.formats.options import ExifBoxes
from ssdlite.datasets.index import DECIDES_OTHERWISE
from ssdlite.errors import DataError
from ssdlite.files import counted
from ssdlite.images.geometry import ORIENTATIONS, Size
from ssdlite.images.reading import PictureHeader, read_header

HEADER_THREADS = 8
HEADERS_PER_TASK = 128


@dataclass(frozen=True)
class Pictures:
    """The usable ones: P of the I given.

    ``turns`` are the EXIF orientations of those whose boxes were drawn on the pixels as stored, 1 for all others.
    """

    positions: npt.NDArray[np.int64]  # [P] in what was given
    sizes: npt.NDArray[np.int32]  # [P, 2] height, width, upright
    turns: npt.NDArray[np.int64]  # [P]
    errors: dict[int, str]  # what is wrong with the others, by position in what was given
    notes: tuple[str, ...]


def read_pictures(
    paths: Sequence[str], stated_sizes: Sequence[Size | None], source: str, exif_boxes: ExifBoxes = "auto"
) -> Pictures:
    """Open every picture's header, and decide which boxes are to be turned upright with their pictures.

    A picture that is annotated with the size of its pixels as stored had its boxes drawn so, on its side. Where the
    size does not tell (square, half a turn, none stated) most of those that do decide.
    """

    def read(start: int) -> list[PictureHeader | DataError]:
        return [_read_header(path) for path in paths[start : start + HEADERS_PER_TASK]]

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        headers = [header for part in pool.map(read, range(0, len(paths), HEADERS_PER_TASK)) for header in part]
    good: dict[int, PictureHeader] = {}
    errors: dict[int, str] = {}
    for position, (header, stated) in enumerate(zip(headers, stated_sizes, strict=True)):
        if isinstance(header, DataError):
            errors[position] = str(header).removeprefix(f"{paths[position]}: ")
        elif stated is not None and stated not in (header.upright, header.stored):
            errors[position] = (
                f"the annotations say {stated[1]} x {stated[0]} pixels, "
                f"the file has {header.upright[1]} x {header.upright[0]}"
            )
        else:
            good[position] = header
    as_stored = {
        position: _drawn_as_stored(header, stated_sizes[position])
        for position, header in good.items()
        if header.orientation != 1
    }
    told = [told for told in as_stored.values() if told is not None]
    usual = exif_boxes == "stored" if exif_boxes != "auto" else 2 * sum(told) > len(told)
    turned = [
        position for position, told in as_stored.items() if (usual if told is None or exif_boxes != "auto" else told)
    ]
    turns = {position: good[position].orientation for position in turned}
    note = (
        f"{source}: {counted(len(turned), 'picture')} to be turned by EXIF with boxes drawn on the pixels as stored: "
        "the boxes are turned upright too (--exif-boxes " + DECIDES_OTHERWISE
    )
    return Pictures(
        positions=np.array(list(good), np.int64),
        sizes=np.array([header.upright for header in good.values()], np.int32).reshape(-1, 2),
        turns=np.array([turns.get(position, 1) for position in good], np.int64),
        errors=errors,
        notes=(note,) if turned else (),
    )


def _read_header(path: str) -> PictureHeader | DataError:
    try:
        return read_header(path)
    except DataError as error:
        return error


def _drawn_as_stored(header: PictureHeader, stated: Size | None) -> bool | None:
    """None where the stated size does not tell."""
    return None if stated is None or header.upright == header.stored else stated == header.stored


def turn_boxes(
    boxes: npt.NDArray[np.float64], turns: npt.NDArray[np.int64], sizes: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Boxes [T, 4] xyxy of the pixels as stored -> those of the pictures upright.

    ``turns`` [T]: EXIF orientations; ``sizes`` [T, 2]: (height, width), upright.
    """
    turned: npt.NDArray[np.float64] = boxes.copy()
    for orientation in set(turns.tolist()) - {1}:
        swaps, flips_x, flips_y = ORIENTATIONS[orientation]
        rows = turns == orientation
        x0, y0, x1, y1 = boxes[rows].T[[1, 0, 3, 2] if swaps else [0, 1, 2, 3]]
        height, width = sizes[rows].T
        if flips_x:
            x0, x1 = width - x1, width - x0
        if flips_y:
            y0, y1 = height - y1, height - y0
        turned[rows] = np.stack([x0, y0, x1, y1], axis=1)
    return turned


def stored_sizes(sizes: npt.NDArray[np.int32], turns: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Upright sizes [T, 2] (height, width) -> those of the pixels that boxes were drawn on; ``turns`` as above."""
    swapped = np.isin(turns, [orientation for orientation, (swaps, *_) in ORIENTATIONS.items() if swaps])
    return np.where(swapped[:, None], sizes[:, ::-1], sizes)
