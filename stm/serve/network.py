"""The deployment with the network: clips of different requests make one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from ray import serve

from stm.model.plugins import Plugin
from stm.scoring.inference import Classifier

MAX_BATCH = 8
_WAIT_S = 0.005
"""A clip waits so long for others, where the network is idle: a small share of the time one takes."""


class Network:
    """Softmax scores of clips; the event loop stays free while the network computes."""

    def __init__(
        self,
        directory: str,
        num_threads: int,
        num_frames: int,
        size: int,
        plugins: Sequence[Plugin] = (),
    ) -> None:
        self._classifier = Classifier(directory, num_threads, plugins=plugins)
        # The first pass allocates and chooses kernels: no request should pay for it.
        self._classifier.scores(np.zeros((1, 1, num_frames, size, size, 3), np.uint8))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=_WAIT_S)
    async def scores(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """uint8 [T, S, S, 3] of each request -> float32 [K] of each."""
        batch_BVTHWC = np.stack(clips)[:, None]
        return list(await asyncio.to_thread(self._classifier.scores, batch_BVTHWC))

    async def ping(self) -> bool:
        return True
