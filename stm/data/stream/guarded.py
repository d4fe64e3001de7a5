"""Decoding that survives bad files: a deadline for each clip, a second try in a child process, and a quarantine.

    first try    Clips are decoded in the task itself, which is fastest. A watchdog thread ends the process when a clip
                 exceeds its deadline (FFmpeg cannot be interrupted otherwise). A crash also ends the process.
    second try   Ray runs the task again. Each video is now decoded in a child process, which may hang or die. The
                 video that caused it is reported and quarantined.
    afterwards   A quarantined video fails at once with the same reason.

The first try costs one extra thread per task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from stm.data.decode import VideoError
from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.stream.clips import ClipSpec, load_views
from stm.ray_compat import task_attempt
from stm.redaction import one_line

Result = TypeVar("Result")

Views = Callable[..., tuple[np.ndarray, int]]
"""``load_views`` or a replacement for it: a function at the top of an importable module."""

EXIT_STATUS = 77
"""Exit status of a process whose clip exceeded its deadline; Ray's logs show it."""


PRELOAD = ("torch", "stm.data.stream.clips", "stm.data.decode.reader", "stm.data.decode.resize")
"""Modules that decoding imports. They are loaded first, so that importing does not count towards a deadline."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay interrupts until the end of the block, for example during an import, which cannot be restarted.

    Ray interrupts the tasks of a stream that is left early and reuses their processes for the next stream.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one is interrupted
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt


class Watchdog:
    """Ends this process when one ``guard`` lasts longer than its deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._until: float | None = None
        self._what = ""
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="decode watchdog", daemon=True).start()

    @contextlib.contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Limit the time of the block; the error names ``what``."""
        self._what, self._until = what, time.monotonic() + self._deadline_s
        try:
            yield
        finally:
            self._until = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._deadline_s / 4)):
            until = self._until
            if until is not None and time.monotonic() > until:
                print(
                    f"stm: decoding {one_line(self._what)} took longer than {self._deadline_s:g} s; the process ends "
                    "and Ray decodes the block again, each video in a process of its own",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_STATUS)


class _Quarantine:
    """Actor: videos that hung or crashed a decoder, and how."""

    def __init__(self) -> None:
        self._reasons: dict[str, tuple[str, str]] = {}

    def add(self, path: str, reason: str, detail: str) -> None:
        self._reasons[path] = (reason, detail)

    def all(self) -> dict[str, tuple[str, str]]:
        return self._reasons


def quarantine() -> Any:
    """Create an empty quarantine: an actor handle that the streams of one run share."""
    import ray

    return ray.remote(num_cpus=0)(_Quarantine).remote()


class GuardedDecoder:
    """Decodes clips for one task, by the rules above.

    ``isolated``: use a child process from the start, for callers without a second try. ``views``: a replacement for
    ``load_views`` with the same arguments and result.
    """

    def __init__(
        self,
        spec: ClipSpec,
        deadline_s: float,
        quarantine: Any = None,
        isolated: bool = False,
        views: Views | None = None,
    ) -> None:
        self._spec, self._deadline_s, self._quarantine = spec, deadline_s, quarantine
        self._views = views
        self._known = _ask(quarantine)
        isolated = isolated or task_attempt() > 0
        self._isolated = IsolatedProcess(preload=PRELOAD) if isolated else None
        self._watchdog = Watchdog(deadline_s) if self._isolated is None else None

    def __enter__(self) -> GuardedDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._isolated, self._watchdog):
            if part is not None:
                part.close()

    def load(
        self,
        path: str,
        num_frames: int,
        width: int,
        height: int,
        label: int,
        seed: int,
        fps: float = 0.0,
        sampling_number: int = 0,
    ) -> tuple[np.ndarray, int]:
        """Like ``stm.data.stream.clips.load_views``, but a hang or a crash also raises ``VideoError``."""
        planned = (path, num_frames, width, height, label, seed)
        return self.call(
            path, self._views or load_views, *planned, self._spec, fps, sampling_number
        )

    def call(
        self, path: str, function: Callable[..., Result], *arguments: Any, num_clips: float = 1
    ) -> Result:
        """Call ``function(*arguments)``, which reads ``path``, with the same protection.

        The call may take ``num_clips`` times the deadline. ``function`` is at the top of an importable module.
        """
        deadline_s = num_clips * self._deadline_s
        if path in self._known:
            raise VideoError(path, *self._known[path])
        if self._watchdog is not None:
            with self._watchdog.guard(path):
                return function(*arguments)
        assert self._isolated is not None
        try:
            return self._isolated.call(function, *arguments, deadline_s=deadline_s)
        except CallFailed as failure:
            self._known[path] = (failure.reason, failure.detail)
            if self._quarantine is not None:
                self._quarantine.add.remote(path, failure.reason, failure.detail)
            raise VideoError(path, failure.reason, failure.detail) from failure


def _ask(quarantine: Any) -> dict[str, tuple[str, str]]:
    if quarantine is None:
        return {}
    import ray

    try:
        return dict(ray.get(quarantine.all.remote(), timeout=30))
    except Exception:  # its node left; the bad videos will be detected again
        return {}
