"""`torch.compile` leaves the network what it is."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from stm.model import build_model
from stm.model.compiling import compile_blocks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


@pytest.mark.parametrize("variant", ["stm", "tsm"])
def test_compiled_blocks_have_the_gradients_of_plain_ones_and_share_graphs(variant):
    """In float64: in float32 a sum that is rounded otherwise can move a value across ReLU's edge."""
    torch.manual_seed(0)
    model = build_model(variant, 26, 8, width=16, dropout=0.0).train().double()
    clips = torch.randn(4, 4, 32, 32, 3).permute(0, 1, 4, 2, 3).double()
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    counters.clear()
    torch.testing.assert_close(_gradient(compiled, clips), _gradient(model, clips))
    # The first block of each stage, and the others of it.
    assert counters["stats"]["unique_graphs"] == counters["frames"]["ok"] == 8
    assert compiled.state_dict().keys() == model.state_dict().keys()


def _gradient(model, clips):
    F.cross_entropy(model(clips), torch.arange(len(clips))).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
