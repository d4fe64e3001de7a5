"""A Ray head with a job server, as a program of its own: static, or with an autoscaler whose nodes are processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
HEAD_ID = "f" * 51 + "00000"


@dataclass(frozen=True)
class Head:
    """A running head, and what it takes to speak to it."""

    url: str
    """Of the dashboard, and so of the job server."""
    gcs: str
    folder: Path
    env: dict[str, str]

    def stm(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A verb, run to its end in the repository's root."""
        return subprocess.run(
            [sys.executable, "-m", "stm", *words],
            **{"cwd": ROOT, "env": self.env, "capture_output": True, "text": True} | options,
        )

    def raylets(self) -> list[psutil.Process]:
        """The nodes, the head first."""
        found = [p for p in _processes(self.folder) if p.name() == "raylet"]
        return sorted(found, key=lambda process: process.create_time())


@contextlib.contextmanager
def head(
    num_cpus: int = 2,
    node_types: dict[str, Any] | None = None,
    idle_minutes: float = 0.5,
) -> Iterator[Head]:
    """Start a head that asks for a token; ``node_types`` (as in a file of `ray up`) gives it an autoscaler.

    Autoscaled nodes are raylets on this machine: real to Ray, though they share its cores.
    """
    folder = Path(tempfile.mkdtemp(prefix="stm-head-", dir="/tmp"))  # sockets in it: a short path
    gcs, dashboard, client, agent = _free_ports(4)
    token = folder / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # jobs say `python`
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
        env.pop(name, None)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += [
        "--port",
        str(gcs),
        "--dashboard-port",
        str(dashboard),
        "--dashboard-host=127.0.0.1",
    ]
    command += [
        "--ray-client-server-port",
        str(client),
        "--dashboard-agent-listen-port",
        str(agent),
    ]
    command += ["--node-ip-address=127.0.0.1", "--temp-dir", str(folder / "ray")]
    command += ["--num-cpus", str(num_cpus), "--object-store-memory=300000000"]
    scaled = {}
    if node_types is not None:
        file = folder / "autoscaling.json"
        file.write_text(json.dumps(_autoscaling(gcs, num_cpus, node_types, idle_minutes)))
        command.append(f"--autoscaling-config={file}")
        scaled = {
            "PYTHONPATH": str(ROOT),  # the autoscaler imports tests.nodes_apart
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
    try:
        subprocess.run(
            command, env={**env, **scaled}, check=True, stdout=subprocess.DEVNULL, timeout=90
        )
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", folder, env)
    finally:
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A port of this machine that says ``answer`` to whoever connects, or nothing where it is None."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])
                    if answer is not None:
                        held[-1].sendall(answer)
                        held.pop().close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in held:
        connection.close()


def _autoscaling(
    gcs: int, num_cpus: int, node_types: dict[str, Any], idle_minutes: float
) -> dict[str, Any]:
    head_type = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "stm-test",
        "max_workers": 8,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "external",
            "module": "tests.nodes_apart.NodesApart",
            "gcs_address": f"127.0.0.1:{gcs}",
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        # Ray has no defaults for a provider of this type.
        **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
        "initialization_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        "docker": {},
        "available_node_types": {
            "ray.head.default": head_type,
            **{name: {"node_config": {}, **each} for name, each in node_types.items()},
        },
        "head_node_type": "ray.head.default",
    }


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and outside Ray's range for workers (10002 to 19999)."""
    probes = [socket.socket() for _ in range(count)]
    try:
        ports = []
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports
    finally:
        for probe in probes:
            probe.close()


def _processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _end(folder: Path) -> None:
    """End what runs for this head, and what that started."""
    deadline = time.monotonic() + 10
    while (found := _processes(folder)) and time.monotonic() < deadline:
        victims = {each for one in found for each in (one, *_children(one))}
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=3)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
