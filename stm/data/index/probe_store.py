"""Stored results of earlier, perhaps interrupted, indexing, so that no file is probed twice.

| column     | dtype   | meaning                                                                  |
|------------|---------|--------------------------------------------------------------------------|
| path       | string  | as in a manifest's file: relative to the root, if below it               |
| state      | string  | size and modification time when it was probed; "" if not available       |
| deadline_s | float32 | deadline of that probe                                                   |
| FACTS      |         | status to keyframe_interval, as in the manifest                          |
"""

from __future__ import annotations

import contextlib
import math
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa

from stm.data.manifest import SCHEMA, with_paths
from stm.data.roots import absolute_root, joined, relative_to
from stm.data.video import DEFAULT_LIMITS
from stm.storage import whole_file

FACTS = (
    *("status", "detail", "num_frames", "fps", "width", "height", "codec"),
    *("guard", "keyframe_interval"),
)
PROBED = pa.schema(
    [
        ("path", pa.string()),
        ("state", pa.string()),
        ("deadline_s", pa.float32()),
        *(SCHEMA.field(name) for name in FACTS),
    ]
)
# Chmod, a mount, a repair or a higher limit can fix these without a change of size or time.
_NOT_REMEMBERED = frozenset({"not_found", "permission_denied", "no_decoder", "too_large"})

_VERSION = 2
"""Version of the probe results: increased when the same file gets different facts."""


class ProbeStore:
    """Results in a folder, one Parquet file per block; each is written atomically."""

    def __init__(self, folder: Path | None, root: str | None = None) -> None:
        """`folder` is created at the first write; None stores nothing.

        Paths below `root` are stored relative to it, so results stay valid when the data set moves.
        """
        self._folder = folder
        self._root = None if root is None else absolute_root(root)
        self._stamp = {b"stm.probes": _decoder_version().encode()}

    def load(self) -> pa.Table:
        """All results stored with the same decoder versions, schema PROBED.

        Files of other versions and unreadable files are skipped.
        """
        import pyarrow.parquet as pq

        tables = []
        for path in sorted(self._folder.glob("*.parquet")) if self._folder else []:
            with contextlib.suppress(OSError, pa.ArrowInvalid), pa.OSFile(str(path)) as stream:
                table = pq.ParquetFile(stream).read()
                if table.schema.remove_metadata() == PROBED and _stamp_of(table) == self._stamp:
                    tables.append(table.replace_schema_metadata(None))
        table = pa.concat_tables(tables).combine_chunks() if tables else PROBED.empty_table()
        return with_paths(table, [joined(self._root, each) for each in table["path"].to_pylist()])

    def add(self, table: pa.Table) -> None:
        """Store the results of a block."""
        if self._folder is not None and table.num_rows:
            self._write(f"block-{uuid.uuid4().hex}.parquet", table)

    def compact(self, table: pa.Table) -> None:
        """Replace all files by one that holds `table`."""
        if self._folder is None or not table.num_rows:
            return
        old = list(self._folder.glob("*.parquet"))
        name = f"all-{uuid.uuid4().hex}.parquet"
        self._write(name, table)
        for path in old:
            path.unlink(missing_ok=True)

    def _write(self, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        table = with_paths(
            table, [relative_to(each, self._root) for each in table["path"].to_pylist()]
        )
        with whole_file(self._folder / name) as partial:
            pq.write_table(table.replace_schema_metadata(self._stamp), partial, compression="zstd")


def remembered(
    known: pa.Table, deadline_s: float, max_pixels: int = DEFAULT_LIMITS.max_pixels
) -> dict[str, int]:
    """Path -> row of `known` whose result is valid while the file's state is the same.

    A file that missed a shorter deadline is probed again; one with larger frames than
    `max_pixels` is not.
    """
    rows: dict[str, int] = {}
    names = ("path", "state", "status", "deadline_s", "width", "height")
    columns = (known[name].to_pylist() for name in names)
    for row, (path, state, status, earlier_s, *size) in enumerate(zip(*columns, strict=True)):
        gave_up_early = status == "deadline" and earlier_s < deadline_s
        is_larger = math.prod(size) > max_pixels
        if state and status not in _NOT_REMEMBERED and not gave_up_early and not is_larger:
            rows[path] = row
    return rows


def _stamp_of(table: pa.Table) -> dict[bytes, bytes]:
    key = b"stm.probes"
    return {key: (table.schema.metadata or {}).get(key, b"")}


def _decoder_version() -> str:
    """The versions on which a probe's result depends besides the file."""
    names = [f"probes {_VERSION}"]
    for package in ("stm", "av"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            names.append(f"{package} not installed")
    return ", ".join(names)
