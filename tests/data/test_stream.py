"""The Ray Data stream: alignment of ranks, cover, padding and videos that cannot be decoded."""

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
    plan_data_config,
)
from stm.data.stream.plan import Position, shares
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


def collect(stream, world_size):
    """The batches of every rank, read side by side as workers do."""
    batches: list[list] = [[] for _ in range(world_size)]
    threads = [
        threading.Thread(target=lambda r=r, s=s: batches[r].extend(iterate(s, 1)))
        for r, s in enumerate(stream.streaming_split(world_size, equal=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "the stream hangs"
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_gets_its_shares_in_plan_order(ray_cluster, videos, world_size):
    batches = collect(build_stream(spec_of(videos), world_size), world_size)
    plan = list(shares(11, global_batch=4, world_size=world_size, seed=0, num_epochs=2))
    for rank in range(world_size):
        got = [(b.epoch, b.offset_end, b.videos.tolist()) for b in batches[rank]]
        assert got == [(s.epoch, s.offset_end, s.videos.tolist()) for s in plan[rank::world_size]]


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
    two = clips_by_video([b for rank in collect(build_stream(spec, 2), 2) for b in rank])
    assert one == two
    assert len(set(one.values())) > 11  # an epoch draws anew


def test_the_video_rows_alone_travel_with_a_task(ray_cluster, videos):
    """A decode task is sent the rows it needs, not the manifest."""
    from stm.data.stream.graph import plan_rows

    first = next(plan_rows(videos, spec_of(videos), 1, Position(), shares_per_task=2))
    assert first.num_rows == 1
    assert len(first["path"][0]) == 8


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_validation_follows_its_epoch_in_the_same_sequence(ray_cluster, videos, world_size):
    held_out = videos.slice(0, 5)
    validation = Validation(
        spec_of(held_out, num_epochs=1, shuffle=False, clip=ClipSpec(num_segments=4, size=32)),
        every_epochs=2,
    )
    stream = build_stream(spec_of(videos, num_epochs=3), world_size, Position(1, 8), validation)
    batches = collect(stream, world_size)
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
