"""Computes before the start how many trials fit on the cluster at once, and what each may use."""

from __future__ import annotations

from dataclasses import dataclass

from stm.cluster import Placement
from stm.errors import UserError
from stm.plural import counted


@dataclass(frozen=True)
class Shares:
    """The placement of a sweep."""

    trial: Placement
    concurrent: int
    """Number of trials at once."""
    data_cpus: float
    """CPUs that each trial may use for decoding: its own, and its share of the remaining ones."""

    @property
    def cost_per_s(self) -> float:
        """Cost of a trial per second: GPU-seconds if it trains on GPUs, else CPU-seconds."""
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

    Raises ``UserError`` with the full calculation if ``max_concurrent`` trials, or one trial if that is None, do not
    fit. Ray would start them anyway, and training workers that hold all CPUs would wait silently for clips, with no CPU
    left to decode them.
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
