"""Hours and money: the whole training at a speed, on demand, and on spot nodes that are taken away now and then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stm.planning.model import Speed
from stm.planning.prices import NodeType


@dataclass(frozen=True, kw_only=True)
class Job:
    """How much there is to do, and what an interruption costs."""

    num_videos: int
    epochs: int
    start_s: float = 120.0
    """Assumed: from the first node that is paid for to the first step."""
    restart_s: float = 120.0
    """Assumed: from a lost node to the first step after it."""
    checkpoint_minutes: float = 10.0
    """`train.checkpoint_every_minutes`: what lies between two checkpoints may be lost."""


@dataclass(frozen=True)
class Cost:
    """Time and money of a whole training; of spot None where the prices say nothing of it, or it never ends."""

    hours: float
    on_demand: float
    spot_hours: float | None
    spot: float | None
    interruptions: float | None
    """Expected GPU nodes taken away during the training."""

    def to_dict(self) -> dict[str, Any]:
        return {k: None if v is None else float(f"{v:.5g}") for k, v in vars(self).items()}


def steps(job: Job, clips_a_step: int) -> int:
    """Steps of all epochs; the last batch of an epoch may be padded."""
    return job.epochs * -(-job.num_videos // clips_a_step)


def cost(
    speed: Speed, job: Job, batch_size: int, gpu: NodeType, cpu: NodeType, head: NodeType | None
) -> Cost:
    """The cost of ``job`` at ``speed``; the head is always on demand."""
    work_s = steps(job, speed.gpus * batch_size) * speed.step_s
    hours = (job.start_s + work_s) / 3600
    head_price = head.on_demand if head else 0.0
    on_demand = speed.gpu_nodes * gpu.on_demand + speed.cpu_nodes * cpu.on_demand + head_price
    if gpu.spot is None or gpu.interruptions_per_hour is None:
        return Cost(hours, hours * on_demand, None, None, None)
    per_s = speed.gpu_nodes * gpu.interruptions_per_hour / 3600
    spot_s = job.start_s + with_interruptions(
        work_s, per_s, job.checkpoint_minutes * 60, job.restart_s
    )
    if math.isinf(spot_s):
        return Cost(hours, hours * on_demand, None, None, None)
    cpu_price = cpu.on_demand if cpu.spot is None else cpu.spot
    spot_price = speed.gpu_nodes * gpu.spot + speed.cpu_nodes * cpu_price + head_price
    return Cost(hours, hours * on_demand, spot_s / 3600, spot_s / 3600 * spot_price, spot_s * per_s)


def with_interruptions(work_s: float, per_s: float, checkpoint_s: float, restart_s: float) -> float:
    """Expected seconds of ``work_s`` of work that is cut ``per_s`` times a second (Poisson).

    After a cut comes a restart, which may be cut as well, and the work since the last checkpoint is done again (Daly,
    A higher order estimate of the optimum checkpoint interval for restart dumps, 2006, with no time to write one):

        exp(restart / M) M (exp(checkpoint / M) - 1) work / checkpoint        M = 1 / per_s

    Infinite where it would not end in any useful time.
    """
    cuts = min(checkpoint_s, work_s) * per_s
    if restart_s * per_s + cuts > 50:
        return math.inf
    again = math.expm1(cuts) / cuts if cuts > 1e-12 else 1.0
    return work_s * again * math.exp(restart_s * per_s)
