"""Check the limits of machines: shared memory for the object store, disk space, open files."""

from __future__ import annotations

from typing import Any

from stm.doctor.finding import Finding, fails, ok, warning
from stm.doctor.nodes import listed
from stm.starting import MORE_SHM

CHECKPOINTS_BYTES = 1_000_000_000
"""Size of three checkpoints of STM-50 (weights, momentum, averaged weights; 24 M of each in float32), rounded up."""

FULL, NEARLY_FULL = 0.95, 0.90
"""Shares of a disk in use. From 0.95, Ray creates no more objects that need the disk."""

FEW_FILES, TOO_FEW_FILES = 4096, 1024
"""Limits of open files. A Ray process keeps about three files open for each process that it knows."""

Reports = dict[str, dict[str, Any]]


def check_shared_memory(reports: Reports, object_store_bytes: dict[str, int]) -> Finding:
    """Check that the object store fits into /dev/shm; otherwise it is in files, at the speed of a disk."""
    small = {
        name: f"/dev/shm is {_gb(report['shm_bytes'])}, the object store {_gb(object_store_bytes[name])}"
        for name, report in reports.items()
        if report["shm_bytes"] is not None and report["shm_bytes"] < object_store_bytes[name]
    }
    if small:
        return warning(
            "shared memory",
            listed(small),
            f"{MORE_SHM}, or start Ray with a smaller `--object-store-memory`",
        )
    known = [r["shm_bytes"] for r in reports.values() if r["shm_bytes"] is not None]
    if not known:
        return ok("shared memory", "no /dev/shm on this system")
    most = max(object_store_bytes[name] for name in reports)
    return ok("shared memory", f"/dev/shm {_gb(min(known))}, object store at most {_gb(most)}")


def check_disk(reports: Reports, storage: str | None) -> Finding:
    """Check the space for spilled objects in Ray's session folder, and for checkpoints in a local storage."""
    full: dict[str, list[str]] = {}
    tight: dict[str, list[str]] = {}
    least = None
    for name, report in reports.items():
        for folder, usage in report["disk"].items():
            free, used = usage["free_bytes"], 1 - usage["free_bytes"] / usage["total_bytes"]
            least = free if least is None else min(least, free)
            said = f"{folder} has {_gb(free)} free, {used:.0%} in use"
            if folder == storage and free < CHECKPOINTS_BYTES:
                full.setdefault(name, []).append(
                    f"{said} (checkpoints need {_gb(CHECKPOINTS_BYTES)})"
                )
            elif used >= FULL:
                full.setdefault(name, []).append(f"{said} (Ray stops at {FULL:.0%})")
            elif used >= NEARLY_FULL:
                tight.setdefault(name, []).append(said)
    todo = "free some space, or move Ray's session (`ray start --temp-dir`) or --storage to a larger disk"
    if full or tight:
        names = {**full, **tight}  # nodes with a full disk come first
        by_node = {name: ", ".join(full.get(name, []) + tight.get(name, [])) for name in names}
        return (fails if full else warning)("disk", listed(by_node), todo)
    return ok(
        "disk", "no local folder to check" if least is None else f"at least {_gb(least)} free"
    )


def check_open_files(reports: Reports) -> Finding:
    """Check the soft limit of open files in a Ray worker."""
    limits = {name: report["open_files"] for name, report in reports.items()}
    low = {name: f"{limit}" for name, limit in limits.items() if limit < FEW_FILES}
    if not low:
        return ok("open files", f"a process may open {min(limits.values())}")
    todo = "raise it before Ray starts: `ulimit -n 65536`, in Docker `--ulimit nofile=65536:65536`"
    verdict = fails if min(limits.values()) < TOO_FEW_FILES else warning
    return verdict("open files", f"a process may open only {listed(low)}", todo)


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
