"""Create the manifests of a data set from its annotations and videos, as ``stm index`` does.

    index("videos", "index/mine", format="folder", val_fraction=0.2)

This writes index/mine/train.parquet and val.parquet, and beside each a list of the videos that cannot be used. If the
call is repeated, only new and changed videos are probed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm.bounds import number
from stm.config import DataConfig
from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted
from stm.results import IndexResult
from stm.storage import make_writable, on_this_machine, write_bytes
from stm.ticker import Ticker

if TYPE_CHECKING:
    from stm.data.annotations import Annotations
    from stm.data.index.indexing import Summary
    from stm.data.manifest import Manifest

logger = get_logger(__name__)

_SHOWN_BAD = 10


def index(
    root: str,
    output: str,
    *,
    format: str = "folder",
    annotations: str | None = None,
    split: int = 1,
    val_fraction: float | None = None,
    classes: str | None = None,
    split_folders: str = "auto",
    seed: int = 0,
    deadline_s: float = 30.0,
    cross_check: int = 20,
    max_pixels: int = DataConfig.max_pixels,
    decode_mib: int = DataConfig.decode_mib,
    address: str | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> IndexResult:
    """Probe every video below ``root`` and write one manifest for each split into the folder ``output``.

    Args:
        root: folder or URL of the videos.
        format: the format of the annotations, a name of ``stm.data.annotations.formats`` (docs/lists.md).
        annotations: folder or file of the lists; None looks in the root and in the usual places below it.
        split: number of the published split of ucf101, hmdb51 and other lists with numbered splits.
        val_fraction: share of each class to hold out as val, by group, if there is only one split.
        classes: class names and their order: another manifest, or a file of names.
        split_folders: for the format `folder`: whether the root's folders are splits ("yes") or classes ("no").
        seed: seed for choosing the groups that are held out.
        deadline_s: largest time to probe a file, in seconds.
        cross_check: number of files that are also read with decord, for comparison.
        max_pixels: largest number of pixels in a frame.
        decode_mib: memory that decoding a file may use, MiB.
        address: the Ray cluster; None joins $RAY_ADDRESS, or starts one on this machine.
        tick: called with (videos done, all videos); by default progress is logged.

    Raises:
        UserError: a value is out of range, the annotations cannot be read, or the folder cannot be written; or, after
            everything is written, a split has no usable video.
    """
    if not deadline_s > 0:
        raise UserError(f"--deadline_s {number(deadline_s)}: must be more than 0 seconds.")
    if cross_check < 0:
        raise UserError(f"--cross_check {cross_check}: must be 0 or more files.")
    for name, value in (("max_pixels", max_pixels), ("decode_mib", decode_mib)):
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1.")
    from stm.data.annotations import read_annotations

    listed = read_annotations(
        format,
        root,
        annotations,
        split=split,
        val_fraction=val_fraction,
        seed=seed,
        classes=classes,
        split_folders=split_folders,
    )
    for note in listed.notes:
        logger.info(note)
    for warning in listed.warnings:
        logger.warning(warning)
    folder = writable_folder(output)

    from stm import cluster
    from stm.data.decode import Limits
    from stm.data.index.indexing import index_videos

    cluster.connect(address)
    manifests, summary = index_videos(
        listed,
        root=root,
        work_dir=folder / ".probes",
        deadline_s=deadline_s,
        cross_check=cross_check,
        limits=Limits(max_pixels, decode_mib * 2**20),
        progress=tick or Ticker("videos"),
    )
    paths = {name: str(folder / f"{name}.parquet") for name in manifests}
    for name, manifest in manifests.items():
        manifest.write(paths[name])
        _write_bad(folder / f"{name}.bad.txt", manifest, listed.splits[name])
    for stale in sorted({str(path) for path in folder.glob("*.parquet")} - set(paths.values())):
        logger.warning(f"{stale} is from an earlier run and not a split of this one")
    logger.info(_table(listed, manifests, summary))
    _log_bad(folder, manifests)
    _refuse_unusable(folder, manifests)
    return IndexResult(
        manifests=paths,
        num_videos={name: len(manifest) for name, manifest in manifests.items()},
        bad={name: len(manifest) - len(manifest.usable) for name, manifest in manifests.items()},
        classes=len(listed.classes),
        dataset=listed.dataset,
        fingerprints={name: manifest.fingerprint for name, manifest in manifests.items()},
        notes=list(listed.notes),
        warnings=list(listed.warnings),
        summary=summary.as_dict(),
    )


def writable_folder(name: str) -> Path:
    """Create a folder and test that files can be written there. Raises ``UserError`` if they cannot."""
    output = Path(on_this_machine(name, "--output")).absolute()
    try:
        make_writable(output)
    except OSError as error:
        raise UserError(
            f"--output {name}: cannot write there ({error.strerror}). Name another folder."
        ) from error
    return output


def _bad_rows(manifest: Manifest) -> list[tuple[int, dict[str, Any]]]:
    import numpy as np

    rows = np.setdiff1d(np.arange(len(manifest)), manifest.usable)
    columns = manifest.table.select(["video_id", "status", "path", "detail"])
    return list(zip(rows.tolist(), columns.take(rows).to_pylist(), strict=True))


def _write_bad(path: Path, manifest: Manifest, entries: list[Any]) -> None:
    """Write the unusable videos, tab-separated: id, status, path, reason in words, line of the annotations.

    Characters that cannot be printed are escaped. If all videos are usable, the file is removed.
    """
    from stm.redaction import one_line

    bad = _bad_rows(manifest)
    if not bad:
        path.unlink(missing_ok=True)
        return
    rows = ([*item.values(), entries[row].line] for row, item in bad)
    lines = ("\t".join(one_line(value) for value in values) + "\n" for values in rows)
    write_bytes(str(path), "".join(lines).encode())


def _log_bad(output: Path, manifests: dict[str, Manifest]) -> None:
    from stm.redaction import one_line

    for name, manifest in manifests.items():
        bad = _bad_rows(manifest)
        if not bad:
            continue
        logger.warning(f"{len(bad)} of {counted(len(manifest), f'{name} video')} cannot be used:")
        for _, item in bad[:_SHOWN_BAD]:
            logger.warning(
                one_line(f"  {item['path']}: {item['status']}")
                + one_line(f": {item['detail']}") * bool(item["detail"])
            )
        more = f"; {len(bad) - _SHOWN_BAD} more" if len(bad) > _SHOWN_BAD else ""
        logger.warning(f"  {output / name}.bad.txt lists all of them{more}")
        if any(item["status"] == "too_large" for _, item in bad):
            logger.warning(
                "  too_large: --max_pixels and --decode_mib set the limits here; --data.max_pixels and "
                "--data.decode_mib set those of a run"
            )


def _refuse_unusable(output: Path, manifests: dict[str, Manifest]) -> None:
    for name, manifest in manifests.items():
        if not len(manifest.usable):
            raise UserError(
                f"no {name} video can be used; {output / name}.bad.txt gives the reasons. If files are "
                "not found, check --root, and that every node of the cluster can read it."
            )


def _table(annotations: Annotations, manifests: dict[str, Manifest], summary: Summary) -> str:
    """Summarize what was found, as lines of a name and a value."""
    splits = ", ".join(f"{len(manifest)} {name}" for name, manifest in manifests.items())
    lengths = ", ".join(f"{name} {value:.0f}" for name, value in summary.num_frames.items())
    sides = "a mirrored clip keeps its label"
    if not annotations.flip:
        sides = "left and right matter: a mirrored clip may have another label"
    rows = {
        "dataset": f"{annotations.dataset}, {counted(len(annotations.classes), 'class')}",
        "videos": f"{splits}; {summary.num_probed} probed now, in {summary.seconds:.1f} s",
        "status": _shares(summary.status),
        "codec": _shares(summary.codec),
        "size": _shares(summary.size),
        "frames": lengths,
        "mirroring": sides,
        "decord": _decord(summary),
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())


def _decord(summary: Summary) -> str:
    """Which videos decord can read, and how those that were compared differ: a line a reason, with an example."""
    from stm.redaction import one_line

    num_differ, num_compared = len(summary.disagreements), summary.num_cross_checked
    readable = (
        f"can read {summary.guard.get('', 0)} of {counted(sum(summary.guard.values()), 'video')}"
    )
    if not num_compared:
        return readable
    line = f"{readable}; of {num_compared} that were compared, {num_differ or 'none'} differ"
    if num_differ:
        line += ", so keep --data.decoder packets, which is the default"
    by_reason: dict[str, list[str]] = {}
    for path, reason in summary.disagreements.items():
        by_reason.setdefault(reason, []).append(path)
    ranked = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [
        one_line(f"  {counted(len(paths), 'video')}, such as {paths[0]}: {reason}")
        for reason, paths in ranked[:_SHOWN_BAD]
    ]
    if len(ranked) > _SHOWN_BAD:
        lines.append(
            f"  and {counted(sum(len(paths) for _, paths in ranked[_SHOWN_BAD:]), 'other video')}"
        )
    return "\n".join([line, *lines])


def _shares(counts: dict[str, int], most: int = 6) -> str:
    shown = [f"{count} {name}" for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        shown.append(counted(sum(list(counts.values())[most:]), "other"))
    return ", ".join(shown) or "none"
