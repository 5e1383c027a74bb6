"""Training, read from top to bottom: ``Trainer.run`` goes over the epochs, scores and saves."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress, TaskID
from torch.utils.data import DataLoader

from ssdlite.checkpoint import Checkpoint, load_checkpoint
from ssdlite.console import Interval, format_figure, format_rate, print_line, print_metrics, training_progress
from ssdlite.datasets.dataset import Batch, DetectionDataset, PictureCache, ShuffledBatches, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import DataSplits
from ssdlite.datasets.split_checks import DIVIDED_TO_TRAIN
from ssdlite.datasets.transforms import DetectionTransform, build_mosaic
from ssdlite.datasets.workers import explained_worker_failures
from ssdlite.detector import Detector, require_finite
from ssdlite.device import Processes
from ssdlite.errors import CheckpointError, ConfigError, TrainingError
from ssdlite.evaluation.analysis.panels import draw_panels
from ssdlite.evaluation.analysis.report import PAGE_FILE, write_report
from ssdlite.evaluation.analysis.trained import TrainedWith
from ssdlite.evaluation.coco import Evaluator, Metrics
from ssdlite.evaluation.inference import detect_dataset, evaluate_dataset, refuse_bad
from ssdlite.files import counted, listing
from ssdlite.predictor import Predictor
from ssdlite.runtime.operating_points import operating_threshold
from ssdlite.training.callbacks import (
    Callback,
    CheckpointEvent,
    EndEvent,
    EpochEvent,
    StartEvent,
    StepEvent,
)
from ssdlite.training.decide import LEAST_GAIN
from ssdlite.training.finetune import Freezing
from ssdlite.training.options import TrainOptions
from ssdlite.training.run_folder import LOG_FILE, RunFolder
from ssdlite.training.state import RunProgress, TrainingState
from ssdlite.training.step import StepLosses, TrainingStep, learning_rate, set_learning_rate

STATUS_INTERVAL = 0.5  # seconds between updates of the progress bar: reading the loss makes a GPU wait
SAMPLE_COUNT = 8  # validation images in samples.jpg


class Trainer:
    """One run: a detector, its data, and the state that ``last.pt`` holds."""

    def __init__(
        self,
        detector: Detector,
        splits: DataSplits,
        options: TrainOptions,
        folder: RunFolder,
        processes: Processes,
        *,
        freezing: Freezing,
        teacher: Checkpoint | None = None,
        followers: Callback | None = None,
        known_classes: Sequence[str] = (),
    ) -> None:
        """``known_classes``: of those to be learned, the ones that the detector finds before it is trained."""
        self.options, self.folder, self.processes, self.splits = options, folder, processes, splits
        self.known_classes = known_classes
        self.freezing = freezing
        self.followers = followers or Callback()
        self.step = TrainingStep(detector, options, teacher=teacher)
        self.detector = self.step.detector
        config = detector.config
        transform = DetectionTransform(config.input.size, config.input.resize, options.settings.augment)
        mosaic = build_mosaic(transform, options.settings.mosaic, options.settings.epochs)
        reduce_to = config.input.size if options.augmentation.reduced_decoding else None
        cache = PictureCache(splits.train.sizes) if options.system.cache else None
        self.dataset = DetectionDataset(
            splits.train, transform, options.run.seed, mosaic=mosaic, reduce_to=reduce_to, cache=cache
        )
        self.batches = ShuffledBatches(
            len(splits.train),
            options.settings.batch_size,
            seed=options.run.seed,
            rank=processes.rank,
            processes=processes.count,
        )
        _require_full_batches(splits.train, self.batches.batch_size, processes.count, options.dataset.overfit)
        if processes.count > 1:
            self.step.share_gradients()
        self.progress = training_progress(processes.is_first)
        self.done = RunProgress()
        self.saved_epoch = 0  # the one that last.pt is of
        self.history: list[dict[str, Any]] = []
        self.best: tuple[Evaluator, Metrics] | None = None  # of best.pt, where this process has scored it

    def introduce(self) -> None:
        """Say what is going to be trained, and where it will be found."""
        config, options = self.detector.config, self.options
        keeps_shape = options.start.detector_weights is not None and options.detector.preset is None
        shape = f"the detector of {options.start.weights}" if keeps_shape else options.preset_name
        known = f" (known to it: {listing(self.known_classes)})" if self.known_classes else ""
        print_line(
            f"{shape}: {config.input.size[1]} x {config.input.size[0]} px, "
            f"{counted(config.num_classes, 'class')}{known}; "
            f"{counted(options.settings.epochs, 'epoch')} of {counted(len(self.batches), 'step')} on {self.step.device}"
        )
        print_line(f"run folder: {self.folder.path} ({LOG_FILE} there says more)")
        if self.done.epoch:
            print_line(f"resuming after epoch {self.done.epoch}" + self._why_complete())

    def details(self) -> Iterator[str]:
        """Lines on how it is trained, for those who want to know."""
        config, options = self.detector.config, self.options
        precision = "float32" if self.step.amp is None else str(self.step.amp).removeprefix("torch.")
        yield (
            f"{config.num_anchors} anchors ({options.settings.anchors}) on maps from stride {config.strides[0]} on; "
            f"{self.step.device}, {precision}"
        )
        yield options.summary
        if options.start.has_weights:
            yield f"fine-tuning: {', '.join(self._fine_tuning())}"
        if self.step.guide is not None:
            weights = sum(one.numel() for one in self.step.guide.parameters())
            yield f"anchors chosen by a guide of {weights / 1e6:.2f} M weights, which training alone has"
        if self.step.distillation is not None:
            yield f"teacher: {options.distillation.teacher}, with the weight {self.step.distillation.weight:g}"
        if self.done.epoch:
            yield f"resuming after epoch {self.done.epoch}"

    def _why_complete(self) -> str:
        """Where no epoch is left to train, what trains longer."""
        if self.done.epoch < self.options.settings.epochs and not self._is_on_a_plateau():
            return ""
        best = shlex.quote(str(self.folder.best))
        return f": the run is complete, nothing is left to train; a new run goes on from it with --weights {best}"

    def _fine_tuning(self) -> Iterator[str]:
        options = self.options
        if options.start.freeze_stages:
            frozen = sum(p.numel() for p in self.detector.parameters() if not p.requires_grad)
            yield f"{counted(options.start.freeze_stages, 'stage')} frozen ({frozen / 1e6:.2f} M weights)"
        if options.backbone_lr_factor != 1:
            yield f"backbone at {options.backbone_lr_factor:g} of the learning rate"
        yield f"batch norm: {options.start.batch_norm_mode}"

    def build_loader(self) -> DataLoader[Batch]:
        workers = self.options.system.workers
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=self.batches,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=self.step.device.type == "cuda",
            generator=torch.Generator(),  # the loader's own draws must not touch the global one
        )

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left, saving after each, and finish the run folder."""
        options, first = self.options, self.processes.is_first
        loader = self.build_loader()
        if self.known_classes and not self.history:
            self._score_start()
        self.followers.on_start(StartEvent(self.folder.path, options, tuple(self.history)))
        metrics = None
        with explained_worker_failures(), self.progress as progress:
            steps = len(self.batches) * options.settings.epochs
            task = progress.add_task("training", total=steps, rate="", figures="")
            progress.update(task, completed=self.done.epoch * len(self.batches))
            for epoch in self._epochs_left():
                started = time.perf_counter()
                row = self._train_epoch(epoch, loader, progress, task)
                self._require_finite_weights(epoch)
                self.done.epoch += 1
                is_last = self.done.epoch == options.settings.epochs
                is_due = is_last or self.done.epoch % (options.run.eval_interval or 1) == 0
                metrics = self._evaluate() if is_due else None
                self.done.seconds += time.perf_counter() - started
                self._finish_epoch(row, metrics)
            metrics = metrics or self._evaluate()
        if first and self.done.epoch < options.settings.epochs:
            evaluations = counted(options.run.patience or 0, "evaluation")
            print_line(f"no {LEAST_GAIN:g} more AP in {evaluations}: training ends here")
        return self._finish(metrics)

    def _score_start(self) -> None:
        """What was there before any training is the first candidate for best.pt, as epoch 0."""
        with explained_worker_failures(), self.progress:
            started = time.perf_counter()
            metrics = self._evaluate()
            self.done.seconds += time.perf_counter() - started
        self._save({"epoch": 0}, metrics)
        if self.processes.is_first:
            print_line(f"as it starts  {_scores(metrics)}  {self.done.seconds:.0f} s")

    def _epochs_left(self) -> Iterator[int]:
        while self.done.epoch < self.options.settings.epochs and not self._is_on_a_plateau():
            yield self.done.epoch

    def _is_on_a_plateau(self) -> bool:
        """Whether the last evaluations, as many as ``--patience`` says, have brought hardly any more AP."""
        patience = self.options.run.patience or 0
        scores = [row["AP"] or 0.0 for row in self.history if "AP" in row]
        return 0 < patience < len(scores) and max(scores[-patience:]) < max(scores[:-patience]) + LEAST_GAIN

    def _train_epoch(self, epoch: int, loader: DataLoader[Batch], progress: Progress, task: TaskID) -> dict[str, Any]:
        """One pass over the training images; returns the epoch's line for metrics.jsonl."""
        self.dataset.set_epoch(epoch)
        self.batches.epoch = epoch
        self.step.model.train()
        self.freezing.apply()
        steps, total = len(self.batches), len(self.batches) * self.options.settings.epochs
        sums = torch.zeros(len(StepLosses._fields), device=self.step.device)
        started, images, due = time.perf_counter(), 0, Interval(STATUS_INTERVAL)
        progress.update(task, description=f"epoch {epoch + 1}/{self.options.settings.epochs}", rate="", figures="")
        for step, (batch, losses) in enumerate(self._steps(epoch, loader)):
            sums += torch.stack(losses).detach()
            images += len(batch) * self.processes.count
            self._tell_step(epoch * steps + step, losses)
            if not progress.disable and due.is_due():
                lr = learning_rate(epoch * steps + step, total, self.options)
                progress.update(
                    task,
                    completed=epoch * steps + step + 1,
                    rate=format_rate(images / (time.perf_counter() - started)),
                    figures=f"loss {losses.total.item():.3f}  lr {lr:.1e}",
                )
        progress.update(task, completed=(epoch + 1) * steps)
        rate = images / max(time.perf_counter() - started, 1e-9)
        self.done.images_seen += images
        loss, class_loss, box_loss, distribution_loss, distilled, guided = (sums / max(steps, 1)).tolist()
        return {
            "epoch": epoch + 1,
            "loss": loss,
            "class_loss": class_loss,
            "box_loss": box_loss,
            **({"distribution_loss": distribution_loss} if self.detector.config.head.bins else {}),
            **({} if self.step.distillation is None else {"distillation_loss": distilled}),
            **({} if self.step.guide is None else {"guide_loss": guided}),
            "lr": learning_rate((epoch + 1) * steps - 1, total, self.options),
            "images_per_second": round(rate, 2),
        }

    def _tell_step(self, step: int, losses: StepLosses) -> None:
        """``step``: of the whole run, from 0."""
        steps, total = len(self.batches), len(self.batches) * self.options.settings.epochs
        loss, class_loss, box_loss = (losses.total.detach(), losses.classification.detach(), losses.box.detach())
        lr = learning_rate(step, total, self.options)
        self.followers.on_step(StepEvent(step // steps + 1, step + 1, total, lr, loss, class_loss, box_loss))

    def _steps(self, epoch: int, loader: DataLoader[Batch]) -> Iterator[tuple[Batch, StepLosses]]:
        """Take the optimiser's steps of an epoch. A loss is looked at once the next step is under way.

        Looking at it at once would make a GPU wait for the host at every step.
        """
        steps, total = len(self.batches), len(self.batches) * self.options.settings.epochs
        pending: tuple[Batch, StepLosses, int] | None = None
        for step, batch in enumerate(loader):
            refuse_bad(batch.bad, self.options.dataset.skip_bad)
            self.done.skipped_images += len(batch.bad)
            if len(batch) < 2:  # too few for batch norm
                if self.processes.count > 1:
                    raise TrainingError("nearly all images of a process's batch are unreadable; correct the data first")
                continue
            set_learning_rate(self.step.optimizer, learning_rate(epoch * steps + step, total, self.options))
            self.step.progress = (epoch * steps + step) / total
            losses = self.step(batch.images, batch.boxes, batch.labels)
            if pending is not None:
                self._require_finite(*pending)
            pending = batch, losses, step
            yield batch, losses
        if pending is not None:
            self._require_finite(*pending)

    def _require_finite(self, batch: Batch, losses: StepLosses, step: int) -> None:
        if bool(torch.isfinite(losses.total)):
            return
        paths = ", ".join(self.splits.train.paths[position] for position in batch.positions)
        raise TrainingError(
            f"the loss is {losses.total.item()} at step {step + 1} of epoch {self.done.epoch + 1} "
            f"(classification {losses.classification.item()}, boxes {losses.box.item()}); "
            f"try a lower --lr than {self.options.peak_lr:g}. Images of the batch: {paths}"
        )

    def _require_finite_weights(self, epoch: int) -> None:
        """The last step of an epoch may have broken them; they are neither scored nor saved."""
        try:
            require_finite(self.detector.state_dict(), "the detector")
        except CheckpointError as error:
            raise TrainingError(
                f"epoch {epoch + 1} ended with weights that cannot be used: {error}; "
                f"try a lower --lr than {self.options.peak_lr:g}"
            ) from None

    def _evaluate(self) -> Metrics:
        """Score the evaluated weights on the validation split, each process its share of the images.

        In float32, as they will be used, and as ``ssdlite eval`` does.
        """
        self.processes.synchronise(self.step.evaluated)
        self.evaluator = self._detect(self.step.evaluated)
        return self.evaluator.compute()

    def _detect(self, detector: Detector) -> Evaluator:
        """What it finds in the validation split, in all processes."""
        share = range(self.processes.rank, len(self.splits.val), self.processes.count)
        task = self.progress.add_task("validating", total=len(share), rate="", figures="")
        evaluation = evaluate_dataset(
            Predictor(detector),
            self.splits.val,
            self.processes,
            batch_size=self.options.settings.batch_size,
            workers=self.options.system.workers,
            skip_bad=self.options.dataset.skip_bad,
            on_image=lambda: self.progress.advance(task),
        )
        self.progress.remove_task(task)
        return evaluation.evaluator

    def _finish_epoch(self, row: dict[str, Any], metrics: Metrics | None) -> None:
        is_best = self._save(row, metrics)
        if not self.processes.is_first:
            return
        self.followers.on_epoch(EpochEvent(self.done.epoch, self.options.settings.epochs, row, metrics))
        self.followers.on_checkpoint(CheckpointEvent(self.done.epoch, self.folder.last, is_best))
        scores = "" if metrics is None else f"  {_scores(metrics)}"
        print_line(
            f"epoch {row['epoch']}/{self.options.settings.epochs}  loss {row['loss']:.3f}{scores}  "
            f"{format_rate(row['images_per_second'])}  {row['seconds']:.0f} s"
        )

    def _save(self, row: dict[str, Any], metrics: Metrics | None) -> bool:
        """Add what is common to all of them to an epoch's line, and save it. Says whether it is the best so far."""
        row |= {"images_seen": self.done.images_seen, "seconds": round(self.done.seconds, 2)}
        if metrics is not None:
            row |= {name: metrics.figures()[name] for name in ("AP", "AP50", "AP75")}
        self.history.append(row)
        ap = -1.0 if metrics is None else (metrics.AP or 0.0)
        is_best = metrics is not None and ap >= self.done.best_ap
        self.done.best_ap = max(self.done.best_ap, ap)
        if is_best and metrics is not None:
            self.best = self.evaluator, metrics
        if self.processes.is_first:
            self.folder.save_epoch(self._checkpoint(metrics), self.history, is_best)
            self.saved_epoch = self.done.epoch
        return is_best

    def _checkpoint(self, metrics: Metrics | None) -> Checkpoint:
        return Checkpoint(
            config=self.detector.config,
            weights=self.step.evaluated.state_dict(),
            metrics={} if metrics is None else metrics.to_dict(),
            training={
                "options": self.options.to_dict(),
                "frozen_norms": list(self.freezing.norm_layers),
                "progress": msgspec.structs.asdict(self.done),
                "history": self.history,
                **self.step.state(),
            },
        )

    def restore(self, checkpoint: Checkpoint, state: TrainingState) -> None:
        """Continue where ``checkpoint`` was written: everything random depends on (seed, epoch) and needs no state."""
        self.step.restore(checkpoint, state)
        self.done, self.history = state.progress, state.history
        self.saved_epoch = self.done.epoch

    def _finish(self, metrics: Metrics) -> dict[str, Any]:
        summary: dict[str, Any] = {
            **metrics.figures(),
            "per_class": metrics.to_dict()["per_class"],
            "operating_points": metrics.to_dict()["operating_points"],
            "images_seen": self.done.images_seen,
            "seconds": round(self.done.seconds, 2),
            "epochs": self.done.epoch,
            "skipped_images": self.done.skipped_images,
            "output": str(self.folder.path),
        }
        if self.options.run.report:
            self._report()
        if self.processes.is_first:
            which, shown = ("last epoch", metrics) if self.best is None else ("best.pt", self.best[1])
            self.folder.finish(summary, self.history, self._draw_samples(shown))
            self.followers.on_end(EndEvent(self.folder.path, summary))
            print_metrics(f"{self.splits.val.name}, {which}", shown.to_dict())
            best = max(self.history, key=lambda row: (row.get("AP") or -1.0, row["epoch"]))
            which = "" if best["epoch"] else ", the detector as it started: training has not improved it"
            print_line(f"best.pt: epoch {best['epoch']}, AP {format_figure(best.get('AP'))}{which}")
            print_line(f"run folder: {self.folder.path} (best.pt, last.pt, samples.jpg, curves.png)")
            if self.options.run.report:
                print_line(f"what to do next, in pictures: {self.folder.path / PAGE_FILE}")
            run = shlex.quote(str(self.folder.path))
            if (test := self.splits.find_test()) is not None:
                print_line(f"to score it on what it has not seen: ssdlite eval {run} --split {test}")
            print_line(f"to use it: ssdlite predict PICTURES --weights {run}")
            print_line(f"to put it on a phone: ssdlite export {run}")
        return summary

    def _report(self) -> None:
        """On best.pt, which is scored again where an earlier process has scored it. Every process takes its share."""
        if self.best is None:
            detector = load_checkpoint(self.folder.best).build_detector().to(self.step.device).eval()
            evaluator = self._detect(detector)
            self.best = evaluator, evaluator.compute()
        if self.processes.is_first:
            trained = TrainedWith.of(self.detector.config, self.options.to_dict(), self.history)
            with self.folder.finishing():
                write_report(self.folder.path, *self.best, self.folder.best, trained)

    def _draw_samples(self, metrics: Metrics) -> npt.NDArray[np.uint8] | None:
        index = self.splits.val
        positions = list(range(0, len(index), max(len(index) // SAMPLE_COUNT, 1)))[:SAMPLE_COUNT]
        found = dict(detect_dataset(Predictor(self.step.evaluated), index, positions=positions, skip_bad=True))
        threshold, _ = operating_threshold(metrics.operating_points)
        return draw_panels(index, found, threshold) if found else None


def _scores(metrics: Metrics) -> str:
    return f"AP {format_figure(metrics.AP)}  AP50 {format_figure(metrics.AP50)}"


def _require_full_batches(train: DetectionIndex, batch_size: int, processes: int, overfit: int | None) -> None:
    """Raises ConfigError where a process gets less than two images at a time, naming what is too small."""
    least = 2 * processes
    if batch_size >= least:
        return
    remedy = f"use --batch-size {least} or more"
    if overfit is not None and overfit < least:
        remedy = f"use --overfit {least} or more"
    elif len(train) < least:
        remedy = f"{train.name} has {counted(len(train), 'image')}: add pictures"
        if train.name.endswith(DIVIDED_TO_TRAIN):
            split = train.name.removesuffix(DIVIDED_TO_TRAIN).rpartition("/")[2]
            remedy += f", or train and validate on all of them with --val-split {split}"
    raise ConfigError(
        f"batch norm needs at least 2 images in each process's batch, got batches of {counted(batch_size, 'image')} "
        f"for {counted(processes, 'process')}: {remedy}"
    )
