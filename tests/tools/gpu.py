"""Run all checks and measurements that need a GPU, in under ten minutes and without a network: ``make gpu``.

    python -m tests.tools.gpu OUTPUT                    on a GPU
    python -m tests.tools.gpu OUTPUT --rehearse         the same steps on a CPU, each as small as possible

It runs the tests for a GPU, measures STM, TSM and TSN (eager, compiled, with the Triton kernels; batches of 8 to 64
clips, 8 and 16 frames), trains and evaluates the demo in bfloat16, and measures training with the real stream. Each
step is a separate process: if one fails or takes too long, this is a line of the table, and the others continue. After
every step it writes ``OUTPUT/results.json`` and ``OUTPUT/results.md``, the tables for docs/benchmarks.md.

It needs only an environment that can import stm and pytest; stm itself need not be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
NETWORKS = ("stm", "tsm", "tsn")
BUDGET_S = 570
"""Seconds for all steps; a step that cannot begin within them is reported as left out."""


@dataclass(frozen=True)
class Step:
    """A process, and its time limit."""

    name: str
    arguments: list[str]
    limit_s: int = 120
    environment: dict[str, str] = field(default_factory=dict)


def plan(output: Path, rehearse: bool) -> list[Step]:
    """Return the steps, the most important ones first."""
    precision = "float32" if rehearse else "bfloat16"
    small = {"depth": 26, "size": 64, "width": 16, "rounds": 1, "matrix_size": 256}
    depth, size = ("26", "64") if rehearse else ("50", "224")

    def timed(name: str, num_frames: int, batch_size: int, **more: Any) -> Step:
        compiled, kernels = more.get("compiled", False), more.pop("kernels", False)
        settings = {
            "num_frames": num_frames, "batch_size": batch_size, "precision": precision, "networks": NETWORKS,
            "rounds": 5, **(small if rehearse else {}), **more,
        }  # fmt: skip
        return Step(
            f"{name}, T = {num_frames}, {batch_size} clips",
            ["-m", "tests.tools.gpu", "--measure", json.dumps(settings)],
            limit_s=150 if compiled else 60,
            environment={"STM_TRITON": "1"} if kernels else {},
        )

    demo = output / "demo"
    demo_size = ["--train_videos", "16", "--test_videos", "8", "--epochs", "1"] if rehearse else []
    manifest = demo / ("videos-16-8-0" if rehearse else "videos-256-96-0") / "train.parquet"
    batches = (2,) if rehearse else (8, 16, 32, 64)
    return [
        Step("tests for a GPU", ["-m", "pytest", "-q", "-m", "gpu", "-W", "ignore", "tests"], 150),
        *(timed("eager", 8, batch) for batch in batches[:1]),
        *([] if rehearse else [timed("kernels", 8, batches[0], kernels=True)]),
        Step(
            "demo: trained and evaluated",
            ["-m", "stm", "demo", "--json", "--output", str(demo), *demo_size],
            240,
        ),
        Step(
            "a step fed by the stream",
            ["-m", "stm", "bench", "train", "--json", "--manifest", str(manifest), "--precision", precision]
            + ["--depth", depth, "--size", size, "--batch_size", str(batches[-1]), "--repetitions", "1"]
            + (["--num_clips", "8"] if rehearse else ["--num_clips", "1280"]),
        ),
        *(timed("eager", 8, batch) for batch in batches[1:]),
        timed("compiled", 8, batches[0], compiled=True),
        *(timed("eager", 16, batch) for batch in batches[:3]),
    ]  # fmt: skip


def run(step: Step, limit_s: float) -> dict[str, Any]:
    """Run a step; return its status, seconds, and its JSON object or its last lines."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *step.arguments],
        cwd=REPOSITORY,
        env={**os.environ, **step.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed, logged = process.communicate(timeout=limit_s)
        status = str(process.returncode)
    except subprocess.TimeoutExpired:
        process.terminate()  # this also ends its Ray
        printed, logged = process.communicate()
        status = "too long"
    result: dict[str, Any] = {
        "name": step.name,
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "last_lines": (printed + logged).strip().splitlines()[-15:],
    }
    last = printed.strip().splitlines()[-1:] or [""]
    if last[0].startswith("{"):
        result |= {"result": json.loads(last[0]), "last_lines": []}
    return result


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure networks; this is a step with its own process."""
    import torch

    from stm.bench.model import measure

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure(device, **settings)


def about() -> dict[str, str]:
    """Return the date, the machine and the versions of the figures."""
    import torch

    from stm.version import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": date.today().isoformat(), "device": device, "cores": str(os.cpu_count()),
        "python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
        "stm": __version__,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Return Markdown with a line for each step, and for each network and mode."""
    lines = [
        "`make gpu`: " + ", ".join(f"{name} {value}" for name, value in found["about"].items())
    ]
    lines += ["", "| step | status | s | |", "|---|---|---|---|"]
    timed = [
        "",
        "| | network | mode | ms per step | clips/s | relative to TSN | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in found["steps"]:
        result, said = step.get("result", {}), ""
        if "stream_to_ready" in result:
            said = f"{result['clips_per_s']}, waits {result['wait_share']:.1%}"
        elif "stm" in result:
            said = ", ".join(f"{name} {result[name]['top1']:.1%}" for name in ("stm", "tsn"))
        elif "rows" not in result:
            said = step["last_lines"][-1] if step["last_lines"] else ""
        lines.append(f"| {step['name']} | {step['status']} | {step['seconds']} | {said} |")
        timed += [
            f"| {step['name']} | {row['network']} | {row['mode']} | {row['ms']} ({row['spread_ms'][0]} to "
            f"{row['spread_ms'][1]}) | {row['clips_per_s']} | {row['times_tsn']} | {row['peak_mb']} |"
            for row in result.get("rows", [])
        ]
    return "\n".join(lines + timed) + "\n"


def main() -> None:
    """Run every step for which there is time, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("output", nargs="?", default="gpu")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(json.loads(given.measure))))
        return
    output = Path(given.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"about": about(), "steps": []}
    if found["about"]["device"] == "no GPU" and not given.rehearse:
        parser.error("PyTorch sees no GPU here; --rehearse runs the same steps on a CPU")
    ends = time.monotonic() + (BUDGET_S if not given.rehearse else 24 * 3600)
    for step in plan(output, given.rehearse):
        left_s = ends - time.monotonic()
        if left_s < 5:
            done: dict[str, Any] = {
                "name": step.name,
                "status": "left out",
                "seconds": 0,
                "last_lines": [],
            }
        else:
            done = run(step, left_s if given.rehearse else min(step.limit_s, left_s))
        print(f"{done['name']}: status {done['status']}, {done['seconds']} s", flush=True)
        found["steps"].append(done)
        (output / "results.json").write_text(json.dumps(found, indent=1))
        (output / "results.md").write_text(table(found))
    print((output / "results.md").read_text())
    if any(step["status"] not in ("0", "left out") for step in found["steps"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
