"""A package predicts the same in a fresh virtual environment, made from nothing but its own requirements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stm.checkpoint import format as checkpoints
from stm.evaluate.predict import predict
from stm.packing.contents import pinned_requirements, save_package
from tests.package.untrained import write_checkpoint
from tests.videos import write_video

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
import mlflow.pyfunc
package, *videos = sys.argv[1:]
model = mlflow.pyfunc.load_model(package)
answers = model.predict(videos)
clips = model.predict({"clip": [[[[[7, 8, 9]] * 32] * 32] * 4] * 2})
import stm
assert stm.__file__.startswith(package), stm.__file__
assert "ray" not in sys.modules
print(json.dumps({"answers": answers.to_dict("records"), "clips": clips.to_dict("records")}))
"""


@pytest.mark.timeout(900)
def test_a_package_predicts_the_same_in_a_fresh_environment(tmp_path, capsys):
    directory = write_checkpoint(tmp_path / "checkpoint-00000007")
    videos = [
        str(write_video(tmp_path / f"{k}.mp4", num_frames=10 + 5 * k, seed=k)) for k in range(3)
    ]
    (tmp_path / "broken.mp4").write_bytes(Path(videos[0]).read_bytes()[:600])
    package = tmp_path / "package"
    meta = checkpoints.read_meta(directory)
    save_package(package, directory, meta, "# card\n", pinned_requirements(meta))

    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", package / "requirements.txt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert installed.returncode == 0, installed.stderr[-3000:]
    arguments = [python, "-c", SCRIPT, package, *videos, tmp_path / "broken.mp4"]
    ran = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=_environment()
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    there = json.loads(ran.stdout.splitlines()[-1])

    here = predict(directory, videos)["videos"]
    largest = 0.0
    for row, answer in zip(here, there["answers"], strict=False):
        assert [entry["class"] for entry in row["top5"]] == answer["classes"]
        differences = [
            abs(entry["score"] - score)
            for entry, score in zip(row["top5"], answer["scores"], strict=True)
        ]
        largest = max(largest, *differences)
    assert largest <= 1e-6
    assert there["answers"][3]["error"].startswith("truncated")
    assert there["clips"][0] == there["clips"][1]
    with capsys.disabled():
        packages = subprocess.run(
            [python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        print(
            f"\nfresh environment of {len(packages)} packages: scores differ by {largest:g} at most"
        )


def _environment() -> dict[str, str]:
    """Ours, without what points at this environment's packages."""
    import os

    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    return {key: value for key, value in os.environ.items() if key not in dropped}
