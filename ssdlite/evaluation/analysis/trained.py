"""What is known of how a detector was made and trained, so that no advice asks for what it has already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssdlite.config import DetectorConfig
from ssdlite.files import counted

STILL_RISING = 0.01  # of AP, that the last quarter of the evaluations gained
LEAST_EVALUATIONS = 4  # to say of it that it rises
FEW_SEEN = 5_000  # pictures, each epoch's again


class ScoredEpoch(NamedTuple):
    """A line of metrics.jsonl with figures; ``images_seen`` is 0 where it is not known."""

    epoch: int
    AP: float
    images_seen: int


@dataclass(frozen=True)
class TrainedWith:
    """Settings of a detector and its run; None, or empty, where nothing says.

    Attributes:
        image_size: the longer side of the input in pixels.
        finest_stride: of the finest feature map, in pixels.
        evaluations: of the run, in the order of their epochs.
    """

    image_size: int | None = None
    finest_stride: int | None = None
    nms_threshold: float | None = None
    box_loss: str | None = None
    evaluations: tuple[ScoredEpoch, ...] = ()

    @staticmethod
    def of(
        config: DetectorConfig, options: Mapping[str, Any] | None = None, history: Iterable[Mapping[str, Any]] = ()
    ) -> TrainedWith:
        """Of a checkpoint's parts: its options of training, by part or flat, and the lines of metrics.jsonl.

        Whatever of these is not as training writes it counts as not known.
        """
        return TrainedWith(
            image_size=max(config.input.size),
            finest_stride=config.strides[0],
            nms_threshold=config.postprocess.nms_threshold,
            box_loss=_option(options or {}, "box_loss"),
            evaluations=tuple(one for line in history if (one := _evaluation(line)) is not None),
        )

    @property
    def is_short(self) -> bool:
        """Whether the run saw so few pictures that the detector has hardly learned, and was no worse at the end."""
        seen = self.evaluations[-1].images_seen if self.evaluations else 0
        return 0 < seen < FEW_SEEN and not self._has_passed_its_best

    @property
    def ended_early(self) -> str | None:
        """That a longer training would help, by the figures that say so; None where they do not."""
        if self.is_short:
            last = self.evaluations[-1]
            return (
                f"training was short, {counted(last.epoch, 'epoch')} with {last.images_seen} pictures in all: train "
                "longer; without --epochs, --time and --recipe the length is decided from the data"
            )
        count = len(self.evaluations)
        if count < LEAST_EVALUATIONS:
            return None
        best = max(self.evaluations[: count * 3 // 4], key=lambda one: one.AP)
        last = self.evaluations[-1]
        if last.AP - best.AP < STILL_RISING:
            return None
        return (
            f"AP still grew at the end, from {best.AP:.3f} after epoch {best.epoch} to {last.AP:.3f}: train longer, "
            f"with --epochs {2 * last.epoch}"
        )

    @property
    def _has_passed_its_best(self) -> bool:
        return max(one.AP for one in self.evaluations) > self.evaluations[-1].AP


def _option(options: Mapping[str, Any], name: str) -> str | None:
    tables = [options, *(part for part in options.values() if isinstance(part, Mapping))]
    value = next((table[name] for table in tables if name in table), None)
    return value if isinstance(value, str) else None


def _evaluation(line: Mapping[str, Any]) -> ScoredEpoch | None:
    epoch, ap, seen = (line.get(name) for name in ("epoch", "AP", "images_seen"))
    if not isinstance(epoch, int) or not isinstance(ap, int | float):
        return None
    return ScoredEpoch(epoch, float(ap), seen if isinstance(seen, int) else 0)
