"""Probe every video of a dataset once and write its manifests, one for each split.

    stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output index/ucf101

writes index/ucf101/train.parquet and val.parquet, and beside each the list of videos that cannot be
used. The same command again probes only what is new or has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pipelines.console import Progress, output_folder, say
from pipelines.options import Address, Count, Option, Positive
from stm.errors import UserError

if TYPE_CHECKING:
    from stm.data.annotations import Annotations
    from stm.data.index.indexing import Summary
    from stm.data.manifest import Manifest

_SHOWN_BAD = 10


def index(
    *,
    format: str,
    root: str,
    annotations: str | None = None,
    split: int = 1,
    output: str,
    val_fraction: float | None = None,
    classes: str | None = None,
    split_folders: str = "auto",
    seed: int = 0,
    deadline_s: Positive = 30.0,
    max_pixels: Count = 2**26,
    decode_mib: Count = 4096,
    cross_check: Annotated[int, Option(least=0)] = 20,
    address: Address = None,
) -> dict[str, Any]:
    """Probe every video of a dataset once, write its manifest.

    The result names the manifests and counts what is in them. The same command again probes only what is new or has
    changed. Where a split has no usable video, that is said after everything is written.

    Examples:
        stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output ucf101
        stm index --format folder --root videos --val_fraction 0.2 --output index/mine
        stm index --format list --root videos --annotations list.csv --output index/mine --json

    Args:
        format: of the annotations: folder, list, ucf101, hmdb51, something-v1, something-v2, jester, kinetics400
        root: folder (or URL) of the videos
        annotations: folder or file of the lists; null looks in the root and the usual places in it
        split: published split of ucf101, hmdb51 and lists numbered so: 1, 2 or 3
        output: folder for the manifests
        val_fraction: share of each class to hold out as val, by group, where there is one split only
        classes: class names and their order: another manifest (.parquet), or a file of names
        split_folders: format folder: whether the root's folders are splits (yes) or classes (no); auto asks where their
            names leave it open
        seed: draws the groups that are held out
        deadline_s: seconds a file may take to be probed
        max_pixels: pixels a frame may have (8K video has half as many); larger ones are too_large
        decode_mib: memory that decoding a file may take, in MiB; what takes more is too_large
        cross_check: number of files that decord reads as well, to compare; 0 compares none
    """
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
    for text in listed.notes:
        say(text)
    for warning in listed.warnings:
        say(f"warning: {warning}")
    folder = output_folder(output)

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
        progress=Progress(),
    )
    paths = {name: str(folder / f"{name}.parquet") for name in manifests}
    for name, manifest in manifests.items():
        manifest.write(paths[name])
        _write_bad(folder / f"{name}.bad.txt", manifest, listed.splits[name])
    for stale in sorted({str(path) for path in folder.glob("*.parquet")} - set(paths.values())):
        say(f"warning: {stale} is from an earlier run and not a split of this one")
    say(_table(listed, manifests, summary))
    _show_bad(folder, manifests)
    _refuse_unusable(folder, manifests)
    return {
        "manifests": paths,
        "num_videos": {name: len(manifest) for name, manifest in manifests.items()},
        "bad": {name: len(manifest) - len(manifest.usable) for name, manifest in manifests.items()},
        "classes": len(listed.classes),
        "dataset": listed.dataset,
        "fingerprints": {name: manifest.fingerprint for name, manifest in manifests.items()},
        "notes": list(listed.notes),
        "warnings": list(listed.warnings),
        "summary": summary.as_dict(),
    }


def show(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{path}: {result['num_videos'][name] - result['bad'][name]} videos"
        + (f", and {result['bad'][name]} unusable" if result["bad"][name] else "")
        for name, path in result["manifests"].items()
    )


def _bad_rows(manifest: Manifest) -> list[tuple[int, dict[str, Any]]]:
    import numpy as np

    rows = np.setdiff1d(np.arange(len(manifest)), manifest.usable)
    columns = manifest.table.select(["video_id", "status", "path", "detail"])
    return list(zip(rows.tolist(), columns.take(rows).to_pylist(), strict=True))


def _write_bad(path: Path, manifest: Manifest, entries: list[Any]) -> None:
    """All unusable videos, tab-separated: id, status, path, reason in words, where it is listed.

    Characters that cannot be printed are escaped. No file where there is none.
    """
    from stm.data.annotations.texts import printable

    bad = _bad_rows(manifest)
    if not bad:
        path.unlink(missing_ok=True)
        return
    rows = ([*item.values(), entries[row].line] for row, item in bad)
    lines = ("\t".join(printable(value) for value in values) + "\n" for values in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _show_bad(output: Path, manifests: dict[str, Manifest]) -> None:
    from stm.data.annotations.texts import printable

    for name, manifest in manifests.items():
        bad = _bad_rows(manifest)
        if not bad:
            continue
        say(f"{len(bad)} of {len(manifest)} {name} videos cannot be used:")
        for _, item in bad[:_SHOWN_BAD]:
            say(
                f"  {printable(item['path'])}: {item['status']}"
                + f": {item['detail']}" * bool(item["detail"])
            )
        more = f"; {len(bad) - _SHOWN_BAD} more" if len(bad) > _SHOWN_BAD else ""
        say(f"  all in {output / name}.bad.txt{more}")


def _refuse_unusable(output: Path, manifests: dict[str, Manifest]) -> None:
    for name, manifest in manifests.items():
        if not len(manifest.usable):
            raise UserError(
                f"no {name} video can be used; {output / name}.bad.txt says why. Where files are "
                "not found, check --root, and that every node of the cluster sees it."
            )


def _table(annotations: Annotations, manifests: dict[str, Manifest], summary: Summary) -> str:
    """What was found, as lines of name and value."""
    splits = ", ".join(f"{len(manifest)} {name}" for name, manifest in manifests.items())
    lengths = ", ".join(f"{name} {value:.0f}" for name, value in summary.num_frames.items())
    num_trusted = summary.guard.get("", 0)
    sides = "a mirrored clip keeps its label"
    if not annotations.flip:
        sides = "left and right matter: a mirrored clip may have another label"
    rows = {
        "dataset": f"{annotations.dataset}, {len(annotations.classes)} classes",
        "videos": f"{splits}; {summary.num_probed} probed now, in {summary.seconds:.1f} s",
        "status": _shares(summary.status),
        "codec": _shares(summary.codec),
        "size": _shares(summary.size),
        "frames": lengths,
        "mirroring": sides,
        "decord": f"may be trusted with {num_trusted} of {sum(summary.guard.values())}; "
        f"{summary.num_cross_checked} compared, {len(summary.disagreements)} differ",
    }
    lines = [f"{name:<10}{value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"  {k}: {v}" for k, v in summary.disagreements.items())])


def _shares(counts: dict[str, int], most: int = 6) -> str:
    shown = [f"{count} {name}" for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        shown.append(f"{sum(list(counts.values())[most:])} others")
    return ", ".join(shown) or "none"
