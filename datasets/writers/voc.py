"""Pascal VOC's XML files, one a picture, as annotation tools write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from ssdlite.datasets.writers.base import LabeledPicture, LabelWriter, plain_number, with_ending, write_label_file

TOOLS_DATABASE = "Unknown"  # as LabelImg writes it: corners are positions from 0, not VOC's pixels from 1
PICTURE_FOLDER = "JPEGImages"
PER_CLASS_ENDING = re.compile(r"\s+(?=(-1|0|1)$)")  # in a list of pictures, "photo 1" says that photo has the class


class VocWriter(LabelWriter):
    """``Annotations/``, ``JPEGImages/`` and the splits as ``ImageSets/Main/SPLIT.txt``; one flat folder for all."""

    name = "Pascal VOC"
    keeps_ignored = True
    keeps_class_list = False

    def picture_folder(self, split: str) -> str:
        return PICTURE_FOLDER

    def picture_name(self, below: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(PER_CLASS_ENDING.sub("_", below.stem) + below.suffix)

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        stems = []
        for picture in pictures:
            stems.append(PurePosixPath(picture.file).stem)
            write_label_file(
                root / "Annotations" / f"{stems[-1]}.xml", _annotation(picture, PICTURE_FOLDER, class_names)
            )
        write_label_file(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        """Each file has all of it."""

    def label_file(self, picture: str) -> str:
        return with_ending(picture, ".xml")

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        for picture in pictures:
            text = _annotation(picture, PurePosixPath(picture.file).parent.name, class_names)
            write_label_file(folder / self.label_file(picture.file), text)


def _annotation(picture: LabeledPicture, folder: str, class_names: Sequence[str]) -> str:
    height, width = picture.size
    file_name = PurePosixPath(picture.file).name
    return "\n".join(
        [
            "<annotation>",
            f"\t<folder>{escape(folder)}</folder>",
            f"\t<filename>{escape(file_name)}</filename>",
            f"\t<source><database>{TOOLS_DATABASE}</database></source>",
            f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
            "\t<segmented>0</segmented>",
            *_objects(picture, class_names),
            "</annotation>\n",
        ]
    )


def _objects(picture: LabeledPicture, class_names: Sequence[str]) -> Iterator[str]:
    for position, (box, label) in enumerate(zip(picture.boxes, picture.labels, strict=True)):
        difficult = int(bool(picture.ignore and picture.ignore[position]))
        corners = zip(("xmin", "ymin", "xmax", "ymax"), map(plain_number, box), strict=True)
        yield "\t<object>"
        yield f"\t\t<name>{escape(class_names[label])}</name>"
        yield f"\t\t<pose>Unspecified</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        yield f"\t\t<bndbox>{''.join(f'<{name}>{value}</{name}>' for name, value in corners)}</bndbox>"
        yield "\t</object>"
