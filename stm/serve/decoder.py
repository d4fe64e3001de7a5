"""The deployment that decodes. Each replica has a child process, which is replaced if a video hangs or crashes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.stream.clips import ClipSpec
from stm.errors import UserError
from stm.evaluate.timeline import best_of, read_windows
from stm.scoring.segments import Merger
from stm.serve.frames import Images, is_archive
from stm.serve.uploads import Decoded, Refused, decode_upload, ready

_PRELOAD = ("stm.serve.uploads", "torch", "stm.data.decode.reader", "stm.data.decode.resize")
_START_LIMIT_S = 120.0
_MERGING = ("enter", "leave", "min_s")
OPTIONS = ("window_s", "stride_s", *_MERGING)
"""Options of ``/windows``, as in ``stm predict --window_s``."""


class Decoder:
    """Decodes uploads into clips, one at a time. Other uploads wait here, where they can still be cancelled."""

    def __init__(
        self,
        clip: ClipSpec,
        deadline_s: float,
        memory_bytes: int,
        network: Any = None,
        classes: Sequence[str] = (),
    ) -> None:
        self._clip, self._deadline_s, self._memory_bytes = clip, deadline_s, memory_bytes
        self._network, self._classes = network, classes
        self._process = IsolatedProcess(preload=_PRELOAD)
        # One thread for the whole life of the replica, because the child ends with the thread that started it.
        self._thread = ThreadPoolExecutor(1, "decode")
        self._thread.submit(self._process.call, ready, deadline_s=_START_LIMIT_S).result()

    async def decode(self, data: bytes | Images) -> Decoded | Refused:
        """Return the clip of a video file or of images, or the reason why there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, data)

    async def windows(
        self, data: bytes | Images, options: dict[str, float]
    ) -> AsyncIterator[dict[str, Any] | Refused]:
        """Yield a row for each window of a video file, and at the end the segments, or the reason for an earlier end.

        Each video is decoded in its own process, so that other uploads do not wait. The next window is decoded while
        the network scores this one. If the caller stops, decoding stops too.
        """
        if isinstance(data, list) or is_archive(data):
            detail = "images have no time stamps: send a video file"
            yield Refused(422, "unsupported_source", detail)
            return
        limits = replace(self._clip.limits, memory_bytes=self._memory_bytes)
        try:
            merging = {name: options[name] for name in _MERGING if name in options}
            merger = Merger(self._classes, **merging)
            reader = read_windows(
                data,
                replace(self._clip, limits=limits),
                window_s=options["window_s"],
                stride_s=options.get("stride_s"),
                deadline_s=self._deadline_s,
            )
        except UserError as error:
            yield Refused(400, "option", str(error).replace("--", ""))
            return
        loop, num_windows, found = asyncio.get_running_loop(), 0, []
        with ThreadPoolExecutor(1, "windows") as thread:
            await loop.run_in_executor(thread, reader.__enter__)
            try:
                windows = iter(reader)
                while window := await loop.run_in_executor(thread, next, windows, None):
                    scores = None
                    if window.clips is not None:
                        (clip,) = window.clips[:, 0]
                        scores = np.asarray(await self._network.scores.remote(clip), np.float64)
                        num_windows += 1
                    row = best_of(window, scores, self._classes)
                    found += merger.push(row)
                    yield row.as_dict()
            except VideoError as error:
                yield Refused(422, error.reason, error.detail)
                return
            finally:
                with contextlib.suppress(RuntimeError):
                    await asyncio.shield(loop.run_in_executor(thread, reader.close))
        found += merger.finish()
        yield {"segments": [each.as_dict() for each in found], "num_windows": num_windows}

    def _decode(self, data: bytes | Images) -> Decoded | Refused:
        try:
            return self._process.call(
                decode_upload, data, self._clip, self._memory_bytes, deadline_s=self._deadline_s
            )
        except VideoError as error:
            return Refused(422, error.reason, error.detail)
        except MemoryError:
            limit = self._memory_bytes // 2**20
            return Refused(422, "too_large", f"decoding needs more than {limit} MiB")
        except CallFailed as failure:
            if failure.reason == "deadline":
                return Refused(
                    504, "decode_time", f"decoding takes longer than {self._deadline_s:g} s"
                )
            return Refused(422, "crashed", f"the decoding process crashed: {failure.detail}")
