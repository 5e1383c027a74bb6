"""A run from its options to its summary: ``train`` begins one, ``resume`` goes on with one."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ssdlite.console import print_line
from ssdlite.datasets.loading import DataSplits
from ssdlite.device import Processes, choose_device, join_processes
from ssdlite.errors import DataError
from ssdlite.training.callbacks import Callback, CallbackList, build_loggers
from ssdlite.training.decide import Decision, decide, evaluation_interval
from ssdlite.training.duration import fit_epochs
from ssdlite.training.finetune import build_freezing, reestimate_norms, score_untrained
from ssdlite.training.head_transfer import TransferReport, print_transfer
from ssdlite.training.options import TrainOptions
from ssdlite.training.pseudo_labels import find_unlabelled, label_pictures, with_labeled_pictures
from ssdlite.training.run_folder import Description, RunFolder
from ssdlite.training.setup import (
    RunStart,
    build_for_run,
    claim_folder,
    continue_run,
    identify_data,
    load_splits,
    require_teacher_fits,
    start_run,
)
from ssdlite.training.sources import read_teacher, read_weights
from ssdlite.training.trainer import Trainer

LOG_WIDTH = 100  # columns


def train(options: TrainOptions, *, remark: str | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Begin a run as ``options`` say and return what ``summary.json`` holds.

    Args:
        remark: of the caller, which is printed once training begins.
        callbacks: who is told of steps, epochs and checkpoints, beside the logger of ``options.run.logger``.

    Raises:
        SsdliteError: the options, the data or a checkpoint cannot be used, or the loss is no longer finite.
    """
    with join_processes(options.system.device) as processes:
        followers = _followers(options, callbacks, processes)
        folder = claim_folder(options, processes)
        unlabelled = find_unlabelled(options)
        source, teacher = read_weights(options), read_teacher(options)
        splits = load_splits(options, processes)
        if teacher is not None:
            require_teacher_fits(teacher, splits.train, options)
            if unlabelled is not None:
                label_pictures(unlabelled, splits, teacher, options, folder=folder.path, processes=processes)
                splits = with_labeled_pictures(splits, options, folder.path)
        score = partial(score_untrained, index=splits.train, options=options, processes=processes)
        decided = decide(options, splits.train, source, score, processes.count)
        if processes.is_first:
            for decision in decided.decisions:
                print_line(f"decided {decision}")
        return _run(start_run(decided, folder, teacher), splits, processes, remark, followers)


def resume(
    folder: Path | str,
    options: TrainOptions | None = None,
    *,
    remark: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Go on with the run in ``folder``, and return what ``summary.json`` holds.

    Args:
        options: the run's own (``stored_options``) with those changed that may (``MAY_CHANGE_ON_RESUME``).
        remark, callbacks: as ``train`` takes them.

    Raises:
        SsdliteError: as ``train``; ConfigError where the options would make it another run.
    """
    run_folder = RunFolder(Path(folder))
    options = options or run_folder.description().options
    with join_processes(options.system.device) as processes:
        followers = _followers(options, callbacks, processes)
        start = continue_run(run_folder, options)
        splits = with_labeled_pictures(_load_again(options, processes), options, run_folder.path)
        return _run(start, splits, processes, remark, followers)


def _followers(options: TrainOptions, callbacks: Sequence[Callback], processes: Processes) -> CallbackList:
    """Who is told of the run; before anything is read, so that a logger that is not installed is soon seen."""
    return CallbackList([*build_loggers(options.run.logger), *callbacks] if processes.is_first else [])


def _load_again(options: TrainOptions, processes: Processes) -> DataSplits:
    """The data of a run that is resumed; where they are gone, the error says how to name their new place."""
    try:
        return load_splits(options, processes)
    except DataError as error:
        if Path(options.dataset.data).exists():
            raise
        raise DataError(f"{error}; where the data of the run have moved, --data NEWPLACE names them") from None


def _run(
    start: RunStart, splits: DataSplits, processes: Processes, remark: str | None, followers: CallbackList
) -> dict[str, Any]:
    options, decisions = start.options, start.decisions
    torch.manual_seed(options.run.seed)
    detector, report = build_for_run(start, splits.train)
    data = identify_data(splits, start)
    if report is not None and options.start.batch_norm_mode == "reestimate":
        reestimate_norms(detector.to(choose_device(options.system.device)), splits.train, options, report)
    if start.seconds is not None:
        copied = copy.deepcopy(detector)
        freezing = build_freezing(copied, options.start, report, None)
        trial = Trainer(copied, splits, options, start.folder, processes, freezing=freezing, teacher=start.teacher)
        options, length = _fit_to_time(start.seconds, trial)
        decisions = (*decisions, length)
    freezing = build_freezing(detector, options.start, report, start.state)
    known_classes = () if report is None else report.kept_classes
    trainer = Trainer(
        detector,
        splits,
        options,
        start.folder,
        processes,
        freezing=freezing,
        teacher=start.teacher,
        followers=followers,
        known_classes=known_classes,
    )
    if start.checkpoint is not None and start.state is not None:
        trainer.restore(start.checkpoint, start.state)
    if processes.is_first:
        identity = start.source_sha256, data, decisions, start.teacher_sha256
        start.folder.describe(Description(options, detector.config, *identity))
        start.folder.log(_log_of_start(splits, decisions, report, trainer))
    try:
        if processes.is_first:
            trainer.introduce()
            if remark is not None:
                print_line(remark)
        return trainer.run()
    except KeyboardInterrupt:
        print_line(f"stopped; ssdlite train --resume {start.folder.path} continues after epoch {trainer.saved_epoch}")
        raise


def _log_of_start(
    splits: DataSplits, decisions: Sequence[Decision], report: TransferReport | None, trainer: Trainer
) -> str:
    """All that is known of the data, the weights and the settings; what is printed is the least that a person needs."""
    log = io.StringIO()
    to = Console(file=log, width=LOG_WIDTH, highlight=False)
    for line in (*splits.notes, *(f"decided {decision}" for decision in decisions)):
        print_line(line, to)
    if report is not None:
        print_transfer(report, to)
    for line in trainer.details():
        print_line(line, to)
    return log.getvalue() + "\n"


def _fit_to_time(seconds: int, trial: Trainer) -> tuple[TrainOptions, Decision]:
    """The options with the epochs that fit into the time, ``trial`` being a copy of the one that is going to train."""
    options, random_state = trial.options, torch.get_rng_state()
    epochs = trial.processes.share(fit_epochs(seconds, trial))
    torch.set_rng_state(random_state)
    pictures = epochs * len(trial.batches) * trial.batches.batch_size
    reason = (
        f"with their evaluations what fits into {seconds} s; {pictures} pictures are seen; "
        "start-up, scoring of the start, and the report come on top"
    )
    decision = Decision("epochs", epochs, reason)
    if trial.processes.is_first:
        print_line(f"decided {decision}")
    interval = options.run.eval_interval or evaluation_interval(epochs)
    return options.override(epochs=epochs, eval_interval=interval), decision
