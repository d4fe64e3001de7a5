"""Windows of a long video: the frames and pixels of a video cut there, each decoded once, in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stm.data.decode import VideoError, probe
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.stream.plan import sample_seed
from stm.data.windows import decoding
from stm.data.windows.cutting import Cutter
from stm.data.windows.decoding import Decoding, Job
from tests.videos import frame_number, numbered_frame, set_display_matrix, write_audio, write_video

SPEC = ClipSpec(num_segments=4, size=96)
INTRA = {"g": "1"}


def decoded(job):
    """All windows, decoded here, and the batches that they came in."""
    running, batches = Decoding(job), []
    while not batches or not batches[-1].ended:
        batches.append(running.go_on(0))
    return [window for batch in batches for window in batch.windows], batches


def windows_of(path, window_s=1.0, stride_s=0.5, spec=SPEC, **more):
    return decoded(Job(str(path), spec, window_s, stride_s, **more))[0]


def cut(path, target, start_s, end_s):
    """The packets of an all-intra video whose frames appear in [start, end), as a video of their own."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        copy.time_base = stream.time_base
        for packet in source.demux(stream):
            if packet.size and start_s <= packet.pts * Fraction(stream.time_base) < end_s:
                packet.stream = copy
                output.mux(packet)
    return target


def predicted(path, spec):
    """uint8 [N, V, T, S, S, 3]: the clips that ``stm predict`` takes of the only video that it is given."""
    info = probe(str(path), spec.limits)
    size = (info.num_frames, info.width, info.height)
    views = []
    for sampling in range(spec.num_samplings):
        seed = int(sample_seed(np.asarray(0), seed=0, epoch=sampling))
        views.append(load_views(str(path), *size, 0, seed, spec, info.fps, sampling)[0])
    return np.stack(views)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, sampling="dense", frame_stride=3),
        replace(SPEC, sampling="seconds", window_s=0.7),
        replace(SPEC, sampling="seconds", window_s=5.0),
        replace(SPEC, num_samplings=10, num_crops=3),
        replace(SPEC, num_samplings=10, num_crops=3, sampling="seconds", window_s=0.5),
        replace(SPEC, size=32),
    ],
    ids=["segments", "dense", "seconds", "seconds-looped", "accurate", "accurate-seconds", "small"],
)
@pytest.mark.parametrize("times", ["even", "uneven"])
def test_a_windows_clip_is_that_of_a_video_cut_there_bit_for_bit(tmp_path, spec, times):
    generator = np.random.default_rng(5)
    uneven = np.cumsum(generator.integers(10, 90, 130)).tolist()
    path = write_video(
        tmp_path / "a.mp4", num_frames=130, options=INTRA,
        times_ms=None if times == "even" else [0, *uneven[1:]],
    )  # fmt: skip
    windows = windows_of(path, 1.2, 0.4, spec)
    assert len(windows) > 9
    for window in windows[::3] + windows[-1:]:
        start, end = (
            Fraction("0.4") * window.number,
            Fraction("0.4") * window.number + Fraction("1.2"),
        )
        clip = cut(path, tmp_path / f"{window.number}.mp4", start, end)
        assert (window.start_s, window.why) == (float(start), "")
        np.testing.assert_array_equal(window.clips, predicted(clip, spec))


def test_a_video_shorter_than_a_window_is_the_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    (window,) = windows_of(path, 2.0, 1.0)
    assert (window.start_s, window.end_s, window.num_frames) == (0.0, 0.8, 20)
    np.testing.assert_array_equal(window.clips, predicted(path, SPEC))


def test_a_last_part_is_a_window_where_it_has_frames_of_its_own(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=60)  # 2.4 s
    assert [(w.start_s, w.end_s) for w in windows_of(path, 1.0, 0.5)] == [
        (0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.4),
    ]  # fmt: skip
    assert [(w.start_s, w.end_s) for w in windows_of(path, 0.8, 0.8)] == [
        (0.0, 0.8), (0.8, 1.6), (1.6, 2.4),
    ]  # fmt: skip
    # Between the windows there is nothing to say.
    assert [(w.start_s, w.num_frames) for w in windows_of(path, 0.2, 1.0)] == [
        (0.0, 5), (1.0, 5), (2.0, 5),
    ]  # fmt: skip


def test_time_stamps_decide_and_a_hole_is_one_row(tmp_path):
    times = [*range(0, 1000, 40), *range(7000, 9000, 40)]
    path = write_video(tmp_path / "a.mp4", num_frames=len(times), times_ms=times, options=INTRA)
    windows = windows_of(path, 1.0, 0.5)
    hole = [window for window in windows if window.clips is None]
    assert [(w.number, w.next_number, w.start_s, w.end_s) for w in hole] == [(2, 13, 1.0, 7.0)]
    assert hole[0].why.startswith("no_frames")
    assert [w.start_s for w in windows] == [0.0, 0.5, 1.0, 6.5, 7.0, 7.5, 8.0]
    # The frames of [6.5, 7.5) are those from 7.0 on.
    assert [w.num_frames for w in windows] == [25, 12, 0, 13, 25, 25, 25]


@pytest.mark.parametrize("at_once", [False, True])
def test_each_frame_is_decoded_once_and_memory_is_a_windows(tmp_path, monkeypatch, at_once):
    if at_once:  # frames too large to be kept as they were decoded
        monkeypatch.setattr(decoding, "_MOST_KEPT_BYTES", 0)
    converted = []
    views = Decoding._views
    monkeypatch.setattr(
        Decoding, "_views", lambda self, frame: converted.append(frame.pts) or views(self, frame)
    )
    held = {}
    for num_frames in (150, 450):
        path = write_video(
            tmp_path / f"{num_frames}.mp4", num_frames=num_frames, options={"bf": "2"}
        )
        converted.clear()
        windows, batches = decoded(Job(str(path), SPEC, 1.0, 0.25))
        assert len(windows) > 4 * num_frames / 25 - 4
        assert len(converted) == len(set(converted)) <= num_frames
        assert (len(converted) == num_frames) == at_once
        assert batches[-1].num_decoded == num_frames
        held[num_frames] = batches[-1].num_live
    # 25 of a window, and 16 whose references may be to come.
    assert held[150] == held[450] <= 25 + 16 + 1


def test_frames_between_windows_are_not_converted(tmp_path, monkeypatch):
    converted = []
    views = Decoding._views
    monkeypatch.setattr(
        Decoding, "_views", lambda self, frame: converted.append(frame.pts) or views(self, frame)
    )
    monkeypatch.setattr(decoding, "_MOST_KEPT_BYTES", 0)
    windows_of(write_video(tmp_path / "a.mp4", num_frames=250), 0.2, 2.0)
    assert len(converted) == 5 * 5


def shown(window):
    """The numbers drawn into a window's frames, which are whole in the middle of a crop of all of them."""
    return [frame_number(frame) for frame in window.clips[0, 0]]


def damaged(tmp_path, first, last, codec="libx264", **more):
    """A video of 100 frames, a key frame every ten, in which the packets of these frames are noise."""
    whole = write_video(
        tmp_path / "whole.mkv", num_frames=100, codec=codec, options={"g": "10", "bf": "0", **more}
    )
    target = tmp_path / "damaged.mkv"
    noise = np.random.default_rng(3)
    with av.open(str(whole)) as source, av.open(str(target), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            if first <= number <= last:
                fresh = av.Packet(noise.integers(0, 256, packet.size, dtype=np.uint8).tobytes())
                fresh.pts, fresh.dts, fresh.time_base = packet.pts, packet.dts, packet.time_base
                fresh.is_keyframe = packet.is_keyframe
                packet = fresh
            packet.stream = copy
            output.mux(packet)
    return target


def test_damage_is_said_and_marked_and_the_next_key_frame_goes_on(tmp_path):
    path = damaged(tmp_path, 34, 36)
    windows, batches = decoded(Job(str(path), SPEC, 0.4, 0.4))  # a window is a run of ten frames
    bad = [window.number for window in windows if window.clips is None]
    assert bad == [3]
    assert windows[3].why == "unreadable: a frame that its clip needs is damaged or missing"
    assert [window.num_frames for window in windows] == [10] * 10
    notes = [note for batch in batches for note in batch.notes]
    assert notes == ["damage at 0:00:01.4: frames from there to the next key frame are left out"]
    for window in windows:
        if window.clips is not None:
            expected = predicted(write_part(tmp_path, window.number), SPEC)
            # The same pictures: encoded anew in other runs of ten, so not to the bit.
            assert np.abs(window.clips.astype(int) - expected).mean() < 6


def write_part(tmp_path, number):
    frames = (numbered_frame(k) for k in range(10 * number, 10 * number + 10))
    return write_video(tmp_path / f"part{number}.mkv", frames=frames, num_frames=10)


def test_a_window_is_answered_where_damage_reached_no_frame_that_it_wants(tmp_path):
    # Of the ten frames of a window, four segments take numbers 1, 3, 6 and 8.
    windows = windows_of(damaged(tmp_path, 39, 39), 0.4, 0.4)
    assert windows[3].clips is not None
    # Number 4 is not wanted, and 6 and 8 refer to it.
    windows = windows_of(damaged(tmp_path, 34, 34), 0.4, 0.4)
    assert windows[3].clips is None


def test_a_file_without_its_end_is_read_as_far_as_it_goes(tmp_path):
    path = write_video(tmp_path / "a.ts", num_frames=100, options={"g": "10"})
    data = Path(path).read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[: len(data) * 6 // 10])
    windows = windows_of(tmp_path / "cut.ts", 0.4, 0.4)
    assert 4 <= len(windows) <= 7
    info = probe(str(tmp_path / "cut.ts"))
    assert sum(window.num_frames for window in windows) == info.num_frames


def test_a_turned_video_is_turned(tmp_path):
    path = set_display_matrix(
        write_video(tmp_path / "a.mp4", num_frames=20, width=160, height=96), (0, 1, -1, 0)
    )
    (window,) = windows_of(path, 2.0, 1.0)
    np.testing.assert_array_equal(window.clips, predicted(path, SPEC))


def test_frames_without_times_are_counted_at_the_rate_of_the_file(tmp_path):
    path = write_video(
        tmp_path / "a.avi", num_frames=60, codec="mpeg4", fps=20, options={"bf": "2", "g": "12"}
    )
    windows = windows_of(path, 1.0, 1.0)
    assert [(w.start_s, w.num_frames) for w in windows] == [(0.0, 20), (1.0, 20), (2.0, 20)]


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(VideoError, match="no_video_stream"):
        windows_of(write_audio(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="not_a_video"):
        windows_of(tmp_path / "b.mp4")


def test_beginning_later_gives_the_windows_that_are_left(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=200, options={"g": "48", "bf": "3"})
    whole, batches = decoded(Job(str(path), SPEC, 1.0, 0.5))
    later, more = decoded(Job(str(path), SPEC, 1.0, 0.5, first=9, known=batches[-1].known))
    assert [w.number for w in later] == list(range(9, len(whole)))
    for window, same in zip(later, whole[9:], strict=True):
        np.testing.assert_array_equal(window.clips, same.clips)
        assert (window.start_s, window.end_s) == (same.start_s, same.end_s)
    assert more[-1].num_decoded <= 200 - 96, "it begins at the key frame before 4.5 s"


def test_packets_behind_a_place_are_left_out_up_to_the_next_key_frame(tmp_path):
    path = write_video(tmp_path / "a.mkv", num_frames=100, options={"g": "10", "bf": "0"})
    running, places = Decoding(Job(str(path), SPEC, 0.4, 0.4)), []
    while not (batch := running.go_on(0)).ended:
        places.append(batch.place)
    windows = windows_of(path, 0.4, 0.4, avoided=frozenset({places[34]}))
    assert [w.number for w in windows if w.clips is None] == [3]
    assert windows[3].why.startswith("crashed")
    assert [w.num_frames for w in windows] == [10] * 10


def test_windows_are_borders_of_decimals_and_not_of_binary_fractions():
    cutter = Cutter(SPEC, 0.3, 0.1, Fraction(1, 10))
    views = np.zeros((1, 8, 8, 3), np.uint8)
    windows = [window for ticks in range(50) for window in cutter.push(ticks, lambda: views)]
    assert {window.num_frames for window in windows} == {3}
    assert [window.number for window in windows] == list(range(47))


def test_time_stamps_that_jump_back_are_counted_on(tmp_path):
    one = write_video(tmp_path / "one.ts", num_frames=50, options={"g": "10", "bf": "0"})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(Path(one).read_bytes() * 2)
    windows, batches = decoded(Job(str(joined), SPEC, 1.0, 1.0))
    assert [(w.start_s, w.num_frames) for w in windows] == [
        (0.0, 25),
        (1.0, 25),
        (2.0, 25),
        (3.0, 25),
    ]
    assert any("jump back" in note for batch in batches for note in batch.notes)


def test_how_far_behind_a_stream_is_forgives_bursts_and_clocks():
    lag = decoding._Lag()
    assert lag.of(0.0, 100.0) == 0.0
    assert lag.of(10.0, 100.5) == 0.0, "what a server had kept comes at once"
    assert lag.of(11.0, 101.5) == pytest.approx(0.0, abs=0.01)
    assert lag.of(12.0, 109.5) == pytest.approx(7.0, abs=0.02)
    slow = decoding._Lag()
    drifting = [slow.of(t * 0.9999, float(t)) for t in range(0, 500_000, 10)]
    assert max(drifting) < 0.1, "a clock that is slower by a ten-thousandth"
