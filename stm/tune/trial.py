"""One trial: an ordinary training run that reports to Ray Tune once per epoch, and that Ray Tune can end at any time.

The run is named SWEEP-TRIAL. A trial that is restarted, after a crash or by the next command, finds it by this name and
goes on from its last checkpoint. Ray Tune's own counter (``training_iteration``) then starts at 0 again; ``epoch``, the
run's own count, does not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import shutil
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from stm.checkpoint import pretrained
from stm.checkpoint.format import META, Meta, config_of, read_meta
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.errors import UserError
from stm.log import shown_by
from stm.model import plugins
from stm.model.plugins import Plugin
from stm.results import TrainResult
from stm.storage import StorageAway, download, join, read_bytes, resolved, write_bytes
from stm.train.events import Controlled, Dealt, EpochEnded, Event, Failed, Kept, Started
from stm.train.fit import RunEnded, RunFailed
from stm.train.folders import working_folder
from stm.train.trainer import train
from stm.tune import record
from stm.tune.notice import Listener
from stm.tune.placement import Shares
from stm.tune.settings import Sweep

STOP_S = 60.0
"""How long a trial may take to end its training before it is killed."""

# Messages of CUDA, the C++ allocator, and Ray, which kills workers before the node's memory is full.
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|running low on memory|bad_alloc", re.I)


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep have in common."""

    sweep: Sweep
    storage: str
    """Absolute directory or URL of the trials' runs."""
    epochs: int
    num_videos: int
    shares: Shares
    parent: record.Parent | None
    """The sweep's MLflow run."""
    weights: dict[str, Any] = field(default_factory=dict)
    """References to the initial weights of trials (`Pretrained`), by `pretrained.key`."""
    plugin: Plugin | None = None
    """Source of the networks' blocks, if they are the user's own."""
    notice: Any = None
    """The actor of ``stm.tune.notice``, which announces the end of the sweep."""

    def run_name(self, trial_id: str) -> str:
        return f"{self.sweep.name}-{trial_id}"

    def config_of(self, drawn: dict[str, Any], trial_id: str) -> Config:
        """Return the settings of a trial's run on this cluster."""
        config = self.sweep.config_of(drawn, self.epochs)
        name = config.model.pretrained
        return replace(
            config,
            data=replace(
                config.data,
                train=_absolute(config.data.train),
                val=_absolute(config.data.val),
                root=_absolute(config.data.root),
                max_cpus=max(self.shares.data_cpus, config.data.cpus_per_task),
            ),
            model=replace(config.model, pretrained=name and pretrained.absolute(name)),
            train=replace(
                config.train,
                name=self.run_name(trial_id),
                storage=self.storage,
                use_gpu=self.shares.trial.use_gpu,
            ),
            tracking=replace(
                config.tracking, uri=self.parent.uri if self.parent else "none", log_model=False
            ),
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else resolved(path)


def is_out_of_memory(message: str) -> bool:
    """Whether an error message means that a GPU, the process or the node ran out of memory."""
    return _OUT_OF_MEMORY.search(message) is not None


class Trial(tune.Trainable):
    """Ray Tune's interface to a run: `step` waits for the next validated epoch, `cleanup` ends the training."""

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]
        self._job = job
        self._drawn = config
        self._reports: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._dealer: Any = None
        self._board: Any = None
        self._started, self._kept = threading.Event(), threading.Event()
        self._stopping = False
        self._out_of_memory: str | None = None
        self._run_config: Config | None = None
        self._last: dict[str, Any] = {}
        self._held_back = False

    def step(self) -> dict[str, Any]:
        """Return the metrics of the next validated epoch; the last ones have ``done``.

        If a run fails and a retry would fail again, the result has ``failed`` and the worst metric: the trial ends, and
        the others go on. Errors that may be temporary are raised, and Ray Tune retries.
        """
        if self._thread is None:
            self._begin()
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        """End the training, and wait until its record is closed."""
        self._stopping = True
        if self._thread is None or not self._thread.is_alive():
            return
        self._abort()
        self._thread.join(timeout=STOP_S)

    # ------------------------------------------------------------------ population-based training

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the run's newest checkpoint, so that another trial can continue from it."""
        found = self._store.latest()
        if found is None:
            raise RuntimeError(f"trial {self.trial_id} has no checkpoint to hand on yet")
        download(found[0], Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Continue from another trial's checkpoint with our settings; skip our own, which the run finds by name."""
        meta = read_meta(checkpoint_dir)
        run = self._config_of_run()
        if meta.config["train"]["name"] == run.train.name:
            return
        newest = self._store.latest()
        ours = replace(
            meta, config=run.to_dict(), mlflow_run_id=newest[1].mlflow_run_id if newest else None
        )
        theirs = config_of(meta).data
        if (theirs.num_segments, theirs.size) != (run.data.num_segments, run.data.size):
            ours = replace(ours, metrics={})  # measured on other clips, so not comparable
        for path, _ in self._store.checkpoints():
            self._store.remove(path)
        self._store.commit(meta.step, lambda folder: _adopt(Path(checkpoint_dir), folder, ours))

    # ------------------------------------------------------------------ the run

    @property
    def _store(self) -> CheckpointStore:
        return CheckpointStore(f"{self._job.storage}/{self._job.run_name(self.trial_id)}")

    def _config_of_run(self) -> Config:
        if self._run_config is None:
            self._run_config = self._job.config_of(self._drawn, self.trial_id)
        return self._run_config

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Run the training, in a thread; put all its reports into the queue."""
        try:
            config = self._config_of_run()
            folder = working_folder(self._job.storage, str(config.train.name))
            folder.mkdir(parents=True, exist_ok=True)
            if self._job.parent is not None:
                name = str(config.train.name)
                record.open_child(
                    self._job.parent, folder, name, self.trial_id, self._job.sweep.name
                )
            self._cost = Cost(self._store.run_directory, self._job.shares.cost_per_s)
            self._report_what_is_known()
            plugins.receive([self._job.plugin] if self._job.plugin else [])
            if (found := self._job.weights.get(pretrained.key(config.model))) is not None:
                pretrained.receive({pretrained.key(config.model): ray.get(found)})
            handler = logging.FileHandler(folder / "trial.log")
            listener = Listener(self._job.notice, self.trial_id, self._keep)
            with (
                contextlib.closing(handler),
                contextlib.closing(listener),
                shown_by(handler, logging.INFO),
            ):
                result = train(config, on_event=self._on_event)
            self._finish(result)
        except RunEnded as error:
            if self._out_of_memory is not None:
                self._give_up(f"out of memory: {self._out_of_memory}")
            elif not self._stopping:
                self._reports.put(error)
        except RunFailed as error:
            if is_out_of_memory(str(error)):
                self._give_up(f"out of memory: {error}")
            else:
                self._reports.put(error)
        except StorageAway as error:  # it may be temporary, so Ray Tune retries
            self._reports.put(error)
        except UserError as error:
            self._give_up(str(error))
        except BaseException as error:
            self._reports.put(error)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Controlled):
            return
        if isinstance(event, Dealt):
            self._dealer, self._board = event.dealer, event.board
            if self._stopping:
                self._abort()
            return
        if isinstance(event, Started):
            self._started.set()
        elif isinstance(event, Kept):
            self._kept.set()
        self._cost.count(
            started=isinstance(event, Started), kept=isinstance(event, EpochEnded | Kept)
        )
        if (
            self._held_back
        ):  # report once the checkpoint is written: Ray Tune may then end the trial
            self._held_back = False
            self._reports.put(self._last)
        if isinstance(event, Failed) and is_out_of_memory(event.message):
            # A restart would run out of memory again.
            self._out_of_memory = event.message
            self._abort()
        elif isinstance(event, EpochEnded) and self._job.sweep.metric in event.metrics:
            self._last = self._report(event.metrics)
            self._held_back = self._last["epoch"] < self._job.epochs  # the last waits for the end

    def _report(self, metrics: dict[str, Any]) -> dict[str, Any]:
        epoch = int(metrics["epoch"])
        validated = {key: float(metrics[key]) for key in metrics if key.startswith("val_")}
        return {
            **validated,
            "epoch": epoch,
            "clips": epoch * self._job.num_videos,
            "cost": self._cost.total,
            "done": False,
        }

    def _report_what_is_known(self) -> None:
        """Report the newest epoch in the checkpoints of a continued run: its report may have been lost."""
        known = [
            meta.metrics
            for _, meta in self._store.checkpoints()
            if self._job.sweep.metric in meta.metrics
        ]
        if known:
            self._last = self._report(max(known, key=lambda metrics: metrics["epoch"]))
            if self._last["epoch"] < self._job.epochs:
                self._reports.put(self._last)

    def _finish(self, result: TrainResult) -> None:
        if not self._last:
            raise RuntimeError(f"run {result['run']} ended without a validation")
        self._reports.put({**self._last, "done": True, "checkpoint": result["checkpoint"]})

    def _give_up(self, reason: str) -> None:
        worst = 0.0 if self._job.sweep.mode == "max" else 1e9
        epoch = int(self._last.get("epoch", 0))
        cost = self._cost.total if hasattr(self, "_cost") else 0.0
        failed = {"epoch": epoch, "clips": epoch * self._job.num_videos, "cost": cost}
        self._reports.put(
            {**failed, self._job.sweep.metric: worst, "failed": reason[:1000], "done": True}
        )

    def _keep(self, seconds: float) -> None:
        """Ask the workers to save a checkpoint and wait for it; do nothing if they have not started."""
        if self._started.is_set():
            self._kept.clear()
            self._board.ask_for_checkpoint.remote()
            self._kept.wait(seconds)

    def _abort(self) -> None:
        """End the training at every start of its workers: without clips they fail, and Ray frees their resources.

        To abort or kill the run would leave resources reserved, 0.5 CPU per trial in a test (Ray 2.60).
        """
        if self._dealer is not None:
            with contextlib.suppress(Exception):
                ray.kill(self._dealer)


class Cost:
    """Seconds that a run has held its workers, times the cost per second; stored with the run, over all starts."""

    def __init__(self, run_directory: str, per_s: float) -> None:
        self._path, self._per_s = join(run_directory, "cost.json"), per_s
        self._mark: float | None = None
        self.total = 0.0
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.total = float(json.loads(read_bytes(self._path)))

    def count(self, started: bool, kept: bool) -> None:
        """Count the time since the previous event as training, unless the workers have just started."""
        now = time.monotonic()
        if self._mark is not None and not started:
            self.total += (now - self._mark) * self._per_s
        self._mark = now
        if kept:
            with contextlib.suppress(OSError):
                write_bytes(self._path, json.dumps(self.total).encode())


def _adopt(source: Path, folder: Path, meta: Meta) -> None:
    for file in source.iterdir():
        if file.is_file() and not file.name.startswith(".") and file.name != META:
            shutil.copy(file, folder / file.name)
    (folder / META).write_text(meta.to_json())
