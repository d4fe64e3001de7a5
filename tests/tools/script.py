"""Run the naive network as a separate script does, alone in a process with the defaults of malloc.

By default, glibc maps a new large block for each activation, and the kernel clears its pages. stm's processes keep
freed memory (``stm.model.allocator``), and the naive network would profit from that in the same process.

The process runs a step for each line of input, and prints a line after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any, Self


class Script:
    """A running script, which ``with`` ends. ``step`` returns when its process has finished a step."""

    def __init__(self, mode: str, **settings: Any) -> None:
        """``mode`` is `train` or `inference`; ``settings`` are those of `_main`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps({"mode": mode, **settings})],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError(f"the naive network's process ended ({self._process.wait()})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _main(
    mode: str,
    threads: int,
    depth: int,
    num_frames: int,
    batch_size: int,
    size: int,
    precision: str,
    width: int,
) -> None:
    import torch

    from stm.bench.steps import make_step
    from tests.tools.naive import build_naive

    torch.set_num_threads(threads)
    model = build_naive(depth=depth, num_classes=174, width=width)
    clips = torch.randn(batch_size, num_frames, 3, size, size)
    step, _ = make_step(mode, model, clips, precision)
    for _ in sys.stdin:
        step()
        print(flush=True)


if __name__ == "__main__":
    _main(**json.loads(sys.argv[1]))
