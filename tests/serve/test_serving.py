"""A server under load, fed with bad files, and with its processes killed: every upload gets its right answer."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from stm.evaluate.predict import predict
from stm.package.register import register
from tests.package.untrained import write_checkpoint
from tests.serve.server import serving
from tests.videos import write_audio, write_frame_folder, write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_UPLOADS, NUM_CLIENTS, MAX_IN_FLIGHT = 200, 16, 12


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twelve videos of different length and content, by name."""
    root = tmp_path_factory.mktemp("videos")
    return {
        f"{k}.mp4": write_video(root / f"{k}.mp4", num_frames=10 + 3 * k, seed=k) for k in range(12)
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint-00000007")


@pytest.fixture(scope="module")
def expected(checkpoint, videos):
    """What ``stm predict`` says of each."""
    found = predict(checkpoint, [str(path) for path in videos.values()])
    return dict(zip(videos, (row["top5"] for row in found["videos"]), strict=True))


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    with serving(
        tmp_path_factory.mktemp("server") / "log",
        *("--checkpoint", checkpoint, "--max_mib", "1", "--receive_s", "3", "--replicas", "1"),
        *("--decoders", "2", "--max_in_flight", str(MAX_IN_FLIGHT)),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def bad(videos, tmp_path_factory):
    """Uploads that have no answer: (bytes, status, reason)."""
    whole = Path(videos["5.mp4"]).read_bytes()
    audio = Path(write_audio(tmp_path_factory.mktemp("bad") / "audio.mp4")).read_bytes()
    return [
        (b"", 400, "empty"),
        (whole[: len(whole) // 3], 422, "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(400), 422, "not_a_video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", 422, "not_a_video"),
        (audio, 422, "no_video_stream"),
        (bytes(3 * 2**20), 413, "too_large"),
    ]


def agrees(answer, expected_top5):
    assert [entry["class"] for entry in answer["top5"]] == [
        entry["class"] for entry in expected_top5
    ]
    scores = [entry["score"] for entry in answer["top5"]]
    # Clips of other requests in the batch change the order of sums, hence the last bits.
    assert scores == pytest.approx([entry["score"] for entry in expected_top5], abs=1e-5)


def test_the_images_of_a_video_are_answered_as_the_folder_of_them_is(server, checkpoint, tmp_path):
    folder = write_frame_folder(tmp_path / "frames", num_frames=12)
    expected = predict(checkpoint, [str(folder)])["videos"][0]["top5"]
    images = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir(), reverse=True)]
    with zipfile.ZipFile(tmp_path / "frames.zip", "w") as archive:
        for name, data in images:
            archive.writestr(f"frames/{name}", data)
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        archive.add(folder, "frames")
    packed = [(tmp_path / f"frames.{kind}").read_bytes() for kind in ("zip", "tar")]
    form = [("image", (name, data, "image/jpeg")) for name, data in images]
    replies = [server.post(data) for data in packed]
    replies.append(requests.post(f"{server.url}/predict", files=form, timeout=120))
    replies.append(
        requests.post(f"{server.url}/predict", files={"v": ("a.zip", packed[0])}, timeout=120)
    )
    for reply in replies:
        assert reply.status_code == 200, reply.text
        agrees(reply.json(), expected)
        assert reply.json()["video"]["num_frames"] == 12
    form.append(("video", ("a.mp4", b"a video")))
    reply = requests.post(f"{server.url}/predict", files=form, timeout=120)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (400, "several")


def num_answered(server):
    """Uploads that the server has answered with 200, by its own count."""
    metrics = requests.get(f"{server.url}/metrics", timeout=30).text
    found = re.search(r'stm_uploads_total{reason="",status="200"} (\S+)', metrics)
    return float(found[1]) if found else 0


def test_two_hundred_uploads_some_corrupt_are_all_answered_and_rightly(
    server, videos, expected, bad, capsys
):
    names = itertools.cycle(videos)
    wrong = itertools.cycle(bad)
    uploads = [
        (None, *next(wrong)) if k % 5 == 4 else (next(names), None, 200, "")
        for k in range(NUM_UPLOADS)
    ]
    turned_away, answered_before = 0, num_answered(server)

    def upload(job):
        nonlocal turned_away
        name, data, status, reason = job
        data = Path(videos[name]).read_bytes() if name else data
        as_form = name is not None and len(name) == 5  # 0.mp4 to 9.mp4 as a form, the others bare
        for _ in range(200):
            started = time.perf_counter()
            if as_form:
                reply = requests.post(
                    f"{server.url}/predict", files={"video": (name, data)}, timeout=120
                )
            else:
                reply = server.post(data)
            seconds = time.perf_counter() - started
            if reply.status_code != 503:
                break
            assert reply.json()["error"]["reason"] == "busy"
            turned_away += 1
            time.sleep(float(reply.headers["Retry-After"]))
        assert reply.status_code == status, reply.text
        if name:
            agrees(reply.json(), expected[name])
        else:
            assert reply.json()["error"]["reason"] == reason
        return (seconds * 1000, *reply.json()["ms"].values()) if name else None

    started = time.perf_counter()
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        times = [found for found in clients.map(upload, uploads) if found is not None]
    total = time.perf_counter() - started
    assert len(times) == NUM_UPLOADS - NUM_UPLOADS // 5
    metrics = requests.get(f"{server.url}/metrics", timeout=30).text
    assert num_answered(server) - answered_before == len(times)
    assert "stm_in_flight 0.0" in metrics
    p50, p95 = np.percentile([found[0] for found in times], [50, 95])
    receive, decode, network, _ = np.median([found[1:] for found in times], axis=0)
    with capsys.disabled():
        print(
            f"\n{NUM_UPLOADS} uploads by {NUM_CLIENTS} clients in {total:.1f} s: {len(times)} videos answered, "
            f"{NUM_UPLOADS - len(times)} refused by name, {turned_away} times told to come back; "
            f"p50 {p50:.0f} ms, p95 {p95:.0f} ms; medians in the server, waiting included: receive {receive:.0f}, "
            f"decode {decode:.0f}, network {network:.0f} ms"
        )


def test_more_than_the_limit_at_once_are_sent_away_and_told_when_to_come_back(server, videos):
    data = Path(videos["11.mp4"]).read_bytes()
    with ThreadPoolExecutor(4 * MAX_IN_FLIGHT) as clients:
        replies = list(clients.map(lambda _: server.post(data), range(4 * MAX_IN_FLIGHT)))
    statuses = {reply.status_code for reply in replies}
    assert statuses == {200, 503}
    assert all(
        reply.headers["Retry-After"] == "1" and reply.json()["error"]["reason"] == "busy"
        for reply in replies
        if reply.status_code == 503
    )


def test_what_is_no_upload_gets_a_status_of_its_own(server):
    assert requests.get(f"{server.url}/predict", timeout=30).status_code == 405
    assert requests.put(f"{server.url}/predict", data=b"x", timeout=30).status_code == 405
    assert requests.get(f"{server.url}/nowhere", timeout=30).status_code == 404
    form = requests.post(f"{server.url}/predict", files={"v": (None, "text")}, timeout=30)
    assert (form.status_code, form.json()["error"]["reason"]) == (400, "empty")
    health = requests.get(f"{server.url}/health", timeout=30)
    assert (health.status_code, health.json()["status"]) == (200, "ok")


def test_a_client_that_stops_sending_is_given_up_and_one_that_leaves_is_forgotten(server):
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection((host, int(port)), 30) as slow:
        slow.sendall(head + b"a little")
        answer = b""
        while b"}}" not in answer:
            answer += slow.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"receive_time" in answer
    with socket.create_connection((host, int(port)), 30) as leaver:
        leaver.sendall(head + b"a little")
    deadline = time.monotonic() + 20
    while requests.get(f"{server.url}/health", timeout=30).json()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_upload_without_an_announced_length_is_cut_off_at_the_limit(server):
    def endless():
        for _ in range(3 * 2**10):
            yield bytes(1024)

    reply = requests.post(f"{server.url}/predict", data=endless(), timeout=60)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (413, "too_large")


def test_uploads_are_answered_while_processes_are_killed(server, videos, expected):
    names = [name for name, _ in zip(itertools.cycle(videos), range(60), strict=False)]

    def upload(name):
        for _ in range(300):
            reply = server.post(Path(videos[name]).read_bytes())
            if reply.status_code != 503:
                break
            time.sleep(float(reply.headers["Retry-After"]))
        assert reply.status_code == 200, reply.text
        agrees(reply.json(), expected[name])

    with ThreadPoolExecutor(4) as clients:
        jobs = [clients.submit(upload, name) for name in names]
        for deployment in ("network", "decoder"):
            time.sleep(0.5)
            server.workers(deployment)[0].kill()
        for job in jobs:
            job.result()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_when_what_is_in_work_is_answered(
    checkpoint, videos, tmp_path, number, status
):
    video = Path(videos["0.mp4"]).read_bytes()
    with serving(
        tmp_path / "log", "--checkpoint", checkpoint, "--decoders", "1", "--json"
    ) as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        half, rest = video[: len(video) // 2], video[len(video) // 2 :]

        def slowly():
            yield half
            while b"stopping: finishing the uploads" not in running.log.read_bytes():
                time.sleep(0.05)
            time.sleep(2)
            yield rest

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(requests.post, f"{running.url}/predict", slowly(), timeout=120)
            while not requests.get(f"{running.url}/health", timeout=30).json()["in_flight"]:
                time.sleep(0.05)
            assert running.stop(number) == status
            assert answer.result().status_code == 200, answer.result().text
    lines = running.log.read_text().splitlines()
    assert json.loads(lines[-1])["url"] == running.url
    assert "Traceback" not in running.log.read_text()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{running.url}/health", timeout=5)


def test_a_registered_model_is_served_by_its_name_and_answers_as_predict_does(
    tmp_path, videos, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the server's, too
    registry = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    for number in (0, 1):
        folder = tmp_path / "runs" / str(number)
        write_checkpoint(folder / "checkpoint-00000007", seed=number)
        register(str(folder), "actions", rule="always", tracking=registry)
    asked = "models:/actions@champion"
    some = dict(list(videos.items())[:4])
    told = predict(asked, list(map(str, some.values())), tracking=registry)
    other = predict("models:/actions/1", [str(videos["0.mp4"])], tracking=registry)
    assert told["checkpoint"] == "models:/actions/2"
    assert told["videos"][0]["top5"] != other["videos"][0]["top5"]
    with serving(
        tmp_path / "log", "--model", asked, "--tracking", registry, "--decoders", "1"
    ) as running:
        health = requests.get(f"{running.url}/health", timeout=30).json()
        assert health["model"] == "models:/actions/2"
        for path, row in zip(some.values(), told["videos"], strict=True):
            reply = running.post(Path(path).read_bytes())
            assert reply.json()["model"] == "models:/actions/2"
            agrees(reply.json(), row["top5"])
