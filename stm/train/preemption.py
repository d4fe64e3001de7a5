"""Notice that a node is about to be taken away, in time to keep a checkpoint."""

from __future__ import annotations

import time

import ray.train
import torch
import torch.distributed as dist

from stm.log import get_logger

logger = get_logger(__name__)

CHECK_S = 3.0
"""About how often ranks ask, together, whether a notice has come; a question costs them 5 ms."""

REPEAT_S = 10.0
"""Under notice, a checkpoint older than this is followed by another: nobody knows when the node really goes."""


class PreemptionWatch:
    """Asks Ray Train for notices at steps that all ranks agree on; every rank must call it after the same steps."""

    def __init__(self, rank: int, world_size: int, device: torch.device, step: int) -> None:
        self._rank, self._world_size, self._device = rank, world_size, device
        self._asked: tuple[float, int] | None = None
        self._ask_next = step
        self._answered: object = None

    def wants_checkpoint(self, step: int, checkpoint_age_s: float) -> bool:
        """Whether this state should be kept now, because a node goes; all ranks answer the same.

        ``checkpoint_age_s`` is rank 0's: how long ago it kept the last one.
        """
        if step < self._ask_next:
            return False
        info = ray.train.get_preemption_info()
        now = time.perf_counter()
        step_s = CHECK_S
        if self._asked is not None:
            asked_at, asked_in = self._asked
            step_s = (now - asked_at) / (step - asked_in)
        # Clocks differ, and ranks must agree on when to ask again and on what to do.
        of_rank_0 = torch.tensor([step_s, checkpoint_age_s], device=self._device)
        if self._world_size > 1:
            dist.broadcast(of_rank_0, src=0)
        step_s, checkpoint_age_s = of_rank_0.tolist()
        self._asked = (now, step)
        self._ask_next = step + max(1, int(CHECK_S / max(step_s, 1e-3)))
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
            f"{len(info.preempted_node_to_ranks)} node(s) with ranks {ranks} will be taken away"
            + (f" in {left_s:.0f} s" if info.deadline_ms else "")
            + f": keeping a checkpoint of step {step} now"
        )
        return True
