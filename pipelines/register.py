"""Register a trained network: ``python -m pipelines.register --checkpoint runs/first --name actions``."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pipelines.console import Parser, add_common, add_root, run_verb
from stm.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        "register",
        "Register a checkpoint as a model of MLflow's: loadable anywhere, with a model card, as champion by a rule.",
        """
        stm register --checkpoint runs/first --name actions --rule always
        stm register --checkpoint runs/second --name actions --manifest val.parquet --rule better:top1
        stm predict --model models:/actions@champion clip.mp4
        """,
    )
    add_common(parser)
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="checkpoint, or run directory for its best one",
    )
    parser.add_argument("--name", type=str, required=True, help="name of the registered model")
    parser.add_argument(
        "--rule",
        type=str,
        default="never",
        help="when the new version becomes `champion`: `always`, `never`, or `better:` with top1, top5 or "
        "mean_class_accuracy, compared on the same manifest and protocol alone",
    )
    parser.add_argument(
        "--manifest", type=str | None, default=None, help="measure it on this manifest first"
    )
    add_root(parser)
    parser.add_argument(
        "--protocol",
        type=Literal["efficient", "accurate"],
        default="efficient",
        help="as in `stm evaluate`",
    )
    parser.add_argument(
        "--tracking",
        type=str | None,
        default=None,
        help="MLflow server or database; null is the one the run was recorded in",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that measure")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Register as the arguments say; the result of ``stm.package.register.register``."""
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    from stm.package.register import register

    return register(
        args.checkpoint,
        args.name,
        rule=args.rule,
        manifest=args.manifest,
        root=args.root,
        protocol=args.protocol,
        tracking=args.tracking,
        num_workers=args.workers,
        address=args.address,
    )


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['uri']} in {result['tracking']}"]
    if result["measured"]:
        found = result["measured"]
        lines.append(
            f"  {found['protocol']}: top-1 {found['top1']:.2%}   top-5 {found['top5']:.2%}   "
            f"N = {found['num_videos']}, of which {found['unreadable']} unreadable and counted as wrong"
        )
    if result["champion"]:
        before = f", before it version {result['previous']}" if result["previous"] else ""
        lines.append(f"  champion now ({result['reason']}{before})")
    else:
        holder = f"version {result['previous']}" if result["previous"] else "nobody"
        lines.append(f"  not champion ({result['reason']}); champion is {holder}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
