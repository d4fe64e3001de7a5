"""``POST /windows``: a line as each window is known, equal to ``stm predict --window_s``; and what is refused."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from stm.evaluate.timeline import name_windows
from tests.package.colours import write_colour_checkpoint, write_colours
from tests.serve.server import serving
from tests.videos import write_audio

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLAN = [("red", 5.2), ("blue", 6.04), ("green", 4.0)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_colour_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint-00000007")


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(
        log, "--checkpoint", checkpoint, "--max_mib", "4", "--decoders", "1", "--answer_s", "300"
    ) as running:
        yield running


def post(server, data, query="window_s=1&stride_s=0.5", **kwargs):
    return requests.post(f"{server.url}/windows?{query}", data=data, timeout=300, **kwargs)


def lines_of(reply):
    return [json.loads(line) for line in reply.iter_lines()]


def test_a_long_video_is_answered_line_by_line_as_predict_answers_it(server, checkpoint, tmp_path):
    video = write_colours(tmp_path / "a.mp4", PLAN)
    data = Path(video).read_bytes()
    reply = post(server, data, stream=True)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    *rows, last = lines_of(reply)
    result = name_windows(
        checkpoint, video, window_s=1.0, stride_s=0.5, output=str(tmp_path / "t.json")
    )
    expected = json.loads((tmp_path / "t.json").read_text())["windows"]
    assert len(rows) == len(expected)
    for row, same in zip(rows, expected, strict=True):
        assert (row["start_s"], row["end_s"]) == (same["start_s"], same["end_s"])
        assert [e["class"] for e in row["top5"]] == [e["class"] for e in same["top5"]]
        assert [e["score"] for e in row["top5"]] == pytest.approx(
            [e["score"] for e in same["top5"]], abs=1e-5
        )
    assert [s["class"] for s in last["segments"]] == [name for name, _ in PLAN]
    assert [(s["start_s"], s["end_s"]) for s in last["segments"]] == [
        (s.start_s, s.end_s) for s in result.segments
    ]
    assert last["num_windows"] == len(rows)
    form = requests.post(
        f"{server.url}/windows?window_s=1&stride_s=0.5&min_s=6",
        files={"video": ("a.mp4", data)},
        timeout=300,
    )
    assert [s["class"] for s in lines_of(form)[-1]["segments"]] == ["blue"]


def test_lines_come_while_later_windows_are_still_to_come(server, tmp_path):
    data = Path(write_colours(tmp_path / "a.mp4", [("red", 60), ("blue", 60)])).read_bytes()
    reply = post(server, data, "window_s=1&stride_s=0.25", stream=True)
    lines = reply.iter_lines()
    first = json.loads(next(lines))
    in_work = requests.get(f"{server.url}/health", timeout=60).json()["in_flight"]
    assert (first["start_s"], in_work) == (0.0, 1)
    # A second long video has to wait its turn, a short one has not.
    second = post(server, data)
    assert (second.status_code, second.json()["error"]["reason"]) == (503, "busy")
    assert "Retry-After" in second.headers
    assert server.post(data).status_code == 200
    reply.close()  # the client leaves
    until = time.monotonic() + 120
    while requests.get(f"{server.url}/health", timeout=60).json()["in_flight"]:
        assert time.monotonic() < until, "what nobody reads is given up"
        time.sleep(0.5)
    assert 'reason="gone",status="499"' in requests.get(f"{server.url}/metrics", timeout=60).text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "window_s is missing"),
        ("window_s=0", "window_s 0: must be"),
        ("window_s=two", "window_s 'two': must be a number"),
        ("window_s=1&stride_s=nan", "stride_s nan"),
        ("window_s=1&enter=0.1", "leave not above"),
        ("window_s=1&live=1", "unknown option 'live'; the options are window_s"),
    ],
)
def test_a_wrong_option_is_refused_in_words(server, tmp_path, query, said):
    data = Path(write_colours(tmp_path / "a.mp4", [("red", 1)])).read_bytes()
    reply = post(server, data, query)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (400, "option")
    assert said in reply.json()["error"]["detail"]


def test_what_cannot_be_cut_into_windows_is_refused(server, tmp_path):
    audio = Path(write_audio(tmp_path / "audio.mp4")).read_bytes()
    for data, status, reason in [
        (b"", 400, "empty"),
        (b"no video", 422, "not_a_video"),
        (audio, 422, "no_video_stream"),
        (b"PK\x03\x04" + bytes(100), 422, "unsupported_source"),
        (bytes(5 * 2**20), 413, "too_large"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", 422, "not_a_video"),
    ]:
        reply = post(server, data)
        assert (reply.status_code, reply.json()["error"]["reason"]) == (status, reason)


def test_a_short_upload_is_answered_while_a_long_one_is_in_work(server, tmp_path):
    long = Path(write_colours(tmp_path / "long.mp4", [("red", 30), ("blue", 30)])).read_bytes()
    short = Path(write_colours(tmp_path / "short.mp4", [("green", 2)])).read_bytes()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, server, long, "window_s=1&stride_s=0.25")
        answers = [server.post(short).json()["top5"][0]["class"] for _ in range(5)]
        assert answers == ["green"] * 5
        rows = lines_of(waiting.result())
    assert [s["class"] for s in rows[-1]["segments"]] == ["red", "blue"]
