"""List, follow or stop the jobs of a cluster: ``stm jobs list --address http://127.0.0.1:8265``."""

from __future__ import annotations

import time
from typing import Any, Literal

from pipelines.console import Result
from pipelines.options import Address
from pipelines.submit import follow


def jobs(
    action: Literal["list", "status", "follow", "stop"],
    job: str | None = None,
    *,
    address: Address = None,
) -> dict[str, Any]:
    """List, follow or stop submitted jobs.

    `status` shows the state of a job. `follow` shows its log, and exits with the job's exit status.

    Examples:
        stm jobs list --address http://127.0.0.1:8265
        stm jobs follow first
        stm jobs status first-2 --json
        stm jobs stop first

    Args:
        action: what to do with the jobs
        job: id of a job, or a name, which means the newest job of that name; the default is the newest job
    """
    from stm.errors import UserError
    from stm.jobs.client import JobServer

    if action == "stop" and job is None:
        raise UserError("stm jobs stop: name the job to end; `stm jobs list` shows them")
    server = JobServer(address)
    if action == "list":
        return {"jobs": [each.to_dict() for each in server.jobs()], "exit_status": 0}
    found = server.find(job)
    if action == "stop":
        return {**server.stop(found.id).to_dict(), "exit_status": 0}
    if action == "status":
        return found.to_dict()
    look = f"stm jobs follow {found.id} --address {server.address}"
    result = Result(found.to_dict() | follow(server, found.id, look))
    return result.ending_with(result["exit_status"])


def show(result: dict[str, Any]) -> str:
    if "jobs" not in result:
        return f"job {result['id']} {result['status'].lower()}: {result['message']}"
    if not result["jobs"]:
        return "no jobs"
    rows = [("job", "verb", "status", "began", "took")]
    for job in result["jobs"]:
        began = job["started"]
        took = (job["ended"] or time.time()) - began if began else 0.0
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) if began else "-"
        rows.append((job["id"], job["verb"] or "-", job["status"].lower(), clock, _duration(took)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
