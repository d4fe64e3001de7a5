"""Check a machine or a cluster before training: ``stm doctor --address auto``."""

from __future__ import annotations

import os
import sys
from typing import Any

from pipelines.console import Result
from pipelines.options import Address, CountOrNull, FileOrNull, Files, Positive, Root

UNFIT = 1
"""Exit status if a check fails, as with `diff` and linters; 2 means bad input."""


def doctor(
    *,
    storage: str = "runs",
    tracking: str | None = None,
    workers: CountOrNull = None,
    bench: Files = [],  # noqa: B006  (never changed)
    manifest: FileOrNull = None,
    root: Root = None,
    deadline_s: Positive = 60.0,
    address: Address = None,
) -> dict[str, Any]:
    """Check this machine or every node of a cluster before a job runs on it.

    It checks versions, decoders, GPUs, all-reduce, storage, MLflow, limits and clocks. Each line reports `ok`,
    `warning` or `fails`, and what to do. The exit status is 1 if a check fails.

    Examples:
        stm doctor
        stm doctor --address auto --storage /shared/runs --tracking http://mlflow:5000 --workers 8
        stm doctor --address auto --bench data.json model.json --json

    Args:
        storage: folder or URL for runs, as in --train.storage
        tracking: MLflow server or database, as in --tracking.uri; null tries a new database. The check leaves an empty
            experiment `stm-doctor` there
        workers: processes of the all-reduce; null uses one for each GPU, or else one for each node, and at least 2
        bench: files with the output of `stm bench data --json` and `stm bench model --json`, to check whether the CPUs
            can feed the GPUs
        manifest: manifest to train on, to check whether its videos should be prepared first
        deadline_s: seconds that one check may take
    """
    from stm.doctor.examine import Settings, examine
    from stm.storage import resolved

    rates = None
    if bench:
        from stm.planning.rates import read_rates

        rates = read_rates(bench)
    originals = None
    if manifest:
        from stm.data.manifest import Manifest
        from stm.planning.originals import estimate

        videos = Manifest.read(manifest, root).usable_numbers()
        originals = estimate(rates.num_segments if rates else 8, *videos)
    settings = Settings(
        address=address,
        storage=resolved(storage),
        tracking=tracking,
        workers=workers,
        rates=rates,
        originals=originals,
        deadline_s=deadline_s,
    )
    findings = examine(settings)
    present = {finding.status for finding in findings}
    status = next((s for s in ("fails", "warning") if s in present), "ok")
    result = Result(status=status, findings=[finding.to_dict() for finding in findings])
    return result.ending_with(UNFIT if status == "fails" else 0)


def show(result: dict[str, Any]) -> str:
    """Return one line for each check."""
    return "\n".join(
        f"{finding['status']:<8} {finding['check']:<14} {finding['said']}"
        + (f" -> {finding['todo']}" if finding["todo"] else "")
        for finding in result["findings"]
    )


def leave(status: int) -> None:
    """End the process at once if a check still hangs, since the interpreter would wait for it."""
    from stm.deadline import anything_stuck

    if anything_stuck():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
