"""What a step took, and what was only waited for while a GPU was computing anyway."""

from __future__ import annotations

import time

import pytest
import torch

from stm.train.clock import StepClock, share_waited


def test_the_seconds_of_steps_are_counted_and_handed_over_once(monkeypatch):
    clock = StepClock(torch.device("cpu"))
    for began, ended in ((10.0, 12.0), (20.0, 21.0)):
        times = iter((began, ended))
        monkeypatch.setattr(time, "perf_counter", lambda times=times: next(times))
        with clock.step():
            pass
    assert clock.take()() == 3.0
    assert clock.take()() == 0.0


@pytest.mark.parametrize(
    ("waited", "computed", "total", "share"),
    [
        (1.0, 3.0, 4.0, 0.25),  # a CPU: one or the other
        (
            3.0,
            4.0,
            4.0,
            0.0,
        ),  # a GPU that computed all the time, while its process waited for the next batch
        (3.0, 1.0, 4.0, 0.75),  # a GPU that had nothing to compute
        (
            0.5,
            1.0,
            4.0,
            1 / 3,
        ),  # the rest of the time went into a checkpoint, which is no want of clips
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_only_a_device_that_stands_still_waits(waited, computed, total, share):
    assert share_waited(waited, computed, total) == pytest.approx(share)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_seconds_are_its_own_and_not_those_of_the_call():
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    matrix @ matrix
    torch.cuda.synchronize()
    clock = StepClock(device)
    began = time.perf_counter()
    with clock.step():
        for _ in range(20):
            matrix @ matrix
    returned = time.perf_counter() - began
    assert clock.take()() > returned
