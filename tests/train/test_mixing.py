"""Mixup and cutmix: what is blended, and what the labels are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stm.train.mixing import mix_pairs


def clips_of_one_value():
    """Six clips; every pixel of a clip is its number."""
    return torch.arange(6.0).view(6, 1, 1, 1, 1).expand(6, 2, 3, 20, 30), torch.arange(6)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_clips_as_it_blends_labels(seed):
    clips, labels = clips_of_one_value()
    mixed, partners, shares = mix_pairs(
        clips, labels, mixup=0.4, cutmix=0, generator=np.random.default_rng(seed)
    )
    assert sorted(partners.tolist()) == list(range(6))
    assert shares.unique().numel() == 1
    expected = shares * labels + (1 - shares) * partners
    torch.testing.assert_close(mixed, expected.view(6, 1, 1, 1, 1).expand_as(mixed))


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_pastes_one_box_into_all_frames_and_counts_its_pixels(seed):
    clips, labels = clips_of_one_value()
    mixed, partners, shares = mix_pairs(
        clips, labels, mixup=0, cutmix=1.0, generator=np.random.default_rng(seed)
    )
    own = mixed == clips
    for i in range(6):
        if partners[i] == labels[i]:
            continue
        assert (mixed[i][~own[i]] == partners[i]).all()
        assert own[i].float().mean().item() == pytest.approx(shares[i].item())
        rows, columns = (~own[i, 0, 0]).nonzero(as_tuple=True)
        if len(rows):
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert area == len(rows), "a box"
        assert (own[i] == own[i, 0, 0]).all(), "the same in every frame"


def test_the_same_seed_mixes_alike_and_the_input_stays():
    clips, labels = torch.randn(4, 2, 3, 8, 8), torch.arange(4)
    before = clips.clone()
    first, second = (
        mix_pairs(clips, labels, mixup=0.2, cutmix=1.0, generator=np.random.default_rng(3))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(clips, before)
