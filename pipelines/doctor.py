"""Is this machine, or the cluster, fit to train? ``python -m pipelines.doctor --address auto``."""

from __future__ import annotations

import os
import sys
from typing import Any

from pipelines.console import Parser, add_common, run_verb

UNFIT = 1
"""Exit status where a check fails, as `diff` and linters have it; 2 stays for bad input."""


def build_parser() -> Parser:
    parser = Parser(
        "doctor",
        "Check this machine, or every node of a cluster: versions, decoders, GPUs, all-reduce, storage, MLflow, "
        "limits, clocks. Each line says ok, warning or fails, and what to do. Exit status 1 where a check fails.",
        """
        stm doctor
        stm doctor --address auto --storage /shared/runs --tracking http://mlflow:5000 --workers 8
        stm doctor --address auto --bench data.json model.json --json
        """,
    )
    add_common(parser)
    add = parser.add_argument
    add("--storage", type=str, default="runs", help="directory or URL for runs, as --train.storage")
    add(
        "--tracking",
        type=str | None,
        default=None,
        help="MLflow, as --tracking.uri; null tries a new database. Leaves the experiment `stm-doctor` there, empty",
    )
    add(
        "--workers",
        type=int | None,
        default=None,
        help="ranks of the all-reduce; null: one a GPU, else one a node and at least 2",
    )
    add(
        "--bench",
        nargs="+",
        type=str,
        default=[],
        help="measured rates (`stm bench data` and `model`, with --json): are there CPUs enough for the GPUs?",
    )
    add("--deadline_s", type=float, default=60.0, help="seconds that a check may take")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Every finding; ``status`` is the worst of them."""
    from stm.doctor.examine import Settings, examine
    from stm.storage import resolved

    rates = None
    if args.bench:
        from stm.planning.rates import read_rates

        rates = read_rates(args.bench)
    settings = Settings(
        address=args.address,
        storage=resolved(args.storage),
        tracking=args.tracking,
        workers=args.workers,
        rates=rates,
        deadline_s=args.deadline_s,
    )
    findings = examine(settings)
    present = {finding.status for finding in findings}
    status = next((s for s in ("fails", "warning") if s in present), "ok")
    return {"status": status, "findings": [finding.to_dict() for finding in findings]}


def show(result: dict[str, Any]) -> str:
    """One line a check."""
    return "\n".join(
        f"{finding['status']:<8} {finding['check']:<14} {finding['said']}"
        + (f" -> {finding['todo']}" if finding["todo"] else "")
        for finding in result["findings"]
    )


def main(argv: list[str] | None = None) -> int:
    result: dict[str, Any] = {}

    def kept(args: Any) -> dict[str, Any]:
        result.update(run(args))
        return result

    status = run_verb(build_parser, kept, argv, show)
    if status == 0 and result.get("status") == "fails":
        status = UNFIT
    if result:
        from stm.doctor.deadline import anything_stuck

        if anything_stuck():  # the interpreter would wait for it, as long as it hangs
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
