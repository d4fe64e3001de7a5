"""Search settings: ``python -m pipelines.tune --config sweep.yaml``, each trial an ordinary training run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipelines.console import Parser, add_common, add_root, run_verb
from stm.errors import UserError

if TYPE_CHECKING:
    from stm.tune.settings import Sweep


def build_parser() -> Parser:
    parser = Parser(
        "tune",
        "Search any settings of `stm train`. The same command continues a sweep that was interrupted.",
        """
        stm tune --config demo
        stm tune --config sweep.yaml
        stm tune --config something-v2 --name wide --set train.num_workers=4 optim.batch_size=32
        """,
    )
    parser.add_argument(
        "--config",
        type=str,
        required=True,
        help="YAML file of a sweep (docs/sweeps.md), or a sample: demo, something-v2",
    )
    parser.add_argument(
        "--name", type=str | None, default=None, help="name of the sweep, in place of the file's"
    )
    parser.add_argument(
        "--set",
        type=str,
        nargs="*",
        default=[],
        help="settings of the base, as optim.batch_size=16, in place of the file's",
    )
    add_root(parser)
    add_common(parser)
    return parser


def run(args: Any) -> dict[str, Any]:
    """Run the sweep; the result of ``stm.tune.sweep.run_sweep``."""
    sweep = sweep_of(args)
    from stm.tune.sweep import run_sweep

    return run_sweep(sweep, address=args.address)


def sweep_of(args: Any) -> Sweep:
    """The sweep that the arguments describe; ``UserError`` for what is wrong in it."""
    from stm.tune.reading import path_of, read_sweep

    changes = {}
    for change in args.set or []:
        key, equals, value = change.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {change}: write SECTION.SETTING=VALUE, as optim.batch_size=16")
        changes[key] = value
    if args.root is not None:
        changes["data.root"] = args.root
    return read_sweep(path_of(args.config), args.name, changes)


def show(result: dict[str, Any]) -> str:
    rows = result["table"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items())
    lines += ["", f"{counts}; cost in {result['cost_unit']}; {result['seconds']:.0f} s in all"]
    lines += [f"  {trial} failed: {why}" for trial, why in result["failures"].items()]
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        lines.append(f"variance explained (Optuna's fANOVA): {shares}")
    lines += [f"  {file}" for file in result["files"]]
    if result["best"]:
        lines.append(f"next: stm train --config {result['files'][0]}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
