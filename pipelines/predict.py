"""Name the action in videos: ``python -m pipelines.predict --checkpoint runs/first clip.mp4``."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pipelines.console import Parser, add_common, add_model, run_verb
from stm.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        "predict",
        "Name the action in videos: the five likeliest classes of each.",
        """
        stm predict --checkpoint runs/first clip.mp4
        stm predict --checkpoint runs/first folder/ --protocol accurate
        stm predict --checkpoint runs/first frames/17 prepared/shards/shard-00000.parquet#3
        stm predict --checkpoint runs/first folder/ --output predictions.parquet
        stm predict --model models:/actions@champion clip.mp4
        """,
    )
    add_common(parser)
    parser.add_argument(
        "videos",
        type=str,
        nargs="+",
        help="video files, folders of images (one video each), rows of shards, or folders of them",
    )
    add_model(parser)
    parser.add_argument(
        "--protocol",
        type=Literal["efficient", "accurate"],
        default="efficient",
        help="as in `stm evaluate`",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="Parquet file to write instead of a listing"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that run the network")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Predict as the arguments say; the result of ``stm.evaluate.predict.predict``."""
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    from stm.evaluate.predict import predict

    return predict(
        args.checkpoint,
        args.videos,
        protocol=args.protocol,
        output=args.output,
        num_workers=args.workers,
        address=args.address,
        tracking=args.tracking,
    ).as_dict()


def show(result: dict[str, Any]) -> str:
    lines = []
    for video in result["videos"]:
        lines.append(video["path"])
        if "error" in video:
            lines.append(f"    unreadable: {video['error']}")
        else:
            lines += [f"  {answer['score']:6.1%}  {answer['class']}" for answer in video["top5"]]
    if result["output"]:
        lines.append(
            f"{result['num_videos']} videos, {result['unreadable']} unreadable: {result['output']}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
