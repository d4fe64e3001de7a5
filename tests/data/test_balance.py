"""Balanced sampling: who is shown how often, in which order, and that it depends on (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.balance import Balanced, quotas
from stm.data.stream.plan import Position, shares

labels_of_videos = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda labels: np.unique(labels, return_inverse=True)[1]
)
strengths = st.sampled_from([0.0, 0.3, 0.5, 1.0])


def drawn(labels, strength, epochs, seed=0):
    """The videos and seeds of each of the first epochs."""
    balanced = Balanced(np.asarray(labels), strength)
    return [
        balanced.draw(np.arange(len(labels)), seed=seed, epoch=epoch) for epoch in range(epochs)
    ]


def test_quotas_follow_the_strength_and_keep_the_epochs_length():
    counts = np.array([900, 90, 10])
    assert quotas(counts, 0).tolist() == [900, 90, 10]
    assert quotas(counts, 1).tolist() == [334, 333, 333]
    assert quotas(counts, 0.5).tolist() == [703, 223, 74]  # 1000 x (30, 9.49, 3.16) of 42.65
    assert quotas(np.array([3, 0, 1]), 1).tolist() == [2, 0, 2]


@given(labels=labels_of_videos, strength=strengths, seed=st.integers(0, 9))
def test_each_epoch_shows_every_class_its_quota(labels, strength, seed):
    wanted = quotas(np.bincount(labels), strength)
    assert wanted.sum() == len(labels)
    assert (wanted >= 1).all()
    for videos, _ in drawn(labels, strength, 3, seed):
        assert np.bincount(labels[videos], minlength=len(wanted)).tolist() == wanted.tolist()


@given(labels=labels_of_videos, strength=strengths)
def test_no_video_has_a_second_turn_before_all_of_its_class_had_one(labels, strength):
    times = np.zeros(len(labels), int)
    for videos, _ in drawn(labels, strength, 5):
        times += np.bincount(videos, minlength=len(labels))
        for label in np.unique(labels):
            of_class = times[labels == label]
            assert of_class.max() - of_class.min() <= 1


def test_a_video_shown_twice_in_an_epoch_has_another_seed():
    ((videos, seeds),) = drawn([0] * 12 + [1], 1, 1)
    of_the_rare = seeds[videos == 12]
    assert len(of_the_rare) == 6
    assert len(set(of_the_rare.tolist())) == 6


def test_seeds_and_epochs_have_draws_of_their_own():
    labels = [0] * 20 + [1] * 5
    orders = [tuple(videos) for seed in range(4) for videos, _ in drawn(labels, 1, 4, seed)]
    assert len(set(orders)) == 16


def test_the_draws_are_the_same_in_every_version():
    """A change here makes every checkpoint of such a run continue with another order."""
    videos, seeds = drawn([0, 0, 0, 0, 0, 1, 1, 2], 1, 3)[2]
    assert videos.tolist() == [3, 5, 7, 2, 7, 6, 6, 0]
    assert int(seeds[0]) == 6882378892289868795


@given(
    labels=labels_of_videos,
    batch=st.integers(1, 12),
    world=st.integers(1, 4),
    step=st.integers(0, 20),
)
def test_steps_depend_neither_on_world_size_nor_on_where_one_starts(labels, batch, world, step):
    draw = Balanced(labels, 0.7).draw
    settings = {"global_batch": batch, "seed": 3, "num_epochs": 2, "draw": draw}
    alone = [share.videos for share in shares(len(labels), world_size=1, **settings)]
    plan = list(shares(len(labels), world_size=world, **settings))
    together = [
        np.concatenate([share.videos for share in plan[i : i + world]])
        for i in range(0, len(plan), world)
    ]
    assert [x[x >= 0].tolist() for x in together] == [x[x >= 0].tolist() for x in alone]
    per_epoch = -(-len(labels) // batch)
    step = min(step, 2 * per_epoch - 1)
    start = Position(step // per_epoch, step % per_epoch * batch)
    rest = [share.videos for share in shares(len(labels), world_size=1, start=start, **settings)]
    assert [x.tolist() for x in rest] == [x.tolist() for x in alone[step:]]
