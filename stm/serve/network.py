"""The deployment with the network, which puts clips of different requests into one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from ray import serve

from stm.model.plugins import Plugin
from stm.scoring.inference import Classifier

MAX_BATCH = 8
_WAIT_S = 0.005
"""How long a clip waits for others if the network is idle. Scoring one clip takes much longer."""


class Network:
    """Computes softmax scores of clips, without blocking the event loop."""

    def __init__(
        self,
        directory: str,
        num_threads: int,
        num_frames: int,
        size: int,
        plugins: Sequence[Plugin] = (),
    ) -> None:
        self._classifier = Classifier(directory, num_threads, plugins=plugins)
        # The first pass allocates memory and chooses kernels, so that no request has to wait for this.
        self._classifier.scores(np.zeros((1, 1, num_frames, size, size, 3), np.uint8))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=_WAIT_S)
    async def scores(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """Score a batch: for each request a clip, uint8 [T, S, S, 3] -> softmax scores, float32 [K]."""
        batch_BVTHWC = np.stack(clips)[:, None]
        return list(await asyncio.to_thread(self._classifier.scores, batch_BVTHWC))

    async def ping(self) -> bool:
        return True
