"""Start the server on a Ray cluster, watch it, stop it."""

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
"""What Ray Serve's proxy runs when it starts: ``stm.serve.wire``. Its processes get it from the cluster's start."""
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
    """Serve a checkpoint while the block runs; yields the server's URL. `drain` before its end has all answered.

    Args:
        checkpoint: checkpoint, run directory for its ``which`` one (best or last), or ``models:/NAME@champion``; every
            node must reach it.
        limits: a ``stm.serve.front.Limits``.
        num_replicas: processes with the network.
        num_decoders: processes that decode; None is one a core, up to four.
        allowed_hosts: names that clients may call the server by, without ports; None is any.
        token: what clients must send, 16 printable ASCII characters or more; None takes the variable `TOKEN`, and where
            there is none, asks for nothing.

    Raises:
        UserError: no such checkpoint, the port is taken, the cluster is too small, Ray Serve is not installed.
    """
    require_serve()
    doors = _doors(allowed_hosts, token)
    located = locate(checkpoint, tracking, which)
    if not located.label.startswith(PREFIX):  # strangers need not know this machine's folders
        located = replace(located, label="/".join(located.directory.rstrip("/").split("/")[-2:]))
    meta = located.meta
    checkpoints.check_plugin(meta, located.directory)
    decoders = num_decoders or min(4, os.cpu_count() or 1)
    _require_free(host, port)
    with _limited():
        cluster.connect(address, num_cpus=num_replicas + decoders)
    joined = (address or os.environ.get("RAY_ADDRESS")) not in (None, "local")

    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    gpus = _require_room(num_replicas, decoders)
    try:
        logger.info(f"starting {num_replicas} x network, {decoders} x decoder for {located.label}")
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
                f"nothing answers at {url} from this machine: a remote cluster listens on its head node, and a "
                "Ray Serve that ran before keeps its old address"
            )
        yield url
    finally:
        _stop(joined)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """A cluster that is started inside limits connections, unless the user has Ray Serve call something else."""
    if CALLBACK in os.environ:
        yield
        return
    os.environ[CALLBACK] = "stm.serve.wire.guard"
    try:
        yield
    finally:
        del os.environ[CALLBACK]


def watch(stopped: threading.Event) -> None:
    """Return when ``stopped`` is set; ``UserError`` when the cluster is gone or has given the application up."""
    from ray import serve

    while not stopped.wait(_WATCH_S):
        try:
            application = serve.status().applications.get(APPLICATION)
        except Exception as error:  # Ray says this in many ways
            raise UserError(f"the Ray cluster is gone: {type(error).__name__}: {error}") from error
        if application is None or application.status in ("DEPLOY_FAILED", "DELETING"):
            found = (
                "deleted" if application is None else f"{application.status}: {application.message}"
            )
            raise UserError(f"the application was stopped by something else: {found}")


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that signals set; one that comes 10 s after the first, or later, ends the wait for what is in work."""
    stopped = threading.Event()

    def stop() -> bool:
        # Not in the handler, which may have come while this thread holds the event's lock.
        threading.Thread(target=stopped.set).start()
        return True

    with ending.stopping(stop):
        yield stopped


def drain(patience_s: float) -> None:
    """Refuse further uploads and wait until those that have begun are answered, for at most ``patience_s``."""
    from ray import serve

    left: Any = None
    with contextlib.suppress(Exception):  # whatever became of it, it ends
        left = serve.get_app_handle(APPLICATION).close.remote().result(timeout_s=patience_s)
    if left != 0:
        logger.warning(
            f"some of the uploads that had begun were not answered in time ({left or 'unknown'})"
        )


def require_serve() -> None:
    """``UserError`` where Ray Serve's own packages are missing."""
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
    """Front, decoders and networks, bound together."""
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
        # All that is in flight may wait in one replica: there it can be called off, and is never polled for.
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
    # Nothing of it is shown: messages end in logs.
    if token is not None and not re.fullmatch(r"[!-~]{16,}", token):
        raise UserError(
            f"--token (or {TOKEN}): must have at least 16 ASCII characters, none of them blank; "
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
    if not host:  # a variable that is not set; to the system it is every address
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


def _require_room(num_replicas: int, decoders: int) -> int:
    """GPUs for each network (0 or 1); ``UserError`` where the cluster is too small: Ray would wait in silence."""
    import ray

    has = ray.cluster_resources()
    needed = num_replicas + decoders
    if has.get("CPU", 0) < needed:
        raise UserError(
            f"{num_replicas} networks and {decoders} decoders need {needed} CPU, but the cluster has "
            f"{has.get('CPU', 0):g}: lower --replicas or --decoders, or add nodes"
        )
    return int(has.get("GPU", 0) >= num_replicas)


def _answers(url: str, label: str, doors: Any) -> bool:
    """Whether this model is what answers at the URL."""
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
    """Answer the uploads that have begun and remove the application; on a shared cluster also Serve if unused."""
    from ray import serve

    with contextlib.suppress(Exception):  # a cluster that is gone has stopped
        serve.delete(APPLICATION)
        if joined and not serve.status().applications:
            serve.shutdown()
