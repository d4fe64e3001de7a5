"""What a shell hands a command: streams that are closed, full or left, and a locale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stores

ROOT = Path(__file__).parents[2]
PLAN = (
    "plan --prices sample --decode_clips_per_s_core 10 --train_clips_per_s_gpu 100 --batch_size 8 --num_videos 100 "
    "--num_segments 8 --epochs 2"
)
"""A verb with a result, which takes a second."""


def shell(words, folder, **environment):
    """``stm WORDS`` as a shell runs it; a variable that is None is unset."""
    changed = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -m stm {words}', sys.executable],
        cwd=folder,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(("words", "status"), [("--version", 0), ("train", 2)])
def test_a_closed_stream_changes_no_exit_status(tmp_path, words, status, streams):
    ended = shell(f"{words} {streams}", tmp_path)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's")
@pytest.mark.parametrize("words", ["--help", f"{PLAN} --json", "train --print_config"])
def test_a_result_that_a_full_disk_does_not_take_is_told(tmp_path, words):
    ended = shell(f"{words} > /dev/full", tmp_path)
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("words", ["--help", f"{PLAN} --quiet"])
def test_a_reader_that_goes_away_ends_in_silence(tmp_path, words):
    ended = shell(f"{words} | head -0", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("text", ["größe", "видео"])
def test_names_are_read_and_said_whatever_the_locale_is(tmp_path, text):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / f"{text}.json").write_text("no json")
    ended = shell(f"plan --bench {text}.json", tmp_path, **locale)
    assert ended.returncode == 2
    assert text in ended.stderr


def test_ctrl_c_while_libraries_unload_ends_in_silence(tmp_path):
    code = (
        "import atexit, os, signal, sys; from pipelines.cli import main\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['stm', '--version']; sys.exit(main())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT  # of which a shell makes 130
    assert ended.stderr == ""


def test_a_folder_that_is_gone_is_told(tmp_path):
    (tmp_path / "gone").mkdir()
    for words, status in ((PLAN, 2), ("doctor", 2), ("doctor --help", 0)):
        ended = shell(
            f'--version && mkdir -p ../gone && rmdir ../gone && "$0" -m stm {words}',
            tmp_path / "gone",
        )
        assert ended.returncode == status
        assert "Traceback" not in ended.stderr
        told = "the folder that this command was started in is gone" in ended.stderr
        assert told == (status == 2)
        (tmp_path / "gone").mkdir()


def test_a_store_on_this_machine_is_asked_without_the_proxy(tmp_path):
    nobody = "http://127.0.0.1:1"
    store = stores.environment_of("http://127.0.0.1:9") | {"AWS_MAX_ATTEMPTS": "1"}
    proxies = {"http_proxy": nobody, "https_proxy": nobody, "no_proxy": None, "NO_PROXY": None}
    ended = shell(
        "export --checkpoint s3://bucket/run --output x --format safetensors",
        tmp_path,
        **store,
        **proxies,
    )
    assert ended.returncode == 2
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9' in ended.stderr
