"""Probe every video of a dataset once and write its manifests, one for each split.

    stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output index/ucf101

writes index/ucf101/train.parquet and val.parquet, and beside each the list of videos that cannot be
used. The same command again probes only what is new or has changed.
"""

from __future__ import annotations

import sys
from typing import Any

from pipelines.console import Parser, add_common, run_verb
from stm.config import DataConfig

_FORMATS = "folder, list, ucf101, hmdb51, something-v1, something-v2, jester, kinetics400"


def build_parser() -> Parser:
    """The options of `stm index`."""
    parser = Parser(
        "index",
        "Probe every video of a dataset once, write its manifest.",
        """
        stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output ucf101
        stm index --format folder --root videos --val-fraction 0.2 --output index/mine
        stm index --format list --root videos --annotations list.csv --output index/mine --json
        """,
    )
    parser.add_argument("--format", type=str, required=True, help=f"of the annotations: {_FORMATS}")
    parser.add_argument("--root", type=str, required=True, help="folder (or URL) of the videos")
    parser.add_argument(
        "--annotations",
        type=str | None,
        default=None,
        help="folder or file of the lists; null looks in the root and the usual places in it",
    )
    parser.add_argument(
        "--split",
        type=int,
        default=1,
        help="published split of ucf101, hmdb51 and lists numbered so: 1, 2 or 3",
    )
    parser.add_argument("--output", type=str, required=True, help="folder for the manifests")
    parser.add_argument(
        "--val-fraction",
        type=float | None,
        default=None,
        help="share of each class to hold out as val, by group, where there is one split only",
    )
    parser.add_argument(
        "--classes",
        type=str | None,
        default=None,
        help="class names and their order: another manifest (.parquet), or a file of names",
    )
    parser.add_argument(
        "--split-folders",
        type=str,
        default="auto",
        help="format folder: whether the root's folders are splits (yes) or classes (no); auto asks "
        "where their names leave it open",
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the groups that are held out")
    parser.add_argument(
        "--deadline-s", type=float, default=30.0, help="seconds a file may take to be probed"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=DataConfig.max_pixels,
        help="pixels a frame may have (8K video has half as many); larger ones are too_large",
    )
    parser.add_argument(
        "--decode-mib",
        type=int,
        default=DataConfig.decode_mib,
        help="memory that decoding a file may take, in MiB; what takes more is too_large",
    )
    parser.add_argument(
        "--cross-check",
        type=int,
        default=20,
        help="number of files that decord reads as well, to compare; 0 compares none",
    )
    add_common(parser)
    return parser


def run(args: Any) -> dict[str, Any]:
    """Index as the arguments say; the result of ``stm.dataset.index``."""
    from stm.dataset import index

    return index(
        args.root,
        args.output,
        format=args.format,
        annotations=args.annotations,
        split=args.split,
        val_fraction=args.val_fraction,
        classes=args.classes,
        split_folders=args.split_folders,
        seed=args.seed,
        deadline_s=args.deadline_s,
        cross_check=args.cross_check,
        max_pixels=args.max_pixels,
        decode_mib=args.decode_mib,
        address=args.address,
    ).as_dict()


def main(argv: list[str] | None = None) -> int:
    """`stm index`; exit status as in `pipelines.console`."""
    return run_verb(build_parser, run, argv, show=_show)


def _show(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{path}: {result['num_videos'][name] - result['bad'][name]} videos"
        + (f", and {result['bad'][name]} unusable" if result["bad"][name] else "")
        for name, path in result["manifests"].items()
    )


if __name__ == "__main__":
    sys.exit(main())
