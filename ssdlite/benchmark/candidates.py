"""Which detectors are compared: checkpoints, exported files, and every file of a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ssdlite.build import load_any
from ssdlite.images.prediction import DetectionModel
from ssdlite.runtime.files import is_exported, read_bundle


@dataclass(frozen=True)
class Candidate:
    """A file that detects; ``file`` is its name where ``path`` is a bundle."""

    path: Path
    file: str | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.file is None else f"{self.path.name}/{self.file}"

    @property
    def megabytes(self) -> float:
        """Of the file; of ncnn's two, that with the weights."""
        path = self.path if self.file is None else self.path / self.file
        weights = path.with_suffix(".bin")
        return (weights if path.suffix == ".param" and weights.is_file() else path).stat().st_size / 1e6

    def load(self, *, threads: int | None = None, device: str = "cpu") -> DetectionModel:
        """On ``device``, an exported file on the CPU. Raises what ``load_any`` does."""
        device = "cpu" if is_exported(self.path) else device
        return load_any(self.path, model=self.file, device=device, threads=threads)


def find_candidates(paths: Iterable[Path]) -> list[Candidate]:
    """A candidate for each file, and for each model of a bundle's contract.

    Raises:
        ContractError: a folder is no bundle.
    """
    candidates: list[Candidate] = []
    for path in paths:
        if path.is_dir():
            candidates += [Candidate(path, model.file) for model in read_bundle(path).models]
        else:
            candidates.append(Candidate(path))
    return candidates
