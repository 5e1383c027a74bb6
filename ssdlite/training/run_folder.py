"""The files of a training run. ``last.pt`` is the one that counts: the others can be made again from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import msgspec

from ssdlite.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssdlite.config import DetectorConfig
from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import ConfigError, TrainingError
from ssdlite.files import counted, remove_forgotten, write_atomically, write_json, write_text, writing
from ssdlite.images.drawing import plot_curves
from ssdlite.images.geometry import ImageArray
from ssdlite.training.decide import Decision
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_config import read_description, run_path

LOG_FILE = "log.txt"


class SplitFingerprint(msgspec.Struct, frozen=True):
    """By which a split is known again: ``DetectionIndex.sha256``, and counts for people."""

    images: int
    objects: int
    sha256: str

    @classmethod
    def of(cls, index: DetectionIndex) -> SplitFingerprint:
        return cls(len(index), len(index.labels), index.sha256())

    def __str__(self) -> str:
        return f"{counted(self.images, 'image')} with {counted(self.objects, 'object')}"


@dataclass(frozen=True)
class Description:
    """What ``config.json`` holds.

    Attributes:
        detector: that the options led to, with its anchors and class names.
        source_sha256: of the tensors that the run started from, where its options name weights.
        data: of the splits "train" and "val"; None in runs of earlier versions.
        decisions: which of the options were decided from the data, and why.
        teacher_sha256: of the teacher's tensors, where there is one.
    """

    options: TrainOptions
    detector: DetectorConfig
    source_sha256: str | None = None
    data: dict[str, SplitFingerprint] | None = None
    decisions: tuple[Decision, ...] = ()
    teacher_sha256: str | None = None


class RunFolder:
    """config.json, log.txt, metrics.jsonl (a line per epoch), summary.json, best.pt, last.pt, curves.png, samples.jpg,
    report.html and report.json."""

    def __init__(self, path: Path) -> None:
        """``path`` may also be that of the folder's last.pt, or of another file in it."""
        self.path = run_path(path)
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"

    def require_free(self) -> None:
        """Raise ConfigError where the folder holds a run already."""
        if self.last.exists():
            raise ConfigError(
                f"{self.path} holds a run already; continue it with --resume {self.path}, or name another --output"
            )

    def describe(self, description: Description) -> None:
        """Write config.json.

        Raises:
            ConfigError: the folder cannot be written.
        """
        content = {
            "options": description.options.to_dict(),
            "detector": description.detector.to_dict(),
            "source_sha256": description.source_sha256,
            "teacher_sha256": description.teacher_sha256,
            "data": msgspec.to_builtins(description.data),
            "decisions": [decision._asdict() for decision in description.decisions],
        }
        try:
            remove_forgotten(self.path)
            write_json(self.path / "config.json", content)
        except OSError as error:
            raise ConfigError(f"--output {self.path}: cannot be written ({error.strerror})") from None

    def log(self, text: str) -> None:
        """Add to log.txt. Raises ConfigError where it cannot be written."""
        file = self.path / LOG_FILE
        with writing(file):
            write_text(file, (file.read_text(errors="replace") if file.exists() else "") + text)

    def description(self) -> Description:
        """Read config.json. Raises ConfigError where there is none, or it is not ours."""
        options, content = read_description(self.path)
        source, teacher = (content.get(name) for name in ("source_sha256", "teacher_sha256"))
        try:
            data = msgspec.convert(content.get("data"), dict[str, SplitFingerprint] | None)
            decided = msgspec.convert(content.get("decisions", []), list[dict[str, Any]])
            decisions = tuple(Decision(**values) for values in decided)
        except (msgspec.ValidationError, TypeError) as error:
            raise ConfigError(f"{self.path / 'config.json'}: data or decisions: {error}") from None
        return Description(
            options,
            DetectorConfig.from_dict(content.get("detector")),
            source if isinstance(source, str) else None,
            data,
            decisions,
            teacher if isinstance(teacher, str) else None,
        )

    def load_last(self) -> Checkpoint | None:
        """The newest checkpoint; None where the run was stopped before its first."""
        return load_checkpoint(self.last) if self.last.exists() else None

    def save_epoch(self, checkpoint: Checkpoint, history: Sequence[dict[str, Any]], is_best: bool) -> None:
        """Write what an epoch leaves. ``last.pt`` comes last, so a run stopped in between just repeats the epoch.

        Raises:
            TrainingError: the disk is full, or does not take it for another reason; ``last.pt`` is as it was.
        """
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
        if len(history) > 1 and self.last.exists():
            kept = (
                f"{self.last.name} of epoch {history[-2]['epoch']} is kept; make room and --resume {self.path} goes on"
            )
        else:
            kept = f"no epoch is saved yet; make room and --resume {self.path} begins again"
        with self.keeping(kept):
            if is_best:
                options = {"options": checkpoint.training["options"]}
                save_checkpoint(replace(checkpoint, training=options), self.best)
            write_text(self.path / "metrics.jsonl", lines)
            save_checkpoint(checkpoint, self.last)

    def finish(self, summary: dict[str, Any], history: Sequence[dict[str, Any]], samples: ImageArray | None) -> None:
        """Write what a complete run leaves. Raises TrainingError where it cannot be written."""
        with self.finishing():
            plot_curves(history, self.path / "curves.png")
            if samples is not None:
                _, encoded = cv2.imencode(".jpg", samples[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
                write_atomically(self.path / "samples.jpg", lambda file: file.write(encoded.tobytes()))
            write_json(self.path / "summary.json", summary)

    def finishing(self) -> AbstractContextManager[None]:
        """Says of what cannot be written when all epochs are saved what is there, and how to get the rest."""
        files = f"{self.best.name} and {self.last.name}"
        return self.keeping(
            f"training is complete, {files} are kept; make room and --resume {self.path} writes the rest"
        )

    @contextmanager
    def keeping(self, kept: str) -> Iterator[None]:
        """Turn what the system says against writing into a TrainingError that ends with ``kept``."""
        try:
            yield
        except ConfigError as error:  # of ``ssdlite.files``, which names the file
            raise TrainingError(f"{error}; {kept}") from None
        except OSError as error:
            file = error.filename or self.path
            raise TrainingError(f"{file}: cannot be written ({error.strerror or error}); {kept}") from error
