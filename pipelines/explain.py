"""What the network sees: ``python -m pipelines.explain clip.mp4 --checkpoint runs/first``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipelines.console import Parser, add_common, add_root, run_verb
from stm.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        "explain",
        "Show what the network sees: a picture and a film of its feature maps and of the evidence for a class.",
        """
        stm explain clip.mp4 --checkpoint runs/first
        stm explain clip.mp4 --checkpoint runs/first --block layer1.0 layer3.0 --class PushUps --output explain
        stm explain clip.mp4 --checkpoint runs/first --backwards motion.png
        stm explain --motion_check demo/videos-256-96-0/val.parquet --checkpoint stm26 --compare tsn26
        """,
    )
    add_common(parser)
    parser.add_argument(
        "videos",
        type=str,
        nargs="*",
        help="video files, folders of images (one video each), rows of shards, or folders of them",
    )
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="checkpoint, or run directory for its best one",
    )
    parser.add_argument(
        "--block",
        type=str,
        nargs="+",
        default=None,
        help="blocks to show, layer1.0 to layer4.2 in depth 50; null is the first with motion features",
    )
    parser.add_argument(
        "--class",
        type=str | None,
        default=None,
        help="class whose evidence is shown; null is the one predicted",
    )
    parser.add_argument(
        "--output", type=str, default="explain", help="folder for a PNG and an mp4 of each video"
    )
    parser.add_argument(
        "--backwards",
        type=str | None,
        default=None,
        help="write instead one PNG to this path: the video beside itself played backwards",
    )
    parser.add_argument(
        "--motion_check",
        type=str | None,
        default=None,
        help="instead of videos, a manifest of `stm demo`: correlate the maps with where its digits move",
    )
    add_root(parser)
    parser.add_argument(
        "--compare",
        type=str | None,
        default=None,
        help="with --backwards or --motion_check: a second checkpoint, such as TSN's",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="with --motion_check: the seed the demo was made with"
    )
    return parser


def run(args: Any) -> dict[str, Any]:
    """Explain as the arguments say; the result of the function of ``stm.explain`` that did it."""
    if args.backwards and args.motion_check:
        raise UserError("--backwards and --motion_check are two commands: leave one out")
    if args.compare and not (args.backwards or args.motion_check):
        raise UserError("--compare goes with --backwards or --motion_check")
    if args["class"] and (args.backwards or args.motion_check):
        raise UserError(
            "--class goes with pictures of videos, not with --backwards or --motion_check"
        )
    if args.motion_check:
        if args.videos:
            raise UserError("--motion_check takes the videos of the manifest: name no others")
        if not Path(args.motion_check).exists():
            raise UserError(f"--motion_check {args.motion_check}: no such file")
        from stm.explain.motion_check import check_motion

        checkpoints = [args.checkpoint, *([args.compare] if args.compare else [])]
        return check_motion(
            checkpoints,
            args.motion_check,
            root=args.root,
            blocks=args.block,
            seed=args.seed,
        )
    if args.root:
        raise UserError("--root goes with --motion_check, which alone reads a manifest")
    if not args.videos:
        raise UserError("no video is named")
    if args.backwards:
        if len(args.videos) > 1 or len(args.block or []) > 1:
            raise UserError("--backwards shows one video and one block")
        from stm.explain.backwards import draw_backwards

        return draw_backwards(
            args.checkpoint,
            args.videos[0],
            args.backwards,
            block=args.block[0] if args.block else None,
            compare=args.compare,
        )
    from stm.explain.explain import explain

    return explain(
        args.checkpoint,
        args.videos,
        blocks=args.block,
        output=args.output,
        class_name=args["class"],
    )


def show(result: dict[str, Any]) -> str:
    if "rows" in result:
        return _show_check(result)
    if "videos" not in result:
        return (
            "\n".join(
                f"{way:<10}"
                + "   ".join(
                    f"{n}: {top[0]['class']} {top[0]['score']:.1%}" for n, top in said.items()
                )
                for way, said in ((way, result[way]) for way in ("forwards", "backwards"))
            )
            + f"\n{result['picture']}"
        )
    lines = []
    for video in result["videos"]:
        lines.append(video["path"])
        if "error" in video:
            lines.append(f"    unreadable: {video['error']}")
            continue
        lines += [f"  {answer['score']:6.1%}  {answer['class']}" for answer in video["top5"]]
        lines += [f"  {video['picture']}", f"  {video['film']}"]
    return "\n".join(lines)


def _show_check(result: dict[str, Any]) -> str:
    measures = ("motion", "at_rest", "order", "direction")
    lines = [
        f"{'network':<17}{'block':<10}{'map':<8}" + "".join(f"{name:<24}" for name in measures)
    ]
    for row in result["rows"]:
        figures = "".join(
            f"{row[m]['mean']:6.3f} ({row[m]['low']:.3f}, {row[m]['high']:.3f})".ljust(24)
            for m in measures
        )
        lines.append(f"{row['network']:<17}{row['block']:<10}{row['map']:<8}{figures}".rstrip())
    lines.append(
        f"N = {result['num_videos']} videos in {result['num_pairs']} pairs: mean, and 95 % interval over pairs\n"
        "motion: correlation with where the digit is in this frame or the next; at_rest: size for a still clip, "
        "as a share\norder: share that changes when the clip is played backwards; direction: correlation of that "
        "change with where the\ndigit goes less where it came from"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
