"""Make training data that is cheap to decode: small H.264 with many key frames, as files or in shards.

    stm prepare --manifest manifests/train.parquet --output prepared

writes prepared/train.parquet, a manifest of the same videos in the same order, and the videos it names.
The same command again makes only what is missing or has changed.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.console import Parser, add_common, add_root, run_verb, say
from stm.errors import UserError
from stm.storage import make_writable
from stm.ticker import Ticker

if TYPE_CHECKING:
    from stm.data.manifest import Manifest
    from stm.data.prepare.preparing import Failure, Summary
    from stm.data.prepare.timing import Timing, Timings

_SHOWN_FAILURES = 10
_LONGEST_GOP = 250


def build_parser() -> Parser:
    """The options of `stm prepare`."""
    parser = Parser(
        "prepare",
        "Make a manifest's videos cheap to decode, write a manifest of the results.",
        """
        stm prepare --manifest manifests/train.parquet --output prepared
        stm prepare --manifest manifests/train.parquet --output prepared --layout shards
        stm prepare --manifest manifests/train.parquet --output prepared --layout shards --codec jpeg
        stm prepare --manifest frames/train.parquet --output packed --layout shards --keep-jpeg
        """,
    )
    parser.add_argument("--manifest", type=str, required=True, help="written by `stm index`")
    add_root(parser)
    parser.add_argument(
        "--output", type=str, required=True, help="folder for the results, seen by every node"
    )
    parser.add_argument(
        "--layout",
        type=Literal["files", "shards"],
        default="files",
        help="one .mp4 a video, or Parquet shards of about 256 MiB",
    )
    parser.add_argument(
        "--short-side", type=int, default=256, help="pixels; smaller videos are not enlarged"
    )
    parser.add_argument(
        "--codec",
        type=Literal["h264", "jpeg"],
        default="h264",
        help="jpeg: an image a frame, the fastest to decode and the largest; needs --layout shards",
    )
    parser.add_argument(
        "--gop",
        type=int,
        default=16,
        help="frames of H.264 from one key frame to the next; fewer decode faster and are larger",
    )
    parser.add_argument(
        "--min-gain",
        type=float,
        default=1.0,
        help="leave a video as it is unless its clips then decode so many times as fast, measured "
        "for each video; 0: prepare all, unmeasured",
    )
    parser.add_argument(
        "--keep-jpeg",
        action="store_true",
        help="pack the images of frame folders as they are, instead of making videos of them",
    )
    parser.add_argument(
        "--keep-source-on-failure",
        action="store_true",
        help="a video that cannot be prepared stays in the manifest as it was",
    )
    parser.add_argument(
        "--deadline-s", type=float, default=60.0, help="seconds a video may take, and beyond that"
    )
    parser.add_argument(
        "--deadline-s-per-frame", type=float, default=0.5, help="so many for each of its frames"
    )
    parser.add_argument(
        "--measure", type=int, default=40, help="number of videos to time before and after; 0: none"
    )
    add_common(parser)
    return parser


def run(args: Any) -> dict[str, Any]:
    """Prepare a manifest; the result names the new one, and compares bytes and milliseconds.

    Raises UserError for a manifest that cannot be read, an output folder that cannot be written,
    and, after everything is written, where no video is left.
    """
    _check(args)
    from stm.data.manifest import Manifest

    source = Path(args.manifest).absolute()
    manifest = Manifest.read(source, args.root)
    output = _output_folder(args.output, source)

    from stm import cluster
    from stm.data.prepare.preparing import prepare_videos
    from stm.data.prepare.timing import time_clips
    from stm.data.prepare.transcode import Settings
    from stm.data.roots import IF_MOVED

    cluster.connect(args.address)
    prepared, summary = prepare_videos(
        manifest,
        output,
        layout=args.layout,
        settings=Settings(
            short_side=args.short_side,
            codec=args.codec,
            gop=args.gop,
            keep_jpeg=args.keep_jpeg,
            min_gain=args.min_gain,
        ),
        keep_source_on_failure=args.keep_source_on_failure,
        deadline_s=args.deadline_s,
        deadline_s_per_frame=args.deadline_s_per_frame,
        progress=Ticker("videos"),
    )
    target = output / source.name
    bad = target.with_suffix(".bad.txt")
    prepared.write(target)
    _write_bad(bad, prepared, summary.failures)
    kept = target.with_suffix(".kept.txt")
    _write_lines(kept, [[each.video_id, each.path, each.detail] for each in summary.left_alone])
    timings = time_clips(manifest, prepared, args.measure) if args.measure else None
    say(_table(summary, timings))
    if summary.left_alone:
        say(
            f"{len(summary.left_alone)} videos left as they were: prepared, they would not decode "
            f"{_faster(args.min_gain)}; all in {kept}"
        )
    same = prepared.fingerprint == manifest.fingerprint
    _show_failures(summary.failures, bad, same)
    if not len(prepared.usable):
        lost = f" {IF_MOVED}." if set(summary.reasons) == {"not_found"} else ""
        raise UserError(f"no video of {source} could be prepared; {bad} says why.{lost}")
    return {
        "manifest": str(target),
        "num_videos": len(prepared),
        "bad": len(prepared) - len(prepared.usable),
        "prepared": summary.num_prepared,
        "left_alone": len(summary.left_alone),
        "made_now": summary.num_made,
        "failures": summary.reasons,
        "fingerprint": prepared.fingerprint,
        "same_fingerprint": same,
        "bytes": {"before": summary.bytes_before, "after": summary.bytes_after},
        "ms_per_clip": None if timings is None else _as_dict(timings),
        "seconds": summary.seconds,
    }


def main(argv: list[str] | None = None) -> int:
    """`stm prepare`; exit status as in `pipelines.console`."""
    return run_verb(build_parser, run, argv, show=_show)


def _faster(gain: float) -> str:
    return "any faster" if gain == 1 else f"at least {gain:g} times as fast"


def _as_dict(timings: Timings) -> dict[str, Any]:
    def each(timing: Timing) -> dict[str, Any]:
        return {
            "before": timing.before_ms,
            "after": timing.after_ms,
            "videos": timing.num_videos,
        }

    by_codec = {codec: each(timing) for codec, timing in timings.by_codec.items()}
    clip = {"num_segments": timings.num_segments, "size": timings.size}
    return {**each(timings.overall), **clip, "by_codec": by_codec}


def _show(result: dict[str, Any]) -> str:
    usable = result["num_videos"] - result["bad"]
    return f"{result['manifest']}: {usable} videos" + (
        f", and {result['bad']} unusable" if result["bad"] else ""
    )


def _check(args: Any) -> None:
    if args.short_side < 16:
        raise UserError(f"--short-side {args.short_side}: must be 16 pixels or more.")
    if not args.deadline_s > 0 or not args.deadline_s_per_frame >= 0:
        raise UserError(
            f"--deadline-s {args.deadline_s:g} --deadline-s-per-frame "
            f"{args.deadline_s_per_frame:g}: must be more than 0 seconds, and not less than 0."
        )
    if not 1 <= args.gop <= _LONGEST_GOP:
        raise UserError(f"--gop {args.gop}: must be 1 to {_LONGEST_GOP} frames.")
    if not 0 <= args.min_gain < math.inf:
        raise UserError(f"--min-gain {args.min_gain:g}: must be a number from 0 up.")
    if args.measure < 0:
        raise UserError(f"--measure {args.measure}: must be 0 or more videos.")
    for option, given in (("--keep-jpeg", args.keep_jpeg), ("--codec jpeg", args.codec == "jpeg")):
        if given and args.layout != "shards":
            raise UserError(f"{option} needs --layout shards: a file of its own holds one video.")


def _output_folder(name: str, source: Path) -> Path:
    """The folder, made and tried before hours of work go by."""
    output = Path(name).absolute()
    if (output / source.name).resolve() == source.resolve():
        raise UserError(
            f"--output {name}: the new manifest would replace {source}. Name another folder."
        )
    try:
        make_writable(output)
    except OSError as error:
        raise UserError(
            f"--output {name}: cannot write there ({error.strerror}). Name another folder."
        ) from error
    return output


def _write_bad(path: Path, prepared: Manifest, failures: list[Failure]) -> None:
    """All that cannot be used or could not be prepared: id, status, path, why."""
    columns = prepared.table.select(["video_id", "status", "path", "detail"]).to_pylist()
    kept = {failure.row: failure for failure in failures}
    lines: list[list[str]] = []
    for row, item in enumerate(columns):
        if item["status"] != "ok":
            lines.append(list(item.values()))
        elif row in kept:
            why = f"{kept[row].reason}: {kept[row].detail}"
            lines.append([item["video_id"], "source_kept", item["path"], why])
    _write_lines(path, lines)


def _write_lines(path: Path, lines: list[list[str]]) -> None:
    """Tab-separated; no file where there is no line."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    path.write_text("".join(" ".join("\t".join(line).splitlines()) + "\n" for line in lines))


def _show_failures(failures: list[Failure], bad: Path, same_fingerprint: bool) -> None:
    if not failures:
        return
    say(f"{len(failures)} videos could not be prepared:")
    for failure in failures[:_SHOWN_FAILURES]:
        say(f"  {failure.path}: {failure.reason}: {failure.detail}")
    more = f"; {len(failures) - _SHOWN_FAILURES} more" if len(failures) > _SHOWN_FAILURES else ""
    say(f"  all in {bad}{more}")
    if not same_fingerprint:
        say(
            "  a run that has begun cannot go on with this manifest, since it has fewer videos: "
            "--keep-source-on-failure keeps them as they were"
        )


def _table(summary: Summary, timings: Timings | None) -> str:
    """Before and after, as lines."""
    lines = [
        f"{summary.num_prepared} of {summary.num_videos} videos prepared, "
        f"{summary.num_made} made now, in {summary.seconds:.1f} s",
        f"{'':<16}{'before':>10}{'after':>10}",
    ]
    before, after = summary.bytes_before, summary.bytes_after
    if before:
        lines.append(
            f"{'MB':<16}{before / 1e6:>10.1f}{after / 1e6:>10.1f}   {after / before:.2f} x"
        )
    if timings is None:
        return "\n".join(lines)
    clip = f", {timings.num_segments} frames to {timings.size} px, CPU time"
    lines.append(_timing_line("ms a clip", timings.overall) + clip)
    if len(timings.by_codec) > 1:
        lines += [_timing_line(f"  {codec}", each) for codec, each in timings.by_codec.items()]
    # Videos left as they were differ by noise.
    slower = [
        codec for codec, each in timings.by_codec.items() if each.after_ms > 1.1 * each.before_ms
    ]
    if slower:
        lines.append(
            f"{', '.join(slower)} videos decode slower than before: --min-gain 1 leaves them as "
            "they were"
        )
    return "\n".join(lines)


def _timing_line(name: str, timing: Timing) -> str:
    return (
        f"{name:<16}{timing.before_ms:>10.1f}{timing.after_ms:>10.1f}   "
        f"{timing.before_ms / timing.after_ms:.1f} x as fast, {timing.num_videos} videos"
    )


if __name__ == "__main__":
    sys.exit(main())
