"""Jobs on clusters that come and go: submitted, killed, resubmitted; nodes that an autoscaler brings; two hosts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.checkpoint.store import CheckpointStore
from stm.config import TrackingConfig
from stm.spool import series
from tests.chaos import runs
from tests.heads import ROOT, head

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]


def undisturbed(config, folder):
    """The result of the same run on a cluster of its own, with nothing happening to it."""
    whole = replace(config, train=replace(config.train, name="whole", resources_per_worker={}))
    process = runs.start(whole, folder / "whole.txt")
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, (folder / "whole.txt").read_text()[-3000:]
    return json.loads(out)


def same_weights(result, other):
    ours, theirs = (checkpoints.read_weights(r["last_checkpoint"]) for r in (result, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def wait_for_step(config, step, process, log):
    store = CheckpointStore(f"{config.train.storage}/{config.train.name}")
    deadline = time.monotonic() + 180
    while not ((found := store.latest()) and found[1].step >= step):
        assert process is None or process.poll() is None, log()
        assert time.monotonic() < deadline, log()
        time.sleep(0.2)
    return found[1].step


def test_a_detached_job_whose_driver_is_killed_continues_when_it_is_submitted_again(
    manifests, tmp_path
):
    config = runs.config_for(manifests, tmp_path, "hit", epochs=3, workers=1)
    with head(num_cpus=3) as server:

        def log():
            return server.stm("jobs", "follow", "hit", "--address", server.url).stderr[-3000:]

        submit = ["submit", "--address", server.url, "--json"]
        words = ["--", "train", *runs.arguments(config)]
        began = time.monotonic()
        detached = server.stm(*submit, "--detach", *words)
        assert detached.returncode == 0, detached.stderr
        assert time.monotonic() - began < 30
        assert json.loads(detached.stdout)["id"] == "hit-1"
        step = wait_for_step(config, 6, None, log)
        driver_of(config).kill()
        followed = server.stm("jobs", "follow", "hit", "--address", server.url)
        assert followed.returncode == 137, followed.stderr  # as a shell tells a SIGKILL
        done = server.stm(*submit, *words)
        assert done.returncode == 0, done.stderr[-3000:]
        job = json.loads(done.stdout)
        assert (job["id"], job["status"]) == ("hit-2", "SUCCEEDED")
        assert "continuing at epoch" in done.stderr
        listed = server.stm("jobs", "list", "--address", server.url)
        print(listed.stdout)
    whole = undisturbed(config, tmp_path)
    result = job["result"]
    assert result["steps"] == whole["steps"] == 18
    assert same_weights(result, whole)
    ours, theirs = (series(tmp_path / n / "tracking.jsonl", "train/loss") for n in ("hit", "whole"))
    assert ours == theirs
    print(
        f"driver killed after step {step}; all {len(ours)} losses and all weights equal, bit for bit"
    )


def driver_of(config):
    """The job's command itself, not the shell around it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words[1:3] == ["-m", "stm"] and f"--train.storage={config.train.storage}" in words:
            found.append(process)
    assert len(found) == 1, found
    return found[0]


def test_nodes_come_for_a_job_train_lose_one_and_go(manifests, tmp_path):
    workers = {
        "trainer": {"resources": {"CPU": 1, "trainer": 1}, "min_workers": 0, "max_workers": 2}
    }
    config = runs.config_for(
        manifests,
        tmp_path,
        "grows",
        epochs=6,
        workers=2,
        min_workers=1,
        cpus_per_worker=0.9,
        resources_per_worker={"trainer": 1},
        wait_for_nodes_s=120.0,
        use_gpu=False,
    )
    seen, began = [], time.monotonic()

    def note(what):
        seen.append((round(time.monotonic() - began), what))

    with head(num_cpus=1, node_types=workers, idle_minutes=0.25) as server:
        assert len(server.raylets()) == 1
        words = [
            "submit",
            "--address",
            server.url,
            "--json",
            "--",
            "train",
            *runs.arguments(config),
        ]
        log = tmp_path / "submit.txt"
        process = subprocess.Popen(
            [sys.executable, "-m", "stm", *words],
            cwd=ROOT, env=server.env, stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
        )  # fmt: skip
        note("submitted, 1 node")
        step = wait_for_step(config, 4, process, lambda: log.read_text()[-3000:])
        nodes = server.raylets()
        assert len(nodes) >= 2, "the autoscaler was to bring nodes"
        note(f"step {step}, {len(nodes)} nodes")
        nodes[-1].kill()
        note("a node killed")
        out, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, log.read_text()[-4000:]
        result = json.loads(out)["result"]
        note(f"done: {result['steps']} steps, {len(server.raylets())} nodes")
        deadline = time.monotonic() + 90
        while len(server.raylets()) > 1:
            assert time.monotonic() < deadline, "the nodes were to leave again"
            time.sleep(0.5)
        note("1 node")
    said = log.read_text()
    print("\n".join(f"{at:4d} s  {what}" for at, what in seen))
    print(said)
    assert "waiting for nodes: the cluster has" in said
    assert "the nodes have joined after" in said
    assert result["steps"] == 36
    assert result["epochs"] == 6
    losses = series(tmp_path / "grows" / "tracking.jsonl", "train/loss")
    assert sorted(losses) == list(range(1, 37)), "each step once"


# ---------------------------------------------------------------------- two hosts


@contextmanager
def two_hosts():
    """Two network namespaces with a cable between them: (name, address) of each."""
    tag = f"stm{os.getpid() % 10000}"
    hosts = [(f"{tag}a", "10.77.31.1"), (f"{tag}b", "10.77.31.2")]

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        for name, _ in hosts:
            ip("netns", "add", name)
        cable = ["link", "add", "eth0", "netns", hosts[0][0], "type", "veth"]
        ip(*cable, "peer", "name", "eth0", "netns", hosts[1][0])
        for name, address in hosts:
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _take_down(hosts)
        pytest.skip(f"this machine makes no network namespaces: {error}")
    try:
        yield hosts
    finally:
        _take_down(hosts)


def _take_down(hosts):
    for name, _ in hosts:
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_hosts_train_one_network_over_their_network(manifests, tmp_path):
    """Each host has its own network; ranks meet over gloo, clips travel over Ray, and the result is one host's."""
    config = runs.config_for(
        manifests,
        tmp_path,
        "apart",
        epochs=2,
        cpus_per_worker=0.9,
        resources_per_worker={"trainer": 1},
    )
    folder = Path(tempfile.mkdtemp(prefix="stm-hosts-", dir="/tmp"))
    token = folder / "token"
    token.write_text("2" * 64)
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": "eth0",  # the host's name means no address of its own in here
        "OMP_NUM_THREADS": "1",
    }
    env.pop("RAY_ADDRESS", None)
    try:
        with two_hosts() as [(first, at), (second, other)]:

            def on(host, *words, **options):
                command = ["ip", "netns", "exec", host, sys.executable, "-m", *words]
                return subprocess.run(
                    command,
                    cwd=ROOT,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=300,
                    **options,
                )

            ray = ["ray.scripts.scripts", "start", "--object-store-memory=200000000"]
            ray += ["--resources", '{"trainer": 1}']
            started = on(first, *ray, "--head", "--port=6379", f"--node-ip-address={at}", "--num-cpus=2",
                         "--include-dashboard=false", f"--temp-dir={folder / 'ray'}")  # fmt: skip
            assert started.returncode == 0, started.stdout + started.stderr
            joined = on(
                second, *ray, f"--address={at}:6379", f"--node-ip-address={other}", "--num-cpus=1"
            )
            assert joined.returncode == 0, joined.stdout + joined.stderr
            words = ["stm", "train", *runs.arguments(config), f"--address={at}:6379", "--json"]
            done = on(first, *words)
            assert done.returncode == 0, done.stderr[-4000:]
            moved = subprocess.run(
                ["ip", "netns", "exec", second, "cat", *_counters()], capture_output=True, text=True
            )
        result = json.loads(done.stdout)
        received, sent = (int(n) for n in moved.stdout.split())
        meta = checkpoints.read_meta(result["last_checkpoint"])
        assert meta.world_size == 2
        weights = sum(
            t.numel() * 4 for t in checkpoints.read_weights(result["last_checkpoint"]).values()
        )
        assert min(received, sent) > result["steps"] * weights / 2, (
            "gradients were to cross the network"
        )
        whole = undisturbed(replace(config, tracking=TrackingConfig(uri="none")), tmp_path)
        print(
            f"{result['steps']} steps on two hosts; the second received {received / 1e6:.0f} MB, "
            f"sent {sent / 1e6:.0f} MB"
        )
        print(
            f"weights of {weights / 1e6:.1f} MB, equal to one host's: {same_weights(result, whole)}"
        )
        assert same_weights(result, whole)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _counters():
    return [f"/sys/class/net/eth0/statistics/{name}_bytes" for name in ("rx", "tx")]
