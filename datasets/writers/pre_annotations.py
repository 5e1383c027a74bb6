"""What a detector found in pictures, as label files for tools in which people correct it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdlite.datasets.writers import LABEL_WRITERS
from ssdlite.datasets.writers.base import LabeledPicture, below_common_folder, is_writable, require_class_names
from ssdlite.errors import ConfigError, quote


class PreAnnotations:
    """The label files of pictures, named as these are below the folder that holds them all.

    Args:
        to: one of ``LABEL_WRITERS``.
        pictures: the files in which is detected.
        model: the detector's name.

    Raises:
        ConfigError: two pictures would have one label file, or a name cannot be written.
        DataError: the name of a class cannot be written.
    """

    def __init__(self, to: str, pictures: Sequence[Path], class_names: Sequence[str], model: str) -> None:
        self._writer = LABEL_WRITERS[to]
        self._class_names = class_names
        self._model = model
        require_class_names(class_names, model)
        self._names = {
            str(path): below.as_posix() for path, below in zip(pictures, below_common_folder(pictures), strict=True)
        }
        owners: dict[str, str] = {}
        for path, name in self._names.items():
            if not is_writable(name):
                raise ConfigError(f"--labels {to}: expected names without control characters, got {quote(path)}")
            label = self._writer.label_file(name)
            if label is not None and (other := owners.setdefault(label.casefold(), path)) != path:
                raise ConfigError(f"--labels {to}: {other} and {path} would have the same label file, {label}")

    def write(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        """``entries`` as in ``detections.json``; those of videos are passed over."""
        self._writer.write_labels(folder, self._pictures(entries), self._class_names, self._model)

    def _pictures(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[LabeledPicture]:
        for entry in entries:
            if entry["file"] in self._names and "detections" in entry:
                found = entry["detections"]
                yield LabeledPicture(
                    self._names[entry["file"]],
                    (entry["height"], entry["width"]),
                    [tuple(one["box"]) for one in found],
                    [one["label"] for one in found],
                    scores=[one["score"] for one in found],
                )
