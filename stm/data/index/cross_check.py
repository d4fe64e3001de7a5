"""A check while indexing: decord and the packet plan read the same frames of some files.

The guard of a file is a rule about its packets; this check decodes them. It costs two decodes per
file, so it uses a sample with files of every codec in turn.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import Counter

import numpy as np
import pyarrow as pa

from stm.data import decode
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.manifest import OK
from stm.plural import counted
from stm.storage import is_url

_SAME_FRAME = 1.0
"""Maximum mean difference, out of 255, for two decoders to show the same frame. On real clips equal
frames differ by less than 0.001, and frames a third of a clip apart by 3 to 60."""

_FILES_A_TASK = 10
_WHERE_IN_DECORD = re.compile(r"^\[[\d:]+\] \S+: ")


def sample_files(results: pa.Table, most: int) -> list[tuple[str, int]]:
    """(path, num_frames) of up to `most` usable files that decord may be trusted with.

    Codecs take turns, so that rare ones are included; within a codec files are ordered by a hash of the path.
    results: schema of `stm.data.index.probe_store`.
    """
    columns = ("status", "guard", "codec", "path", "num_frames")
    rows = zip(*(results[name].to_pylist() for name in columns), strict=True)
    trusted = [
        (hashlib.sha256(path.encode()).digest(), codec, path, num_frames)
        for status, guard, codec, path, num_frames in rows
        # decord is given local files only
        if status == OK and not guard and not is_url(path) and not codec.endswith("-folder")
    ]
    taken: Counter[str] = Counter()
    ranked = []
    for digest, codec, path, num_frames in sorted(trusted):
        ranked.append((taken[codec], digest, path, num_frames))
        taken[codec] += 1
    return [(path, num_frames) for _, _, path, num_frames in sorted(ranked)[:most]]


def compare_decoders(path: str, num_frames: int) -> str:
    """Describe how decord differs from the packet plan in this file; "" if it does not.

    Four frames are compared: the first, the last and two in between.
    """
    import decord

    wanted = sorted({0, num_frames // 3, 2 * num_frames // 3, num_frames - 1})
    expected = decode.read_frames(path, wanted, "packets")
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) != num_frames:
            return f"decoders disagree: decord counts {counted(len(reader), 'frame')}, not {num_frames}"
        frames = reader.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        reason = _WHERE_IN_DECORD.sub("", str(error).splitlines()[0])
        return f"decoders disagree: decord refuses the file ({reason})"
    if frames.shape != expected.shape:
        height, width = frames.shape[1:3]
        return f"decoders disagree: decord gives {width}x{height} pixels"
    difference = np.abs(frames.astype(np.int16) - expected).mean(axis=(1, 2, 3))
    wrong = [k for k, value in zip(wanted, difference, strict=True) if value > _SAME_FRAME]
    if wrong:
        worst = f"by up to {difference.max():.1f} of 255"
        return f"decoders disagree: frames {', '.join(map(str, wrong))} differ {worst}"
    return ""


def cross_check_decoders(
    results: pa.Table, most: int, deadline_s: float
) -> tuple[dict[str, str], int]:
    """({path: disagreement}, number of files compared), on the connected cluster.

    results: schema of `stm.data.index.probe_store`. Compares nothing if decord is not installed.
    """
    files = sample_files(results, most)
    if not files or importlib.util.find_spec("decord") is None:
        return {}, 0
    import ray

    check = ray.remote(check_files)
    num_tasks = -(-len(files) // _FILES_A_TASK)
    shares = [check.remote(files[i::num_tasks], deadline_s) for i in range(num_tasks)]
    disagreements = {path: said for share in ray.get(shares) for path, said in share.items()}
    return disagreements, len(files)


def check_files(files: list[tuple[str, int]], deadline_s: float) -> dict[str, str]:
    """{path: disagreement} for (path, num_frames) pairs, compared in a process that may hang."""
    disagreements = {}
    with IsolatedProcess(preload=["decord", "stm.data.decode.probing"]) as process:
        for path, num_frames in files:
            try:
                said = process.call(compare_decoders, path, num_frames, deadline_s=deadline_s)
            except CallFailed as error:
                said = f"decoders disagree: reading with decord ended in {error}"
            except decode.VideoError as error:
                said = f"decoders disagree: the packet plan fails ({error.reason}: {error.detail})"
            except Exception as error:  # an error of this file must not end the job
                said = f"decoders disagree: comparing them failed ({type(error).__name__}: {error})"
            if said:
                disagreements[path] = said
    return disagreements
