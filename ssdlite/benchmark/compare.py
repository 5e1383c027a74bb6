"""Candidates side by side: every combination of threads and batch size, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdlite.benchmark.candidates import Candidate
from ssdlite.benchmark.memory import peak_memory
from ssdlite.benchmark.stages import Pipeline, StageTimes
from ssdlite.benchmark.timing import take_turns

if TYPE_CHECKING:
    from ssdlite.export.measure import Accuracy


class Load(NamedTuple):
    """How a detector is used."""

    threads: int
    batch_size: int


@dataclass(frozen=True)
class Row:
    """What one candidate costs under one load; times are milliseconds a picture.

    Attributes:
        stages: the median of each stage by its name.
        minimum, median, p95: of the sum of the stages.
        memory: peak resident MB of a process that does nothing else.
        accuracy: on the data that were given.
    """

    name: str
    load: Load
    stages: dict[str, float]
    minimum: float
    median: float
    p95: float
    megabytes: float
    memory: float | None = None
    accuracy: Accuracy | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        load, accuracy = values.pop("load"), values.pop("accuracy")
        return {**values, **load._asdict(), **({} if accuracy is None else accuracy._asdict())}


def compare(
    candidates: Sequence[Candidate],
    pictures: Sequence[Path],
    loads: Iterable[Load],
    *,
    runs: int,
    device: str = "cpu",
    memory: bool = True,
    on_load: Callable[[Load], object] = lambda load: None,
) -> Iterator[Row]:
    """Rows of all candidates for each load in turn; ``on_load`` is called before each.

    Raises:
        CheckpointError, ContractError, ConfigError: a candidate cannot be loaded or run, or fewer than 1 run.
        DataError: a picture cannot be read.
    """
    for load in loads:
        on_load(load)
        pipelines = {
            candidate: Pipeline(
                candidate.load(threads=load.threads, device=device),
                pictures,
                batch_size=load.batch_size,
                threads=load.threads,
            )
            for candidate in candidates
        }
        for candidate, times in take_turns(pipelines, runs).items():
            row = summarise(candidate, load, times)
            if memory:
                peak = peak_memory(candidate, pictures, batch_size=load.batch_size, threads=load.threads)
                row = replace(row, memory=peak)
            yield row


def summarise(candidate: Candidate, load: Load, times: Sequence[StageTimes]) -> Row:
    totals = sorted(one.total for one in times)
    stages = {name: statistics.median(getattr(one, name) for one in times) for name in StageTimes._fields}
    return Row(
        name=candidate.name,
        load=load,
        stages=stages,
        minimum=totals[0],
        median=statistics.median(totals),
        p95=percentile(totals, 0.95),
        megabytes=candidate.megabytes,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ``ordered`` values that at least ``share`` of them do not exceed (the nearest rank)."""
    rank = -(-len(ordered) * share // 1)
    return ordered[max(int(rank), 1) - 1]
