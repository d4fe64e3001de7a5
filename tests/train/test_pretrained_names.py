"""What `--model.pretrained` takes: downloads that are cut, wrong or away, runs, files, and classes by name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from stm.checkpoint import download as downloading
from stm.checkpoint import format as checkpoints
from stm.checkpoint import pretrained
from stm.checkpoint.pretrained import begin, find
from stm.config import Config, DataConfig, ModelConfig
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model import build_model

SMALL = {"depth": 26, "width": 16}


class Server(ThreadingHTTPServer):
    """One file at every path; it can cut answers, refuse ranges, and change the file."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        self.content, self.etag, self.cut_at = content, '"1"', list[int]()
        self.ranges, self.status = True, 200
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, given = self.server, self.headers.get("Range")
        server.asked.append(given or "all")
        if server.status != 200:
            self.send_error(server.status)
            return
        begin = int(given[6:-1]) if given and server.ranges else 0
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        if begin:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.end_headers()
        if server.cut_at:
            body = body[: server.cut_at.pop(0)]
        with contextlib.suppress(OSError):  # who looks at the headers alone, leaves
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def weights() -> bytes:
    torch.manual_seed(1)
    buffer = io.BytesIO()
    torch.save(build_model("tsn", num_classes=1000, **SMALL).state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def server(weights, tmp_path, monkeypatch) -> Iterator[Server]:
    """It publishes ResNets of depth 26, small, as torchvision does larger ones."""
    with Server(weights) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"resnet26-{hashlib.sha256(weights).hexdigest()[:8]}.pth"
        monkeypatch.setattr(pretrained, "_PUBLISHED", {26: name})
        monkeypatch.setattr(downloading.time, "sleep", lambda seconds: None)
        monkeypatch.setenv("STM_IMAGENET_URL", server.url)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server
        server.shutdown()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "torch" / "hub" / "checkpoints").glob("*"))


def test_imagenet_is_fetched_once_and_kept_where_torchvision_looks(server, weights, tmp_path):
    first, second = find("imagenet", 26), find("imagenet", 26)
    assert server.asked == ["all"]
    (file,) = kept(tmp_path)
    assert file.name == pretrained._PUBLISHED[26]
    assert file.read_bytes() == weights
    assert first.sha256 == second.sha256 == hashlib.sha256(weights).hexdigest()


def test_a_download_that_is_cut_goes_on_where_it_was(server, weights, tmp_path):
    server.cut_at = [100_000, 50_000]
    find("imagenet", 26)
    assert server.asked == ["all", "bytes=100000-", "bytes=150000-"]
    assert kept(tmp_path)[0].read_bytes() == weights


def test_what_another_process_left_is_continued(server, weights, tmp_path):
    server.cut_at = [100_000] + [0] * downloading.TRIES
    with pytest.raises(UserError, match=r"connection was cut.*The received part is kept"):
        find("imagenet", 26)
    assert [path.name[:9] for path in kept(tmp_path)] == [".partial-"]
    server.asked, server.cut_at = [], []
    find("imagenet", 26)
    assert server.asked == ["bytes=100000-"]
    assert kept(tmp_path)[0].read_bytes() == weights


@pytest.mark.parametrize("ranges", [True, False])
def test_a_damaged_beginning_is_fetched_anew(server, weights, tmp_path, ranges):
    server.ranges = ranges
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f".partial-{pretrained._PUBLISHED[26]}").write_bytes(b"x" * 1000)
    find("imagenet", 26)
    assert kept(tmp_path)[0].read_bytes() == weights


@pytest.mark.parametrize("content", [b"other weights", b"<!doctype html><p>Sign in"])
def test_a_file_with_another_hash_is_refused_and_not_kept(server, tmp_path, content):
    server.content = content
    with pytest.raises(
        UserError, match=r"sent a file that is not .*its sha256 begins with"
    ) as error:
        find("imagenet", 26)
    assert ("it is a web page" in str(error.value)) == content.startswith(b"<")
    assert kept(tmp_path) == []


def test_a_kept_file_that_is_damaged_is_fetched_again(server, weights, tmp_path):
    find("imagenet", 26)
    file = kept(tmp_path)[0]
    file.write_bytes(weights[:-1] + b"?")
    find("imagenet", 26)
    assert file.read_bytes() == weights


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, 2)])
def test_a_server_that_refuses_is_told_with_what_to_do(server, tmp_path, status, asked):
    server.status = status
    with pytest.raises(UserError) as error:
        find("imagenet", 26)
    name = pretrained._PUBLISHED[26]
    assert f"the server answers {status}" in str(error.value)
    assert f"put it at {tmp_path}/torch/hub/checkpoints/{name}" in str(error.value)
    assert f"https://download.pytorch.org/models/{name}" in str(error.value)
    assert len(server.asked) == asked
    assert kept(tmp_path) == []


def test_without_a_server_one_message_says_which_file_goes_where(server, monkeypatch):
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match=r"Connection refused\. Without network access, download https"
    ):
        find("imagenet", 26)


def test_a_proxy_on_the_way_to_weights_is_named(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first call
    with pytest.raises(UserError, match=r"no_proxy=weights\.example connects directly"):
        find("http://weights.example/resnet50.pth")


def test_a_full_disk_is_told_and_the_next_try_goes_on(server, weights, tmp_path, monkeypatch):
    copy = downloading._copy

    def full(answer: Any, file: Any, total: int | None, name: str) -> int:
        file.write(answer.read(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading, "_copy", full)
    with pytest.raises(UserError, match=r"No space left on device. Make room there"):
        find("imagenet", 26)
    monkeypatch.setattr(downloading, "_copy", copy)
    find("imagenet", 26)
    assert server.asked == ["all", "bytes=1000-"]
    assert kept(tmp_path)[0].read_bytes() == weights


def test_two_at_once_fetch_it_once(server, weights, tmp_path):
    threads = [threading.Thread(target=find, args=("imagenet", 26)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == ["all"]
    assert len(kept(tmp_path)) == 1


def test_a_url_is_fetched_again_only_when_it_has_changed(server, weights, tmp_path):
    url = f"{server.url}/a%20b/model.bin?download=true"
    find(url)
    find(url)
    assert server.asked == ["all", "all", "all"]  # headers, file, headers
    server.etag = '"2"'
    find(url)
    assert len(server.asked) == 5
    assert len(list((tmp_path / "cache" / "stm" / "weights").iterdir())) == 1


def test_a_user_in_a_url_is_sent_and_never_shown(server):
    server.status = 401
    with pytest.raises(UserError) as error:
        find(server.url.replace("//", "//ann:pa55@") + "/w.pth")
    assert "401" in str(error.value)
    assert "pa55" not in str(error.value)


# ---------------------------------------------------------------------- runs, files, classes


def write_run(folder: Path, classes: list[str], num_segments: int = 8, **model: Any) -> Any:
    torch.manual_seed(1)
    network = build_model(num_classes=len(classes), **{**SMALL, **model})
    config = Config(
        model=ModelConfig(**{**SMALL, **model}), data=DataConfig(num_segments=num_segments)
    )
    directory = folder / "checkpoint-00000004"
    directory.mkdir(parents=True)
    checkpoints.write(
        directory,
        network,
        {},
        checkpoints.Meta(
            config=config.to_dict(),
            classes=classes,
            position=Position(1, 0),
            step=4,
            fingerprint="f",
        ),
    )
    return network


def made(num_classes: int, **settings: Any) -> Any:
    torch.manual_seed(7)
    return build_model(num_classes=num_classes, **{**SMALL, **settings})


@pytest.mark.parametrize("form", ["run", "checkpoint", "its file"])
def test_rows_of_classes_of_the_same_name_come_along(tmp_path, form):
    source = write_run(tmp_path / "first", ["up", "left", "right"], num_segments=4)
    checkpoint = tmp_path / "first" / "checkpoint-00000004"
    path = {"run": tmp_path / "first", "checkpoint": checkpoint}.get(
        form, checkpoint / "model.safetensors"
    )
    model = made(3)
    fresh = model.fc.weight.detach().clone()
    found = find(str(path))
    report = begin(model, found, classes=["RIGHT", "wave", "up"], num_segments=16)
    assert torch.equal(model.fc.weight[[0, 2]], source.fc.weight[[2, 0]])
    assert torch.equal(model.fc.bias[[0, 2]], source.fc.bias[[2, 0]])
    assert torch.equal(model.fc.weight[1], fresh[1])
    for name, value in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(model.state_dict()[name], value), name
    assert "classifier: 2 of 3 classes by name (RIGHT, up), new: wave" in str(report)
    assert "taken as the same: 'RIGHT' is 'right'" in str(report)
    assert "left out: 1 class" in str(report)
    assert "trained on 4 frames, here 16" in str(report)


def test_a_network_on_its_own_classes_scores_as_it_did(tmp_path):
    source = write_run(tmp_path, ["a", "b"]).eval()
    model = made(2)
    begin(model, find(str(tmp_path)), classes=["a", "b"])
    clips = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(model.eval()(clips), source(clips))


def test_of_imagenet_what_is_new_is_said(server):
    report = begin(made(2), find("imagenet", 26), classes=["a", "b"])
    assert "new: temporal of 8 blocks, cmm of 8 blocks" in str(report)
    assert "classifier: new, its classes are not known; left out: 1000 classes" in str(report)


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (
            {"variant": "tsm"},
            {"variant": "tsn"},
            "use --model.variant tsm --model.depth 26",
        ),
        ({"variant": "cstm"}, {}, "network of variant cstm, but this one is of stm"),
        ({"width": 32}, {}, "It fits a model of variant stm, depth 26, width 32"),
        ({}, {"depth": 50}, "It fits a model of variant stm, depth 26, width 16"),
    ],
    ids=str,
)
def test_a_run_of_another_network_is_refused_with_what_would_fit(tmp_path, there, here, words):
    write_run(tmp_path, ["a"], **there)
    model = made(1, **here)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        begin(model, find(str(tmp_path)), classes=["a"])
    assert words in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plain_run_begins_any_variant(tmp_path):
    write_run(tmp_path, ["a"], variant="tsn")
    report = begin(made(1), find(str(tmp_path)), classes=["a"])
    assert "new: temporal of 8 blocks, cmm of 8 blocks" in str(report)


def test_a_folder_of_hugging_faces_is_read_with_its_classes(tmp_path):
    from tests.model.test_pretrained import in_hugging_faces_names

    source = made(2, variant="tsn")
    torch.save(in_hugging_faces_names(source.state_dict()), tmp_path / "pytorch_model.bin")
    config: dict[str, Any] = {"id2label": {"1": "b", "0": "a"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build_model("tsn", num_classes=2, **SMALL)
    begin(model, find(str(tmp_path)), classes=["b", "a"])
    assert torch.equal(model.fc.weight, source.fc.weight[[1, 0]])
    (tmp_path / "config.json").write_text(json.dumps(config | {"downsample_in_bottleneck": True}))
    with pytest.raises(UserError, match="strides in the first 1x1"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"pretrained": "imagenet", "depth": 26},
            "no ResNet of depth 26; allowed: --model.depth 50, 101, 152",
        ),
        ({"pretrained": "imagenet", "width": 32}, "have --model.width 64, not 32"),
        ({"pretrained": "ImageNet"}, "are called imagenet"),
        ({"pretrained": "resnet50"}, "are called imagenet"),
        ({"pretrained": "imagenet-caffe"}, "stride of a block in its first 1x1"),
        ({"pretrained": "https://h/resnet50_msra-5891d200.pth"}, "stride of a block"),
        ({"pretrained": " "}, "is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_fetched(settings, words):
    with pytest.raises(UserError, match=r"--model.pretrained") as error:
        pretrained.check_name(ModelConfig(**settings))
    assert words in str(error.value)


def test_names_that_are_no_paths_stay_what_they_are(tmp_path, monkeypatch):
    for name in ("imagenet", "models:/a@b", "s3://bucket/w.pth"):
        assert pretrained.absolute(name) == name
    assert Path(pretrained.absolute("w.pth")).is_absolute()


@pytest.mark.parametrize("name", ["gone.pth", "empty"])
def test_what_is_not_there_is_one_message(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name) as error:
        find(str(tmp_path / name))
    assert "--checkpoint" not in str(error.value)
