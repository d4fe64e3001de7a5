"""What a step does to a batch: normalisation, rows worth learning from, loss, schedule."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stm.config import OptimConfig
from stm.model.inputs import IMAGENET_MEAN, IMAGENET_STD, autocast, normalise
from stm.train.optim import build_optimizer, learning_rate, weighted_loss_sum
from stm.train.step import usable_rows

CPU = torch.device("cpu")


def test_normalisation_is_imagenets_and_stays_channels_last():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6, 3), dtype=np.uint8)
    frames = normalise(clips, CPU)
    assert frames.shape == (2, 3, 3, 8, 6)
    expected = (clips / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(frames.permute(0, 1, 3, 4, 2).numpy(), expected, atol=1e-5)
    assert frames.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_normalisation_leaves_shared_memory_alone():
    clips = np.full((1, 1, 4, 4, 3), 7, dtype=np.uint8)
    clips.flags.writeable = False
    normalise(clips, CPU)
    assert (clips == 7).all()


def test_rows_without_weight_show_the_network_a_row_that_counts():
    assert usable_rows(np.array([1, 0, 1, 0, 0])).tolist() == [0, 0, 2, 2, 0]
    assert usable_rows(np.array([1, 1])).tolist() == [0, 1]
    assert usable_rows(np.array([0.0, 0.0])) is None


def test_a_row_of_weight_zero_changes_no_gradient():
    logits = torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    weighted_loss_sum(logits, labels, torch.tensor([1.0, 1.0, 0.0, 1.0])).backward()
    assert not logits.grad[2].any()
    assert logits.grad[[0, 1, 3]].abs().sum(1).min() > 0


def test_shares_of_a_batch_sum_to_the_loss_of_the_whole():
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    weights = torch.ones(6)
    whole = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    parts = [weighted_loss_sum(logits[i::2], labels[i::2], weights[i::2], 0.1) for i in range(2)]
    torch.testing.assert_close(sum(parts) / 6, whole)


def test_the_rate_follows_the_papers_schedule():
    config = OptimConfig()  # 50 epochs, /10 at 30, 40, 45
    rates = [
        learning_rate(config, epoch * 100 + 99, 100) for epoch in (0, 29, 30, 39, 40, 44, 45, 49)
    ]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_milestones_as_shares_decay_where_the_papers_epochs_do_and_follow_others():
    epochs, shares = OptimConfig(), OptimConfig(milestones=[0.6, 0.8, 0.9])
    steps = range(50 * 7)
    assert [learning_rate(epochs, s, 7) for s in steps] == [
        learning_rate(shares, s, 7) for s in steps
    ]
    short = replace(shares, epochs=15)
    rates = [learning_rate(short, step, 10) for step in range(150)]
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 90, 120, 135]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_falling_rate_goes_from_the_peak_after_warm_up_to_the_least(schedule):
    config = OptimConfig(
        schedule=schedule, epochs=6, warmup_epochs=1, min_lr=0.001, batch_size=32,
        reference_batch_size=64,
    )  # fmt: skip
    rates = [learning_rate(config, step, 4) for step in range(25)]
    assert rates[:4] == pytest.approx([0.00125, 0.0025, 0.00375, 0.005])
    assert rates[4] == pytest.approx(0.005)
    assert rates[14] == pytest.approx((0.005 + 0.0005) / 2), "half-way between warm-up and end"
    assert rates[24] == pytest.approx(0.0005)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    first, second = rates[4] - rates[5], rates[13] - rates[14]
    assert (second > 3 * first) is (schedule == "cosine")


def test_steps_do_not_fall_below_the_least_rate():
    config = OptimConfig(epochs=10, milestones=[2, 4, 6], min_lr=5e-4)
    rates = [learning_rate(config, epoch, 1) for epoch in (0, 2, 4, 6, 9)]
    assert rates == pytest.approx([0.01, 0.001, 5e-4, 5e-4, 5e-4])


@given(
    schedule=st.sampled_from(["step", "cosine", "linear"]),
    epochs=st.integers(1, 60),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 70),
    least=st.floats(0, 1),
)
def test_every_rate_is_between_nothing_and_the_peak(schedule, epochs, per_epoch, warmup, least):
    config = OptimConfig(
        schedule=schedule, epochs=epochs, warmup_epochs=warmup, min_lr=0.01 * least,
        milestones=[0.3, 0.7],
    )  # fmt: skip
    rates = [learning_rate(config, step, per_epoch) for step in range(epochs * per_epoch)]
    assert all(0 < rate <= config.effective_lr for rate in rates)
    warm = [rate for step, rate in enumerate(rates) if step + 1 >= warmup * per_epoch]
    assert all(rate >= config.effective_min_lr * (1 - 1e-9) for rate in warm)
    assert warm == sorted(warm, reverse=True)


def test_the_rate_warms_up_linearly():
    config = OptimConfig(warmup_epochs=0.5)
    assert [learning_rate(config, step, 8) for step in range(5)] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01]
    )


def test_the_rate_scales_with_the_batch_only_where_a_reference_is_given():
    assert OptimConfig(batch_size=16).effective_lr == 0.01
    assert OptimConfig(batch_size=16, reference_batch_size=64).effective_lr == 0.0025


def test_every_parameter_is_trained_with_the_weight_decay():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    (group,) = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert group["weight_decay"] == 0.1


def test_precision_is_float32_on_a_cpu_unless_asked_for():
    assert autocast("auto", CPU).dtype is None
    assert autocast("bfloat16", CPU).dtype == torch.bfloat16
    assert not autocast("bfloat16", CPU).scale_gradients
    assert autocast("float16", CPU).scale_gradients
