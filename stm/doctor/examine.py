"""Run all checks of ``stm doctor`` in parallel, each with a deadline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stm import cluster, joining
from stm.deadline import Call, Late, within
from stm.doctor import (
    balance,
    clocks,
    collective,
    decoders,
    facts,
    gpus,
    limits,
    record,
    storage,
    versions,
)
from stm.doctor.finding import Finding, fails, first_line, ok
from stm.doctor.nodes import Node, alive, answers, listed, on_each
from stm.errors import UserError
from stm.log import get_logger
from stm.planning.originals import Originals
from stm.planning.rates import Rates
from stm.plural import counted
from stm.redaction import redact
from stm.storage import is_url

logger = get_logger(__name__)

_GRACE_S = 15.0
"""Seconds that a check may take beyond its own deadline, to end what it started."""


@dataclass(frozen=True)
class Settings:
    """What to examine."""

    address: str | None = None
    storage: str = "runs"
    tracking: str | None = None
    workers: int | None = None
    rates: Rates | None = None
    originals: Originals | None = None
    """Statistics of the videos to train on."""
    deadline_s: float = 60.0
    """Largest duration of a check."""


def examine(settings: Settings) -> list[Finding]:
    """Return all findings in the order of the report. Connects to a cluster, or starts one on this machine."""
    # Errors of tasks that were abandoned are not shown.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    import ray

    had_ray = ray.is_initialized()
    logger.info(
        f"connecting; then every check has {settings.deadline_s:g} s, "
        f"with --storage {redact(settings.storage)}"
    )
    found = connect(settings)
    if found.status == "fails":
        return [found, *_here_alone(settings)]
    try:
        return [found, *_on_the_cluster(settings)]
    finally:
        if not had_ray:
            with_deadline = Call(ray.shutdown)
            try:
                with_deadline.wait(_GRACE_S)
            except Exception:
                logger.warning(
                    "disconnecting from the cluster took too long; continuing without it"
                )


def connect(settings: Settings) -> Finding:
    """Join the cluster, or start one on this machine; an error becomes a finding."""
    import ray

    address = settings.address or os.environ.get("RAY_ADDRESS")
    begun = time.monotonic()
    try:
        if ray.is_initialized():
            pass
        elif address in (None, "local"):
            # Ray sets signal handlers when it starts, which only the main thread may.
            cluster.connect("local", num_cpus=(settings.workers or 1) + 1)
        else:
            assert address is not None
            joining.look(address)  # reports an error at once instead of waiting
            cluster.connect(address, patience_s=settings.deadline_s)
        resources = within(settings.deadline_s, ray.cluster_resources)
        nodes = within(settings.deadline_s, alive)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else first_line(error)
        return fails(
            "cluster",
            f"{address or 'this machine'}: {said}; only this machine was checked",
            "start Ray with `ray start --head` on the first node and `ray start --address` on the others, the same "
            "version and token (RAY_AUTH_MODE) everywhere",
        )
    where = address if address not in (None, "local") else "started on this machine"
    took = time.monotonic() - begun
    said = f"{counted(len(nodes), 'node')}, {resources.get('CPU', 0):g} CPU, "
    return ok("cluster", f"{said}{resources.get('GPU', 0):g} GPU; {where}, {took:.1f} s")


def _here_alone(settings: Settings) -> list[Finding]:
    """Return the findings about this machine that do not need Ray."""
    ranges = versions.requirements()
    folders = [] if is_url(settings.storage) else [settings.storage]
    try:
        report = within(settings.deadline_s, lambda: facts.gather(list(ranges), folders))
    except Exception as error:
        return [fails("this machine", first_line(error), "correct what the message names")]
    reports = {"this machine": report}
    return [
        versions.check_python(reports),
        versions.check_libraries(reports, ranges),
        gpus.check(reports, {"this machine": 0}),
        limits.check_disk(reports, settings.storage),
        limits.check_open_files(reports),
    ]


def _on_the_cluster(settings: Settings) -> list[Finding]:
    nodes = within(settings.deadline_s, alive)
    ranges = versions.requirements()
    reports, absent = _facts(nodes, list(ranges), settings)
    unknown = [
        fails(
            "nodes",
            f"no answer of {listed(absent)}",
            "stm must be importable on every node: the image of clusters/Dockerfile, or a job's working_dir",
        )
    ]
    if not reports:
        return unknown
    whole = [node for node in nodes if node.name in reports]
    checks: dict[str, Callable[[], Finding]] = {
        "decoders": lambda: _decoders(whole, ranges, settings.deadline_s),
        "all-reduce": lambda: collective.check(whole, settings.workers, settings.deadline_s),
        "storage": lambda: storage.check(whole, settings.storage, settings.deadline_s),
        "mlflow": lambda: record.check(nodes[0], settings.tracking, settings.deadline_s),
    }
    found = side_by_side(checks, settings.deadline_s)
    # Last, because answers are quick when nothing else runs.
    clock = side_by_side(
        {"clocks": lambda: clocks.check(whole, settings.deadline_s)}, settings.deadline_s
    )
    with_driver = {**reports, versions.DRIVER: _this_process(list(ranges))}
    cpus, num_gpus = sum(node.cpus for node in whole), sum(node.gpus for node in whole)
    machines = {report["host"]: report["cores"] for report in reports.values()}
    return [
        *(unknown if absent else []),
        versions.check_python(with_driver),
        versions.check_libraries(with_driver, ranges),
        versions.check_code(with_driver),
        found["decoders"],
        gpus.check(reports, {node.name: node.gpus for node in whole}),
        found["all-reduce"],
        found["storage"],
        found["mlflow"],
        limits.check_shared_memory(reports, {n.name: n.object_store_bytes for n in whole}),
        limits.check_disk(reports, settings.storage),
        limits.check_open_files(reports),
        *clock.values(),
        balance.check(cpus, num_gpus, settings.workers, sum(machines.values()), settings.rates),
        *(
            [balance.check_originals(settings.originals, settings.rates)]
            if settings.originals
            else []
        ),
    ]


def side_by_side(checks: dict[str, Callable[[], Finding]], deadline_s: float) -> dict[str, Finding]:
    """Run checks in parallel. One that raises, or exceeds its deadline, becomes a failed finding."""
    calls = {name: Call(check) for name, check in checks.items()}
    until = time.monotonic() + deadline_s + _GRACE_S
    found = {}
    for name, call in calls.items():
        try:
            found[name] = call.wait(max(0.1, until - time.monotonic()))
        except Late:
            said = f"no answer within {deadline_s + _GRACE_S:g} s"
            found[name] = fails(name, said, "check the node's log (`ray logs`) and its disks")
        except Exception as error:
            found[name] = fails(name, first_line(error), "correct what the message names")
    return found  # type: ignore[return-value]


def _facts(
    nodes: list[Node], libraries: list[str], settings: Settings
) -> tuple[dict[str, Any], dict[str, str]]:
    local = [] if is_url(settings.storage) else [settings.storage]
    return answers(
        on_each(
            nodes,
            facts.gather,
            libraries,
            deadline_s=settings.deadline_s,
            each=lambda node: ([node.session_folder, *local], node.gpus),
        )
    )


def _this_process(libraries: list[str]) -> dict[str, Any]:
    """Return this driver's facts for the comparison with the nodes."""
    import platform

    return {
        "python": platform.python_version(),
        "versions": {name: facts.version_of(name) for name in libraries},
        "code": facts.code_digest(),
    }


def _decoders(nodes: list[Node], ranges: dict[str, str], deadline_s: float) -> Finding:
    begun = time.monotonic()
    clip = on_each(nodes[:1], decoders.make_clip, deadline_s=deadline_s)
    came, absent = answers(clip)
    if absent:
        return fails("decoders", f"no clip could be made: {listed(absent)}", "`make install` there")
    (data,) = came.values()
    left = max(1.0, deadline_s - (time.monotonic() - begun))
    reports, absent = answers(on_each(nodes, decoders.read_everywhere, data, deadline_s=left))
    return decoders.check(reports, absent, expects_decord="decord" in ranges)
