"""Jobs of a cluster elsewhere: ``python -m pipelines.jobs list --address http://127.0.0.1:8265``."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

from pipelines.console import Parser, add_common, run_verb
from pipelines.submit import follow


def build_parser() -> Parser:
    parser = Parser(
        "jobs",
        "List the jobs of a cluster, follow the log of one, see how it is doing, or end it.",
        """
        stm jobs list --address http://127.0.0.1:8265
        stm jobs follow first
        stm jobs status first-2 --json
        stm jobs stop first
        """,
    )
    parser.add_argument(
        "action", type=Literal["list", "status", "follow", "stop"], help="what to do"
    )
    parser.add_argument(
        "job",
        type=str,
        nargs="?",
        default=None,
        help="its id, or its name for the newest of that name; the newest of all by default",
    )
    add_common(parser)
    return parser


def run(args: Any) -> dict[str, Any]:
    """Do it; returns jobs (list), or what is known of the one job."""
    from stm.errors import UserError
    from stm.jobs.client import JobServer

    if args.action == "stop" and args.job is None:
        raise UserError("stm jobs stop: name the job to end; `stm jobs list` shows them")
    server = JobServer(args.address)
    if args.action == "list":
        return {"jobs": [job.to_dict() for job in server.jobs()], "exit_status": 0}
    job = server.find(args.job)
    if args.action == "stop":
        return {**server.stop(job.id).to_dict(), "exit_status": 0}
    if args.action == "status":
        return job.to_dict()
    look = f"stm jobs follow {job.id} --address {server.address}"
    return {**job.to_dict(), **follow(server, job.id, look)}


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


def main(argv: list[str] | None = None) -> int:
    """``follow`` ends with the job's own exit status."""
    ended: list[int] = []

    def keep(args: Any) -> dict[str, Any]:
        result = run(args)
        if args.action == "follow":
            ended.append(result["exit_status"])
        return result

    status = run_verb(build_parser, keep, argv, show)
    return status or (ended[0] if ended else 0)


if __name__ == "__main__":
    sys.exit(main())
