"""Probe every video of a dataset once and write its manifests, one for each split.

    stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output index/ucf101

writes index/ucf101/train.parquet and val.parquet, and beside each the list of videos that cannot be
used. The same command again probes only what is new or has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.console import Parser, add_common, run_verb, say
from stm.errors import UserError
from stm.ticker import Ticker

if TYPE_CHECKING:
    from stm.data.annotations import Annotations
    from stm.data.index.indexing import Summary
    from stm.data.manifest import Manifest

_SHOWN_BAD = 10
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
        default=2**26,
        help="pixels a frame may have (8K video has half as many); larger ones are too_large",
    )
    parser.add_argument(
        "--decode-mib",
        type=int,
        default=4096,
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
    """Index a dataset; the result names the manifests and counts what is in them.

    Raises UserError for annotations that cannot be read, for an output folder that cannot be
    written, and, after everything is written, where a split has no usable video.
    """
    if not args.deadline_s > 0:
        raise UserError(f"--deadline-s {args.deadline_s:g}: must be more than 0 seconds.")
    if args.cross_check < 0:
        raise UserError(f"--cross-check {args.cross_check}: must be 0 or more files.")
    for name in ("max_pixels", "decode_mib"):
        if args[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {args[name]}: must be at least 1.")
    from stm.data.annotations import read_annotations

    annotations = read_annotations(
        args.format,
        args.root,
        args.annotations,
        split=args.split,
        val_fraction=args.val_fraction,
        seed=args.seed,
        classes=args.classes,
        split_folders=args.split_folders,
    )
    for text in annotations.notes:
        say(text)
    for warning in annotations.warnings:
        say(f"warning: {warning}")
    output = _output_folder(args.output)

    from stm import cluster
    from stm.data.decode import Limits
    from stm.data.index.indexing import index_videos

    cluster.connect(args.address)
    manifests, summary = index_videos(
        annotations,
        root=args.root,
        work_dir=output / ".probes",
        deadline_s=args.deadline_s,
        cross_check=args.cross_check,
        limits=Limits(args.max_pixels, args.decode_mib * 2**20),
        progress=Ticker(say, "videos"),
    )
    paths = {name: str(output / f"{name}.parquet") for name in manifests}
    for name, manifest in manifests.items():
        manifest.write(paths[name])
        _write_bad(output / f"{name}.bad.txt", manifest, annotations.splits[name])
    for stale in sorted({str(path) for path in output.glob("*.parquet")} - set(paths.values())):
        say(f"warning: {stale} is from an earlier run and not a split of this one")
    say(_table(annotations, manifests, summary))
    _show_bad(output, manifests)
    _refuse_unusable(output, manifests)
    return {
        "manifests": paths,
        "num_videos": {name: len(manifest) for name, manifest in manifests.items()},
        "bad": {name: len(manifest) - len(manifest.usable) for name, manifest in manifests.items()},
        "classes": len(annotations.classes),
        "dataset": annotations.dataset,
        "fingerprints": {name: manifest.fingerprint for name, manifest in manifests.items()},
        "notes": list(annotations.notes),
        "warnings": list(annotations.warnings),
        "summary": summary.as_dict(),
    }


def main(argv: list[str] | None = None) -> int:
    """`stm index`; exit status as in `pipelines.console`."""
    return run_verb(build_parser, run, argv, show=_show)


def _show(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{path}: {result['num_videos'][name] - result['bad'][name]} videos"
        + (f", and {result['bad'][name]} unusable" if result["bad"][name] else "")
        for name, path in result["manifests"].items()
    )


def _output_folder(name: str) -> Path:
    """The folder, made and tried before hours of probing go by."""
    output = Path(name).absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        trial = output / ".writable"
        trial.touch()
        trial.unlink()
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


if __name__ == "__main__":
    sys.exit(main())
