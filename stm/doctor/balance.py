"""Check that there are enough CPUs to decode for the workers, with the model of ``stm plan``."""

from __future__ import annotations

from stm.doctor.finding import Finding, fails, ok, warning
from stm.planning.model import Assumptions, decode_cores_per_gpu
from stm.planning.originals import Originals
from stm.planning.rates import HOW_TO_MEASURE, Rates
from stm.plural import counted

CPUS_PER_WORKER = 1.0
"""As in ``train.cpus_per_worker``."""


def check(cpus: float, gpus: int, workers: int | None, cores: int, rates: Rates | None) -> Finding:
    """Compare Ray's ``cpus`` and ``gpus``, and the machines' ``cores``, with what ``workers`` need.

    Without GPUs, the workers themselves use CPUs, and one more is needed to decode. With GPUs, the measured rates tell
    how many are needed to decode.
    """
    ranks = workers or gpus or 1
    left = cpus - ranks * CPUS_PER_WORKER
    sum_ = f"{cpus:g} CPU - {counted(ranks, 'worker')} = {left:g} to decode"
    if left < 1:
        return fails(
            "cpus",
            f"{sum_}; at least 1 is needed",
            "lower --train.num_workers, or add nodes with CPUs",
        )
    if not gpus:
        if cores < cpus:
            return warning(
                "cpus",
                f"{sum_}, but the machines have {counted(cores, 'core')}",
                "the processes share the cores: training is slower, but its results are the same",
            )
        return ok("cpus", sum_)
    if rates is None:
        return warning(
            "cpus",
            f"{sum_} for {gpus} GPU; whether that is enough is not known without measured rates",
            f"{HOW_TO_MEASURE['decode']}, {HOW_TO_MEASURE['train']}, then `stm doctor --bench data.json model.json`",
        )
    used = min(ranks, gpus)
    needed = used * decode_cores_per_gpu(rates, Assumptions().decode_headroom)
    said = f"{sum_}; {needed:.0f} needed for {used} GPU at {rates.train_clips_per_s_gpu:g} clips/s"
    if left < needed:
        return warning(
            "cpus",
            f"{said}: training would run at {left / needed:.0%}",
            "add CPU nodes (`stm plan` tells how many), or convert the videos with `stm prepare` to decode faster",
        )
    return ok("cpus", said)


def check_originals(originals: Originals, rates: Rates | None) -> Finding:
    """Check, by sizes and key frames, whether the videos should be prepared before training."""
    said = originals.said(rates.train_clips_per_s_gpu if rates else None)
    if originals.should_be_prepared:
        return warning("videos", said, "prepare them first: `stm prepare` (docs/prepare.md)")
    return ok("videos", said)
