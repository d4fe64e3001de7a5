"""The sample plan: order, cover, equal steps, and resumption at any position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm.data.stream.plan import Position, permute, sample_seed, shares, step_of, steps_per_epoch

videos = st.integers(1, 300)
batches = st.integers(1, 40)
worlds = st.integers(1, 8)
seeds = st.integers(0, 2**31)


def steps(num_videos, global_batch, world_size, **order):
    """The plan as a list of steps, each (epoch, offset_end, video numbers of all ranks without padding)."""
    plan = list(shares(num_videos, global_batch=global_batch, world_size=world_size, **order))
    assert len(plan) % world_size == 0
    grouped = []
    for i in range(0, len(plan), world_size):
        ranks = plan[i : i + world_size]
        assert len({(share.epoch, share.offset_end, len(share.videos)) for share in ranks}) == 1
        trained = np.concatenate([share.videos for share in ranks])
        grouped.append((ranks[0].epoch, ranks[0].offset_end, trained[trained >= 0].tolist()))
    return grouped


@given(num_videos=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(num_videos, seed, epoch):
    order = permute(np.arange(num_videos), num_videos, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_videos))


@given(num_videos=videos, seed=seeds, data=st.data())
def test_any_part_of_the_order_can_be_asked_for_alone(num_videos, seed, data):
    whole = permute(np.arange(num_videos), num_videos, seed=seed, epoch=3)
    k = data.draw(st.integers(0, num_videos - 1))
    assert permute([k], num_videos, seed=seed, epoch=3)[0] == whole[k]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {
        tuple(permute(np.arange(50), 50, seed=seed, epoch=epoch))
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100


def test_every_order_of_four_videos_is_about_equally_likely():
    orders = [tuple(permute(np.arange(4), 4, seed=seed, epoch=0)) for seed in range(4800)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert counts.min() > 140  # 200 expected, standard deviation 14
    assert counts.max() < 260


def test_the_order_is_the_same_in_every_version():
    """A change here makes every checkpoint on disk continue with another order."""
    assert permute(np.arange(10), 10, seed=0, epoch=0).tolist() == [8, 1, 0, 9, 6, 2, 5, 3, 7, 4]


def test_a_position_past_the_epoch_is_refused():
    with pytest.raises(ValueError, match="position 10 of an epoch of 10"):
        permute([10], 10, seed=0, epoch=0)


@given(num_videos=videos, global_batch=batches, world_size=worlds, seed=seeds)
def test_each_epoch_trains_on_every_video_once(num_videos, global_batch, world_size, seed):
    plan = steps(num_videos, global_batch, world_size, seed=seed, num_epochs=2)
    for epoch in (0, 1):
        trained = [video for e, _, step_videos in plan if e == epoch for video in step_videos]
        assert sorted(trained) == list(range(num_videos))


@given(num_videos=videos, global_batch=batches, world_size=worlds, seed=seeds)
def test_the_steps_do_not_depend_on_the_world_size(num_videos, global_batch, world_size, seed):
    one = steps(num_videos, global_batch, 1, seed=seed, num_epochs=2)
    assert steps(num_videos, global_batch, world_size, seed=seed, num_epochs=2) == one


@given(
    num_videos=videos, global_batch=batches, before=worlds, after=worlds, seed=seeds, data=st.data()
)
def test_resuming_after_any_step_is_the_tail_of_the_plan(
    num_videos, global_batch, before, after, seed, data
):
    whole = steps(num_videos, global_batch, before, seed=seed, num_epochs=3)
    taken = data.draw(st.integers(0, len(whole)))
    position = Position()
    if taken:
        epoch, offset_end, _ = whole[taken - 1]
        position = (
            Position(epoch + 1, 0) if offset_end == num_videos else Position(epoch, offset_end)
        )
    assert step_of(position, num_videos, global_batch) == taken
    assert (
        steps(num_videos, global_batch, after, seed=seed, num_epochs=3, start=position)
        == whole[taken:]
    )


@given(num_videos=videos, global_batch=batches, world_size=worlds)
def test_all_ranks_take_the_steps_of_an_epoch(num_videos, global_batch, world_size):
    plan = list(shares(num_videos, global_batch=global_batch, world_size=world_size, seed=0))
    assert len(plan) == world_size * steps_per_epoch(num_videos, global_batch)


def test_padding_has_weight_zero_and_the_videos_weight_one():
    *_, last = shares(5, global_batch=4, world_size=1, seed=0)
    assert last.weights.tolist() == [1, 0, 0, 0]
    assert last.videos[1:].tolist() == [-1, -1, -1]


def test_without_shuffling_the_order_is_the_manifests():
    plan = shares(7, global_batch=3, world_size=1, seed=0, shuffle=False)
    assert np.concatenate([share.videos for share in plan]).tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        -1,
        -1,
    ]


def test_a_video_draws_from_another_seed_in_every_epoch():
    drawn = {int(s) for epoch in range(20) for s in sample_seed(np.arange(50), seed=0, epoch=epoch)}
    assert len(drawn) == 1000


def test_a_samples_seed_does_not_depend_on_where_it_is_trained():
    def seeds_by_video(world_size):
        plan = shares(20, global_batch=6, world_size=world_size, seed=1)
        return {
            int(video): int(seed)
            for share in plan
            for video, seed in zip(share.videos, share.seeds, strict=True)
            if video >= 0
        }

    assert seeds_by_video(1) == seeds_by_video(3)
