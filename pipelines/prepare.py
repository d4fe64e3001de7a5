"""Convert videos into small H.264 ones with many key frames, which decode fast, as files or in shards.

    stm prepare --manifest manifests/train.parquet --output prepared

This writes prepared/train.parquet, a manifest of the same videos in the same order, and the videos that it lists. When
the command is run again, it converts only videos that are missing or have changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pipelines.console import logger
from pipelines.options import Address, Output, Positive, Root
from stm.bounds import Bounds
from stm.dataset import writable_folder
from stm.errors import UserError
from stm.plural import counted
from stm.redaction import one_line
from stm.storage import absolute, resolved, write_bytes
from stm.ticker import Ticker

if TYPE_CHECKING:
    from stm.data.manifest import Manifest
    from stm.data.prepare.preparing import Failure, Summary
    from stm.data.prepare.timing import Timing, Timings

_SHOWN_FAILURES = 10


def prepare(
    *,
    manifest: str,
    root: Root = None,
    output: Output,
    layout: Literal["files", "shards"] = "files",
    short_side: Annotated[int, Bounds(ge=16)] = 256,
    codec: Literal["h264", "jpeg"] = "h264",
    gop: Annotated[int, Bounds(ge=1, le=250)] = 16,
    min_gain: Annotated[float, Bounds(ge=0)] = 1.0,
    keep_jpeg: bool = False,
    keep_source_on_failure: bool = False,
    deadline_s: Positive = 60.0,
    deadline_s_per_frame: Annotated[float, Bounds(ge=0)] = 0.5,
    measure: Annotated[int, Bounds(ge=0)] = 40,
    address: Address = None,
) -> dict[str, Any]:
    """Convert a manifest's videos into smaller ones that decode faster, as files or in shards.

    It writes a manifest of the new videos, and compares their size and decoding time with those of the old ones. When
    the command is run again, it converts only videos that are missing or have changed.

    Examples:
        stm prepare --manifest manifests/train.parquet --output prepared
        stm prepare --manifest manifests/train.parquet --output prepared --layout shards
        stm prepare --manifest manifests/train.parquet --output prepared --layout shards --codec jpeg
        stm prepare --manifest frames/train.parquet --output packed --layout shards --keep_jpeg

    Args:
        manifest: manifest of the videos, written by `stm index`
        output: folder for the new videos, which every node must reach
        layout: one .mp4 file for each video, or Parquet shards of about 256 MiB
        short_side: short side of the new videos, px; smaller videos are not enlarged
        codec: h264, or jpeg for one image per frame, which decodes fastest, is largest and needs --layout shards
        gop: number of frames from one key frame of H.264 to the next; with fewer, videos decode faster and are larger
        min_gain: keep a video unchanged unless the new one decodes at least this many times as fast, which is measured
            for each video; 0 converts all videos
        keep_jpeg: pack the images of frame folders as they are, instead of encoding them as videos
        keep_source_on_failure: if a video cannot be converted, keep the original in the manifest
        deadline_s: seconds that converting one video may take, plus deadline_s_per_frame for each of its frames
        deadline_s_per_frame: see deadline_s
        measure: number of videos whose decoding is timed before and after
    """
    for option, given in (("--keep_jpeg", keep_jpeg), ("--codec jpeg", codec == "jpeg")):
        if given and layout != "shards":
            raise UserError(
                f"{option} needs --layout shards: the layout `files` writes videos only."
            )
    from stm.data.manifest import Manifest

    source = absolute(manifest)
    before = Manifest.read(source, root)
    target = Path(output).absolute() / Path(source).name
    if str(target.resolve()) == resolved(source):
        raise UserError(
            f"--output {output}: the new manifest would replace {source}. Name another folder."
        )
    folder = writable_folder(output)

    from stm import cluster
    from stm.data.prepare.preparing import prepare_videos
    from stm.data.prepare.timing import time_clips
    from stm.data.prepare.transcode import Settings
    from stm.data.roots import IF_MOVED

    cluster.connect(address)
    prepared, summary = prepare_videos(
        before,
        folder,
        layout=layout,
        settings=Settings(
            short_side=short_side,
            codec=codec,
            gop=gop,
            keep_jpeg=keep_jpeg,
            min_gain=min_gain,
        ),
        keep_source_on_failure=keep_source_on_failure,
        deadline_s=deadline_s,
        deadline_s_per_frame=deadline_s_per_frame,
        progress=Ticker("videos"),
    )
    bad = target.with_suffix(".bad.txt")
    prepared.write(target)
    _write_bad(bad, prepared, summary.failures)
    kept = target.with_suffix(".kept.txt")
    _write_lines(kept, [[each.video_id, each.path, each.detail] for each in summary.left_alone])
    timings = time_clips(before, prepared, measure) if measure else None
    logger.info(_table(summary, timings))
    if summary.left_alone:
        logger.info(
            f"{counted(len(summary.left_alone), 'video')} left unchanged, since the new ones would not decode "
            f"{_faster(min_gain)}; {kept} lists all of them"
        )
    same = prepared.fingerprint == before.fingerprint
    _show_failures(summary.failures, bad, same)
    if not len(prepared.usable):
        lost = f" {IF_MOVED}." if set(summary.reasons) == {"not_found"} else ""
        raise UserError(f"no video of {source} could be prepared; {bad} gives the reasons.{lost}")
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


def show(result: dict[str, Any]) -> str:
    usable = result["num_videos"] - result["bad"]
    return f"{result['manifest']}: {counted(usable, 'video')}" + (
        f", and {result['bad']} unusable" if result["bad"] else ""
    )


def _write_bad(path: Path, prepared: Manifest, failures: list[Failure]) -> None:
    """Write all videos that cannot be used or could not be prepared: id, status, path, reason."""
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
    """Write tab-separated lines; without lines, there is no file."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    text = "".join("\t".join(map(one_line, line)) + "\n" for line in lines)
    write_bytes(str(path), text.encode())


def _show_failures(failures: list[Failure], bad: Path, same_fingerprint: bool) -> None:
    if not failures:
        return
    logger.info(f"{counted(len(failures), 'video')} could not be prepared:")
    for failure in failures[:_SHOWN_FAILURES]:
        logger.info(one_line(f"  {failure.path}: {failure.reason}: {failure.detail}"))
    more = f"; {len(failures) - _SHOWN_FAILURES} more" if len(failures) > _SHOWN_FAILURES else ""
    logger.info(f"  {bad} lists all of them{more}")
    if not same_fingerprint:
        logger.info(
            "  a run that has begun cannot continue with this manifest, since it has fewer videos; "
            "--keep_source_on_failure keeps their originals"
        )


def _table(summary: Summary, timings: Timings | None) -> str:
    """Return sizes and decoding times before and after, as lines."""
    lines = [
        f"{summary.num_prepared} of {counted(summary.num_videos, 'video')} prepared, "
        f"{summary.num_made} of them now, in {summary.seconds:.1f} s",
        f"{'':<16}{'before':>10}{'after':>10}",
    ]
    before, after = summary.bytes_before, summary.bytes_after
    if before:
        lines.append(
            f"{'MB':<16}{before / 1e6:>10.1f}{after / 1e6:>10.1f}   {after / before:.2f} x"
        )
    if timings is None:
        return "\n".join(lines)
    clip = f", {counted(timings.num_segments, 'frame')} to {timings.size} px, CPU time"
    lines.append(_timing_line("ms per clip", timings.overall) + clip)
    if len(timings.by_codec) > 1:
        lines += [_timing_line(f"  {codec}", each) for codec, each in timings.by_codec.items()]
    # The tolerance is for unchanged videos, which differ only by noise.
    slower = [
        codec for codec, each in timings.by_codec.items() if each.after_ms > 1.1 * each.before_ms
    ]
    if slower:
        lines.append(
            f"{', '.join(slower)} videos decode slower than before; --min_gain 1 leaves them unchanged"
        )
    return "\n".join(lines)


def _timing_line(name: str, timing: Timing) -> str:
    return (
        f"{name:<16}{timing.before_ms:>10.1f}{timing.after_ms:>10.1f}   "
        f"{timing.before_ms / timing.after_ms:.1f} x as fast, {counted(timing.num_videos, 'video')}"
    )
