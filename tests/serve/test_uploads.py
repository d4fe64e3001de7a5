"""What a stranger's file may cost: its own answer, and nothing else."""

from __future__ import annotations

import asyncio
import http.server
import threading

import numpy as np
import pytest

from stm.data.decode import VideoError, probe
from stm.data.isolation import IsolatedProcess
from stm.data.stream.clips import ClipSpec, load_views
from stm.serve.decoder import Decoder
from stm.serve.uploads import Decoded, Refused, decode_upload
from tests.videos import write_video

CLIP = ClipSpec(num_segments=4, size=32)
ROOM = 2**30


@pytest.fixture
def listener():
    """A server on this machine, and the paths that were asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


def playlists(port, path):
    """Files that name other files: over HTTP, and on this disk."""
    return {
        "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:%d/secret.ts\n"
        % port
        + b"#EXT-X-ENDLIST\n",
        "hls_disk": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://%s\n#EXT-X-ENDLIST\n"
        % str(path).encode(),
        "concat": b"ffconcat version 1.0\nfile '%s'\n" % str(path).encode(),
        "concat_beside": b"ffconcat version 1.0\nfile 'secret.ts'\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
        b"a=rtpmap:96 H264/90000\n",
    }


@pytest.mark.parametrize("kind", ["hls", "hls_disk", "concat", "concat_beside", "sdp"])
def test_a_playlist_cannot_make_the_server_open_anything(kind, listener, tmp_path, monkeypatch):
    """Else FFmpeg plays the file beside it, and waits on UDP ports for what the SDP announces."""
    port, asked = listener
    monkeypatch.chdir(tmp_path)
    secret = write_video(tmp_path / "secret.ts", num_frames=8, codec="mpeg2video")
    with pytest.raises(VideoError) as refused, IsolatedProcess() as process:
        process.call(decode_upload, playlists(port, secret)[kind], CLIP, ROOM, deadline_s=60)
    assert refused.value.reason == "not_a_video"
    assert asked == []


def test_an_upload_is_decoded_as_the_file_is(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    found = decode_upload(path.read_bytes(), CLIP, 2**40)
    info = probe(str(path))
    assert found.info == info
    views, _ = load_views(str(path), info.num_frames, info.width, info.height, 0, 0, CLIP)
    assert np.array_equal(found.clip, views[0])


def test_every_upload_gets_its_own_answer_whatever_came_before(tmp_path):
    good = write_video(tmp_path / "a.mp4", num_frames=12).read_bytes()
    # A few bytes, and pictures of 25 MB each.
    large = write_video(
        tmp_path / "large.mp4",
        codec="mpeg4",
        frames=(np.full((2160, 3840, 3), 40 * k, np.uint8) for k in range(4)),
    ).read_bytes()
    decoder = Decoder(CLIP, 20.0, 24 * 2**20)
    answers = [
        asyncio.run(decoder.decode(data)) for data in (good, good[:900], b"text", large, good)
    ]
    assert isinstance(answers[0], Decoded)
    assert isinstance(answers[4], Decoded)
    assert np.array_equal(answers[0].clip, answers[4].clip)
    refused = answers[1:4]
    assert all(isinstance(answer, Refused) and answer.status == 422 for answer in refused)
    assert [answer.reason for answer in refused[:2]] == ["truncated", "not_a_video"]
    assert refused[2].reason in ("too_large", "unreadable", "crashed", "no_frames")


def test_a_video_that_takes_too_long_costs_its_process_and_the_next_is_answered(tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=12).read_bytes()
    decoder = Decoder(CLIP, 1e-4, ROOM)
    late = asyncio.run(decoder.decode(video))
    assert isinstance(late, Refused)
    assert (late.status, late.reason) == (504, "decode_time")
    decoder._deadline_s = 60.0
    assert isinstance(asyncio.run(decoder.decode(video)), Decoded)
