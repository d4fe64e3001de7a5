"""Long work shows itself: a live line in a terminal, the last lines in a notebook, plain lines everywhere else.

    with progress_view() as view:
        train(config, view.say, on_event=view.training(config))

A terminal keeps one line at its foot (epoch, step, loss, clips/s, share of time waiting for data, time left) under the
lines that are said. A notebook has the last of those lines under the cell. Without either (a log, a pipe) and with
``plain=True`` there are the lines alone, the very same ones.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stm.redaction import redact

if TYPE_CHECKING:
    from stm.config import Config

Event = dict[str, Any]
Hear = Callable[[Event], None]
Tick = Callable[[int, int], None]


NOTEBOOK_LINES = 40
"""So many lines stay under a notebook's cell. A long run says thousands, which the notebook's file would keep."""


class PlainView:
    """Lines on stderr; with ``plain=True`` in a notebook, on its stdout: its stderr is a red box."""

    def say(self, message: str) -> None:
        """Print a line; secrets in URLs are hidden."""
        print(redact(message), file=sys.stdout if in_notebook() else sys.stderr, flush=True)

    def training(self, config: Config) -> Hear | None:
        """What hears the events of a training run (``stm.train.trainer.train``); None: the lines tell enough."""
        return None

    def counting(self, what: str) -> Tick | None:
        """What is told ``(done, total)`` of a count; None: who counts says it in lines."""
        return None


class NotebookView(PlainView):
    """The last lines under the cell, written anew in their place. They may come from any thread."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=NOTEBOOK_LINES)
        self._num_said = 0
        self._shown: Any = None
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        with self._lock:
            self._lines.append(redact(message))
            self._num_said += 1
            left_out = self._num_said - len(self._lines)
            above = [f"({left_out} lines before these)"] if left_out else []
            bundle = {"text/plain": "\n".join([*above, *self._lines])}
            if self._shown is None:
                ipython: Any = sys.modules["IPython"]
                self._shown = ipython.display.display(bundle, raw=True, display_id=True)
            else:
                self._shown.update(bundle, raw=True)


class LiveView(PlainView):
    """One live line at the foot of a terminal, and lines above it. Events may come from any thread."""

    def __init__(self, console: Any) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        def text(template: str) -> Any:
            return TextColumn(template, table_column=Column(no_wrap=True))

        self._progress = Progress(
            SpinnerColumn(),
            text("{task.description}"),
            BarColumn(bar_width=18),
            text("{task.completed:.0f}/{task.total:.0f}"),
            text("{task.fields[more]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,  # what stays is the lines: the live one has nothing that they lack
            speed_estimate_period=600.0,  # steps are told of in tens, and validations lie between
        )

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, message: str) -> None:
        # Unwrapped: a path that is copied from the terminal must be one piece.
        self._progress.console.print(redact(message), markup=False, highlight=False, soft_wrap=True)

    def training(self, config: Config) -> Hear:
        return _TrainingLine(self._progress, config.optim.epochs)

    def counting(self, what: str) -> Tick:
        task = self._progress.add_task(what, total=None, visible=False, more="")

        def tick(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total, visible=done < total)

        return tick


class _TrainingLine:
    """Turns events of a run into the state of one line."""

    def __init__(self, progress: Any, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._epoch = 0
        self._validated = ""
        self._task = progress.add_task("starting", total=None, visible=False, more="")

    def __call__(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "start":
            # Anew: what was before a restart took another time, and some of it is taken again.
            self._epoch = event["epoch"]
            self._progress.reset(self._task, completed=event["step"], more="waiting for clips")
            self._update()
        elif kind == "steps":
            self._epoch = event["epoch"]
            self._update(
                completed=event["step"],
                total=self._epochs * event["steps_per_epoch"],
                visible=True,
                more=f"loss {event['mean_loss']:.3f}  {event['clips_per_s']:.1f} clips/s  "
                f"wait {event['wait_share']:.0%}{self._validated}",
            )
        elif kind == "epoch":
            if "val_top1" in event:
                self._validated = f"  val {event['val_top1']:.1%}"
            if event["epoch"] >= self._epochs:
                self._progress.update(self._task, visible=False)
        elif kind == "failure":
            self._progress.update(self._task, description="restarting", more="")

    def _update(self, **state: Any) -> None:
        described = f"epoch {min(self._epoch + 1, self._epochs)}/{self._epochs}"
        self._progress.update(self._task, description=described, **state)


@contextlib.contextmanager
def progress_view(plain: bool = False) -> Iterator[PlainView]:
    """The view that fits where this runs: a notebook, a terminal that can move its cursor, or (``plain``) neither."""
    if plain or not (in_notebook() or _is_terminal()):
        yield PlainView()
        return
    if in_notebook():
        yield NotebookView()
        return
    from rich.console import Console

    with LiveView(Console(stderr=True)) as view:
        yield view


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", "")


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this: its stderr is a red box, and no terminal."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
