"""Files on disks and in stores: names, whole or not at all, and one message for what a store refuses."""

from __future__ import annotations

import ast
import contextlib
import errno
import http.server
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import types
import urllib.request
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stm import patience, storage
from stm.checkpoint import format as checkpoints
from stm.checkpoint import lease
from stm.checkpoint.locate import resolve
from stm.checkpoint.store import CheckpointStore
from stm.config import TrainConfig
from stm.errors import UserError
from stm.evaluate.predict import _write, predict
from stm.storage import StorageAway, StorageError
from tests.heads import listening
from tests.logged import logged
from tests.stores import Line, environment_of, s3_server
from tests.train.test_store import writer

ROOT = Path(__file__).parents[1]


def test_a_name_is_a_url_or_a_path():
    assert storage.is_url("s3://bucket/a")
    assert not storage.is_url(Path("/data/a"))
    assert storage.split_url("s3://bucket/a") == ("s3", "bucket/a")
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.join("/data", "a/b") == "/data/a/b"


def test_a_path_is_made_absolute_and_a_url_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert storage.absolute("link") == str(tmp_path / "link")
    assert storage.resolved("link") == str((tmp_path / "real").resolve())
    (tmp_path / "circle").symlink_to("circle")
    assert storage.resolved("circle") == str(tmp_path.resolve() / "circle")
    for made_absolute in (storage.absolute, storage.resolved):
        assert made_absolute("s3://bucket/a/../b") == "s3://bucket/a/../b"


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path):
    """A folder that is there, on a disk or behind fsspec."""
    if request.param == "disk":
        return str(tmp_path)
    import fsspec

    filesystem = fsspec.filesystem("memory")
    if filesystem.exists("/storage"):
        filesystem.rm("/storage", recursive=True)
    return "memory://storage"


def test_what_is_written_is_read_listed_copied_and_removed(folder, tmp_path_factory):
    def write(into):
        for name in ("meta.json", "weights"):
            (into / name).write_bytes(name.encode())

    path = storage.join(folder, "run/checkpoint-1")
    storage.write_folder(path, write, last="meta.json")
    assert storage.glob(folder, "*/checkpoint-*/meta.json") == [f"{path}/meta.json"]
    assert storage.read_bytes(f"{path}/weights") == b"weights"
    assert storage.info(f"{path}/weights")["size"] == 7
    copy = tmp_path_factory.mktemp("copy")
    storage.download(path, copy)
    assert sorted(file.name for file in copy.iterdir()) == ["meta.json", "weights"]
    storage.write_bytes(f"{path}/weights", b"x" * 3_000_000)
    assert [len(block) for block in storage.read_blocks(f"{path}/weights")] == [
        2**20,
        2**20,
        3_000_000 - 2**21,
    ]
    storage.remove_folder(path, first="meta.json")
    assert storage.glob(folder, "*/*/*") == []


def test_a_folder_that_is_half_written_in_a_store_does_not_count(monkeypatch):
    """Where another was before, too: what makes it count goes first and comes last."""
    from fsspec.implementations.memory import MemoryFileSystem

    def write(into):
        for name in ("a", "meta.json", "z"):
            (into / name).write_bytes(b"x")

    path = "memory://half-written/run"
    storage.write_folder(path, write, last="meta.json")
    put = MemoryFileSystem.put_file

    def put_some(self, local, remote, **settings):
        if remote.endswith("z"):
            raise ConnectionResetError("the store went away")
        put(self, local, remote, **settings)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_some)
    with pytest.raises(StorageAway, match="run cannot be written: the store went away"):
        storage.write_folder(path, write, last="meta.json")
    assert storage.glob(path, "meta.json") == []


def test_a_folder_that_is_half_removed_does_not_count(folder, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    path = storage.join(folder, "run")
    storage.write_folder(path, lambda into: (into / "meta.json").touch(), last="meta.json")
    remove = MemoryFileSystem.rm

    def fails(*arguments, recursive=True, **settings):
        if recursive:
            raise OSError("busy")
        remove(*arguments, **settings)

    monkeypatch.setattr(storage.shutil, "rmtree", fails)
    monkeypatch.setattr(
        MemoryFileSystem,
        "rm",
        lambda self, path, recursive=False: fails(self, path, recursive=recursive),
    )
    with pytest.raises(OSError, match="busy"):
        storage.remove_folder(path, first="meta.json")
    assert storage.glob(path, "meta.json") == []


def test_what_is_not_there_is_told_as_python_tells_it(folder):
    for read in (storage.read_bytes, storage.info, lambda path: list(storage.read_blocks(path))):
        with pytest.raises(FileNotFoundError):
            read(storage.join(folder, "none"))
    assert storage.glob(storage.join(folder, "none"), "*") == []


@pytest.mark.parametrize("name", ["circle", "n" * 300])
def test_a_run_directory_that_cannot_be_read_is_one_message(tmp_path, name):
    if name == "circle":
        (tmp_path / name).symlink_to(name)
    with pytest.raises(StorageError, match=r"cannot be read: .*\. Name another folder"):
        resolve(str(tmp_path / name))


def test_predictions_go_to_a_store_that_is_tried_before_the_work():
    _write(
        "memory://answers/a.parquet", ["a.mp4"], {"a.mp4": "empty"}, ["x"], np.zeros((1, 1)), [[0]]
    )
    table = pq.read_table(io.BytesIO(storage.read_bytes("memory://answers/a.parquet")))
    assert table["error"].to_pylist() == ["empty"]
    with pytest.raises(StorageError, match="no store is known by nosuch://"):
        predict("no such checkpoint", [__file__], output="nosuch://answers/a.parquet")


def test_a_file_on_a_disk_is_replaced_whole(tmp_path, monkeypatch):
    path = str(tmp_path / "cost.json")
    storage.write_bytes(path, b"1")

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_bytes(path, b"23")
    assert storage.read_bytes(path) == b"1"


def test_a_folder_is_made_and_tried(folder):
    path = storage.join(folder, "a/b")
    storage.make_writable(path)
    assert storage.glob(path, "*") == storage.glob(path, ".*") == []
    storage.write_bytes(f"{path}/file", b"")


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/a cannot be written: Not a directory\. Name"
    ) as told:
        storage.make_writable(tmp_path / "file/a")
    assert told.value.strerror == "Not a directory"


# ---------------------------------------------------------------------- what stores refuse


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """The address of an empty store that speaks S3."""
    import fsspec.config
    import s3fs

    with s3_server(tmp_path) as url:
        for name, value in environment_of(url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
    s3fs.S3FileSystem.clear_instance_cache()


def refused(call, *arguments):
    """(the error, its message)."""
    with pytest.raises(StorageError) as told:
        call(*arguments)
    assert isinstance(told.value, UserError)
    assert isinstance(told.value, OSError)
    return told.value, str(told.value)


def test_a_scheme_that_nothing_speaks():
    for call in (
        storage.read_bytes,
        storage.make_writable,
        checkpoints.read_meta,
        resolve,
    ):
        _, message = refused(call, "nosuch://ann:secret@bucket/run")
        assert message.startswith("nosuch://***@bucket/run")
        assert (
            "cannot be opened: no store is known by nosuch://. Name a folder, or a URL" in message
        )


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    error, message = refused(CheckpointStore("gs://bucket/run").latest)
    assert message.startswith("gs://bucket/run cannot be opened: a package is missing. ")
    assert "gcsfs" in message
    assert not isinstance(error, StorageAway)


def test_a_bucket_that_is_not_there(s3):
    for call in (
        lambda: storage.make_writable("s3://no-such/run"),
        lambda: storage.write_bytes("s3://no-such/a", b"x"),
        lambda: CheckpointStore("s3://no-such/run").commit(
            1, lambda folder: (folder / "a").touch()
        ),
    ):
        error, message = refused(call)
        assert "cannot be written: no such bucket or folder (The specified bucket" in message
        assert not isinstance(error, StorageAway)
    with pytest.raises(UserError, match="neither a checkpoint"):
        resolve("s3://no-such/run")


def test_a_store_that_lets_nobody_in(s3):
    storage.filesystem("s3://bucket")[0].mkdir("bucket")
    storage.write_bytes("s3://bucket/run/meta.json", b"{}")
    text = {"Content-Type": "text/plain"}
    ask = urllib.request.Request(f"{s3}/moto-api/reset-auth", b"0", text, method="POST")
    urllib.request.urlopen(ask).close()
    for call, done in (
        (storage.read_bytes, "read"),
        (checkpoints.read_meta, "read"),
        (storage.make_writable, "written"),
    ):
        error, message = refused(call, "s3://bucket/run/meta.json")
        assert f"cannot be {done}: " in message
        assert "Give this user, or the role of the nodes, permission for it" in message
        assert not isinstance(error, StorageAway)


SKEWED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is too \
large.</Message></Error>"""


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_a_store_whose_clock_is_another_is_told(monkeypatch, tmp_path, off_s):
    """moto looks at no clock; this server says what S3 says, and to a HEAD, which has no words, when it said it."""
    import s3fs

    class Skewed(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(403)
            self.send_header("Content-Length", str(len(SKEWED)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(SKEWED)

        def date_time_string(self, timestamp=None):
            return formatdate(time.time() + off_s, usegmt=True)

        def log_message(self, *_):
            pass

        do_GET = do_HEAD = do_PUT = answer

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Skewed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in environment_of(f"http://127.0.0.1:{server.server_port}").items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        for call, done in (
            (storage.read_bytes, "read"),
            (storage.info, "read"),
            (storage.make_writable, "written"),
            (lambda url: CheckpointStore(url).latest(), "listed"),
        ):
            error, message = refused(call, "s3://bucket/run")
            assert f"cannot be {done}: its clock and this machine's differ. " in message
            assert "Set the clock of this machine (`timedatectl`, `chronyc" in message
            assert not isinstance(error, StorageAway)
        server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_what_another_machine_is_writing_stays_whatever_the_clock_of_the_disk(
    tmp_path, monkeypatch, off_s
):
    """As on a shared disk, which stamps its files by its own clock."""
    monkeypatch.setattr(storage, "_clock_of", lambda folder: time.time() + off_s)
    old, new = (tmp_path / f".partial-checkpoint-1-elsewhere:1:1-{name}" for name in ("old", "new"))
    for folder, age_s in ((old, 3700), (new, 60)):
        folder.mkdir()
        stamp = time.time() + off_s - age_s
        os.utime(folder, (stamp, stamp))
    storage.remove_partial(str(tmp_path), "checkpoint-*")
    assert not old.exists()
    assert new.exists()


WRITES = """
import sys
from stm import storage
letter, path = sys.argv[1:]
for _ in range(100):
    storage.write_bytes(path, letter.encode() * 2**20)
"""


def test_a_file_that_two_processes_write_at_once_is_always_whole(tmp_path):
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", WRITES, each, str(path)]) for each in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert content in (b"a" * 2**20, b"b" * 2**20)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


STOPS = """
import sys, time
from pathlib import Path
from stm import storage
here = Path(sys.argv[1])
with storage.whole_file(here / "file") as partial, storage.scratch() as folder:
    partial.write_text("half")
    (folder / "weights").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_when_the_next_one_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def left():
        """The files and folders whose names say that they are unfinished."""
        return [each.name for each in tmp_path.iterdir() if each.name.startswith(".")]

    def write():
        with storage.scratch():
            storage.write_bytes(str(tmp_path / "file"), b"whole")

    with subprocess.Popen(
        [sys.executable, "-c", STOPS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        write()
        assert len(left()) == 2, "the process lives and goes on"
        process.kill()
    assert len(left()) == 2
    write()
    assert not left()
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(RuntimeError), storage.whole_file(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_disk_is_asked_for_its_clock(tmp_path):
    (tmp_path / "now").touch()
    assert abs(storage._clock_of(str(tmp_path)) - (tmp_path / "now").stat().st_mtime) < 600
    assert [each.name for each in tmp_path.iterdir()] == ["now"]


def test_a_call_of_a_store_that_says_nothing_ends_with_the_patience(monkeypatch):
    """Others wait for this process meanwhile; the library alone would wait a minute, and in all six."""
    import s3fs

    monkeypatch.setattr(patience, "_SHORTEST_CALL_S", 0.1)
    with listening(None) as address:
        for name, value in environment_of(f"http://{address}").items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        with patience.patience(0.4):
            store = storage._store("s3://bucket/a")[0]
            error, message = refused(storage.read_bytes, "s3://bucket/a")
    assert store.s3.meta.config.read_timeout == 0.1
    assert store.s3.meta.config.connect_timeout == 0.1
    assert store.retries == 1
    assert isinstance(error, StorageAway)
    assert "Read timeout on endpoint URL" in message
    s3fs.S3FileSystem.clear_instance_cache()
    patience.forget()


@pytest.mark.parametrize(("wait_s", "call_s"), [(0, 5), (10, 5), (100, 25), (300, 60)])
def test_a_call_takes_a_part_of_the_patience(wait_s, call_s):
    with patience.patience(wait_s):
        assert patience.call_s() == call_s


def test_a_store_for_which_there_are_no_credentials(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    _, message = refused(storage.read_bytes, "s3://bucket/a")
    assert "cannot be read: Unable to locate credentials. Set them" in message


def test_a_store_that_does_not_answer_may_answer_later(monkeypatch, tmp_path):
    import fsspec.config
    import s3fs

    with s3_server(tmp_path) as url:
        pass  # it was there, and is gone
    for name, value in environment_of(url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
    s3fs.S3FileSystem.clear_instance_cache()
    error, message = refused(storage.read_bytes, "s3://bucket/a")
    assert isinstance(error, StorageAway)
    assert "s3://bucket/a cannot be read: Could not connect" in message
    assert message.endswith("Check whether the store answers, then try again")


# ---------------------------------------------------------------------- patience


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A line to a store with the bucket ``bucket``, over which this process reaches it by AWS_ENDPOINT_URL alone."""
    import s3fs

    with s3_server(tmp_path) as url:
        s3fs.S3FileSystem(key="test", secret="test", endpoint_url=url).mkdir("bucket")
        made = Line(url)
        for name, value in environment_of(made.url).items():
            if name != "FSSPEC_S3_ENDPOINT_URL":
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield made
        made.cut()
    s3fs.S3FileSystem.clear_instance_cache()


def clock(sleep, monotonic=time.monotonic):
    return types.SimpleNamespace(sleep=sleep, monotonic=monotonic)


def write_two(into):
    for name in ("meta.json", "weights"):
        (into / name).write_bytes(name.encode())


CALLS = {
    "read": lambda: storage.read_bytes("s3://bucket/run/a/weights"),
    "read in blocks": lambda: list(storage.read_blocks("s3://bucket/run/a/weights")),
    "list": lambda: storage.glob("s3://bucket/run", "*/meta.json"),
    "write": lambda: storage.write_bytes("s3://bucket/run/b", b"x"),
    "write a folder": lambda: storage.write_folder(
        "s3://bucket/run/b", write_two, last="meta.json"
    ),
    "move": lambda: storage.move_file("s3://bucket/run/a/weights", "s3://bucket/run/a/moved"),
    "remove": lambda: storage.remove_folder("s3://bucket/run/a", first="meta.json"),
    "download": lambda: CheckpointStore("s3://bucket/run").latest(),
}


def test_a_store_that_is_away_is_waited_for_and_both_is_said_once(line, monkeypatch):
    """The line is mended when all calls have failed once: nobody sleeps for a time that a busy machine may need."""
    storage.write_folder("s3://bucket/run/a", write_two, last="meta.json")
    for name, call in CALLS.items():
        slept = []

        def pause(seconds, slept=slept):
            slept.append(seconds)
            if len(slept) == 1:
                line.mend()

        monkeypatch.setattr(patience, "time", clock(pause))
        line.cut()
        with logged() as said, patience.patience(60):
            call()
        assert slept, name
        away = [each for each in said if "does not answer" in each]
        assert len(away) == 1, (name, said)
        assert "s3://bucket does not answer (Could not connect" in away[0]
        assert "trying again for 60 s" in away[0]
        assert sum("s3://bucket answers again, after" in each for each in said) == 1, (name, said)


def test_after_the_patience_every_call_fails_at_once_until_one_succeeds(line, monkeypatch):
    slept = []
    now = clock(slept.append, lambda: 1000.0 + sum(slept))
    monkeypatch.setattr(patience, "time", now)
    line.cut()
    with patience.patience(20):
        error, message = refused(storage.read_bytes, "s3://bucket/a")
        assert isinstance(error, StorageAway)
        assert "s3://bucket/a cannot be read: Could not connect" in message
        assert sum(slept) == 20
        refused(storage.write_bytes, "s3://bucket/a", b"x")
        refused(storage.glob, "s3://bucket/a", "*")
        assert sum(slept) == 20, "the outage is over its time"
        line.mend()
        storage.write_bytes("s3://bucket/a", b"x")
        line.cut()
        refused(storage.read_bytes, "s3://bucket/a")
        assert sum(slept) == 40
        with patience.at_once():
            refused(storage.read_bytes, "s3://bucket/a")
        assert sum(slept) == 40
        patience.forget()
        refused(storage.read_bytes, "s3://bucket/a")
        assert sum(slept) == 60
    patience.forget()


def test_what_a_store_refuses_for_good_is_not_tried_again(line, monkeypatch):
    monkeypatch.setattr(patience, "time", clock(lambda seconds: pytest.fail("it waits")))
    with patience.patience(60):
        refused(storage.write_bytes, "s3://no-such/a", b"x")
        refused(storage.write_bytes, "s3://Not A Bucket/a", b"x")
        with pytest.raises(FileNotFoundError):
            storage.read_bytes("s3://bucket/none")


def test_a_call_that_hangs_is_told(monkeypatch):
    monkeypatch.setattr(patience, "SLOW_S", 0.01)
    from fsspec.implementations.memory import MemoryFileSystem

    storage.write_bytes("memory://slow/a", b"x")
    told = threading.Event()
    monkeypatch.setattr(patience.logger, "info", lambda message: (said.append(message), told.set()))
    said = []
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_: told.wait() and b"x")
    with patience.patience(60):
        storage.read_bytes("memory://slow/a")
    assert said == ["memory://slow/a is being read for 0 s now"]


def test_a_checkpoint_that_another_driver_overtook_in_an_outage_does_not_count(line, monkeypatch):
    run = "s3://bucket/run"
    with lease.hold(run) as held:
        store = CheckpointStore(run, held.token)
        store.commit(1, write_two)

        def pause(seconds):
            line.mend()
            taken = {**json.loads(storage.read_bytes(f"{run}/{lease.NAME}")), "token": "other"}
            storage.write_bytes(f"{run}/{lease.NAME}", json.dumps(taken).encode())

        def write(folder):
            write_two(folder)
            store.check_lease()
            line.cut()

        monkeypatch.setattr(patience, "time", clock(pause))
        with patience.patience(60), pytest.raises(lease.Leased):
            store.commit(2, write)
        assert storage.glob(run, "checkpoint-*/meta.json") == [
            f"{run}/checkpoint-00000001/meta.json"
        ]


# ---------------------------------------------------------------------- names, and how a store is reached


NAMES = [
    "my run",
    "a#1",
    "what?",
    "100%",
    "50%25",
    "größe-日本",
    "-x",
    "a*",
    "[ab]",
    "a+b&c=d;e",
    "~",
    "'\"$(x)",
]


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_any_name_of_a_run_works_in_a_store(kind, request, monkeypatch):
    if kind == "s3":
        request.getfixturevalue("line")
    monkeypatch.setattr(lease, "_SETTLE_S", 0.0)
    others = []
    for name in NAMES:
        TrainConfig(name=name)
        run = storage.join(f"{kind}://bucket/runs", name)
        storage.make_writable(run)
        store = CheckpointStore(run)
        with lease.hold(run):
            for step in (1, 2, 3):
                store.commit(step, writer(step))
                store.prune()
        assert storage.glob(run, "*") == [f"{run}/checkpoint-0000000{step}" for step in (2, 3)]
        others.append(store)
    others[NAMES.index("a*")].remove(others[NAMES.index("a*")].latest()[0])
    assert [len(store.checkpoints()) for store in others] == [
        1 if name == "a*" else 2 for name in NAMES
    ], "what is removed is of that run alone"


@pytest.mark.parametrize("name", ["a/b", "..", "a::b", "a\nb", "\x1b[2J", "n" * 201, ""])
def test_a_name_that_some_store_cannot_keep_is_refused(name):
    with pytest.raises(UserError, match=r"(?s)--train\.name .*must be a directory name"):
        TrainConfig(name=name)


def test_a_store_that_does_not_show_what_was_written_is_refused(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    for method, done in (("cat_file", "read"), ("find", "listed"), ("rm_file", "removed")):

        def denied(*arguments, **settings):
            raise PermissionError("Access Denied")

        with monkeypatch.context() as broken:
            broken.setattr(MemoryFileSystem, method, denied)
            _, message = refused(storage.make_writable, "memory://tried/run")
        assert f"memory://tried/run cannot be {done}: Access Denied. Give this user" in message
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_: [])
    _, message = refused(storage.make_writable, "memory://tried/run")
    assert "cannot be listed: a file that was just written is not there" in message


def test_a_profile_names_the_credentials_and_one_that_is_not_there_is_told(
    s3, monkeypatch, tmp_path
):
    import s3fs

    storage.filesystem("s3://bucket")[0].mkdir("bucket")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "config").write_text(
        "[profile team]\naws_access_key_id = a\naws_secret_access_key = b\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    storage.make_writable("s3://bucket/run")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_PROFILE", "taem")
    error, message = refused(storage.make_writable, "s3://bucket/run")
    assert (
        "The config profile (taem) could not be found. Set AWS_PROFILE to a profile in ~/.aws/config"
        in message
    )
    assert not isinstance(error, StorageAway)


# ---------------------------------------------------------------------- the one place


def test_no_other_file_knows_what_a_url_is_or_opens_fsspec():
    """``redact`` alone asks whether a text holds a URL somewhere, which is another question."""
    found = set()
    for path in sorted([*ROOT.glob("stm/**/*.py"), *ROOT.glob("pipelines/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if (isinstance(node, ast.Constant) and node.value == "://") or any(
                name.partition(".")[0] == "fsspec" for name in names
            ):
                found.add(os.path.relpath(path, ROOT))
    assert found == {"stm/storage.py", "stm/redaction.py"}
