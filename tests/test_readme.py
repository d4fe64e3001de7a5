"""The README's commands for one's own videos, run one after another as they stand there, in a folder of a stranger."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from stm.data.synthetic import write_videos
from stm.model import build_model

ROOT = Path(__file__).parents[1]
STM = """#!/bin/sh
exec {python} -c '
import sys
from stm.checkpoint import pretrained
pretrained._PUBLISHED[50] = "{weights}"
from pipelines.cli import main
sys.exit(main())
' "$@"
"""
"""The command, which takes other weights for those that torchvision publishes: there is no network in a test."""


def commands(heading: str) -> list[str]:
    """The indented lines below a heading of the README."""
    (section,) = re.findall(
        rf"^## {heading}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return re.findall(r"^    (stm .*)$", section, re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """``my-videos`` with two classes of 20 videos each, as a user would have them."""
    made = tmp_path / "made"
    write_videos(made, num_train=160, num_test=8, size=128, num_frames=24)
    for name in ("left", "right"):
        (tmp_path / "my-videos" / name).mkdir(parents=True)
        for path in sorted((made / "videos" / "train").glob(f"{name}-*.mp4")):
            path.rename(tmp_path / "my-videos" / name / path.name)
    return tmp_path


@pytest.fixture
def environment(tmp_path):
    """A ``stm`` on the path, and a server of this machine that publishes weights of random numbers."""
    published = tmp_path / "published"
    published.mkdir()
    torch.manual_seed(1)
    torch.save(build_model("tsn", depth=50, num_classes=1000).state_dict(), published / "weights")
    digest = hashlib.sha256((published / "weights").read_bytes()).hexdigest()
    weights = f"resnet50-{digest[:8]}.pth"
    (published / "weights").rename(published / weights)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "stm").write_text(STM.format(python=sys.executable, weights=weights))
    (tmp_path / "bin" / "stm").chmod(0o755)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(published))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "STM_IMAGENET_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "TORCH_HOME": str(tmp_path / "torch"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        server.shutdown()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_readmes_commands_lead_from_a_folder_to_named_videos(folder, environment):
    environment.pop("RAY_ADDRESS", None)
    said = {}
    for command in commands("Your own videos"):
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command.split()[1]] = done.stdout + done.stderr
    assert list(said) == ["index", "train", "evaluate", "predict"]
    assert "train.parquet: 32 videos" in said["index"]
    assert "imagenet (resnet50-" in said["train"]
    assert "epoch 15/15 done" in said["train"]
    meta = json.loads(next(folder.glob("runs/laptop/checkpoint-*/meta.json")).read_text())
    assert meta["classes"] == ["left", "right"]
    assert "top-1" in said["evaluate"]
    assert list(folder.glob("runs/laptop/**/report.html"))
    named = [line for line in said["predict"].splitlines() if ".mp4" in line]
    assert len(named) >= 40
