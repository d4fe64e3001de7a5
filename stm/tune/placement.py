"""How many trials fit on the cluster at once, and what each may use: summed before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from stm.cluster import Placement
from stm.errors import UserError
from stm.plural import counted


@dataclass(frozen=True)
class Shares:
    """Where a sweep goes."""

    trial: Placement
    concurrent: int
    """Trials at once."""
    data_cpus: float
    """CPUs that the decoding of each trial may take: its own, and its part of what is left over."""

    @property
    def cost_per_s(self) -> float:
        """What a second of a trial costs: GPU-seconds where it trains on GPUs, else CPU-seconds."""
        if self.trial.use_gpu:
            return float(self.trial.num_workers)
        return self.trial.num_workers * self.trial.cpus_per_worker + self.data_cpus

    @property
    def cost_unit(self) -> str:
        return "GPU-seconds" if self.trial.use_gpu else "CPU-seconds"

    def __str__(self) -> str:
        return (
            f"{_sum(self.trial, self.concurrent)}; decoding may take {self.data_cpus:g} CPU a trial"
        )


def share(
    trial: Placement, cpus: float, gpus: float, num_trials: int, max_concurrent: int | None = None
) -> Shares:
    """Place ``num_trials`` trials on a cluster of ``cpus`` and ``gpus``.

    Raises ``UserError`` with the whole sum where ``max_concurrent`` trials do not fit at once, or where that is None,
    not even one. Ray would start them all the same, and training workers that hold every CPU would wait in silence for
    clips that nobody can decode.
    """
    fit = int(cpus / trial.cpus)
    if trial.gpus:
        fit = min(fit, int(gpus / trial.gpus))
    wanted = min(num_trials, max_concurrent or fit)
    if wanted > fit or fit < 1:
        has = f"{cpus:g} CPU" + (f", {gpus:g} GPU" if trial.use_gpu else "")
        most = f"at most {fit} fit at once: lower max_concurrent" if fit else "not even one fits"
        raise UserError(
            f"the sweep needs {_sum(trial, max(wanted, 1))}, but the cluster has {has}; "
            f"{most}, lower train.num_workers or train.cpus_per_worker, or add nodes"
        )
    left = cpus - wanted * trial.cpus
    return Shares(trial, wanted, trial.data_cpus + left / wanted)


def _sum(trial: Placement, concurrent: int) -> str:
    parts = f"{counted(trial.num_workers, 'worker')} x {trial.cpus_per_worker:g} CPU"
    if trial.use_gpu:
        parts += " and 1 GPU"
    parts += f" + {trial.data_cpus:g} CPU to decode + 0 to validate, which the workers do"
    total = f"{concurrent * trial.cpus:g} CPU"
    if trial.use_gpu:
        total += f", {concurrent * trial.gpus} GPU"
    return f"{counted(concurrent, 'trial')} at once x ({parts}) = {total}"
