"""Connecting: what a cluster on this machine says in the terminal, and what is said where it does not start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import psutil
import pytest

from pipelines.console import run_verb
from stm import joining, proxy, starting
from stm.errors import UserError
from tests.heads import head, listening

pytestmark = pytest.mark.ray


def test_that_many_processes_were_started_is_left_out_and_nothing_else(ray_cluster, capsys):
    from ray._private import worker

    from stm import ray_compat

    many = "WARNING: 8 PYTHON worker processes have been started on node: abc"
    ray_compat.hush_process_counts()  # a second time changes nothing
    for lines in ([many], [many, "a disk is full"]):
        worker.print_to_stdstream(
            {"lines": lines, "pid": "raylet", "is_err": False, "ip": "127.0.0.1", "job": None},
            ignore_prefix=False,
        )
    told = capsys.readouterr().out
    assert "a disk is full" in told
    assert "PYTHON worker processes" not in told


ROOT = Path(__file__).parents[1]


def connecting(folder, address="local", before="", after="", **environment):
    """A process that starts or joins Ray as verbs do; its lines go to ``folder/said``."""
    code = (
        f"{before}\n"
        "import sys, types\nfrom pipelines.console import run_verb\n"
        "def connect(*, address: str | None = None, json: bool = False) -> dict:\n"
        "    'Start Ray.'\n"
        "    from stm import cluster\n"
        f"    cluster.connect({address!r}, patience_s=8)\n"
        f"    {after}\n"
        "    return {}\n"
        "module = types.ModuleType('pipelines.connect', 'Start Ray.')\n"
        "module.connect = connect\n"
        "sys.exit(run_verb(module, []))"
    )
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stderr=said, env={**os.environ, **environment}
        )


def test_what_stays_as_it_is_is_not_tried_again(tmp_path):
    unseen = "from stm import starting; starting.look = lambda: None"
    process = connecting(tmp_path, before=unseen, RAY_TMPDIR=str(tmp_path / ("long" * 30)))
    assert process.wait(200) == 2
    said = (tmp_path / "said").read_text()
    assert "starting Ray on this machine\n" in said
    assert "Ray does not start on this machine: " in said
    assert "Tried once: wait until the machine is less busy" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "folder", "room", "said"),
    [
        (
            "TMPDIR",
            "long" * 30,
            None,
            "the path of one would have .* bytes, where the system allows 1",
        ),
        (
            "RAY_TMPDIR",
            "ü",
            None,
            "Ray's sockets are in this folder, and their paths must be ASCII",
        ),
        ("TMPDIR", "file", None, "Ray cannot write its files there .Not a directory"),
        ("TMPDIR", "s", 2**60, "are free, but Ray needs .* make room, or set RAY_TMPDIR"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_told(tmp_path, monkeypatch, name, folder, room, said):
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    (short / "file").touch()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(short / folder))
    if room:
        monkeypatch.setattr(starting, "_ROOM_BYTES", room)
    with pytest.raises(UserError, match=said) as error:
        starting.look()
    assert str(error.value).startswith(f"{name}={short / folder}: ")
    assert str(error.value).endswith(
        "a short folder of ASCII letters on a disk of this machine, such as /tmp"
    )
    shutil.rmtree(short)


@pytest.mark.parametrize(("given", "used"), [("", "/tmp"), ("here", "{cwd}/here")])
def test_a_folder_of_ray_is_the_same_to_all_processes(tmp_path, monkeypatch, given, used):
    """Ray would take an empty name, and a relative one below each process's own folder."""
    short = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.chdir(short)
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", given)
    starting.look()
    assert os.environ["RAY_TMPDIR"] == used.format(cwd=short)
    shutil.rmtree(short)


@pytest.mark.parametrize(("limit", "said"), [("-v 4000000", "ulimit -v"), ("-n 40", "ulimit -n")])
def test_a_limit_that_ray_cannot_live_with_is_told(limit, said):
    code = "from stm import starting; starting.look()"
    script = f'ulimit {limit} && exec "$0" -c "{code}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"stm.errors.UserError: `{said}` allows a process" in done.stderr


def test_an_object_store_on_a_disk_is_told(caplog):
    room = shutil.disk_usage("/dev/shm").free
    starting.slow_store(room / 2)
    assert not caplog.records
    starting.slow_store(2.0 * room)
    assert "docker run --shm-size" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("frozen", "status"), [(1, 0), (3, 2)])
def test_a_raylet_that_does_not_answer_is_tried_three_times(tmp_path, frozen, status):
    """Frozen as on a machine that is too busy: the first alone, or each of the three."""
    process = connecting(tmp_path, RAY_raylet_start_wait_time_s="5")
    seen = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children():
                if child.name() == "raylet" and child.pid not in seen and len(seen) < frozen:
                    seen.add(child.pid)
                    child.suspend()
        time.sleep(0.01)
    said = (tmp_path / "said").read_text()
    assert process.returncode == status, said
    assert len(seen) == frozen
    assert said.count("trying again (2 of 3)") == 1
    assert ("Tried 3 times: wait until" in said) == (status == 2)
    assert "Traceback" not in said
    assert not any(psutil.pid_exists(pid) for pid in seen)


SLOW_AGENTS = """
import sys, time
if any(word.endswith(("dashboard/agent.py", "agent/main.py")) for word in sys.orig_argv):
    time.sleep(25)
"""


@pytest.mark.slow
def test_agents_that_start_late_as_on_a_busy_machine_are_waited_for(tmp_path):
    """Ray's raylet aborts after 15 s without them, and Ray then says that it does not start, however often."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)
    work = "import ray; assert ray.get(ray.remote(lambda: 3).remote()) == 3"
    process = connecting(tmp_path, after=work, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    status = process.wait(900)
    said = (tmp_path / "said").read_text()
    assert status == 0, said
    assert "trying again" not in said


def test_what_is_asked_of_this_machine_passes_every_proxy(monkeypatch):
    """Ray asks its dashboard with requests, as do sweeps through it."""
    from requests.utils import should_bypass_proxies

    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy.spare_this_machine()
    assert "no_proxy" not in os.environ
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    for _ in range(2):
        proxy.spare_this_machine()
    assert os.environ["no_proxy"] == "inside.example,localhost,127.0.0.1,::1"
    assert should_bypass_proxies("http://127.0.0.1:8265", no_proxy=None)
    assert not should_bypass_proxies("http://mlflow.example", no_proxy=None)
    monkeypatch.setenv("http_proxy", "http://ann:secret@proxy.example:3128")
    assert proxy.named("http://mlflow.example:5000") == (
        " (reached through the proxy http://***@proxy.example:3128; no_proxy=mlflow.example connects directly)"
    )
    for url in ("http://inside.example", "http://127.0.0.1:5000", "sqlite:////tmp/mlflow.db", ""):
        assert proxy.named(url) == ""


@pytest.mark.slow
def test_a_ray_that_dies_ends_the_command_with_a_message(tmp_path):
    """Without it the command would wait until it sends Ray something, and then be ended with status 1."""
    wait = "import time; print('up', file=sys.stderr, flush=True); time.sleep(900)"
    process = connecting(tmp_path, after=wait)
    while "up\n" not in (said := (tmp_path / "said").read_text()):
        assert process.poll() is None, said
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    (raylet,) = (child for child in children if child.name() == "raylet")
    raylet.kill()
    assert process.wait(200) == 2
    said = (tmp_path / "said").read_text()
    assert f"Ray died on this machine: its raylet (process {raylet.pid}) is gone" in said
    assert said.endswith("Everything that was saved is intact: run the same command again\n")
    assert psutil.wait_procs(children, 200)[1] == []


# ---------------------------------------------------------------------- joining


@pytest.mark.parametrize(
    ("answer", "why", "may_pass"),
    [
        (None, "accepts connections but does not answer", True),
        (b"", "accepts connections but does not answer", True),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "a web server answers at .*, perhaps the dashboard",
            False,
        ),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "is not a Ray cluster", False),
    ],
)
def test_what_is_no_cluster_is_told_apart(answer, why, may_pass):
    with listening(answer) as address, pytest.raises(joining.Unheard, match=why) as error:
        joining.look(address, 0.3)
    assert error.value.may_pass == may_pass


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:8265", ":6379", "here"]
)  # fmt: skip
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(joining.Unheard) as error:
        joining.with_gcs(address, 600)
    assert not error.value.may_pass


def test_where_nobody_listens_is_told_at_once_and_tried_for_the_stated_time(tmp_path):
    with listening(b"") as address:
        pass
    process = connecting(tmp_path, address)
    assert process.wait(200) == 2
    joins, not_yet, refused = (tmp_path / "said").read_text().splitlines()[-3:]
    assert joins.endswith(f"joining the Ray cluster at {address}, for up to 8 s")
    nobody = f"nothing listens at {address} (Connection refused)"
    assert f"no Ray cluster answers yet: {nobody}; trying for up to 8 s" in not_yet
    assert f"--address {address}: {nobody}: give --address HOST:PORT" in refused


@pytest.fixture(scope="module")
def joined():
    with head() as started:
        yield started


@pytest.fixture
def gcs(joined):
    (found,) = [
        process
        for process in psutil.process_iter()
        if process.name() == "gcs_server" and str(joined.folder) in " ".join(process.cmdline())
    ]
    return found


AFTER_THE_LOOK = "from stm import joining\njoining.with_gcs = lambda *_: None"


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", AFTER_THE_LOOK], ids=["before", "after the look"])
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_a_head_that_is_stopped_keeps_nobody(joined, gcs, tmp_path, before, number):
    gcs.suspend()
    try:
        process = connecting(tmp_path, joined.gcs, before, **joined.env)
        if number is not None:
            while "joining the Ray cluster" not in (tmp_path / "said").read_text():
                time.sleep(0.05)
            time.sleep(3)
            process.send_signal(number)
        status = process.wait(60)
    finally:
        gcs.resume()
    said = (tmp_path / "said").read_text()
    assert status == (2 if number is None else 128 + number), said
    why = (
        "does not let this process join, no answer within"
        if before
        else "does not answer; its head may be"
    )
    assert number is not None or f"--address {joined.gcs}: " in said
    assert number is not None or why in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_head_that_answers_late_is_joined(joined, gcs, tmp_path):
    gcs.suspend()
    process = connecting(tmp_path, joined.gcs, **joined.env)
    while "joining the Ray cluster" not in (tmp_path / "said").read_text():
        time.sleep(0.05)
    time.sleep(2)
    gcs.resume()
    assert process.wait(100) == 0, (tmp_path / "said").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "environment", "why"),
    [
        ("import ray\nray.__version__ = '2.59.0'", {}, "Version mismatch: The cluster was started with: Ray: 2."),
        ("", {"RAY_AUTH_TOKEN": "1" * 64}, "the cluster at 127.0.0.1"),
        ("", {"RAY_AUTH_MODE": "disabled"}, "the cluster at 127.0.0.1"),
    ],
)  # fmt: skip
def test_a_head_that_does_not_take_us_is_asked_once(joined, tmp_path, before, environment, why):
    process = connecting(tmp_path, joined.gcs, before, **{**joined.env, **environment})
    assert process.wait(100) == 2
    said = (tmp_path / "said").read_text()
    assert why in said
    assert ("asks for a token, and this machine's is missing or different" in said) == (not before)
    assert len(said.splitlines()) <= 4, said
    assert "trying again" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("raised", "todo"),
    [
        ("OutOfDiskError('')", "make room on the disk"),
        ("ObjectStoreFullError('')", "make room in /dev/shm"),
        (
            "RayTaskError('f', 'Traceback (most recent call last):', OutOfMemoryError('no'))",
            "use less memory",
        ),
        ("LocalRayletDiedError()", "its raylet died"),
    ],
)
def test_a_machine_that_has_no_more_is_told_without_a_traceback(capsys, raised, todo):
    import ray.exceptions

    def connect(*, json: bool = False) -> dict[str, object]:
        """Fail as Ray does."""
        raise eval(raised, vars(ray.exceptions))

    module = types.ModuleType("pipelines.connect", "Fail.")
    module.connect = connect
    assert run_verb(module, []) == 2
    said = capsys.readouterr().err
    assert "connect: Ray cannot continue: " in said
    assert todo in said
    assert "Traceback" not in said


def test_a_defect_of_ours_in_a_task_keeps_its_traceback():
    import ray.exceptions

    def connect(*, json: bool = False) -> dict[str, object]:
        """Fail as we do."""
        raise ray.exceptions.RayTaskError("f", "Traceback", ValueError("ours"))

    module = types.ModuleType("pipelines.connect", "Fail.")
    module.connect = connect
    with pytest.raises(ray.exceptions.RayTaskError):
        run_verb(module, [])
