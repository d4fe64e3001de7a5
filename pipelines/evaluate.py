"""Measure a checkpoint: ``python -m pipelines.evaluate --checkpoint runs/first --manifest val.parquet``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pipelines.console import Parser, add_common, add_root, run_verb
from stm.errors import UserError
from stm.progress_view import progress_view


def build_parser() -> Parser:
    parser = Parser(
        "evaluate",
        "Measure a checkpoint on a manifest. Every video counts once; one that cannot be read counts as wrong.",
        """
        stm evaluate --checkpoint runs/first --manifest val.parquet
        stm evaluate --checkpoint runs/first --manifest val.parquet --protocol accurate --output report
        stm evaluate --checkpoint runs/first --manifest val.parquet --json
        stm evaluate --fuse rgb/scores.parquet longer/scores.parquet --shares '[2, 1]'
        """,
    )
    add_common(parser)
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        default=None,
        help="checkpoint, or run directory for its best one",
    )
    parser.add_argument("--manifest", type=str | None, default=None, help="manifest to measure on")
    parser.add_argument(
        "--fuse",
        nargs="+",
        type=str,
        default=None,
        help="instead of a checkpoint: score files of earlier evaluations, to be averaged",
    )
    parser.add_argument(
        "--shares",
        type=list[float] | None,
        default=None,
        help="what each of them counts for; equal by default",
    )
    parser.add_argument(
        "--protocol",
        type=Literal["efficient", "accurate"],
        default="efficient",
        help="`efficient`: 1 clip, centre crop; `accurate`: 10 samplings x 3 crops, scores averaged",
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="directory for scores, figures and report.html; null is one beside the checkpoint",
    )
    parser.add_argument(
        "--report", type=bool, default=True, help="write report.html, a page that shows the result"
    )
    parser.add_argument(
        "--num_segments",
        type=int | None,
        default=None,
        help="T of the test clip; null is the training's",
    )
    add_root(parser)
    parser.add_argument("--workers", type=int, default=1, help="processes that run the network")
    parser.add_argument("--batch_size", type=int, default=8, help="clips a process takes at once")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Evaluate as the arguments say; the result of ``stm.evaluate.evaluate.evaluate``."""
    for name in ("workers", "batch_size", "num_segments"):
        if args[name] is not None and args[name] < 1:
            raise UserError(f"--{name} {args[name]}: must be at least 1")
    if args.fuse:
        if args.checkpoint or args.manifest:
            raise UserError("--fuse takes score files alone: leave --checkpoint and --manifest out")
        from stm.evaluate.fusing import fused_result

        return fused_result(args.fuse, args.shares, args.output)
    for name in ("checkpoint", "manifest"):
        if args[name] is None:
            raise UserError(f"--{name} is not set (or give --fuse, with score files)")
    if not Path(args.manifest).exists():
        raise UserError(f"--manifest {args.manifest}: no such file; `stm index` writes one")
    from stm.evaluate.evaluate import evaluate

    with progress_view(plain=args.json) as view:
        return evaluate(
            args.checkpoint,
            args.manifest,
            protocol=args.protocol,
            output=args.output,
            num_segments=args.num_segments,
            num_workers=args.workers,
            batch_size=args.batch_size,
            address=args.address,
            root=args.root,
            report=args.report,
            tick=view.counting("clips"),
        ).as_dict()


def show(result: dict[str, Any]) -> str:
    occurring = sum(count > 0 for count in result["class_counts"].values())
    absent = len(result["class_counts"]) - occurring
    over = f" (of the {occurring} classes that occur, {absent} do not)" if absent else ""
    lines = [
        f"top-1 {result['top1']:.2%}   top-5 {result['top5']:.2%}   "
        f"mean class {result['mean_class_accuracy']:.2%}{over}   "
        f"N = {result['num_videos']}, of which {result['unreadable']} unreadable and counted as wrong"
    ]
    if len(result["per_class"]) <= 30:
        width = max(map(len, result["per_class"]))
        for name, accuracy in result["per_class"].items():
            said = "   -" if accuracy is None else f"{accuracy:6.1%}"
            lines.append(f"  {name:<{width}}  {said}  of {result['class_counts'][name]}")
    lines += [
        f"  unreadable: {f['path']}: {f['reason']}: {f['detail']}" for f in result["failures"][:10]
    ]
    lines += [f"{kind}: {path}" for kind, path in result["files"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
