"""MLflow's own pages of a run of ours, in a real browser: the runs, the overview, the charts, and the report in it.

    pytest -m slow tests/browser/test_mlflow_ui.py

Screenshots go to ``$STM_SCREENSHOTS``, where it is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.synthetic import write_videos
from stm.evaluate.evaluate import evaluate
from stm.tracking import how_to_look, tracking_uri
from stm.train.trainer import train
from tests.browser.chromium import Chromium
from tests.serve.server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.tool("chromium")]

TEXT = "document.body.innerText"
KNOWN = ("/mlflow/users/current", "ResizeObserver loop completed with undelivered notifications")
"""What MLflow 3.17 complains of by itself: it asks who is logged in, which a server without accounts answers with 404,
and its charts find their size in more than one frame, which Chromium tells and MLflow logs."""


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    """(config, result of the training, result of the evaluation) of two epochs on eight videos."""
    root = tmp_path_factory.mktemp("ui")
    annotations = write_videos(root, num_train=8, num_test=8, size=48, num_frames=8)
    indexed, _ = index_videos(read_annotations("csv", root, annotations), cross_check=0)
    for split, manifest in indexed.items():
        manifest.write(root / f"{split}.parquet")
    config = Config(
        model=ModelConfig(depth=26, width=16),
        data=DataConfig(
            train=str(root / "train.parquet"),
            val=str(root / "val.parquet"),
            num_segments=4,
            size=32,
        ),
        optim=OptimConfig(batch_size=4, lr=0.0125, epochs=2, milestones=[1]),
        train=TrainConfig(
            name="seen", storage=str(root / "runs"), threads_per_worker=1, log_every_steps=1
        ),
    )
    trained = train(config)
    measured = evaluate(trained["checkpoint"], str(root / "val.parquet"))
    return config, trained, measured


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """URL of the server that the run's own line tells how to start, on a free port."""
    config, *_ = run
    told = shlex.split(how_to_look(str(tracking_uri(config.tracking, config.train.storage))))
    assert told[0] == "mlflow"
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *told, "--port", str(port), "--workers", "1"],
            cwd=log.parent,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        processes = [*psutil.Process(process.pid).children(recursive=True), process]
        process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for each in alive:
            each.kill()


def answers(url):
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/health", timeout=2).ok
    return False


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture
def pictures(tmp_path):
    return Path(os.environ.get("STM_SCREENSHOTS", tmp_path))


@pytest.fixture
def look(browser, server, run, pictures):
    """Open a page of the run's experiment, check that it complains of nothing, and take its picture."""
    opened = []

    def look(name, path, *shown, height=900, until="true"):
        conditions = [f"{TEXT}.includes({json.dumps(text)})" for text in shown]
        page = browser.open(
            f"{server}/#/{path}?workflowType=machine_learning",
            width=1500,
            height=height,
            until=" && ".join(["document.body", *conditions, until]),
        )
        opened.append(page)
        picture = pictures / f"mlflow-{name}.png"
        assert len(page.screenshot(picture, window=True)) > 20_000
        # It is still there: what was pictured is not a placeholder.
        assert page.run(" && ".join([*conditions, until, "true"]))
        return page

    yield look
    for page in opened:
        # A 404 is told twice: by the request, and in the console.
        assert [said for said in page.errors if not any(k in said for k in KNOWN)] == []


@pytest.fixture(scope="module")
def experiment(run, server):
    config, *_ = run
    found = requests.get(
        f"{server}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": config.tracking.experiment},
        timeout=30,
    )
    return f"experiments/{found.json()['experiment']['experiment_id']}"


def test_the_experiment_shows_its_runs(look, experiment, run):
    look("runs", experiment, "1 matching run", "seen")


def test_the_overview_shows_metrics_parameters_and_tags(look, experiment, run):
    config, trained, measured = run
    page = look(
        "overview", f"{experiment}/runs/{trained['run_id']}",
        "Finished", "stm.run", "stm.best_", "train/loss", "views_efficient/top1", "optim.lr",
        height=2400,
    )  # fmt: skip
    rows = dict(
        page.run(
            "Array.from(document.querySelectorAll('[role=row]'))"
            ".map(r => Array.from(r.querySelectorAll('[role=cell]')).map(c => c.innerText.trim()))"
            ".filter(r => r.length >= 2).map(r => r.slice(0, 2))"
        )
    )
    assert float(rows["views_efficient/top1"]) == measured["top1"]
    assert float(rows["views_efficient/num_videos"]) == measured["num_videos"] == 8
    assert rows["epoch"] == "2"
    assert rows["optim.lr"] == str(config.optim.lr)
    assert rows["model.depth"] == "26"


def test_the_metrics_are_drawn_as_charts(look, experiment, run):
    drawn = "document.querySelectorAll('svg.main-svg .scatterlayer .trace').length >= 10"
    legends = (
        "seen (train/loss)", "seen (train_speed/clips_per_s)", "seen (val/loss)", "seen (views_efficient/top1)",
    )  # fmt: skip
    page = look(
        "metrics",
        f"{experiment}/runs/{run[1]['run_id']}/model-metrics",
        *legends,
        height=3200,
        until=drawn,
    )
    text = page.run(TEXT)
    places = [text.index(legend) for legend in legends]
    assert places == sorted(places), "the page opens on the loss, and single points come last"


def test_the_report_opens_among_the_artifacts(look, experiment, run, pictures):
    _, trained, measured = run
    page = look(
        "report", f"{experiment}/runs/{trained['run_id']}/artifacts/evaluate-efficient/report.html",
        "report.html", "curves.png", "evaluate-efficient", until="document.querySelector('iframe')",
    )  # fmt: skip
    report = page.inside(
        f"document.body && {TEXT}.includes('Hardest videos') && document.images.length"
    )
    assert "seen on " in report.run(TEXT)
    assert f"of {measured['num_videos']} videos right" in report.run(TEXT)
    assert report.run("document.images.length") >= 8
    assert report.errors == []
    page.screenshot(pictures / "mlflow-report.png", window=True)
