"""The Ray Data streams: alignment of ranks, cover, padding and videos that cannot be decoded, with one and several."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from stm.config import DataConfig
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import (
    StreamSpec,
    Validation,
    build_stream,
    iterate,
    plan_rows,
    unpacked,
)
from stm.data.stream.pacing import CLIP_S
from stm.data.stream.plan import Position, shares
from stm.data.stream.streams import groups, how_many, plan_data_config, split
from stm.data.synthetic import encode

pytestmark = pytest.mark.ray

SPEC = ClipSpec(num_segments=4, size=32, augment=True, scales=(1.0, 0.75))


EVERYTHING = ClipSpec.training(
    DataConfig(
        num_segments=4,
        size=32,
        sampling="dense",
        frame_stride=2,
        crop="resized",
        reverse="auto",
        color_jitter=0.4,
        hue=0.1,
        grey=0.3,
        blur=0.5,
        randaugment=2,
        erasing=0.5,
        temporal_jitter=0.5,
    ),
    flip=True,
    flip_map=None,
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eleven videos, each of one grey level, which is its row number; number 7 is not a video."""
    folder = tmp_path_factory.mktemp("stream")
    rows = []
    for number in range(11):
        path = folder / f"{number}.mp4"
        encode(path, np.full((10, 48, 64, 3), 20 * number + 10, dtype=np.uint8))
        rows.append(
            {
                "video_id": f"v{number}",
                "path": str(path),
                "label": number,
                "num_frames": 10,
                "width": 64,
                "height": 48,
                "fps": 10.0,
            }
        )
    (folder / "7.mp4").write_text("not a video")
    return pa.Table.from_pylist(rows)


def spec_of(videos, **changes):
    import ray

    settings = {
        "global_batch": 4,
        "clip": SPEC,
        "num_epochs": 2,
        "shuffle": True,
        "clips_per_task": 6,
    }
    return StreamSpec(videos=ray.put(videos), num_videos=videos.num_rows, **{**settings, **changes})


PACKED = {"block_bytes": 2**20, "clips_per_task": 24}
"""Several steps to a block."""


def collect(spec, world_size, *position, streams=1):
    """The batches of every rank, read side by side as workers do."""
    batches: list[list] = [[] for _ in range(world_size)]
    threads = [
        threading.Thread(target=lambda r=r, s=s: batches[r].extend(iterate(s, 1)))
        for r, s in enumerate(split(spec, world_size, *position, num_streams=streams))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
        assert not thread.is_alive(), "the stream hangs"
    return batches


@pytest.mark.parametrize(
    ("world_size", "streams", "packing"),
    [(1, 1, {}), (2, 1, {}), (3, 1, PACKED), (3, 2, {}), (4, 2, PACKED), (4, 4, PACKED)],
)
def test_every_rank_gets_its_shares_in_plan_order(
    ray_cluster, videos, world_size, streams, packing
):
    spec = spec_of(videos, num_epochs=9, clip=ClipSpec(num_segments=2, size=32), **packing)
    batches = collect(spec, world_size, Position(1, 4), streams=streams)
    plan = list(
        shares(
            11, global_batch=4, world_size=world_size, seed=0, start=Position(1, 4), num_epochs=9
        )
    )
    for rank in range(world_size):
        got = [(b.epoch, b.offset_end, b.videos.tolist()) for b in batches[rank]]
        assert got == [(s.epoch, s.offset_end, s.videos.tolist()) for s in plan[rank::world_size]]


def test_steps_are_packed_into_blocks_that_grow_and_end_with_the_epoch(videos):
    """One task a row here; its blocks hold a step, a step, two, four, and what the epoch has left."""
    spec = StreamSpec(videos=None, num_videos=11, global_batch=1, clip=SPEC, num_epochs=2, **PACKED)
    assert spec.steps_per_block(1) == 24
    rows = list(plan_rows(videos, spec, 1, Position()))
    assert [len(unpacked(row)["offset_end"]) for row in rows] == [1, 1, 2, 4, 3, 11]
    assert all(len(unpacked(row)["epoch"]) == 1 for row in rows)
    # Where a clip is large, no more of them than there is room for.
    small = StreamSpec(videos=None, num_videos=11, global_batch=1, clip=SPEC, block_bytes=40_000)
    assert small.steps_per_block(1) == 40_000 // SPEC.clip_bytes == 3


def test_ranks_are_shared_out_to_streams_side_by_side():
    assert groups(5, 2) == [range(2), range(2, 5)]
    assert groups(4, 4) == [range(i, i + 1) for i in range(4)]
    assert how_many(8, None, 99, 1) == 1
    assert how_many(9, None, 99, 1) == 2
    assert how_many(64, None, 3, 1) == 3  # each needs a CPU to decode on
    assert how_many(2, 4, 99, 1) == 2


def test_the_executor_looks_more_often_where_tasks_are_short(ray_cluster, videos):
    """A CPU waits half a pause for its next task: less than a seventh of what the last one took, with 8 clips on 2."""

    def pause(**changes):
        spec = spec_of(videos, max_cpus=2, clips_per_task=64, **changes)
        return build_stream(spec, 1).context.get_config("stm.pause_s")

    apart, packed = pause(global_batch=8), pause(global_batch=8, block_bytes=2**26)
    assert apart / 2 < 8 * CLIP_S / 7
    assert packed == pytest.approx(apart * 8**0.5)  # tasks of 64 clips


@pytest.mark.parametrize("streams", [1, 2])
def test_clips_of_packed_steps_are_those_of_single_ones(ray_cluster, videos, streams):
    """The very bytes, and the failure of the video that is none in its own step."""
    plain = collect(spec_of(videos, clip=EVERYTHING), 2)
    packed = collect(spec_of(videos, clip=EVERYTHING, **PACKED), 2, streams=streams)
    assert any(batch.failures for rank in plain for batch in rank)
    for ours, theirs in zip(packed, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.videos == b.videos).all()
            assert (a.weights == b.weights).all()
            assert (a.labels == b.labels).all()
            assert a.clips.tobytes() == b.clips.tobytes()
            assert a.failures == b.failures


def test_clips_belong_to_their_labels_and_padding_is_empty(ray_cluster, videos):
    for batch in iterate(build_stream(spec_of(videos), 1), 1):
        assert batch.clips.shape == (4, 1, 4, 32, 32, 3)
        assert batch.clips.dtype == np.uint8
        for clip, label, weight, video in zip(
            batch.clips, batch.labels, batch.weights, batch.videos, strict=True
        ):
            if weight:
                assert label == video
                assert abs(clip.astype(int).mean() - (20 * label + 10)) < 4
            else:
                assert not clip.any()
                assert video in (-1, 7)


def test_a_video_that_cannot_be_decoded_is_named_and_never_replaced(ray_cluster, videos):
    batches = list(iterate(build_stream(spec_of(videos), 1), 1))
    failures = [failure for batch in batches for failure in batch.failures]
    assert [(f["video_id"], f["reason"]) for f in failures] == [("v7", "not_a_video")] * 2
    trained = [int(v) for b in batches for v, w in zip(b.videos, b.weights, strict=True) if w]
    assert sorted(trained) == sorted([*range(7), 8, 9, 10] * 2)


@pytest.mark.parametrize("clip", [SPEC, EVERYTHING], ids=["plain", "everything"])
def test_a_stream_that_starts_in_mid_epoch_is_the_tail_of_the_whole_one(ray_cluster, videos, clip):
    whole = list(iterate(build_stream(spec_of(videos, clip=clip), 1), 1))
    tail = list(iterate(build_stream(spec_of(videos, clip=clip), 1, Position(0, 8)), 1))
    assert len(tail) == len(whole) - 2
    for a, b in zip(whole[2:], tail, strict=True):
        assert (a.videos == b.videos).all()
        assert (a.clips == b.clips).all()


@pytest.mark.parametrize("clip", [SPEC, EVERYTHING], ids=["plain", "everything"])
def test_the_clips_do_not_depend_on_the_world_size(ray_cluster, videos, clip):
    def clips_by_video(batches):
        return {
            (b.epoch, int(v)): clip.tobytes()
            for b in batches
            for v, clip in zip(b.videos, b.clips, strict=True)
            if v >= 0
        }

    spec = spec_of(videos, clip=clip)
    one = clips_by_video(iterate(build_stream(spec, 1), 1))
    two = clips_by_video([b for rank in collect(spec, 2) for b in rank])
    assert one == two
    drawn_anew = len(set(one.values())) > 11  # of grey videos a crop alone shows nothing new
    assert drawn_anew == (clip is EVERYTHING)


def test_the_video_rows_alone_travel_with_a_task(ray_cluster, videos):
    """A decode task is sent the rows it needs, not the manifest."""
    first = next(plan_rows(videos, spec_of(videos, clips_per_task=4), 2, Position()))
    assert first.num_rows == 1
    assert len(unpacked(first)["path"]) == 4


@pytest.mark.parametrize(("world_size", "streams", "packing"), [(1, 1, {}), (2, 2, PACKED)])
def test_a_validation_follows_its_epoch_in_the_same_sequence(
    ray_cluster, videos, world_size, streams, packing
):
    held_out = videos.slice(0, 5)
    validation = Validation(
        spec_of(
            held_out, num_epochs=1, shuffle=False, clip=ClipSpec(num_segments=4, size=32), **packing
        ),
        every_epochs=2,
    )
    spec = spec_of(videos, num_epochs=3, **packing)
    batches = collect(spec, world_size, Position(1, 8), validation, streams=streams)
    ends = [(b.epoch, b.offset_end, b.validation) for b in batches[0]]
    # What is left of epoch 1, the validation after two epochs, epoch 2 and the validation after the last.
    assert ends == [
        *[(1, 11, False), (0, 4, True), (0, 5, True)],
        *[(2, 4, False), (2, 8, False), (2, 11, False), (0, 4, True), (0, 5, True)],
    ]
    shown = [int(v) for rank in batches for b in rank if b.validation for v in b.videos if v >= 0]
    assert sorted(shown) == sorted([*range(5)] * 2)


def test_workers_that_leave_no_cpu_to_decode_with_are_refused_with_the_sum(ray_cluster, videos):
    config = plan_data_config(spec_of(videos), None, Position, cpus_per_worker=1.5)
    with pytest.raises(
        RuntimeError, match=r"2 workers x 1\.5 CPU leave 1 of the cluster's 4 CPU, .*needs 2"
    ):
        plan_data_config(spec_of(videos, cpus_per_task=2.0), None, Position, 1.5).configure({}, 2)
    assert len(config.configure({}, 2)) == 2
