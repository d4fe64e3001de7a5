"""Measure on this machine: ``python -m pipelines.bench decode --videos FOLDER``."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pipelines.console import Parser, add_common, run_verb, say
from stm.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        "bench",
        "Measure decoding, or the data stream, on this machine and your videos.",
        """
        stm bench decode --videos FOLDER --output bench
        stm bench data --manifest train.parquet --gpu_clips_per_s 400
        stm bench data --manifest train.parquet --json
        """,
    )
    add_common(parser)
    parser.add_argument("what", type=Literal["decode", "data"], help="what to measure")
    parser.add_argument("--manifest", type=str | None, default=None, help="videos to measure on")
    parser.add_argument(
        "--videos", type=str | None, default=None, help="or a folder of them (decode)"
    )
    parser.add_argument(
        "--num_videos", type=int, default=60, help="at most so many videos (decode)"
    )
    parser.add_argument("--num_clips", type=int, default=240, help="clips a run (data)")
    parser.add_argument("--repetitions", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--num_segments", type=int, default=8, help="frames a clip")
    parser.add_argument("--size", type=int, default=224, help="side of a clip, px")
    parser.add_argument("--batch_size", type=int, default=8, help="clips a batch (data)")
    parser.add_argument(
        "--gpu_clips_per_s",
        type=float,
        default=400.0,
        help="what one GPU takes, for the sum at the end",
    )
    parser.add_argument("--output", type=str | None, default=None, help="directory for the figure")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Measure as the arguments say."""
    for name in ("num_videos", "num_clips", "repetitions", "num_segments", "size", "batch_size"):
        if args[name] < 1:
            raise UserError(f"--{name} {args[name]}: must be at least 1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = {"decode": _decode, "data": _data}[args.what](args)
    cores = os.cpu_count()
    machine = (
        f"{_processor()}, {cores} cores, {platform.system()}, Python {platform.python_version()}"
    )
    return {"what": args.what, "machine": machine, "date": time.strftime("%Y-%m-%d"), **result}


def _decode(args: Any) -> dict[str, Any]:
    from stm.bench import decode

    if args.manifest:
        from stm.data.manifest import Manifest

        manifest = Manifest.read(args.manifest)
        paths = [manifest.table["path"][int(i)].as_py() for i in manifest.usable]
    elif args.videos:
        from stm.evaluate.predict import find_videos

        paths = find_videos([args.videos])
    else:
        raise UserError("stm bench decode needs --manifest FILE or --videos FOLDER")
    # Spread over the list: neighbours are often of one class and one camera.
    paths = paths[:: max(1, len(paths) // args.num_videos)][: args.num_videos]
    result = decode.measure(
        paths,
        num_frames=args.num_segments,
        size=args.size,
        repetitions=args.repetitions,
        tick=lambda done, total: say(f"  {done} of {total} videos") if done % 10 == 0 else None,
    )
    if not result["num_videos"]:
        raise UserError(
            f"none of {len(paths)} videos can be read by every decoder: {result['unreadable']}"
        )
    per_core = result["clips_per_s_core"]["packets"]
    result["sum"] = needs(args.gpu_clips_per_s, per_core, _clip_mb(args))
    _draw(args, result, "decode.png", result["clips_per_s_core"], "clips/s a core")
    return result


def _data(args: Any) -> dict[str, Any]:
    if not args.manifest:
        raise UserError("stm bench data needs --manifest FILE, written by `stm index`")
    from stm import cluster
    from stm.bench import data
    from stm.config import DataConfig
    from stm.data.clips import ClipSpec
    from stm.data.manifest import Manifest

    manifest = Manifest.read(args.manifest)
    config = DataConfig(num_segments=args.num_segments, size=args.size)
    spec = ClipSpec.training(config, flip=manifest.flip, flip_map=manifest.flip_map)
    cores = os.cpu_count() or 1
    cluster.connect(args.address, num_cpus=cores)
    result = data.measure(
        manifest,
        spec,
        cores=cores,
        num_clips=args.num_clips,
        batch_size=args.batch_size,
        repetitions=args.repetitions,
        say=say,
    )
    per_core = result["clips_per_s"]["stream"] / cores
    result["sum"] = needs(args.gpu_clips_per_s, per_core, _clip_mb(args))
    _draw(args, result, "data.png", result["clips_per_s"], "clips/s")
    return result


def _clip_mb(args: Any) -> float:
    return args.num_segments * args.size**2 * 3 / 1e6


def needs(gpu_clips_per_s: float, clips_per_s_core: float, clip_mb: float) -> str:
    """The sentence a user needs before buying nodes."""
    return (
        f"one GPU at {gpu_clips_per_s:g} clips/s needs {gpu_clips_per_s / clips_per_s_core:.0f} cores of this kind "
        f"and {gpu_clips_per_s * clip_mb:.0f} MB/s between them"
    )


def _draw(args: Any, result: dict[str, Any], name: str, bars: dict[str, float], unit: str) -> None:
    if args.output:
        from stm.figures import plot_bars

        result["figure"] = str(plot_bars(Path(args.output) / name, bars, result["sum"], unit))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line),
        platform.machine(),
    )


def show(result: dict[str, Any]) -> str:
    if result["what"] == "decode":
        lines = [
            f"{result['num_videos']} videos; CPU ms a clip, spread, clips/s a core, times packets' cost"
        ]
        lines += [
            f"  {name:<14}{ms:>8.1f}  +-{result['spread_ms'][name] / 2:<6.1f}"
            f"{result['clips_per_s_core'][name]:>7.1f}{result['ratio_to_packets'][name]:>8.2f} x"
            for name, ms in result["ms"].items()
        ]
        lines += [f"  {name:<26}{ms:>8.1f} ms" for name, ms in result["stages_ms"].items()]
        lines += [
            f"  not read: {what}: {why}" for what, why in list(result["unreadable"].items())[:5]
        ]
    else:
        lines = [f"{result['cores']} cores; clips/s, least and most of the repetitions"]
        lines += [
            f"  {name:<8}{value:>8.1f}   {result['spread'][name]}"
            for name, value in result["clips_per_s"].items()
        ]
        lines.append(
            f"  the stream gives {result['stream_to_pool']:.2f} of the pool; a consumer of 0.8 of its rate waits "
            f"{result['wait_share']:.0%} of its time"
        )
    return "\n".join([*lines, result["sum"], f"({result['machine']}, {result['date']})"])


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
