"""A packed network says what the network says, for every variant, shape of clips and number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stm.model.packed import can_pack, pack
from tests.model.test_folding import MERGED
from tests.model.test_network import ABLATIONS, make

needs_onednn = pytest.mark.skipif(not can_pack(), reason="PyTorch has no oneDNN for x86 here")


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("settings", [*ABLATIONS, *MERGED, {"width": 128, "reduction": 8}], ids=str)
def test_it_says_what_the_network_says(settings):
    model, clips = make(**settings), torch.randn(2, 4, 3, 48, 40)
    expected = model(clips)
    assert _difference(pack(model)(clips), expected) < 1e-4
    assert torch.equal(model(clips), expected)  # it shares nothing with the copy


@needs_onednn
@torch.no_grad()
def test_the_shape_of_clips_may_change_from_call_to_call():
    model = make()
    network = pack(model)
    for shape in ((2, 4, 3, 32, 32), (1, 4, 3, 33, 47), (3, 2, 3, 32, 32), (2, 4, 3, 32, 32)):
        clips = torch.randn(shape)
        kept = clips.clone()
        assert _difference(network(clips), model(clips)) < 1e-4
        assert torch.equal(clips, kept)


@needs_onednn
def test_threads_with_clips_of_different_shapes_do_not_mix_their_weights():
    model = make()
    network = pack(model)
    batches = [torch.randn(1, 4, 3, size, size) for size in (32, 48, 64)] * 20
    with torch.no_grad():
        expected = [model(clips) for clips in batches]
    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(network, batches), expected, strict=True):
            assert _difference(found, wanted) < 1e-4


@needs_onednn
@torch.no_grad()
def test_a_clip_alone_scores_as_in_a_batch():
    network, clips = pack(make()), torch.randn(3, 4, 3, 48, 48)
    together = network(clips)
    alone = torch.cat([network(clip[None]) for clip in clips])
    assert _difference(alone, together) < 1e-5


@needs_onednn
@torch.no_grad()
def test_threads_do_not_change_what_moved():
    """CMM's difference is written in place: no thread may read what another has written."""
    cmm = pack(make(width=64, reduction=16)).network.layer1[0].cmm
    u = torch.randn(2 * 8, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = cmm(u, 8)
        torch.set_num_threads(8)
        for _ in range(20):
            assert torch.allclose(cmm(u, 8), expected, atol=1e-6)
    finally:
        torch.set_num_threads(before)


@needs_onednn
def test_pytorch_has_the_operators_it_is_locked_to():
    """If a newer PyTorch renames them, inference falls back, and this says so."""
    assert can_pack()


def _difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()
