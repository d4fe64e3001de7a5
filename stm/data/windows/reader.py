"""Windows of a long video, decoded ahead in a child process that may hang or die.

    with WindowReader(Job("match.mp4", spec, window_s=2, stride_s=1)) as windows:
        for window in windows:
            ...

Decoding of a file waits for its consumer. After a crash of the decoder, the bad packet is searched for packet by packet
and skipped, which costs the pictures up to the next key frame. A live stream does not wait: windows that are not
consumed in time are skipped and replaced by a window without clips, so memory stays bounded and results stay current.
A stream that breaks off is reopened for up to ``reconnect_s``; its windows continue by the clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.stream.guarded import PRELOAD
from stm.data.video import label
from stm.data.windows.cutting import Window
from stm.data.windows.decoding import Batch, Job, begin, clock, go_on
from stm.log import get_logger

logger = get_logger(__name__)

_AHEAD = 4
"""Maximum number of windows that wait to be consumed."""
_STEP_S = 1.0
"""Interval at which decoding reports its position."""
_MOST_CRASHES = 10
_CAREFUL_S = 60.0
"""Seconds of video after the last position reported before a crash that are decoded packet by packet."""
_RETRY_S = 1.0


class WindowReader:
    """The windows of a source, in order. Iterate once; ``close`` stops decoding.

    Args:
        job: The source and its settings.
        deadline_s: Deadline for opening and for each packet of a file.
        is_live: Skip windows instead of waiting for the consumer.
        reconnect_s: How long to retry a stream that ends or breaks off; 0 disables retries.

    Iterating raises ``VideoError`` if the source cannot be read, or can be read no further.
    """

    def __init__(
        self, job: Job, *, deadline_s: float, is_live: bool = False, reconnect_s: float = 0.0
    ) -> None:
        self._job, self._deadline_s = job, deadline_s
        self._is_live, self._reconnect_s = is_live, reconnect_s
        self._name = label(job.source)
        self._process = IsolatedProcess(PRELOAD, keeps_state=True)
        self._change = threading.Condition()
        self._waiting: deque[Window] = deque()
        self._over: Exception | None = None
        self._done = self._closed = False
        self._next_number = job.first
        self.num_skipped = 0
        """Windows that were not consumed in time."""
        self.num_live = 0
        """Maximum number of frames held."""
        self._num_before = self.num_decoded = 0
        """Frames decoded."""
        self.ended_by = ""
        """Why a stream broke off."""
        # One thread for the child's lifetime: the kernel ends the child with the thread that started it.
        self._thread = threading.Thread(target=self._run, name="windows", daemon=True)

    def __enter__(self) -> WindowReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Window]:
        while True:
            with self._change:
                while not (self._waiting or self._done):
                    # Wait in short intervals, because signals are handled only between them.
                    self._change.wait(0.2)
                if not self._waiting:
                    break
                window = self._waiting.popleft()
                self._change.notify_all()
            yield window
        if self._over is not None:
            raise self._over

    def close(self) -> None:
        """Stop decoding."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        while self._thread.is_alive():
            self._process.kill()
            self._thread.join(0.1)

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        over: Exception | None = None
        try:
            if self._job.stream is None:
                self._read_file()
            else:
                self._read_stream()
        except Exception as error:  # raised again in the consumer
            over = error
        finally:
            self._process.close()
            with self._change:
                self._over, self._done = over, True
                self._change.notify_all()

    def _read_file(self) -> None:
        job, batch, crashes = self._job, Batch(), 0
        careful_until_s: float | None = None
        while not self._closed:
            self._begin(job, self._deadline_s)
            try:
                while not (batch.ended or self._closed):
                    step_s = _STEP_S if careful_until_s is None else 0.0
                    batch = self._process.call(go_on, step_s, deadline_s=step_s + self._deadline_s)
                    self._take(batch)
                    if careful_until_s is not None and batch.reached_s > careful_until_s:
                        careful_until_s = None
                return
            except CallFailed as failure:
                if self._closed:
                    return
                crashes += 1
                if crashes > _MOST_CRASHES:
                    raise VideoError(self._name, failure.reason, failure.detail) from failure
                avoided, todo = job.avoided, "once more, packet by packet"
                if careful_until_s is not None:
                    avoided |= {batch.place}
                    todo = "the pictures from there to the next key frame are left out"
                logger.warning(f"  {clock(batch.reached_s)}: the decoder {_ended(failure)}; {todo}")
                careful_until_s = batch.reached_s + job.window_s + _CAREFUL_S
                first, known = self._next_number, batch.known
                job = replace(self._job, first=first, known=known, avoided=avoided)

    def _begin(self, job: Job, deadline_s: float) -> None:
        self._num_before = self.num_decoded
        try:
            self._process.call(begin, job, deadline_s=deadline_s)
        except CallFailed as failure:
            raise VideoError(self._name, failure.reason, failure.detail) from failure

    def _read_stream(self) -> None:
        """Read a stream like a file, but its time continues while it is disconnected."""
        stream = self._job.stream
        assert stream is not None
        job, reached_s, last_at = self._job, 0.0, time.monotonic()
        has_begun, until = False, math.inf
        while not self._closed:
            try:
                self._begin(job, stream.open_s + self._deadline_s)
                batch = Batch()
                while not (batch.ended or self._closed):
                    deadline_s = _STEP_S + stream.stall_s + self._deadline_s
                    batch = self._process.call(go_on, _STEP_S, deadline_s=deadline_s)
                    self._take(batch)
                    if batch.known is not None:
                        has_begun, until = True, math.inf
                        if batch.reached_s > reached_s:
                            reached_s, last_at = batch.reached_s, time.monotonic()
                why = batch.broke
            except (CallFailed, VideoError) as error:
                if not has_begun:
                    raise
                why = error.why if isinstance(error, VideoError) else str(error)
            if self._closed:
                return
            now = time.monotonic()
            if until == math.inf:
                until = now + self._reconnect_s
                if self._reconnect_s:
                    said = f"{clock(reached_s)}: {why or 'the stream has ended'}"
                    logger.warning(f"  {said}; it is tried again for {self._reconnect_s:g} s")
            if now >= until:
                self.ended_by = why
                return
            self._sleep(_RETRY_S)
            job = self._later(reached_s + time.monotonic() - last_at)

    def _later(self, offset_s: float) -> Job:
        """The job for a reopened stream whose first frame appears at ``offset_s``."""
        first = max(math.ceil(offset_s / self._job.stride_s), self._next_number)
        return replace(self._job, first=first, offset_s=offset_s)

    def _sleep(self, seconds: float) -> None:
        with self._change:
            self._change.wait_for(lambda: self._closed, seconds)

    # ------------------------------------------------------------------ between both

    def _take(self, batch: Batch) -> bool:
        """Pass on the windows of a batch; returns whether there were any."""
        for note in batch.notes:
            logger.warning(f"  {note}")
        self.num_live = max(self.num_live, batch.num_live)
        self.num_decoded = self._num_before + batch.num_decoded
        for window in batch.windows:
            if window.number > self._next_number:
                self._put(self._away(window.number))
            self._next_number = window.next_number
            self._put(window)
        return bool(batch.windows)

    def _away(self, number: int) -> Window:
        """The windows lost while a stream was disconnected."""
        first, stride_s = self._next_number, self._job.stride_s
        end_s = (number - 1) * stride_s + self._job.window_s
        return Window(first, number, first * stride_s, end_s, None, "away: the stream was away")

    def _put(self, window: Window) -> None:
        with self._change:
            if not self._is_live:
                self._change.wait_for(lambda: self._closed or len(self._waiting) < _AHEAD)
            if self._closed:
                return
            self._waiting.append(window)
            while sum(each.clips is not None for each in self._waiting) > _AHEAD:
                self._skip_oldest()
            self._change.notify_all()

    def _skip_oldest(self) -> None:
        """Replace the oldest waiting window by one without clips."""
        at = next(k for k, each in enumerate(self._waiting) if each.clips is not None)
        old = self._waiting[at]
        self.num_skipped += 1
        skipped = replace(old, clips=None, why=_SKIPPED)
        if at and self._waiting[at - 1].why == _SKIPPED:
            before = self._waiting[at - 1]
            skipped = replace(skipped, number=before.number, start_s=before.start_s)
            del self._waiting[at]
            at -= 1
        else:
            logger.warning(
                f"  {clock(old.start_s)}: the network is behind the stream: windows are skipped"
            )
        self._waiting[at] = skipped


_SKIPPED = "skipped: the network is behind the stream"


def _ended(failure: CallFailed) -> str:
    return (
        f"hangs ({failure.detail})" if failure.reason == "deadline" else f"died ({failure.detail})"
    )
