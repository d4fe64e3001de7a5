"""Start the server on a Ray cluster, watch it and stop it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stm import cluster, ending
from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import PREFIX, Located, locate
from stm.data.stream.clips import ClipSpec
from stm.errors import UserError
from stm.log import get_logger
from stm.storage import absolute
from stm.version import DISTRIBUTION

logger = get_logger(__name__)

APPLICATION = "stm"
TOKEN = "STM_SERVE_TOKEN"
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Variable with the function that Ray Serve's proxy calls when it starts. It must be set when the cluster starts."""
_WATCH_S = 5.0


@contextlib.contextmanager
def running(
    checkpoint: str,
    limits: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    num_replicas: int = 1,
    num_decoders: int | None = None,
    tracking: str | None = None,
    which: str = "best",
    address: str | None = None,
    allowed_hosts: list[str] | None = None,
    token: str | None = None,
) -> Iterator[str]:
    """Serve a checkpoint while the block runs, and yield the server's URL.

    Call ``drain`` before the block ends, so that uploads in progress are answered.

    Args:
        checkpoint: a checkpoint, a run directory or ``models:/NAME@champion``, which every node can read.
        limits: a ``stm.serve.front.Limits``.
        num_replicas: number of processes with the network.
        num_decoders: number of processes that decode; None is one for each core, at most four.
        tracking: MLflow server or database of ``models:/``.
        which: the checkpoint of a run directory: best or last.
        allowed_hosts: host names without ports by which clients can call the server; None allows all names.
        token: token that clients must send, at least 16 printable ASCII characters. None is the value of the
            environment variable ``STM_SERVE_TOKEN``; without it, no token is required.

    Raises:
        UserError: the checkpoint does not exist, the port is in use, the cluster is too small, or Ray Serve is not
            installed.
    """
    require_serve()
    doors = _doors(allowed_hosts, token)
    located = locate(checkpoint, tracking, which)
    if not located.label.startswith(PREFIX):  # do not show this machine's folders to clients
        located = replace(located, label="/".join(located.directory.rstrip("/").split("/")[-2:]))
    meta = located.meta
    checkpoints.check_plugin(meta, located.directory)
    decoders = num_decoders or min(4, os.cpu_count() or 1)
    _require_free(host, port)
    with _limited():
        cluster.connect(address, num_cpus=num_replicas + decoders)
    joined = (address or os.environ.get("RAY_ADDRESS")) not in (None, "local")

    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    gpus = _require_room(ray.cluster_resources(), num_replicas, decoders)
    try:
        logger.info(
            f"starting {located.label} with --replicas {num_replicas} and --decoders {decoders}"
        )
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        serve.run(
            _application(located, meta, limits, num_replicas, decoders, gpus, doors),
            name=APPLICATION,
            route_prefix="/",
        )
        url = _url(host, port)
        if not _answers(url, located.label, doors):
            logger.warning(
                f"no answer from {url} on this machine: a remote cluster listens on its head node, and a "
                "Ray Serve that already ran keeps its old address"
            )
        yield url
    finally:
        _stop(joined)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Make a cluster that is started in this context limit connections, unless the user has set the variable."""
    if CALLBACK in os.environ:
        yield
        return
    os.environ[CALLBACK] = "stm.serve.wire.guard"
    try:
        yield
    finally:
        del os.environ[CALLBACK]


def watch(stopped: threading.Event) -> None:
    """Return when ``stopped`` is set; ``UserError`` if the cluster or the application ends."""
    from ray import serve

    while not stopped.wait(_WATCH_S):
        try:
            application = serve.status().applications.get(APPLICATION)
        except Exception as error:  # Ray raises many kinds of errors here
            raise UserError(f"the Ray cluster is gone: {type(error).__name__}: {error}") from error
        if application is None or application.status in ("DEPLOY_FAILED", "DELETING"):
            found = (
                "deleted" if application is None else f"{application.status}: {application.message}"
            )
            raise UserError(f"the application ended unexpectedly: {found}")


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that a signal sets. A signal at least 10 s after the first ends the wait for uploads."""
    stopped = threading.Event()

    def stop() -> bool:
        # A thread sets it, because the handler may interrupt this thread while it holds the event's lock.
        threading.Thread(target=stopped.set).start()
        return True

    with ending.stopping(stop):
        yield stopped


def drain(patience_s: float) -> None:
    """Refuse new uploads, and wait at most ``patience_s`` seconds until those in progress are answered."""
    from ray import serve

    left: Any = None
    with contextlib.suppress(Exception):  # the server ends in any case
        left = serve.get_app_handle(APPLICATION).close.remote().result(timeout_s=patience_s)
    if left != 0:
        logger.warning(
            f"not all uploads in progress were answered in time (unanswered: {left or 'unknown'})"
        )


def require_serve() -> None:
    """Raise ``UserError`` if packages that Ray Serve needs are not installed."""
    missing = [
        name
        for name in ("fastapi", "uvicorn", "watchfiles", "grpc_reflection", "python_multipart")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"stm serve needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install '{DISTRIBUTION}[serve]'"
        )


def _application(
    located: Located,
    meta: checkpoints.Meta,
    limits: Any,
    num_replicas: int,
    decoders: int,
    gpus: int,
    doors: Any,
) -> Any:
    """Return the Ray Serve application of the front, the decoders and the networks."""
    from ray.serve import deployment as untyped

    from stm.model import plugins
    from stm.serve.decoder import Decoder
    from stm.serve.front import Front
    from stm.serve.network import Network

    deployment: Any = untyped  # Ray's own type for it lacks `bind`
    front: Any = Front
    data = checkpoints.config_of(meta).data
    cores = os.cpu_count() or 1
    shared = {
        # One replica can queue all requests in flight, where they can be cancelled and need no polling.
        "max_ongoing_requests": limits.max_in_flight + 8,
        "graceful_shutdown_timeout_s": limits.answer_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 20.0,
    }
    network = deployment(
        Network,
        name="network",
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        **shared,
    ).bind(
        absolute(located.directory),
        max(1, cores // num_replicas) if not gpus else 1,
        data.num_segments,
        data.size,
        plugins.loaded(),
    )
    decoder = deployment(
        Decoder, name="decoder", num_replicas=decoders, ray_actor_options={"num_cpus": 1}, **shared
    ).bind(
        ClipSpec.one_clip(data),
        limits.decode_s,
        limits.decode_memory_bytes,
        network,
        meta.classes,
    )
    return front.bind(decoder, network, limits, meta.classes, located.label, doors, decoders)


def _doors(hosts: list[str] | None, token: str | None) -> Any:
    from stm.serve.front import Doors

    token = os.environ.get(TOKEN) if token is None else token
    # The message does not show the token, because messages are logged.
    if token is not None and not re.fullmatch(r"[!-~]{16,}", token):
        raise UserError(
            f"--token (or {TOKEN}): must have at least 16 printable ASCII characters and no spaces; "
            "`openssl rand -hex 32` makes one"
        )
    for host in hosts or []:
        if not re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", host):
            raise UserError(
                f"--allowed_hosts {host}: must be a host's name or address without scheme and port, such as "
                "videos.example.org or [::1]"
            )
    return Doors(hosts=tuple(host.lower() for host in hosts or []), token=token or "")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _require_free(host: str, port: int) -> None:
    if not host:  # such as an unset variable; to the system, "" means all addresses
        raise UserError(
            "--host is empty: name an address, or 0.0.0.0 for all addresses of this machine"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: the server cannot listen there: {error.strerror}"
            ) from error


def _require_room(has: dict[str, float], num_replicas: int, decoders: int) -> int:
    """Return the GPUs for each network (0 or 1) on a cluster that ``has`` these resources.

    Raises ``UserError`` if it is too small, since Ray would only wait.
    """
    needed = num_replicas + decoders
    if has.get("CPU", 0) < needed:
        raise UserError(
            f"--replicas {num_replicas} and --decoders {decoders} need {needed} CPUs, but the cluster has "
            f"{has.get('CPU', 0):g}: lower one of them, or add nodes"
        )
    return int(cluster.gpu_for_each(has.get("GPU", 0.0), num_replicas, "--replicas"))


def _answers(url: str, label: str, doors: Any) -> bool:
    """Whether a server with this model answers at the URL."""
    request = urllib.request.Request(f"{url}/health")
    if doors.token:
        request.add_header("Authorization", f"Bearer {doors.token}")
    if doors.hosts:
        request.add_header("Host", doors.hosts[0])
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(20):
        with (
            contextlib.suppress(OSError, ValueError),
            directly.open(request, timeout=5) as reply,
        ):
            return bool(json.load(reply).get("model") == label)
        time.sleep(0.25)
    return False


def _stop(joined: bool) -> None:
    """Remove the application after its uploads are answered. On a joined cluster, also stop a Serve without others."""
    from ray import serve

    with contextlib.suppress(Exception):  # a cluster that is gone needs no stop
        serve.delete(APPLICATION)
        if joined and not serve.status().applications:
            serve.shutdown()
