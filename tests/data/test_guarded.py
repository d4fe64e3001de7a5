"""Decoding that a bad file cannot stop: hangs and crashes are bounded, named and remembered."""

from __future__ import annotations

import _thread
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from stm.data.decode import VideoError
from stm.data.stream import guarded
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import StreamSpec, build_stream, iterate
from stm.data.stream.waiting import WaitMonitor
from stm.data.synthetic import encode

CLIP = ClipSpec(num_segments=2, size=32)


def test_an_interrupt_waits_for_the_end_of_an_import_that_cannot_be_begun_twice():
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with guarded.uninterrupted():
            _thread.interrupt_main()  # as Ray does it
            time.sleep(0.1)
            done.append(1)
        done.append(2)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_another = threading.Thread(target=lambda: guarded.uninterrupted().__enter__())
    in_another.start()
    in_another.join()


def test_the_watchdog_ends_a_process_that_decodes_for_too_long():
    code = (
        "import time; from stm.data.stream.guarded import Watchdog; dog = Watchdog(0.5)\n"
        "with dog.guard('quick.mp4'): pass\n"
        "time.sleep(1)\n"
        "with dog.guard('slow.mp4'): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == guarded.EXIT_STATUS
    assert "slow.mp4 took longer than 0.5 s" in done.stderr


def test_a_wait_is_told_once_it_lasts_and_again_when_it_has_doubled():
    told, twice = [], threading.Event()

    def tell(waited):
        told.append(waited)
        if len(told) == 2:
            twice.set()

    with WaitMonitor(tell, after_s=0.1) as monitor:
        with monitor.waiting():
            pass
        assert told == []
        with monitor.waiting():
            assert twice.wait(20)
    assert told[0] >= 0.1
    assert told[1] >= 2 * told[0]


def test_what_telling_raises_does_not_end_the_monitor():
    tried = threading.Semaphore(0)

    def tell(waited):
        tried.release()
        raise RuntimeError("no one listens")

    with WaitMonitor(tell, after_s=0.05) as monitor, monitor.waiting():
        assert tried.acquire(timeout=20)
        assert tried.acquire(timeout=20)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    rows = []
    for name in ("a", "hangs", "b", "crashes", "c", "d"):
        path = folder / f"{name}.mp4"
        encode(path, np.full((6, 48, 64, 3), 100, dtype=np.uint8))
        rows.append(
            {
                "video_id": name,
                "path": str(path),
                "label": 0,
                "num_frames": 6,
                "fps": 10.0,
                "width": 64,
                "height": 48,
            }
        )
    return pa.Table.from_pylist(rows)


@pytest.mark.ray
@pytest.mark.parametrize("bad", ["hangs", "crashes"])
def test_a_video_that_takes_a_process_with_it_is_named_and_the_others_are_read(
    ray_cluster, videos, bad
):
    """The file hangs or kills the decoder in a worker process and in the child alike."""
    import ray

    from tests.data import bad_decoder

    table = videos.filter(pa.compute.is_in(videos["video_id"], pa.array(["a", "b", "c", "d", bad])))
    kept_out = guarded.quarantine()
    spec = StreamSpec(
        videos=ray.put(table),
        num_videos=table.num_rows,
        global_batch=5,
        clip=bad_decoder.BadDecoderSpec(num_segments=2, size=32),
        num_epochs=2,
        decode_deadline_s=5.0,
        quarantine=kept_out,
    )
    first, second = iterate(build_stream(spec, 1), 1)
    reason = {"hangs": "deadline", "crashes": "crashed"}[bad]
    for batch in (first, second):
        assert [(f["video_id"], f["reason"]) for f in batch.failures] == [(bad, reason)]
        assert batch.weights.sum() == 4
    assert [path.rpartition("/")[2] for path in ray.get(kept_out.all.remote())] == [f"{bad}.mp4"]


@pytest.mark.ray
def test_what_is_in_quarantine_fails_at_once_with_its_reason(ray_cluster, videos):
    import ray

    kept_out = guarded.quarantine()
    path = videos["path"][0].as_py()
    ray.get(kept_out.add.remote(path, "deadline", "no answer within 2 s"))
    with (
        guarded.GuardedDecoder(CLIP, 60.0, kept_out) as decoder,
        pytest.raises(VideoError, match="deadline: no answer within 2 s"),
    ):
        decoder.load(path, 6, 64, 48, 0, 1)


@pytest.mark.ray
def test_a_slow_reader_does_not_fill_the_object_store(ray_cluster, tmp_path):
    """600 MB of clips go through a stream whose bound is the least there is, 256 MB."""
    import time

    import ray

    path = tmp_path / "v.mp4"
    encode(path, np.full((6, 48, 64, 3), 100, dtype=np.uint8))
    row = {
        "video_id": "v",
        "path": str(path),
        "label": 0,
        "num_frames": 6,
        "fps": 10.0,
        "width": 64,
        "height": 48,
    }
    table = pa.Table.from_pylist([{**row, "video_id": str(i)} for i in range(500)])
    spec = StreamSpec(
        videos=ray.put(table), num_videos=500, global_batch=10, clip=ClipSpec(num_segments=8, size=224),
        clips_per_task=10,
    )  # fmt: skip
    bound = spec.buffer_bytes(world_size=1, num_ranks=1, num_tasks=4)
    assert bound == 2**28
    total = ray.cluster_resources()["object_store_memory"]
    most, num_clips = 0.0, 0
    for batch in iterate(build_stream(spec, 1), 1):
        num_clips += len(batch.weights)
        time.sleep(0.1)
        most = max(most, total - ray.available_resources().get("object_store_memory", 0.0))
    assert num_clips == 500
    assert most < 1.5 * bound
