"""docs/python.md: its code runs as it stands, in a program of its own, outside the repository."""

from __future__ import annotations

import ast
import json
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


def run(code, folder, **environment):
    """What a program writes to stdout; the folder is its working directory."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
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


def test_a_long_video_is_named_window_by_window(first):
    lines = run("\n".join(blocks("Long videos and cameras")), first[0]).stdout.splitlines()
    spans = [line.partition(":")[0] for line in lines if " to " in line]
    assert spans == ["0.00 to 0.50 s", "0.25 to 0.75 s", "0.50 to 1.00 s"]
    assert all(re.fullmatch(r"\w+ [\d.]+ [\d.]+ [\d.]+", line) for line in lines[3:])


def settings():
    """The page's ``config``, of manifests that are there."""
    found = re.search(r"^config = .*?^\)$", blocks("Index, train, measure")[0], re.M | re.S)
    return "import stm\n" + re.sub(
        r'indexed\.manifests\["(\w+)"\]', r'"index/\1.parquet"', found[0]
    )


def test_what_happens_is_logged_once_and_told_as_events(first):
    logging, events = blocks("See what happens")
    code = [logging, settings(), "stm.train(config)", events, "print(losses)"]
    done = run("\n".join(code), first[0])
    logged = [line for line in done.stderr.splitlines() if ": run first is finished" in line]
    assert len(logged) == 1
    assert done.stderr.count("run second: ") == 1, (
        "the view alone has it, and not the root logger too"
    )
    epochs = re.findall(r"^epoch (\d) of 2 (\S+)$", done.stdout, re.M)
    assert [number for number, _ in epochs] == ["1", "2"]
    assert 0 <= float(epochs[-1][1]) <= 1
    assert "(6, " in done.stdout, "the loss after six steps"


# tensorboardX changes the environment of a process that imports it, so that another reads what it wrote: records of
# length, checksum, bytes, checksum.
SCALARS = """
import json, pathlib, struct
from tensorboardX.proto.event_pb2 import Event
found = {}
for path in pathlib.Path("boards/third").glob("events.out.tfevents.*"):
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += length + 16
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_run_is_followed_in_tensorboard(first):
    run("\n".join([settings(), *blocks("TensorBoard")]), first[0])
    read = json.loads(run(SCALARS, first[0]).stdout)
    found = {tag: dict(points) for tag, points in read.items()}
    # Two epochs of 24 videos, 4 at once.
    assert max(found["train/mean_loss"]) == max(found["val/val_top1"]) == 12
    assert found["train/lr"][12] == pytest.approx(0.00125)
    assert len(found["val/val_top1"]) == 2
    assert all(0 <= share <= 1 for share in found["train/wait_share"].values())


def test_a_run_is_followed_in_weights_and_biases(first):
    pytest.importorskip("wandb", reason="W&B is not among what stm needs")
    (block,) = blocks("Weights & Biases")
    end = "wandb_run.run.finish()"
    assert end in block
    block = block.replace(end, f"print(dict(wandb_run.run.summary)); {end}")  # it forgets them
    said = run(
        settings() + "\n" + block, first[0], WANDB_MODE="offline", WANDB_SILENT="true"
    ).stdout
    summary = ast.literal_eval(re.search(r"^\{.*\}$", said, re.M)[0])
    assert summary["step"] == 12
    assert 0 <= summary["val/val_top1"] <= 1
    assert summary["lr"] == pytest.approx(0.00125)
    (folder,) = (first[0] / "wandb").glob("offline-run-*")
    assert next(folder.glob("*.wandb")).stat().st_size > 1000


def loss(code, folder):
    return float(re.findall(r"loss ([\d.]+)", run(code, folder).stdout)[-1])


def test_the_network_trains_in_a_loop_of_its_users_own(first):
    data, plain = blocks("In your own training loop")
    assert 0 < loss(data + plain, first[0]) < 20


def test_the_network_trains_under_lightning(first, monkeypatch):
    # Lightning sets it for good when it is imported.
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    pytest.importorskip("lightning", reason="Lightning is not among what stm needs")
    data, _ = blocks("In your own training loop")
    assert 0 < loss(data + blocks("Lightning")[0], first[0]) < 20


def test_the_network_trains_under_hugging_faces_trainer(first):
    pytest.importorskip("transformers", reason="transformers is not among what stm needs")
    data, _ = blocks("In your own training loop")
    assert 0 < loss(data + blocks("Hugging Face Trainer")[0], first[0]) < 20
