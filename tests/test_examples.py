"""docs/python.md: its code runs as it stands, in a program of its own, outside the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text()

pytestmark = pytest.mark.ray


def blocks(heading):
    """The Python blocks of a section."""
    section = re.split(rf"^##+ {heading}$", PAGE, flags=re.M)[1]
    section = re.split(r"^##+ ", section, flags=re.M)[0]
    return re.findall(r"^```python\n(.*?)^```$", section, flags=re.M | re.S)


def run(code, folder):
    """What a program writes to stdout; the folder is its working directory."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder of videos, a class a folder, in which the page's first section was run; and what that printed."""
    folder = tmp_path_factory.mktemp("python")
    made = "write_videos('.', num_train=24, num_test=8, size=40, num_frames=12)"
    run(f"from stm.data.synthetic import write_videos; {made}", folder)
    for path in sorted((folder / "videos").glob("*/*.mp4")):
        home = path.parent / path.name.partition("-")[0]
        home.mkdir(exist_ok=True)
        path.rename(home / path.name)
    return folder, run("\n".join(blocks("Index, train, measure")), folder)


def test_index_train_and_evaluate_start_a_cluster_and_print_nothing_themselves(first):
    folder, done = first
    assert re.fullmatch(r"top-1 [\d.]+% of 8 videos: \S+report\.html\n", done.stdout)
    of_stm = [
        line for line in done.stderr.splitlines() if "core_worker.cc" not in line
    ]  # Ray's C++
    assert of_stm == []
    assert (folder / "runs" / "first").is_dir()


def test_a_loaded_run_names_actions_and_bears_with_a_file_that_is_not_there(first):
    lines = run("\n".join(blocks("Use a trained network")), first[0]).stdout.splitlines()
    assert lines[0].startswith("<stm.Model ")
    assert lines[0].count("'left'") == 1
    assert re.fullmatch(r"videos/val/left/left-0000\.mp4 \w+", lines[1])
    assert re.match(r"no-such-file\.mp4 not_found", lines[2])
    assert lines[3].count("'score'") == 2
    assert lines[4].startswith("8 videos, 0 unreadable [{'class'")


def test_what_happens_is_logged_once_and_told_as_events(first):
    settings = re.search(r"^config = .*?^\)$", blocks("Index, train, measure")[0], re.M | re.S)
    given = "import stm\n" + re.sub(
        r'indexed\.manifests\["(\w+)"\]', r'"index/\1.parquet"', settings[0]
    )
    logging, events = blocks("See what happens")
    done = run("\n".join([logging, given, "stm.train(config)", events, "print(losses)"]), first[0])
    logged = [line for line in done.stderr.splitlines() if "stm.train.trainer: run first" in line]
    assert len(logged) == 1
    assert done.stderr.count("run second: ") == 1, (
        "the view alone has it, and not the root logger too"
    )
    epochs = re.findall(r"^epoch (\d) of 2 (\S+)$", done.stdout, re.M)
    assert [number for number, _ in epochs] == ["1", "2"]
    assert 0 <= float(epochs[-1][1]) <= 1
    assert "(6, " in done.stdout, "the loss after six steps"


def loss(code, folder):
    return float(re.findall(r"loss ([\d.]+)", run(code, folder).stdout)[-1])


def test_the_network_trains_in_a_loop_of_its_users_own(first):
    data, plain = blocks("In a training loop of your own")
    assert 0 < loss(data + plain, first[0]) < 20


def test_the_network_trains_under_lightning(first):
    pytest.importorskip("lightning", reason="Lightning is not among what stm needs")
    data, _ = blocks("In a training loop of your own")
    assert 0 < loss(data + blocks("Lightning")[0], first[0]) < 20


def test_the_network_trains_under_hugging_faces_trainer(first):
    pytest.importorskip("transformers", reason="transformers is not among what stm needs")
    data, _ = blocks("In a training loop of your own")
    assert 0 < loss(data + blocks("Hugging Face Trainer")[0], first[0]) < 20
