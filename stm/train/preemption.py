"""Decides when a checkpoint is due by time, or because a node or the driver is about to stop."""

from __future__ import annotations

import math
import time
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

CHECK_S = 3.0
"""About how often the ranks check together for a notice; a check takes 5 ms."""

REPEAT_S = 10.0
"""After a notice, checkpoints are this far apart: the node may stop at any time."""


class PreemptionWatch:
    """Checks Ray Train, the driver and the clock at steps that all ranks agree on.

    Every rank must call it after the same steps. ``board`` is the driver's (``stm.train.progress``), or None. A new
    checkpoint is due when the last one is older than ``oldest_s``, even without a notice.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        step: int,
        board: Any = None,
        oldest_s: float = math.inf,
    ) -> None:
        self._oldest_s = oldest_s
        self._rank, self._world_size, self._device = rank, world_size, device
        self._board, self._num_asked = board, 0
        self._asked: tuple[float, int] | None = None
        self._ask_next = step
        self._answered: object = None

    def wants_checkpoint(self, step: int, checkpoint_age_s: float) -> bool:
        """Whether to save a checkpoint now; all ranks get the same answer.

        ``checkpoint_age_s`` is the time since the last checkpoint; rank 0's value counts.
        """
        if step < self._ask_next:
            return False
        info = ray.train.get_preemption_info()
        now = time.perf_counter()
        step_s = CHECK_S
        if self._asked is not None:
            asked_at, asked_in = self._asked
            step_s = (now - asked_at) / (step - asked_in)
        # Clocks differ, and all ranks must agree on the next check and on the answer.
        of_rank_0 = torch.tensor(
            [step_s, checkpoint_age_s, float(self._driver_asks())], device=self._device
        )
        if self._world_size > 1:
            dist.broadcast(of_rank_0, src=0)
        step_s, checkpoint_age_s, driver_asks = of_rank_0.tolist()
        self._asked = (now, step)
        self._ask_next = step + max(1, int(CHECK_S / max(step_s, 1e-3)))
        if driver_asks or checkpoint_age_s > self._oldest_s:
            return True
        if info is None:
            return False
        if info == self._answered:
            return checkpoint_age_s > REPEAT_S
        self._answered = info
        if self._rank != 0:
            return True
        ranks = sorted(rank for ranks in info.preempted_node_to_ranks.values() for rank in ranks)
        left_s = (info.deadline_ms or 0) / 1000 - time.time()
        logger.warning(
            f"{counted(len(info.preempted_node_to_ranks), 'node')} with ranks {ranks} will be taken away"
            + (f" in {left_s:.0f} s" if info.deadline_ms else "")
            + f": keeping a checkpoint of step {step} now"
        )
        return True

    def _driver_asks(self) -> bool:
        """Whether the driver has asked for a checkpoint since the last call; False on other ranks than 0."""
        if self._rank != 0 or self._board is None:
            return False
        try:
            asked = ray.get(self._board.checkpoints_asked.remote(), timeout=5)
        except Exception:  # the driver is gone, or Ray fails, which is reported elsewhere
            return False
        before, self._num_asked = self._num_asked, asked
        return bool(asked > before)
