"""The training loop that every rank runs inside Ray Train.

Exactness. Order, frames and crops follow from (seed, epoch, video), dropout from (seed, step, rank), the learning
rate from the step. So a checkpoint is weights, optimizer state and a position, and the run that continues from it
takes the very steps the interrupted run would have taken.

Gradients are sums over sample weights divided by the global weight: padding and unreadable videos change nothing.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from stm.config import Config
from stm.data.plan import Position, mix, shares, step_of, steps_per_epoch
from stm.data.stream import ClipBatch, iterate
from stm.data.waiting import WaitMonitor
from stm.model import build_model, load_pretrained
from stm.train import checkpoint as checkpoints
from stm.train.optim import build_optimizer, learning_rate, weighted_loss_sum
from stm.train.step import autocast, normalise, usable_rows


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver tells every rank."""

    config: Config
    classes: list[str]
    dataset: str
    fingerprint: str
    num_videos: int
    """Usable rows of the training manifest."""
    num_val_videos: int
    """All rows of the validation manifest; the unreadable ones count as wrong."""
    board: Any = None
    """Progress board (an actor), or None."""
    mlflow_run_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def train_loop(settings: dict[str, Job]) -> dict[str, Any]:
    """Run one rank from its last checkpoint to the end.

    Returns ``{"stopped": reason}`` where going on makes no sense (a loss that is not finite, too many unreadable
    videos): every rank agrees on it, and Ray does not retry what would only happen again. Else ``{}``.
    """
    return _Rank(settings["job"]).run()


class _Rank:
    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(self._num_threads(context.get_local_world_size()))
        torch.manual_seed(self.config.train.seed)
        self.module = build_model(
            **checkpoints.model_arguments(self.config), num_classes=len(job.classes)
        )
        self.position, self.metrics = Position(), dict[str, float]()
        self.optimizer = self._restore()
        self.model: nn.Module = ray.train.torch.prepare_model(
            self.module,
            parallel_strategy_kwargs={"gradient_as_bucket_view": True}
            if self.world_size > 1
            else None,
        )
        self.autocast = autocast(self.config.train.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast.scale_gradients)
        if self._scaler_state:
            self.scaler.load_state_dict(self._scaler_state)
        self.steps_per_epoch = steps_per_epoch(job.num_videos, self.config.optim.batch_size)
        self.step = step_of(self.position, job.num_videos, self.config.optim.batch_size)
        self.window = _Window()
        self.history: list[dict[str, float]] = []
        self.failures: list[dict[str, str]] = []

    def _num_threads(self, local_world_size: int) -> int:
        if self.config.train.threads_per_worker:
            return self.config.train.threads_per_worker
        return (
            1 if self.device.type == "cuda" else max(1, (os.cpu_count() or 1) // local_world_size)
        )

    def _restore(self) -> torch.optim.Optimizer:
        """Load the last committed checkpoint, else the pretrained weights; the module is on the device after."""
        self._scaler_state: dict[str, Any] = {}
        found = ray.train.get_checkpoint()
        if found is None and self.config.model.pretrained:
            load_pretrained(self.module, self.config.model.pretrained)
        if found is None:
            self.module.to(self.device)
            return build_optimizer(self.module, self.config.optim)
        with found.as_directory() as directory:
            meta = checkpoints.read_meta(directory)
            self.module.load_state_dict(checkpoints.read_weights(directory))
            state = checkpoints.read_state(directory)
        self.module.to(self.device)
        optimizer = build_optimizer(self.module, self.config.optim)
        optimizer.load_state_dict(state["optimizer"])
        self._scaler_state = state.get("scaler", {})
        self.position, self.metrics = meta.position, meta.metrics
        return optimizer

    # ------------------------------------------------------------------ the epochs

    def run(self) -> dict[str, Any]:
        train_shard = ray.train.get_dataset_shard("train")
        self.val_shard = ray.train.get_dataset_shard("val") if self.job.num_val_videos else None
        self._post("start", step=self.step, epoch=self.position.epoch, world_size=self.world_size)
        config = self.config.train
        monitor = WaitMonitor(self._tell_waiting)
        batches = iterate(train_shard, self.config.data.prefetch_batches, monitor)
        waited_from = time.perf_counter()
        for batch in batches:
            self.window.wait_s += time.perf_counter() - waited_from
            self._check_order(batch)
            self._train_step(batch)
            epoch_ends = self.position.offset == 0
            if epoch_ends or self.step % config.log_every_steps == 0:
                stopped = self._flush()
                if stopped:
                    return {"stopped": stopped}
            if epoch_ends:
                self._end_epoch()
            elif config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0:
                stopped = self._flush()
                if stopped:
                    return {"stopped": stopped}
                self._save({"score": -1.0})
            waited_from = time.perf_counter()
        return {}

    def _check_order(self, batch: ClipBatch) -> None:
        expected = min(self.position.offset + self.config.optim.batch_size, self.job.num_videos)
        assert (batch.epoch, batch.offset_end) == (self.position.epoch, expected), (
            f"rank {self.rank} received the step ending at {(batch.epoch, batch.offset_end)}, "
            f"due was {(self.position.epoch, expected)}"
        )

    def _train_step(self, batch: ClipBatch) -> None:
        optim = self.config.optim
        started = time.perf_counter()
        torch.manual_seed(int(mix(self.config.train.seed, self.step, self.rank) >> np.uint64(1)))
        rate = learning_rate(optim, self.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rows = usable_rows(batch.weights)
        # A rank with nothing to learn from joins the collectives but leaves the statistics of BN alone.
        self.model.train(rows is not None)
        clips_NTCHW = normalise(
            batch.clips[:, 0] if rows is None else batch.clips[rows, 0], self.device
        )
        labels_N = torch.from_numpy(batch.labels.copy()).to(self.device)
        weights_N = torch.from_numpy(batch.weights.copy()).to(self.device)
        global_weight = weights_N.sum()
        if self.world_size > 1:
            dist.all_reduce(global_weight)
        with self.autocast.context():
            logits_NK = self.model(clips_NTCHW)
        loss_sum = weighted_loss_sum(logits_NK, labels_N, weights_N, optim.label_smoothing)
        # DDP averages over ranks; the sum over ranks is what the global mean needs.
        loss = loss_sum * (self.world_size / global_weight.clamp(min=1))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if optim.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), optim.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        with torch.no_grad():
            correct = ((logits_NK.argmax(1) == labels_N) * weights_N).sum()
            self.window.add(
                torch.stack(
                    [loss_sum.detach().double(), weights_N.sum().double(), correct.double()]
                )
            )
        self.window.videos.append(batch.videos)
        self.window.rates.append(rate)
        self.failures += batch.failures
        self.step += 1
        ended = batch.offset_end >= self.job.num_videos
        self.position = (
            Position(batch.epoch + 1, 0) if ended else Position(batch.epoch, batch.offset_end)
        )
        self.window.busy_s += time.perf_counter() - started

    # ------------------------------------------------------------------ what is said about it

    def _flush(self) -> str | None:
        """Sum the window's steps over all ranks, show and keep them; returns why to stop, or None."""
        window, self.window = self.window, _Window()
        if not window.sums:
            return None
        sums = torch.stack(window.sums)
        failed = torch.tensor(
            [[float(len(self.failures)), 0, 0]], dtype=sums.dtype, device=sums.device
        )
        table = torch.cat([sums, failed])
        if self.world_size > 1:
            dist.all_reduce(table)
        *steps, (num_failed, _, _) = table.tolist()
        first = self.step - len(steps)
        for i, (loss_sum, weight, correct) in enumerate(steps):
            weight = max(weight, 1.0)
            self.history.append(
                {
                    "step": first + i + 1,
                    "loss": loss_sum / weight,
                    "top1": correct / weight,
                    "lr": window.rates[i],
                }
            )
            if not math.isfinite(loss_sum):
                return self._name_videos(first + i + 1, window.videos[i])
        allowed = math.ceil(self.config.data.max_bad_fraction * self.job.num_videos)
        if num_failed > allowed:
            return self._name_failures(int(num_failed), allowed)
        total = time.perf_counter() - window.started
        self._post(
            "steps",
            step=self.step,
            epoch=self.position.epoch if self.position.offset else self.position.epoch - 1,
            step_in_epoch=(self.step - 1) % self.steps_per_epoch + 1,
            steps_per_epoch=self.steps_per_epoch,
            loss=self.history[-1]["loss"],
            mean_loss=sum(row[0] for row in steps) / max(sum(row[1] for row in steps), 1),
            lr=window.rates[-1],
            clips_per_s=sum(row[1] for row in steps) / total,
            wait_share=window.wait_s / max(window.wait_s + window.busy_s, 1e-9),
            memory_bytes=torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0,
        )
        return None

    def _name_videos(self, step: int, videos: np.ndarray) -> str:
        return (
            f"the loss of step {step} is not finite; rows of the training manifest in that batch: "
            f"{sorted(int(v) for v in np.concatenate(self._gather(videos)) if v >= 0)}. The last checkpoint is from "
            "before it: lower --optim.lr, or look at those videos"
        )

    def _name_failures(self, num_failed: int, allowed: int) -> str:
        failures = [failure for per_rank in self._gather(self.failures) for failure in per_rank]
        listed = "; ".join(f"{failure['path']} ({failure['reason']})" for failure in failures[:10])
        return (
            f"{num_failed} videos of epoch {self.position.epoch} could not be decoded, more than the {allowed} that "
            f"--data.max_bad_fraction {self.config.data.max_bad_fraction} allows: {listed}. "
            "Index again with `stm index`, or raise the fraction"
        )

    def _gather(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def _tell_waiting(self, waited_s: float) -> None:
        """Say which batch is missing, and what decoding has to work with."""
        share = next(
            itertools.islice(
                shares(
                    self.job.num_videos,
                    global_batch=self.config.optim.batch_size,
                    world_size=self.world_size,
                    seed=self.config.train.seed,
                    start=self.position,
                    num_epochs=self.config.optim.epochs,
                ),
                self.rank,
                None,
            )
        )
        free = ray.available_resources().get("CPU", 0)
        message = (
            f"rank {self.rank} has waited {waited_s:.0f} s for the clips of step {self.step + 1} (rows "
            f"{share.videos[share.videos >= 0].tolist()} of the usable training videos). Decoding tasks need "
            f"{self.config.data.cpus_per_task:g} CPU each; {free:g} CPU are free now: 0 means that decoding is "
            "starved or slow, more that storage is, or that nodes are still starting"
        )
        if self.job.board is not None:
            self.job.board.post.remote({"kind": "waiting", "message": message})

    def _post(self, kind: str, **values: Any) -> None:
        if self.rank == 0 and self.job.board is not None:
            self.job.board.post.remote({"kind": kind, "time": time.time(), **values})

    # ------------------------------------------------------------------ the end of an epoch

    def _end_epoch(self) -> None:
        epoch = self.position.epoch  # epochs finished
        failures = [failure for per_rank in self._gather(self.failures) for failure in per_rank]
        self.failures = []
        metrics = {"epoch": float(epoch), "unreadable": float(len(failures)), "score": -1.0}
        last = epoch == self.config.optim.epochs
        if self.val_shard is not None and (last or epoch % self.config.train.val_every_epochs == 0):
            metrics.update(self._validate())
            metrics["score"] = metrics["val_top1"]
        self._post("epoch", epochs=self.config.optim.epochs, failures=failures, **metrics)
        self._save(metrics)

    def _validate(self) -> dict[str, float]:
        """Top-1, top-5 and loss over the validation manifest; every row counts once, unreadable ones as wrong."""
        if self.world_size > 1:  # BN statistics are rank 0's, as in the checkpoint
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=0)
        self.module.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for batch in iterate(self.val_shard, self.config.data.prefetch_batches):
                labels_N = torch.from_numpy(batch.labels.copy()).to(self.device)
                weights_N = torch.from_numpy(batch.weights.copy()).to(self.device)
                with self.autocast.context():
                    logits_NK = self.module(normalise(batch.clips[:, 0], self.device))
                top_N5 = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
                hits_N5 = (top_N5 == labels_N[:, None]) * weights_N[:, None]
                loss_sum = weighted_loss_sum(logits_NK, labels_N, weights_N)
                sums += torch.stack(
                    [hits_N5[:, 0].sum(), hits_N5.sum(), loss_sum, weights_N.sum()]
                ).double()
        if self.world_size > 1:
            dist.all_reduce(sums)
        top1, top5, loss_sum, num_read = sums.tolist()
        total = self.job.num_val_videos
        return {
            "val_top1": top1 / total,
            "val_top5": top5 / total,
            "val_loss": loss_sum / max(num_read, 1),
            "val_num_videos": float(total),
            "val_unreadable": total - num_read,
        }

    def _save(self, metrics: dict[str, float]) -> None:
        """Report a checkpoint of this position with the steps since the last one; all ranks take part."""
        history, self.history = self.history, []
        if self.rank != 0:
            ray.train.report(metrics)
            return
        meta = checkpoints.Meta(
            config=self.config.to_dict(),
            classes=self.job.classes,
            dataset=self.job.dataset,
            position=self.position,
            step=self.step,
            fingerprint=self.job.fingerprint,
            world_size=self.world_size,
            metrics=metrics,
            versions=self.job.versions,
            mlflow_run_id=self.job.mlflow_run_id,
        )
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        directory = Path(tempfile.mkdtemp(prefix="stm-checkpoint-"))
        try:
            checkpoints.write(directory, self.module, state, meta)
            ray.train.report(
                {**metrics, "step": self.step, "history": history},
                checkpoint=ray.train.Checkpoint.from_directory(directory),
                checkpoint_dir_name=f"checkpoint-{self.step:08d}",
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@dataclass
class _Window:
    """The steps since the last line of progress; device tensors, fetched once a window."""

    sums: list[torch.Tensor] = field(default_factory=list)
    """Each float64 [3]: loss sum, weight, correct."""
    videos: list[np.ndarray] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    wait_s: float = 0.0
    busy_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, sums: torch.Tensor) -> None:
        self.sums.append(sums)
