"""Progress: a live line in a terminal, the same plain lines as ever elsewhere."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import types

import pytest
from rich.console import Console

from stm.config import Config, OptimConfig
from stm.errors import UserError
from stm.log import get_logger, shown_by
from stm.progress_view import NOTEBOOK_LINES, LiveView, in_notebook, progress_view
from stm.train.events import Controlled, EpochEnded, Failed, Kept, Logged, Started, Stepped

logger = get_logger("stm.test")
CONFIG = Config(optim=OptimConfig(epochs=3, milestones=[2]))


def steps(step):
    return Stepped(
        epoch=(step - 1) // 20, step=step, step_in_epoch=step % 20, steps_per_epoch=20, loss=1.5,
        mean_loss=1.25, lr=0.1, clips_per_s=43.7, wait_share=0.03,
    )  # fmt: skip


@pytest.fixture
def live():
    """A live view on a console that remembers; `text()` is what is on its foot now."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=110, color_system=None)
    view = LiveView(console)
    view.text = lambda: "".join(
        segment.text for segment in console.render(view._progress.get_renderable())
    )
    view.printed = output.getvalue
    with view:
        yield view


def test_the_line_tells_epoch_step_loss_speed_waiting_and_time_left(live):
    on_event = live.training(CONFIG)
    on_event(Started(step=0, epoch=0, world_size=1))
    on_event(steps(10))
    on_event(steps(30))
    for told in ("epoch 2/3", "30/60", "loss 1.250", "43.7 clips/s", "wait 3%", "0:00:"):
        assert told in live.text(), told
    on_event(EpochEnded(epoch=2, epochs=3, metrics={"val_top1": 0.5}))
    on_event(steps(50))
    assert "val 50.0%" in live.text()
    assert "epoch 3/3" in live.text()


def test_a_restart_goes_back_to_the_step_it_goes_on_from(live):
    on_event = live.training(CONFIG)
    on_event(steps(30))
    on_event(Failed(message="rank 0 failed"))
    assert "restarting" in live.text()
    on_event(Started(step=20, epoch=1, world_size=1))
    assert "epoch 2/3" in live.text()
    assert "20/60" in live.text()


def test_events_that_the_line_does_not_show_are_no_trouble(live):
    on_event = live.training(CONFIG)
    on_event(Controlled(controller=None))
    on_event(Kept(path="runs/a", step=3, history=[]))
    on_event(Logged(message="a line", level=logging.INFO, logger="stm.x"))
    on_event(EpochEnded(epoch=3, epochs=3))
    assert "60/60" not in live.text()


def test_a_count_is_shown_until_it_is_complete(live):
    tick = live.counting("clips")
    tick(32, 64)
    assert "clips" in live.text()
    assert "32/64" in live.text()
    tick(64, 64)
    assert "64/64" not in live.text()


def test_a_line_that_is_said_comes_whole_unstyled_and_without_secrets(live):
    path = "/data/" + "long/" * 40 + "[red]clip[/red].mp4"
    with shown_by(live, logging.INFO):
        logger.info(f"{path} of s3://key:pa55@bucket")
    assert f"{path} of s3://***@bucket" in live.printed()


def test_without_a_terminal_lines_have_their_time(capsys):
    with progress_view() as view:
        assert view.training(CONFIG) is None
        assert view.counting("clips") is None
        logger.info("epoch 1 step 10/20  loss 1.250")
        logger.warning("  rank 1 is slow\n  very slow")
        logger.debug("not for everybody")
    first, *rest = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d epoch 1 step 10/20  loss 1.250", first)
    assert [line[8:] for line in rest] == [
        "   warning: rank 1 is slow",
        "   very slow",
    ]
    logger.warning("nobody looks any more")
    assert capsys.readouterr() == ("", "")


def test_quiet_and_verbose_of_a_verb_hold_for_the_view_in_it(capsys):
    for level, shown in (
        (logging.WARNING, "no"),
        (logging.INFO, "no yes"),
        (logging.DEBUG, "no yes so"),
    ):
        with shown_by(logging.NullHandler(), level), progress_view():
            logger.debug("so")
            logger.info("yes")
            logger.warning("no")
        err = capsys.readouterr().err
        assert sorted(err.split()[-1] for err in err.splitlines()) == sorted(shown.split()), err
        assert ("stm.test: " in err) == (level == logging.DEBUG), "where it is from"


def test_the_root_logger_and_other_libraries_are_left_alone(capsys):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with progress_view():
        assert (root.level, root.handlers) == (before[0], before[1])
        logging.getLogger("another").info("not ours")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def cell(monkeypatch):
    """What stands under a notebook's cell: outputs by number, as a kernel would have them."""
    outputs: list[str] = []

    def display(bundle, *, raw, display_id):
        assert raw
        assert display_id
        number = len(outputs)
        outputs.append(bundle["text/plain"])
        return types.SimpleNamespace(
            update=lambda bundle, *, raw: outputs.__setitem__(number, bundle["text/plain"])
        )

    shell = types.SimpleNamespace(kernel=object())
    module = types.SimpleNamespace(
        get_ipython=lambda: shell, display=types.SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", module)
    return outputs


def test_a_notebook_keeps_the_last_lines_under_its_cell(cell, capsys):
    assert in_notebook()
    with progress_view() as view:
        assert view.training(CONFIG) is None
        logger.info("hello s3://key:pa55@bucket")
        assert [line[9:] for line in cell] == ["hello s3://***@bucket"]
        for number in range(1000):
            logger.info(f"step {number}")
    assert len(cell) == 1
    lines = cell[0].splitlines()
    assert lines[0] == f"({1001 - NOTEBOOK_LINES} lines before these)"
    assert [line[9:] for line in lines[1:]] == [
        f"step {number}" for number in range(1000 - NOTEBOOK_LINES, 1000)
    ]
    assert capsys.readouterr() == ("", "")


def test_each_view_of_a_notebook_has_a_place_of_its_own(cell):
    for text in ("first", "second"):
        with progress_view():
            logger.info(text)
    assert [line[9:] for line in cell] == ["first", "second"]


def test_plain_lines_in_a_notebook_are_not_in_a_red_box(cell, capsys):
    with progress_view(plain=True):
        logger.info("hello")
    out, err = capsys.readouterr()
    assert (out[9:], err) == ("hello\n", "")
    assert cell == []


def test_a_notebook_shows_bad_input_as_one_line():
    """IPython asks an exception for its own traceback before it makes one."""
    assert UserError("no such file")._render_traceback_() == ["UserError: no such file"]


def in_terminal(code, **environment):
    """What a program wrote to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        written += read
    os.close(ours)
    assert process.wait(30) == 0, written
    return written.decode()


COUNT = """
from stm.log import get_logger
from stm.progress_view import progress_view
with progress_view(plain={plain}) as view:
    tick = view.counting("clips") or (lambda done, total: None)
    get_logger("stm.x").info("a line")
    tick(3, 4)
"""


def test_a_terminal_has_the_live_line_and_its_cursor_back():
    written = in_terminal(COUNT.format(plain=False))
    assert "a line\r\n" in written
    assert re.search(r"clips.*3/4", written)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_json_and_dumb_terminals_have_plain_lines_in_a_terminal_too():
    assert in_terminal(COUNT.format(plain=True))[9:] == "a line\r\n"
    assert in_terminal(COUNT.format(plain=False), TERM="dumb")[9:] == "a line\r\n"
