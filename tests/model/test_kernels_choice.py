"""Whether a tensor goes through a Triton kernel: what can be told without Triton and without a GPU."""

from __future__ import annotations

import importlib
import os
import sys

import pytest
import torch

from stm.errors import UserError
from stm.model import kernels

FRAMES = torch.zeros(2, 4, 3, 3)


@pytest.fixture
def reloaded(monkeypatch):
    """The module as it is imported under a value of STM_TRITON, and as it was afterwards."""

    def load(value):
        monkeypatch.setenv(kernels.VARIABLE, value)
        importlib.reload(kernels)

    before = dict(vars(kernels))
    yield load
    vars(kernels).clear()
    vars(kernels).update(before)


def test_a_value_that_means_nothing_is_refused(reloaded):
    with pytest.raises(UserError, match="STM_TRITON=yes: set it to 1 for"):
        reloaded("yes")


def test_kernels_that_are_asked_for_and_cannot_be_had_are_an_error(reloaded, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("stm.model.kernels.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UserError, match="STM_TRITON=1: Triton cannot be imported"):
        reloaded("1")


@pytest.mark.parametrize("value", ["", "0"])
def test_kernels_that_are_not_asked_for_are_not_taken(reloaded, value):
    reloaded(value)
    assert not kernels.AVAILABLE
    assert not kernels.takes_kernel(FRAMES)


def test_a_cpu_takes_pytorchs_operators():
    if kernels.CHOICE == "1" and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("STM_TRITON=1 and TRITON_INTERPRET=1 ask for the interpreter")
    assert not kernels.takes_kernel(FRAMES)


def test_what_the_kernels_cannot_hold_goes_to_pytorch(monkeypatch):
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    monkeypatch.setattr(kernels, "INTERPRETED", True)
    one = torch.zeros(())
    assert kernels.takes_kernel(one.expand(2, 4, 3, 3))
    assert not kernels.takes_kernel(one.to(torch.int32).expand(2, 4, 3, 3))
    assert kernels.takes_kernel(one.expand(2, 2047, 1024, 1024))
    assert not kernels.takes_kernel(one.expand(2, 2048, 1024, 1024)), "2^31 values"
    assert not kernels.takes_kernel(one.expand(2, 1, 1025, 1024)), "more than 2^20 pixels"
    assert not kernels.takes_kernel(FRAMES.to("meta"))
