"""A folded network says what the network says, for every variant, and cannot be trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stm.model import build_model
from stm.model.folding import fold
from stm.model.sync_batchnorm import synchronise_batchnorm
from tests.model import reference
from tests.model.test_network import ABLATIONS, make

MERGED = [{"variant": "stm", "fusion": "concat", "reduction": 4}, {"variant": "tsn", "depth": 50}]


@torch.no_grad()
@pytest.mark.parametrize("settings", [*ABLATIONS, *MERGED], ids=str)
def test_it_says_what_the_network_says(settings):
    model, clips = make(**settings), torch.randn(2, 4, 3, 48, 40)
    expected, folded = model(clips), fold(model)
    assert _difference(folded(clips), expected) < 1e-4
    assert _difference(folded(clips), expected) > 0  # else it is the network itself
    assert torch.equal(model(clips), expected)


@torch.no_grad()
def test_the_border_of_cmms_zero_padded_convolution_is_exact_too():
    """A bias behind a zero-padded convolution is another function at the border, where small maps are."""
    model, clips = make(variant="cmm"), torch.randn(2, 4, 3, 33, 33)
    for name, value in model.state_dict().items():
        if "cmm.bn.running_mean" in name:
            value.fill_(3.0)
    assert _difference(fold(model)(clips), model(clips)) < 1e-4


def test_no_normalisation_and_no_dropout_is_left():
    folded = fold(make(fusion="concat"))
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@torch.no_grad()
def test_statistics_over_ranks_are_folded_like_others():
    model, clips = make(), torch.randn(1, 2, 3, 32, 32)
    expected = model(clips)
    synchronise_batchnorm(model)
    assert _difference(fold(model.train())(clips), expected) < 1e-4


def test_weights_stay_channels_last_and_keep_their_type():
    for dtype in (torch.float32, torch.bfloat16):
        folded = fold(make().to(dtype))
        for conv in folded.modules():
            if isinstance(conv, nn.Conv2d):
                assert conv.weight.is_contiguous(memory_format=torch.channels_last)
                assert {parameter.dtype for parameter in conv.parameters()} == {dtype}


def test_nothing_of_the_network_is_shared_or_changed():
    model = make(fusion="concat")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model)
    theirs = {value.data_ptr() for value in folded.state_dict().values()}
    assert theirs.isdisjoint(value.data_ptr() for value in model.state_dict().values())
    for value in folded.state_dict().values():
        value.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_training_it_is_refused():
    folded = fold(make())
    assert not folded.training
    assert not folded.eval().training
    with pytest.raises(RuntimeError, match="no batch normalisation left to train"):
        folded.train()


def test_the_two_maps_of_a_concatenation_become_one_where_nothing_stands_between():
    model = build_model("stm", 26, 7, width=32, fusion="concat")
    reference.randomise(model)
    blocks = [block for block in fold(model).modules() if hasattr(block, "conv3_cmm")]
    inputs = {block.cmm.pool.__class__: block.conv3_cmm.in_channels for block in blocks[:3]}
    assert inputs == {nn.Identity: 2, nn.MaxPool2d: 64}


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value expected."""
    return float((found - expected).abs().max() / expected.abs().max())
