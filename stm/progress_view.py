"""Show the progress of long work: a live line in a terminal, the last lines in a notebook, else plain lines.

    with progress_view() as view:
        train(config, on_event=view.training(config))

A terminal has one live line (epoch, step, loss, clips/s, share of time waiting for data, time left) below the lines of
the log. A notebook shows the last lines of the log under the cell. Elsewhere (a file, a pipe), and with ``plain=True``,
only the lines of the log are printed, each with the time of day.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stm import log
from stm.plural import counted

if TYPE_CHECKING:
    from stm.config import Config
    from stm.train.events import Event

OnEvent = Callable[["Event"], None]
Tick = Callable[[int, int], None]


NOTEBOOK_LINES = 40
"""Number of lines under a notebook's cell. A long run logs thousands, which would all be saved in the notebook."""


class _Line(logging.Formatter):
    """Format a line: a warning or error begins with its level, and at level DEBUG the logger's name comes first."""

    def __init__(self, times: bool) -> None:
        super().__init__()
        self._times = times

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            # The level goes after the indentation of a line that belongs to the one above.
            text = (
                text[: len(text) - len(text.lstrip())]
                + f"{record.levelname.lower()}: {text.lstrip()}"
            )
        if log.ROOT.level == logging.DEBUG:
            text = f"{record.name}: {text}"
        if not self._times:
            return text
        return f"{self.formatTime(record, '%H:%M:%S')} " + text.replace("\n", "\n" + " " * 9)


class PlainView(logging.Handler):
    """Print lines with their time to stderr, or in a notebook to stdout, since it shows stderr in a red box."""

    def __init__(self, times: bool = True) -> None:
        super().__init__()
        self.setFormatter(_Line(times))

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout if in_notebook() else sys.stderr, flush=True)

    def training(self, config: Config) -> OnEvent | None:
        """Return the receiver of a training run's events (``stm.train.trainer.train``), or None if the log suffices."""
        return None

    def counting(self, what: str) -> Tick | None:
        """Return the receiver of counts ``(done, total)``, or None if the caller logs them."""
        return None


class NotebookView(PlainView):
    """Show the last lines under the cell, updated in place. They may come from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=NOTEBOOK_LINES)
        self._num_logged = 0
        self._shown: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
        self._num_logged += 1
        left_out = self._num_logged - len(self._lines)
        above = [f"({counted(left_out, 'line')} before these)"] if left_out else []
        bundle = {"text/plain": "\n".join([*above, *self._lines])}
        if self._shown is None:
            ipython: Any = sys.modules["IPython"]
            self._shown = ipython.display.display(bundle, raw=True, display_id=True)
        else:
            self._shown.update(bundle, raw=True)


class LiveView(PlainView):
    """Show one live line in a terminal, with the log above it. Events may come from any thread."""

    def __init__(self, console: Any) -> None:
        super().__init__(times=False)
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
            transient=True,  # the lines that stay contain all that the live one had
            speed_estimate_period=600.0,  # steps are reported in tens, with validations between
        )

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def emit(self, record: logging.LogRecord) -> None:
        # Lines are not wrapped, so that a path can be copied whole from the terminal.
        self._progress.console.print(
            self.format(record), markup=False, highlight=False, soft_wrap=True
        )

    def training(self, config: Config) -> OnEvent:
        return _TrainingLine(self._progress, config.optim.epochs)

    def counting(self, what: str) -> Tick:
        task = self._progress.add_task(what, total=None, visible=False, more="")

        def tick(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total, visible=done < total)

        return tick


class _TrainingLine:
    """Turn the events of a run into the state of one line."""

    def __init__(self, progress: Any, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._epoch = 0
        self._validated = ""
        self._task = progress.add_task("starting", total=None, visible=False, more="")

    def __call__(self, event: Event) -> None:
        from stm.train.events import EpochEnded, Failed, Started, Stepped

        if isinstance(event, Started):
            # Restart the estimate: steps before a restart had another speed, and some are repeated.
            self._epoch = event.epoch
            self._progress.reset(self._task, completed=event.step, more="waiting for clips")
            self._update()
        elif isinstance(event, Stepped):
            self._epoch = event.epoch
            self._update(
                completed=event.step,
                total=self._epochs * event.steps_per_epoch,
                visible=True,
                more=f"loss {event.mean_loss:.3f}  {event.clips_per_s:.1f} clips/s  "
                f"wait {event.wait_share:.0%}{self._validated}",
            )
        elif isinstance(event, EpochEnded):
            if "val_top1" in event.metrics:
                self._validated = f"  val {event.metrics['val_top1']:.1%}"
            if event.epoch >= self._epochs:
                self._progress.update(self._task, visible=False)
        elif isinstance(event, Failed):
            self._progress.update(self._task, description="restarting", more="")

    def _update(self, **state: Any) -> None:
        described = f"epoch {min(self._epoch + 1, self._epochs)}/{self._epochs}"
        self._progress.update(self._task, description=described, **state)


@contextlib.contextmanager
def progress_view(plain: bool = False) -> Iterator[PlainView]:
    """Show the log of the body in a notebook, in a terminal that can move its cursor, or as plain lines.

    ``plain`` always prints plain lines. Inside a verb, its --quiet and --verbose set the level; elsewhere progress and
    warnings are shown.
    """
    level = log.ROOT.level or logging.INFO
    with contextlib.ExitStack() as stack:
        view = PlainView()
        if in_notebook() and not plain:
            view = NotebookView()
        elif _is_terminal() and not plain and level <= logging.INFO:
            from rich.console import Console

            view = stack.enter_context(LiveView(Console(stderr=True)))
        stack.enter_context(log.shown_by(view, level))
        yield view


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", "")


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
