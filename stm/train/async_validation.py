"""Asynchronous validation: it scores checkpoints on separate resources while training goes on.

The driver scores the newest checkpoint that waits for validation and writes the result beside it. If training is faster
than validation, checkpoints in between are skipped, but never the last one.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import Any

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec
from stm.log import get_logger
from stm.scoring.inference import score_manifest
from stm.scoring.metrics import measure
from stm.storage import StorageAway, StorageError
from stm.train.recorder import Recorder

logger = get_logger(__name__)

_TRIES = 3
"""How often to try to validate a checkpoint whose store does not answer."""


class AsyncValidation:
    """Validates the checkpoints of one run in a thread of the driver; use as a context manager."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        fingerprint: str,
        store: CheckpointStore,
        recorder: Recorder,
    ) -> None:
        self._config, self._manifest, self._store = config, manifest, store
        self._fingerprint = fingerprint
        self._recorder = recorder
        self._asked = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, name="validation", daemon=True)

    def __enter__(self) -> AsyncValidation:
        self._thread.start()
        self._asked.set()  # an interrupted run may have left a checkpoint to validate
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        """Wait until the last checkpoint is validated, unless the run failed."""
        self._done = True
        self._asked.set()
        if kind is None:
            self._thread.join()

    def checkpoint_kept(self) -> None:
        """Check for checkpoints to validate."""
        self._asked.set()

    def _run(self) -> None:
        tries = Counter[str]()
        while True:
            self._asked.wait()
            self._asked.clear()
            last_round = self._done
            try:
                found = [pair for pair in self._store.checkpoints() if pair[1].awaits_validation]
            except StorageError as error:
                logger.warning(f"checkpoints wait for their validation: {error}")
                if last_round:
                    return
                continue
            ours = ("", self._fingerprint)  # "" is of an older version
            waiting = [path for path, meta in found if meta.val_fingerprint in ours]
            if waiting:
                older = [path for path, _ in found if path != waiting[-1]]
                try:
                    self._validate(waiting[-1], passed_over=older)
                except Exception as error:  # a failed validation must not stop training
                    reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                    logger.warning(f"validation of {waiting[-1]} failed: {reason[0][:300]}")
                    tries[waiting[-1]] += 1
                    if isinstance(error, StorageAway) and tries[waiting[-1]] < _TRIES:
                        self._asked.set()  # listing the checkpoints waits for the store
                        continue
                    with contextlib.suppress(OSError):  # it may have been removed
                        self._store.add_validation(waiting[-1], {})
                self._asked.set()
            elif last_round:
                return

    def _validate(self, path: str, passed_over: list[str]) -> None:
        metrics = validate_checkpoint(path, self._config, self._manifest)
        self._store.add_validation(path, metrics)
        for older in passed_over:
            self._store.add_validation(older, {})
        meta = checkpoints.read_meta(path)
        self._recorder.validation(meta.step, metrics)
        epoch = meta.metrics.get("epoch", meta.position.epoch)
        logger.info(
            f"epoch {epoch:.0f} validated  val top-1 {metrics['val_top1']:.1%} of "
            f"{metrics['val_num_videos']:.0f}, loss {metrics['val_loss']:.3f}"
        )


def validate_checkpoint(path: str, config: Config, manifest: Manifest) -> dict[str, float]:
    """Return the metrics of ``stm.train.validation.validate`` for a checkpoint, with the pipeline of evaluation."""
    scores = score_manifest(manifest, path, ClipSpec.one_clip(config.data))
    labels_N = manifest.table.column("label").to_numpy().astype(np.int64)
    metrics = measure(scores.scores_NK, labels_N, scores.readable_N)
    read_N = scores.readable_N
    own = scores.scores_NK[read_N, labels_N[read_N]]
    return {
        "val_top1": metrics.top1,
        "val_top5": metrics.top5,
        "val_loss": float(-np.log(np.maximum(own, 1e-12)).mean()) if len(own) else 0.0,
        "val_num_videos": float(metrics.num_videos),
        "val_unreadable": float(metrics.unreadable),
    }
