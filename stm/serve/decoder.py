"""The deployment that decodes: one child process a replica, replaced when a video hangs or kills it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.stream.clips import ClipSpec
from stm.serve.frames import Images
from stm.serve.uploads import Decoded, Refused, decode_upload, ready

_PRELOAD = ("stm.serve.uploads", "torch", "stm.data.decode.reader", "stm.data.decode.resize")
_START_LIMIT_S = 120.0


class Decoder:
    """Uploads in, clips out, one at a time; the others wait here, where they can still be called off."""

    def __init__(self, clip: ClipSpec, deadline_s: float, memory_bytes: int) -> None:
        self._clip, self._deadline_s, self._memory_bytes = clip, deadline_s, memory_bytes
        self._process = IsolatedProcess(preload=_PRELOAD)
        # One thread for the life of the replica: the kernel ends the child with the thread that started it.
        self._thread = ThreadPoolExecutor(1, "decode")
        self._thread.submit(self._process.call, ready, deadline_s=_START_LIMIT_S).result()

    async def decode(self, data: bytes | Images) -> Decoded | Refused:
        """The clip of a video file, or of images, or why there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, data)

    def _decode(self, data: bytes | Images) -> Decoded | Refused:
        try:
            return self._process.call(
                decode_upload, data, self._clip, self._memory_bytes, deadline_s=self._deadline_s
            )
        except VideoError as error:
            return Refused(422, error.reason, error.detail)
        except MemoryError:
            limit = self._memory_bytes // 2**20
            return Refused(422, "too_large", f"decoding it takes more than {limit} MiB")
        except CallFailed as failure:
            if failure.reason == "deadline":
                return Refused(
                    504, "decode_time", f"decoding it takes longer than {self._deadline_s:g} s"
                )
            return Refused(422, "crashed", f"decoding it ended its process: {failure.detail}")
