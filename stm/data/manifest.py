"""The manifest: one Parquet row per video, written once by `stm index`, read by all later commands.

    python -c "from stm.data.manifest import Manifest; print(Manifest.read('index/val.parquet'))"

| column            | dtype   | meaning                                                          |
|-------------------|---------|------------------------------------------------------------------|
| video_id          | string  | unique name of the video within the dataset                      |
| path              | string  | absolute path of a video file or frame folder, or an fsspec URL; |
|                   |         | in the file, relative to the root for videos below it            |
| label             | int32   | index into `classes`, 0-based                                    |
| num_frames        | int32   | displayed frames, exact; 0 where status is not ok                |
| fps               | float32 | mean frames per second; 0 where unknown (frame folders)          |
| width, height     | int16   | pixels as displayed, before any resize                           |
| codec             | string  | name of the format (h264, mpeg4, vp9, ...); "" unless ok         |
| status            | string  | "ok", or the code of why it cannot be used (not_found, ...)      |
| detail            | string  | the same reason in words; "" where ok                            |
| group             | string  | source of the clip, to keep a source in one split; "" if unknown |
| guard             | string  | "" = decord may be trusted with this file, else why not          |
| keyframe_interval | int32   | most frames from one key frame to the next; 0 where unknown      |

Nothing is null. The schema's metadata holds, under `stm.manifest`, a JSON object with the schema
version, the dataset's name, the class names in label order, the labels after mirroring, and the
root: the folder or URL of the videos, which may have moved (`stm.data.roots`). Version 1 had no root.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stm.data.classes import match_classes
from stm.data.containment import check_paths
from stm.data.roots import (
    IF_MOVED,
    absolute_root,
    all_joined,
    are_relative,
    is_relative,
    relative_to,
    root_found,
    root_to_use,
)
from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted
from stm.storage import StorageError, is_url, read_bytes, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = get_logger(__name__)

SCHEMA_VERSION = 2
_READ_VERSIONS = (1, 2)
_FINGERPRINT_VERSION = 1
"""Version of the fingerprint's content, which does not include the root."""

METADATA_KEY = b"stm.manifest"
OK = "ok"

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("label", pa.int32()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("width", pa.int16()),
        ("height", pa.int16()),
        ("codec", pa.string()),
        ("status", pa.string()),
        ("detail", pa.string()),
        ("group", pa.string()),
        ("guard", pa.string()),
        ("keyframe_interval", pa.int32()),
    ]
)


@dataclass(frozen=True, eq=False)
class Manifest:
    """The videos of one split, usable or not, in a fixed order.

    The sample plan identifies videos by row number, so rows are never reordered or dropped.
    """

    table: pa.Table
    """Rows as in the module's table."""

    classes: tuple[str, ...]
    """Class names; `label` indexes into it."""

    dataset: str
    """Name of the dataset, for logs and reports."""

    flip: bool
    """Whether a mirrored clip keeps its label; False where a class says left or right."""

    flip_map: dict[int, int] | None = field(default=None)
    """Labels after mirroring: label a becomes flip_map[a], and clips whose label is no key may not
    be mirrored. With flip=False and no map, no clip may be mirrored."""

    root: str | None = None
    """Folder or URL to which `write` makes paths relative, so that the videos may move; None writes absolute paths.
    In `table` paths are always absolute."""

    def __repr__(self) -> str:
        return (
            f"Manifest({self.dataset!r}, {counted(len(self), 'video')}, {len(self.usable)} usable, "
            f"{counted(self.num_classes, 'class')})"
        )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def usable(self) -> NDArray[np.int64]:
        """Row numbers with status ok, ascending: int64 [number of usable videos]."""
        ok = pc.equal(self.table["status"], OK).to_numpy(zero_copy_only=False)
        return np.flatnonzero(ok).astype(np.int64)

    @cached_property
    def class_counts(self) -> NDArray[np.int64]:
        """Number of usable videos per class: int64 [number of classes]."""
        labels = self.table["label"].to_numpy()[self.usable]
        return np.bincount(labels[labels >= 0], minlength=self.num_classes).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that training depends on, in row order.

        It covers ids, labels, lengths, which videos are usable, and the class names.

        Moving the files or writing the table with other row groups does not change it.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps([_FINGERPRINT_VERSION, self.classes]).encode())
        digest.update(b"[")  # like json.dumps of the whole list, which may have millions of entries
        ids, at_once = self.table["video_id"], 2**16
        for first in range(0, len(ids), at_once):
            some = json.dumps(ids.slice(first, at_once).to_pylist())[1:-1]
            digest.update((", " if first else "").encode() + some.encode())
        digest.update(b"]")
        for name in ("label", "num_frames"):
            digest.update(self.table[name].to_numpy().astype("<i4").tobytes())
        digest.update(self.usable.astype("<i8").tobytes())
        return digest.hexdigest()

    def usable_numbers(self) -> list[NDArray[np.generic]]:
        """Width, height, num_frames and keyframe_interval of the usable videos, each [number of usable videos]."""
        names = ("width", "height", "num_frames", "keyframe_interval")
        return [self.table[name].to_numpy()[self.usable] for name in names]

    def mirrored_label(self, label: int) -> int | None:
        """The label of a mirrored clip of this class; None if it must not be mirrored."""
        if self.flip:
            return label
        return None if self.flip_map is None else self.flip_map.get(label)

    def with_classes(
        self,
        classes: Sequence[str],
        *,
        name: str,
        of: str,
    ) -> Manifest:
        """The same videos with the class list of a network; labels are matched by class name.

        The names may be in another order, and some may be missing here. ``name`` and ``of`` are the manifest and the
        owner of ``classes``, for messages. Names that differ only in case, blanks, underscores or
        hyphens count as the same, and the log reports them (`stm.data.classes`).

        Raises UserError with the class names if videos have classes that are not in ``classes``.
        """
        if tuple(classes) == self.classes:
            return self
        match = match_classes(self.classes, classes)
        counts = np.bincount(self.table["label"].to_numpy(), minlength=self.num_classes)
        unknown = [label for label in match.unknown if counts[label]]
        if unknown:
            named = ", ".join(repr(self.classes[label]) for label in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UserError(
                f"{name} has videos of {counted(len(unknown), 'class')} that {of} does not have: {named}{more} "
                f"({counted(int(counts[unknown].sum()), 'video')}). The {counted(len(classes), 'class')} there: "
                f"{_some(classes)}. Rename or leave out those of the manifest, and index again"
            )
        if match.near:
            _warn_once(f"{name}: taken as the same classes of {of}: {match.said()}")
        relabel = np.zeros(self.num_classes, np.int32)
        relabel[list(match.labels)] = list(match.labels.values())
        labels = pa.array(relabel[self.table["label"].to_numpy()], pa.int32())
        at = self.table.schema.get_field_index("label")
        flip_map = self.flip_map and {
            match.labels[a]: match.labels[b]
            for a, b in self.flip_map.items()
            if a in match.labels and b in match.labels
        }
        return replace(
            self,
            table=self.table.set_column(at, SCHEMA.field("label"), labels),
            classes=tuple(classes),
            flip_map=flip_map,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as Parquet, whole or not at all: a reader sees the old file or the new one.

        Raises UserError if the folder cannot be written.
        """
        import pyarrow.parquet as pq

        root = None if self.root is None else absolute_root(self.root)
        described = {
            "schema_version": SCHEMA_VERSION,
            "root": root,
            "dataset": self.dataset,
            "classes": list(self.classes),
            "flip": self.flip,
            "flip_map": None
            if self.flip_map is None
            else {str(a): b for a, b in sorted(self.flip_map.items())},
        }
        metadata = {METADATA_KEY: json.dumps(described, ensure_ascii=False).encode()}
        paths = [relative_to(each, root) for each in self.table["path"].to_pylist()]
        table = with_paths(self.table.select(SCHEMA.names).cast(SCHEMA), paths)
        table = table.replace_schema_metadata(metadata)
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as partial:
                pq.write_table(table, partial, compression="zstd")
        except OSError as error:
            raise UserError(
                f"{target}: cannot write the manifest ({error.strerror or error}). "
                "Choose an --output folder you may write to, with free space."
            ) from error

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        root: str | None = None,
    ) -> Manifest:
        """Read and check a manifest, a file or a URL.

        ``root`` is the present folder or URL of the videos if they have moved; every video must be in it.
        Without it, a data set that was moved together with its manifest is searched for (`stm.data.roots`). The log
        reports where it was found, or that the root is not on this machine.

        Raises UserError, naming the file and the field, if the file is missing, not a manifest, of
        another schema version or empty, or if ids repeat, labels are outside the class list, no
        video is usable, or a path leads out of the root.
        """
        import pyarrow.parquet as pq

        try:
            # Not pq.read_table: it would merge a folder's files, and its reader threads, given a
            # Python file, abort the interpreter at exit now and then (pyarrow 25).
            name = os.fspath(path)
            with pa.BufferReader(read_bytes(name)) if is_url(name) else pa.OSFile(name) as stream:
                table = _all_rows(pq.ParquetFile(stream))
        except StorageError:
            raise
        except OSError as error:
            hint = " It is a folder: name the .parquet file in it." if os.path.isdir(path) else ""
            raise UserError(
                f"{path}: cannot read the manifest ({error.strerror or error}).{hint} "
                "`stm index --output DIR` writes DIR/train.parquet and DIR/val.parquet."
            ) from error
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{path}: not a Parquet file, or cut short ({_first_line(error)}). A manifest is "
                "what `stm index` writes; annotation lists go to `stm index --annotations`."
            ) from error
        described = _read_metadata(path, table)
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}. Run `stm index` again.")
        try:
            table = table.select(SCHEMA.names).cast(SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"{path}: a column has another type than a manifest's ({_first_line(error)}). "
                "Run `stm index` again."
            ) from error
        stored = table["path"]
        recorded = _recorded_root(path, described, stored)
        if root is not None:
            used = root_to_use(stored.to_pylist(), recorded, root)
        else:
            used = root_found(path, stored, recorded) or recorded
        _log_root(path, used, recorded, root)
        if used is not None:
            table = with_paths(table, all_joined(used, stored))
        columns = table.columns
        del table, stored
        table = _in_one_piece(columns)
        flip_map = described.get("flip_map")
        manifest = cls(
            table=table,
            classes=tuple(described["classes"]),
            dataset=described["dataset"],
            flip=described["flip"],
            flip_map=None if flip_map is None else {int(a): int(b) for a, b in flip_map.items()},
            root=used if recorded is not None else None,
        )
        _check_rows(path, manifest)
        if root is not None:
            check_paths(path, manifest.table["path"].to_pylist(), root)
        return manifest


def _read_metadata(path: str | os.PathLike[str], table: pa.Table) -> dict[str, Any]:
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise UserError(
            f"{path}: a Parquet file, but no manifest: it lacks the metadata "
            f"`{METADATA_KEY.decode()}`. Manifests are written by `stm index`."
        )
    try:
        described = json.loads(raw)
        version = described["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: the metadata `{METADATA_KEY.decode()}` cannot be read. Run `stm index` again."
        ) from error
    if version not in _READ_VERSIONS:
        raise UserError(
            f"{path}: schema_version is {version!r}, this stm reads {' and '.join(map(str, _READ_VERSIONS))}. "
            "Run `stm index` again with this version of stm."
        )
    wanted = {"dataset": str, "classes": list, "flip": bool}
    for name, kind in wanted.items():
        if not isinstance(described.get(name), kind):
            raise UserError(f"{path}: metadata field `{name}` is missing. Run `stm index` again.")
    return dict(described)


def _recorded_root(
    path: str | os.PathLike[str], described: dict[str, Any], stored: pa.ChunkedArray
) -> str | None:
    root = described.get("root")
    if not (root is None or (isinstance(root, str) and not is_relative(root))):
        raise UserError(
            f"{path}: metadata field `root` is no absolute folder or URL. Run `stm index` again."
        )
    if root is None and described["schema_version"] > 1:
        relative = stored.filter(pc.and_(are_relative(stored), pc.not_equal(stored, "")))
        if len(relative):
            raise UserError(
                f"{path}: the path {relative[0]} is relative, and the metadata names no root. Run `stm index` again."
            )
    return None if root is None else absolute_root(root)


def _log_root(
    path: str | os.PathLike[str],
    used: str | None,
    recorded: str | None,
    wanted: str | None,
) -> None:
    if used is None or is_url(used):
        return
    if used != recorded and wanted is None:
        _warn_once(f"{path}: its videos were in {recorded}, which is no more; they are in {used}")
    elif not os.path.isdir(used):
        _warn_once(
            f"{path}: its videos are in {used}, which this machine does not have. {IF_MOVED}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    """Log a warning once, however often a job reads the manifest."""
    logger.warning(message)


def with_paths(table: pa.Table, paths: list[str] | pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with ``paths`` as its column `path`."""
    at = table.schema.get_field_index("path")
    column = pa.array(paths, pa.string()) if isinstance(paths, list) else paths
    return table.set_column(at, SCHEMA.field("path"), column)


def _all_rows(file: Any) -> pa.Table:
    """A Parquet file's table, read by row group, since reading all at once takes half as much memory again."""
    groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    return pa.concat_tables(groups) if groups else file.read()


def _in_one_piece(columns: list[pa.ChunkedArray]) -> pa.Table:
    """The table of these columns of `SCHEMA`, each in as few chunks as possible; empties the list.

    At most one column is copied at a time, if there are no other references to the columns.
    """
    columns.reverse()
    whole = []
    while columns:
        # As a table: a string column over 2 GiB stays in chunks, while combining a lone column would be an error.
        whole.append(pa.table([columns.pop()], names=["column"]).combine_chunks().column(0))
        pa.default_memory_pool().release_unused()
    return pa.table(whole, schema=SCHEMA)


def _num_distinct(names: pa.ChunkedArray) -> int:
    """Number of distinct names, counted in eight parts by the last byte to limit the memory of the hash table."""
    lasts = [_last_bytes(chunk) for chunk in names.chunks]
    eighths = (
        names.filter(pa.chunked_array([pa.array(last_N % 8 == part) for last_N in lasts]))
        for part in range(8)
    )
    return sum(pc.count_distinct(each).as_py() for each in eighths)


def _last_bytes(names: pa.StringArray) -> NDArray[np.uint8]:
    """The last byte of each name: uint8 [N]; 0 for an empty name."""
    _, ends, letters = names.buffers()
    ends_N1 = np.frombuffer(ends, np.int32, len(names) + 1, 4 * names.offset)
    last_N = np.zeros(len(names), np.uint8)
    filled_N = np.diff(ends_N1) > 0
    if filled_N.any():
        last_N[filled_N] = np.frombuffer(letters, np.uint8)[ends_N1[1:][filled_N] - 1]
    return last_N


def _check_rows(path: str | os.PathLike[str], manifest: Manifest) -> None:
    table = manifest.table
    if table.num_rows == 0:
        raise UserError(
            f"{path}: the manifest is empty. Check the annotations given to `stm index`."
        )
    for name in SCHEMA.names:
        if table[name].null_count:
            raise UserError(
                f"{path}: column {name} has {counted(table[name].null_count, 'null value')}. "
                "Run `stm index` again."
            )
    repeated: list[str] = []
    if _num_distinct(table["video_id"]) < table.num_rows:
        counts = pc.value_counts(table["video_id"])
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if repeated:
        raise UserError(
            f"{path}: video_id {repeated[0]!r} occurs more than once ({len(repeated)} such ids). "
            "Each video may be listed once: remove the duplicates from the annotations and index "
            "again."
        )
    span = pc.min_max(table["label"]).as_py()
    if span["min"] < 0 or span["max"] >= manifest.num_classes:
        wrong = span["min"] if span["min"] < 0 else span["max"]
        row = pc.index(table["label"], wrong).as_py()
        raise UserError(
            f"{path}: label {wrong} of video {table['video_id'][row].as_py()!r} lies outside the "
            f"{counted(manifest.num_classes, 'class')} (0 to {manifest.num_classes - 1}). "
            "Run `stm index` again."
        )
    _check_flip_map(path, manifest)
    _check_usable(path, manifest)


def _check_flip_map(path: str | os.PathLike[str], manifest: Manifest) -> None:
    for a, b in (manifest.flip_map or {}).items():
        if not (0 <= a < manifest.num_classes and 0 <= b < manifest.num_classes):
            raise UserError(
                f"{path}: flip_map maps label {a} to {b}, outside the {manifest.num_classes} "
                "classes. Run `stm index` again."
            )


def _check_usable(path: str | os.PathLike[str], manifest: Manifest) -> None:
    usable = manifest.usable
    if len(usable) == 0:
        status = pc.value_counts(manifest.table["status"]).to_pylist()
        counts = ", ".join(f"{item['values']}: {item['counts']}" for item in status)
        raise UserError(
            f"{path}: no usable video among {len(manifest)} ({counts}). "
            f"{Path(path).with_suffix('.bad.txt').name} beside it lists the reasons; "
            "check --root and index again."
        )
    lengths = manifest.table["num_frames"].to_numpy()[usable]
    if lengths.min() < 1:
        row = int(usable[int(lengths.argmin())])
        raise UserError(
            f"{path}: video {manifest.table['video_id'][row].as_py()!r} has status ok and "
            f"num_frames {int(lengths.min())}. Run `stm index` again."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
