"""Shards: many prepared videos in one Parquet file, each readable with one seek.

    read_frames("prepared/shards/shard-00000.parquet#17", [0, 8, 16])  # of stm.data.decode: row 17

| column   | dtype        | meaning                                                          |
|----------|--------------|------------------------------------------------------------------|
| video_id | string       | as in the manifest                                               |
| data     | binary       | a video file; only in a shard of videos                          |
| frames   | list<binary> | image files in frame order; only in a shard of frames            |

Each row is its own row group, uncompressed and without dictionary, so its payload is one contiguous
range at the end of the row group. The footer's metadata records the ranges under `stm.shard`. A
footer of 2500 row groups takes 4 to 9 ms to parse, about as long as decoding a clip, and 4 MB to
keep; the ranges alone take 24 bytes per row. A process therefore parses each footer once, and
reading a row is one `pread` (0.014 ms; `read_row_group` of an open file takes 0.18 ms). For other
readers it is an ordinary Parquet file.

Images are followed by an int32 table of their ends. It lies between two row groups, where other
Parquet readers do not look. A clip of 8 frames reads this and its 8 images, a tenth of the row.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stm.data.regular_file import open_regular
from stm.data.video import StoreAway, VideoError
from stm.plural import counted
from stm.storage import filesystem, is_away, is_url

Payload = bytes | list[bytes]
"""A video file, or the image files of a frame folder."""

VERSION = 2
"""Version of the layout; shards of another version are refused."""
_METADATA_KEY = "stm.shard"
_END = np.dtype("<i4")
_LENGTH_BYTES = 4  # Parquet's PLAIN encoding puts a little-endian length before each value
MOST_ROW_BYTES = 2**31 - 2**20
"""Limit of a row, because a Parquet page counts its bytes in int32."""

_ROW = re.compile(r"(.*\.parquet)#(\d+)", re.DOTALL)
_VIDEO_ID = pa.field("video_id", pa.string(), nullable=False)
_IMAGES = pa.list_(pa.field("element", pa.binary(), nullable=False))
_SCHEMAS = {
    "data": pa.schema([_VIDEO_ID, pa.field("data", pa.binary(), nullable=False)]),
    "frames": pa.schema([_VIDEO_ID, pa.field("frames", _IMAGES, nullable=False)]),
}


@dataclass(frozen=True)
class _Index:
    """The byte ranges of the rows of a shard."""

    column: str
    places: NDArray[np.int64]
    """[N, 3]: first byte, number of bytes, and number of images (0 for a video file)."""
    state: tuple[int, int] | None
    """Size and modification time of the file; None behind a URL."""


_MOST_ROWS_KEPT = 2**21  # 48 MiB of places
_kept: OrderedDict[str, _Index] = OrderedDict()
_kept_lock = threading.Lock()


def shard_path(file: str | os.PathLike[str], row: int) -> str:
    """The path of one row."""
    return f"{os.fspath(file)}#{row}"


def is_shard_path(source: Any) -> bool:
    """Whether a source of `stm.data.decode` names a row of a shard."""
    return isinstance(source, str) and ".parquet#" in source and _ROW.fullmatch(source) is not None


def split_shard_path(path: str) -> tuple[str, int]:
    """(file, row) of the path of a row."""
    match = _ROW.fullmatch(path)
    if match is None:
        raise ValueError(f"{path}: not the path of a row, FILE.parquet#NUMBER")
    return match[1], int(match[2])


def holds_frames(source: Any) -> bool:
    """Whether a source of `stm.data.decode` names a row of image files.

    Raises:
        VideoError: As in `read_row`.
    """
    if not is_shard_path(source):
        return False
    file, _ = split_shard_path(source)
    with _kept_lock:
        index = _kept.get(file)
    if index is None:
        with _open(source, file) as opened:
            index = _index(source, file, opened)
    return index.column == "frames"


def read_video(path: str) -> bytes:
    """The video file that a row holds; raises as `read_row`."""
    payload = read_row(path)
    if not isinstance(payload, bytes):
        raise VideoError(path, "unsupported_source", "a row of image files, not a video")
    return payload


def read_images(path: str) -> list[bytes]:
    """The image files that a row holds; raises as `read_row`."""
    payload = read_row(path)
    if isinstance(payload, bytes):
        raise VideoError(path, "unsupported_source", "a row with a video file, not images")
    return payload


def read_some_images(path: str, wanted: Sequence[int]) -> tuple[dict[int, bytes], int]:
    """The image files with the numbers ``wanted`` that exist, and the number of images in the row.

    Unlike `read_images`, it reads only these images from a disk. Behind a URL it reads the whole row,
    because requests are the main cost. Raises as `read_row`.
    """
    if is_url(path):
        images = read_images(path)
        return {k: images[k] for k in wanted if k < len(images)}, len(images)
    with _open_row(path) as row:
        if row.column != "frames":
            raise VideoError(path, "unsupported_source", "a row with a video file, not images")
        chosen = [k for k in wanted if k < row.num_images]
        places = row.places_of_images(row.read(row.num_bytes, row.end), chosen)
        return {
            k: row.read(*place) for k, place in zip(chosen, places, strict=True)
        }, row.num_images


def read_row(path: str) -> Payload:
    """The payload of the row.

    Raises:
        VideoError: ``not_found``, ``permission_denied``; ``not_a_shard``, if the file was not
            written by `write_shard`; ``bad_row``; ``unreadable``, if it is cut short.
    """
    with _open_row(path) as row:
        data = row.read(
            0, row.end
        )  # including the table, because behind a URL each read is a request
        if row.column == "data":
            return data
        places = row.places_of_images(data[row.num_bytes :], range(row.num_images))
        return [data[start:end] for start, end in places]


def num_bytes_of_row(path: str) -> int:
    """Bytes of the payload, plus four bytes for the length of each image; raises as `read_row`."""
    with _open_row(path) as row:
        return row.num_bytes


@dataclass(frozen=True)
class _OpenRow:
    """A row of an open shard; positions count from the first byte of its payload."""

    path: str
    file: Any
    column: str
    start: int
    num_bytes: int
    num_images: int

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``; raises VideoError ``unreadable`` if the file ends earlier."""
        self.file.seek(self.start + start)
        data: bytes = self.file.read(end - start)
        if len(data) != end - start:
            raise VideoError(self.path, "unreadable", "the shard is cut short")
        return data

    @property
    def end(self) -> int:
        """End of the payload and of the table of images; a video file has no table."""
        return self.num_bytes + self.num_images * _END.itemsize

    def places_of_images(self, table: bytes, wanted: Sequence[int]) -> list[tuple[int, int]]:
        """(start, end) of each of the images ``wanted``, from the table after the payload."""
        ends = np.frombuffer(table, _END)
        places = [(int(ends[k - 1]) if k else 0, int(ends[k])) for k in wanted]
        places = [(before + _LENGTH_BYTES, end) for before, end in places]
        if not all(_LENGTH_BYTES <= start <= end <= self.num_bytes for start, end in places):
            raise VideoError(self.path, "unreadable", "damage in the table of its images")
        return places


@contextlib.contextmanager
def _open_row(path: str) -> Iterator[_OpenRow]:
    """Raises as `read_row`."""
    file, row = split_shard_path(path)
    with _open(path, file) as opened:
        index = _index(path, file, opened)
        if row >= len(index.places):
            raise VideoError(path, "bad_row", f"the shard has {counted(len(index.places), 'row')}")
        yield _OpenRow(path, opened, index.column, *index.places[row].tolist())


def write_shard(path: str | os.PathLike[str], rows: Iterable[tuple[str, Payload]]) -> int:
    """Write (video_id, payload) rows of one kind and read each back; returns their number.

    The file is synced but not renamed: the caller does that.

    Raises:
        OSError: If it cannot be written.
        ValueError: If there are no rows, or a payload is empty, of the other kind, or over 2 GiB.
        RuntimeError: If a row read back differs from what was written.
    """
    import pyarrow.parquet as pq

    column, places, sums = "", [], []
    writer = None
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(pa.OSFile(os.fspath(path), "wb"))
        for video_id, payload in rows:
            kind = "data" if isinstance(payload, bytes) else "frames"
            if writer is None:
                column = kind
                writer = stack.enter_context(
                    pq.ParquetWriter(
                        sink,
                        _SCHEMAS[column],
                        compression="none",
                        use_dictionary=False,
                        write_statistics=False,
                        data_page_size=2**31 - 1,  # the images of a row stay in one page
                    )
                )
            num_bytes, table, checksum = _measure(payload)
            if kind != column or not 0 < num_bytes <= MOST_ROW_BYTES:
                what = f"{num_bytes} bytes of {kind} in a shard of {column}"
                raise ValueError(f"{path}: {video_id}: {what}, 1 to {MOST_ROW_BYTES} can be stored")
            schema = _SCHEMAS[column]
            values = [pa.array([video_id]), pa.array([payload], schema.field(column).type)]
            writer.write_table(pa.table(values, schema=schema), row_group_size=1)
            places.append((sink.tell() - num_bytes, num_bytes, len(table) // _END.itemsize))
            sink.write(table)
            sums.append(checksum)
        if writer is None:
            raise ValueError(f"{path}: a shard needs at least one row")
        described = {
            "version": VERSION,
            "column": column,
            "places": base64.b64encode(np.array(places, "<i8").tobytes()).decode(),
        }
        writer.add_key_value_metadata({_METADATA_KEY: json.dumps(described)})
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        for (start, num_bytes, num_images), checksum in zip(places, sums, strict=True):
            file.seek(start)
            if zlib.crc32(file.read(num_bytes + num_images * _END.itemsize)) != checksum:
                raise RuntimeError(f"{path}: a row read back is not what was written")
    return len(places)


def _measure(payload: Payload) -> tuple[int, bytes, int]:
    """(bytes of the payload in the file, table after it, CRC-32 of both)."""
    if isinstance(payload, bytes):
        return len(payload), b"", zlib.crc32(payload)
    checksum = 0
    for value in payload:
        checksum = zlib.crc32(len(value).to_bytes(_LENGTH_BYTES, "little"), checksum)
        checksum = zlib.crc32(value, checksum)
    ends = np.cumsum([_LENGTH_BYTES + len(value) for value in payload])
    table = ends.astype(_END).tobytes()
    return int(ends[-1]) if payload else 0, table, zlib.crc32(table, checksum)


def _open(path: str, file: str) -> Any:
    try:
        if not is_url(file):
            return open_regular(file)
        store, name = filesystem(file)
        return store.open(name, "rb", cache_type="none")
    except FileNotFoundError as error:
        raise VideoError(path, "not_found", "no such shard") from error
    except PermissionError as error:
        raise VideoError(path, "permission_denied", "this user may not read the shard") from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if is_url(file) and is_away(file, error):
            raise StoreAway(path, "unreadable", f"its store does not answer: {said}") from error
        if isinstance(error, OSError | ImportError | ValueError):
            raise VideoError(path, "unreadable", said) from error
        raise


def _index(path: str, file: str, opened: Any) -> _Index:
    """The byte ranges of the rows, from the footer or cached by an earlier call."""
    state = None
    if not is_url(file):
        stat = os.fstat(opened.fileno())
        state = (stat.st_size, stat.st_mtime_ns)
    with _kept_lock:
        index = _kept.get(file)
        if index is not None and index.state == state:
            _kept.move_to_end(file)
            return index
    index = _read_index(path, opened, state)
    with _kept_lock:
        _kept[file] = index
        _kept.move_to_end(file)
        num_rows = sum(len(each.places) for each in _kept.values())
        while num_rows > _MOST_ROWS_KEPT and len(_kept) > 1:
            _, oldest = _kept.popitem(last=False)
            num_rows -= len(oldest.places)
    return index


def _read_index(path: str, opened: Any, state: tuple[int, int] | None) -> _Index:
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.PythonFile(opened, "r")).metadata or {}
        described = json.loads(metadata[_METADATA_KEY.encode()])
        if described["column"] not in _SCHEMAS:
            raise ValueError(f"column {described['column']!r}")
        if described["version"] != VERSION:
            made = f"a shard of version {described['version']}, this stm reads {VERSION}"
            raise VideoError(path, "not_a_shard", f"{made}: run `stm prepare` again")
        places = np.frombuffer(base64.b64decode(described["places"]), "<i8").reshape(-1, 3)
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
        detail = f"no shard that `stm prepare` wrote, or cut short ({error!s:.200})"
        raise VideoError(path, "not_a_shard", detail) from error
    return _Index(described["column"], places.astype(np.int64), state)
