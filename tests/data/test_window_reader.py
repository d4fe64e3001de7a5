"""Windows from a process that may hang or die, and from streams that are late, fast, silent or gone."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
import time
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest

from stm.data.decode import VideoError
from stm.data.decode.source import Stream, is_stream
from stm.data.stream.clips import ClipSpec
from stm.data.windows.decoding import Job
from stm.data.windows.reader import WindowReader
from tests.data.bad_decoder import DyingSpec
from tests.data.test_windows import SPEC, decoded
from tests.videos import frame_number, numbered_frame, write_video

LISTENING = (("rtsp_flags", "listen"), ("listen_timeout", "20"))
PLAIN = {field.name: getattr(SPEC, field.name) for field in fields(ClipSpec)}


def read(job, **options):
    with WindowReader(job, **{"deadline_s": 60.0, **options}) as reader:
        return list(reader), reader


def video(tmp_path, num_frames=150, g=10):
    return str(
        write_video(tmp_path / "a.mkv", num_frames=num_frames, options={"g": str(g), "bf": "0"})
    )


def test_windows_of_the_child_are_those_decoded_here_and_it_ends_with_us(tmp_path):
    job = Job(video(tmp_path), SPEC, 1.0, 0.5)
    windows, reader = read(job)
    expected, batches = decoded(job)
    assert [w.number for w in windows] == [w.number for w in expected]
    for window, same in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window.clips, same.clips)
    assert reader.num_decoded == batches[-1].num_decoded == 150
    assert not reader._thread.is_alive()
    assert reader._process._process is None


def test_a_reader_that_is_left_early_ends_its_process(tmp_path):
    with WindowReader(Job(video(tmp_path), SPEC, 1.0, 0.5), deadline_s=60.0) as reader:
        next(iter(reader))
        child = reader._process._process
    assert child.poll() is not None
    assert not reader._thread.is_alive()


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_crash_costs_the_frames_up_to_the_next_key_frame(tmp_path, caplog, hangs):
    path = video(tmp_path)
    expected = decoded(Job(path, SPEC, 0.4, 0.4))[0]
    spec = DyingSpec(**PLAIN, bad_pts=(1360, 3200), hangs=hangs)  # frames 34 and 80, at 40 ms each
    with caplog.at_level(logging.WARNING, "stm"):
        windows, _ = read(Job(path, spec, 0.4, 0.4), deadline_s=8.0 if hangs else 60.0)
    assert [w.number for w in windows] == list(range(15))
    assert [w.number for w in windows if w.clips is None] == [3, 8]
    assert {w.why.partition(":")[0] for w in windows if w.clips is None} == {"crashed"}
    for window, same in zip(windows, expected, strict=True):
        if window.clips is not None:
            np.testing.assert_array_equal(window.clips, same.clips)
    said = " ".join(caplog.messages)
    assert ("hangs" if hangs else "SIGSEGV") in said
    assert said.count("left out") == 2


def test_a_file_waits_for_its_reader_and_a_live_source_does_not(tmp_path):
    job = Job(video(tmp_path), SPEC, 0.4, 0.2)
    with WindowReader(job, deadline_s=60.0) as reader:
        most = 0
        for _ in reader:
            most = max(most, len(reader._waiting))
    assert most <= 4
    with WindowReader(job, deadline_s=60.0, is_live=True) as reader:
        reader._thread.join()  # nobody takes a window before the source has ended
        windows = list(reader)
    assert [w.number for w in windows] == [0, 25, 26, 27, 28]
    assert (windows[0].next_number, windows[0].start_s) == (25, 0.0)
    assert windows[0].end_s == pytest.approx(24 * 0.2 + 0.4)
    assert windows[0].why.startswith("skipped")
    assert windows[0].clips is None
    assert reader.num_skipped == 25


def test_what_cannot_be_read_is_named_where_windows_are_taken(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="not_a_video"):
        read(Job(str(tmp_path / "b.mp4"), SPEC, 1.0, 0.5))


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def push(url, numbers, then_s=0.0, over=None):
    """Send numbered frames, 25 a second by their times, to whoever listens there for RTSP."""
    options = {"rtsp_transport": "tcp"}
    output = None
    for _ in range(200):
        try:
            output = av.open(url, "w", format="rtsp", options=options)
            stream = output.add_stream("libx264", rate=25)
            stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            output.start_encoding()
            break
        except OSError:
            time.sleep(0.1)
    for at, number in enumerate(numbers):
        frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
        frame.pts = at
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    if over is not None:
        over.wait(then_s)
    output.close()


@pytest.fixture
def rtsp():
    """(address to listen at, a function that sends frames there in a thread, an event that ends silent senders)."""
    url, over, threads = f"rtsp://127.0.0.1:{free_port()}/live", threading.Event(), []

    def send(*calls):
        def run():
            for numbers, then_s in calls:
                push(url, numbers, then_s, over)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield url, send
    over.set()
    for thread in threads:
        thread.join(30)


def numbers_of(window):
    return [frame_number(frame) for frame in window.clips[0, 0]]


WIDE = ClipSpec(num_segments=4, size=96, num_crops=1)


def live(url, window_s=1.0, stride_s=1.0, stall_s=20.0, options=LISTENING):
    return Job(url, WIDE, window_s, stride_s, stream=Stream(20.0, stall_s, options))


def test_a_stream_over_rtsp_is_read_to_its_end(rtsp):
    url, send = rtsp
    assert is_stream(url)
    send((range(100), 0.0))
    windows, reader = read(live(url))
    assert [w.why for w in windows] == [""] * len(windows)
    assert sum(w.num_frames for w in windows) == 100
    assert reader.ended_by == ""
    assert windows[0].start_s == 0.0
    assert windows[-1].end_s == pytest.approx(4.0, abs=0.1)


def test_a_stream_that_falls_silent_has_broken_off_with_what_it_gave(rtsp):
    url, send = rtsp
    send((range(60), 120.0))
    windows, reader = read(live(url, stall_s=2.0))
    assert "nothing came for 2 s" in reader.ended_by
    assert sum(w.num_frames for w in windows) == 60


@pytest.mark.slow
def test_a_stream_that_comes_back_goes_on_by_the_clock(rtsp, caplog):
    url, send = rtsp
    send((range(50), 0.0), (range(50, 150), 0.0))
    options = (("rtsp_flags", "listen"), ("listen_timeout", "5"))
    with caplog.at_level(logging.WARNING, "stm"):
        windows, _ = read(live(url, options=options), reconnect_s=8.0)
    assert "the stream has ended; it is tried again for 8 s" in " ".join(caplog.messages)
    answered = [w for w in windows if w.clips is not None]
    away = [w for w in windows if w.why.startswith("away")]
    assert len(away) == 1
    assert [w.next_number for w in windows[:-1]] == [w.number for w in windows[1:]]
    before = [w for w in answered if w.end_s <= away[0].end_s]
    after = [w for w in answered if w not in before]
    assert sum(w.num_frames for w in before) == 50
    # Of the first window that is whole again, at most a second is lost.
    assert 75 <= sum(w.num_frames for w in after) <= 100


def test_nobody_at_the_other_end_is_told_at_once():
    with pytest.raises(VideoError, match=r"(?i)refused"):
        read(live(f"rtsp://127.0.0.1:{free_port()}/live", options=()))


def test_a_server_that_says_nothing_is_given_up():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        job = Job(f"rtsp://127.0.0.1:{port}/x", WIDE, 1.0, 1.0, stream=Stream(2.0, 2.0))
        with pytest.raises(VideoError):
            read(job)


def test_a_stream_opens_no_other_protocol(tmp_path):
    """An address of a stream names no file, whatever its options say."""
    job = Job(
        "udp://127.0.0.1:1",
        WIDE,
        1.0,
        1.0,
        stream=Stream(1.0, 1.0, (("protocol_whitelist", "file"),)),
    )
    from stm.data.decode import source

    seen = {}
    original = source.av.open
    try:
        source.av.open = lambda *a, **k: seen.update(k) or (_ for _ in ()).throw(OSError("seen"))
        with pytest.raises(VideoError, match="seen"):
            decoded(job)
    finally:
        source.av.open = original
    assert seen["options"]["protocol_whitelist"] == "udp"


def test_a_stream_over_http_without_a_length_is_one_where_that_is_said(tmp_path):
    data = Path(write_video(tmp_path / "a.ts", num_frames=100, options={"g": "10"})).read_bytes()

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/live.ts"
        assert is_stream(url, is_live=True)
        assert not is_stream(url)
        windows, _ = read(live(url, options=()))
        with pytest.raises(VideoError, match="does not report its length"):
            read(Job(url, SPEC, 1.0, 1.0))
        server.shutdown()
    assert [w.num_frames for w in windows] == [25, 25, 25, 25]
