"""CPUs against GPUs: enough of them to decode for the training, by the model of ``stm plan``."""

from __future__ import annotations

from stm.doctor.finding import Finding, fails, ok, warning
from stm.planning.model import Assumptions, decode_cores_per_gpu
from stm.planning.originals import Originals
from stm.planning.rates import HOW_TO_MEASURE, Rates
from stm.plural import counted

CPUS_PER_WORKER = 1.0
"""As in ``train.cpus_per_worker``."""


def check(cpus: float, gpus: int, workers: int | None, cores: int, rates: Rates | None) -> Finding:
    """``cpus`` and ``gpus`` are what Ray gives away, ``cores`` what the machines have.

    Without GPUs training itself takes the CPUs, so one is asked for beside the workers; with GPUs, as many as the
    measured rates say.
    """
    ranks = workers or gpus or 1
    left = cpus - ranks * CPUS_PER_WORKER
    sum_ = f"{cpus:g} CPU - {counted(ranks, 'worker')} = {left:g} to decode"
    if left < 1:
        return fails(
            "cpus", f"{sum_}; at least 1 is needed", "fewer --train.num_workers, or nodes with CPUs"
        )
    if not gpus:
        if cores < cpus:
            return warning(
                "cpus",
                f"{sum_}, but the machines have {counted(cores, 'core')}",
                "they share them: expect it to be slower, not wrong",
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
    said = f"{sum_}; {used} GPU at {rates.train_clips_per_s_gpu:g} clips/s need {needed:.0f}"
    if left < needed:
        return warning(
            "cpus",
            f"{said}: training would run at {left / needed:.0%}",
            "add CPU nodes (`stm plan` says how many), or `stm prepare` videos that are cheap to decode",
        )
    return ok("cpus", said)


def check_originals(originals: Originals, rates: Rates | None) -> Finding:
    """Whether videos should be prepared before they are trained on, by their sizes and key frames."""
    said = originals.said(rates.train_clips_per_s_gpu if rates else None)
    if originals.should_be_prepared:
        return warning("videos", said, "prepare them first: `stm prepare` (docs/prepare.md)")
    return ok("videos", said)
