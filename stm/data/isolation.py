"""Call functions in a process that may hang or die, with a deadline for each call.

    with IsolatedProcess() as process:
        info = process.call(probe, "clip.mp4", deadline_s=30)

A decoder written in C can loop for ever or crash its process. Here only one call is lost: the
process is killed, the caller gets the reason, and the next call starts a new process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_START_LIMIT_S = 120.0
"""Time limit for a new process to import its libraries, possibly from a network disk."""


class CallFailed(Exception):
    """The process crashed or was killed; `reason` is "deadline" or "crashed"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class IsolatedProcess:
    """One child process, started at the first call and again after each failure.

    The child is a new interpreter, not a fork: a fork of a process with threads (Ray, FFmpeg) can
    inherit a lock that is never released. The child dies with its parent.
    """

    def __init__(self, preload: Sequence[str] = (), *, keeps_state: bool = False) -> None:
        """`preload` names modules the child imports before its first call, outside any deadline.
        `keeps_state`: calls depend on earlier ones, so none is repeated in a new process."""
        self._preload, self._keeps_state = tuple(preload), keeps_state
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._errors: IO[bytes] | None = None
        self._num_calls = 0

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(
        self,
        function: Callable[..., Result],
        *arguments: Any,
        deadline_s: float,
    ) -> Result:
        """`function(*arguments)`, computed in the child.

        The function is pickled by name, so it must be at the top of an importable module.

        Raises CallFailed if the call exceeds `deadline_s` or the process dies, RuntimeError if no
        process can be started, and whatever the function itself raises.
        """
        request = pickle.dumps((function, arguments))
        while True:
            if self._connection is None:
                self._start()
            assert self._connection is not None
            try:
                self._connection.send_bytes(request)
                if not self._connection.poll(deadline_s):
                    self._give_up()
                    raise CallFailed("deadline", f"no answer within {deadline_s:g} s")
                succeeded, value = self._connection.recv()
            except (EOFError, ConnectionError, BrokenPipeError) as error:
                served, ending = self._num_calls, self._give_up()
                if served and not self._keeps_state:
                    continue  # an earlier call may have corrupted its memory: use a new process
                raise CallFailed("crashed", ending) from error
            self._num_calls += 1
            if succeeded:
                return value
            raise value

    def close(self) -> None:
        """End the child."""
        if self._connection is not None:
            self._give_up()

    def kill(self) -> None:
        """End the child from a thread other than the caller's; the running call raises CallFailed."""
        process = self._process
        if process is not None:
            process.kill()

    def _start(self) -> None:
        ours, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the child ends)
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # -P: a file in the user's folder, such as queue.py, must not shadow a standard module.
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, *self._preload],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env=environment,
        )
        theirs.close()
        self._connection = ours
        self._num_calls = 0
        try:
            started = ours.poll(_START_LIMIT_S) and ours.recv() == "ready"
        except (EOFError, ConnectionError):
            started = False
        if not started:
            raise RuntimeError(f"cannot start a process to isolate calls in: {self._give_up()}")

    def _give_up(self) -> str:
        """Kill the child and return how it ended."""
        process, connection, errors = self._process, self._connection, self._errors
        self._process = self._connection = self._errors = None
        assert process is not None
        assert connection is not None
        assert errors is not None
        connection.close()
        # Give a dying child a moment, so that its own exit status is reported.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        # In a system call on a dead network disk even SIGKILL is delayed; do not wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
        errors.seek(0)
        last_lines = errors.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:]
        errors.close()
        code = process.returncode
        if code is None:
            return "does not answer, and cannot be killed"
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return ": ".join([ending, *last_lines])


def _serve(descriptor: int, parent: int, preload: Sequence[str]) -> None:
    """The child: answer calls until the parent closes the connection."""
    _die_with(parent)
    # Ctrl-C reaches all processes of a terminal; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(descriptor)
    for name in preload:
        importlib.import_module(name)
    connection.send("ready")
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            function, arguments = pickle.loads(request)
            answer = (True, function(*arguments))
            message = pickle.dumps(answer)
        except Exception as error:
            message = pickle.dumps((False, _picklable(error)))
        connection.send_bytes(message)


def _picklable(error: Exception) -> Exception:
    """The error itself if it can be pickled, otherwise an error with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent dies, even in an endless loop (Linux)."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
