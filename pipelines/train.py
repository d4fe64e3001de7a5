"""Train a network: ``python -m pipelines.train --data.train train.parquet --data.val val.parquet``."""

from __future__ import annotations

import sys
from typing import Any

from pipelines.console import ConfigFile, Parser, add_common, run_verb
from stm import recipes
from stm.config import Config
from stm.progress_view import progress_view


def build_parser() -> Parser:
    parser = Parser(
        "train",
        "Train a network on a manifest. The same command continues a run that was interrupted.",
        """
        stm train --data.train train.parquet --data.val val.parquet --train.name first
        stm train --config something-v1-t8 --workers 2
        stm train --config mine.yaml --optim.lr 0.02 --print_config
        """,
    )
    add_settings(parser)
    return parser


def add_settings(parser: Parser) -> None:
    """Add ``--config``, every setting of `Config`, and what all verbs have."""
    parser.add_argument(
        "--config",
        action=ConfigFile,
        help="YAML file with any of the settings below, or a recipe: " + ", ".join(recipes.names()),
    )
    add_common(parser)
    parser.add_argument(
        "--workers", type=int | None, default=None, help="short for --train.num_workers"
    )
    parser.add_class_arguments(Config)


def config_of(args: Any, parser: Parser) -> Config:
    """The `Config` that the arguments describe; a setting out of range is a ``UserError``."""
    if args.workers is not None:
        args.train.num_workers = args.workers
    sections = parser.instantiate(args)
    return Config(
        **{name: sections[name] for name in ("model", "data", "optim", "train", "tracking")}
    )


def run(args: Any) -> dict[str, Any]:
    """Train as the arguments say; the result of ``stm.train.trainer.train``."""
    config = config_of(args, build_parser())
    from stm.train.trainer import train

    with progress_view(plain=args.json) as view:
        return train(config, address=args.address, on_event=view.training(config)).as_dict()


def show(result: dict[str, Any]) -> str:
    lines = [f"checkpoint {result['checkpoint']}"]
    if result["val_top1"] is not None:
        lines.append(
            f"validation top-1 {result['val_top1']:.1%} of {result['val_num_videos']:.0f} videos"
        )
    lines.append(f"next: stm evaluate --checkpoint {result['checkpoint']} --manifest MANIFEST")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
