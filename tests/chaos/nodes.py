"""A training run on a cluster of several nodes on this machine, some of which leave or come. Run as a program:

    python tests/chaos/nodes.py SCENARIO FOLDER      SCENARIO: lost | grown | preempted | replaced

Every step that a rank takes is written to FOLDER/steps/, so that a test can count what was trained on. What the run
said is in FOLDER/said.txt, the result of training in FOLDER/result.json.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def recording_loop(settings: dict[str, Any]) -> Any:
    """The training loop, with a line for each step: worker group, step, epoch, offset, rank, videos."""
    import ray

    from stm.train import loop

    folder = Path(os.environ["STM_CHAOS_STEPS"])
    group = ray.get_runtime_context().get_placement_group_id()
    taken = loop._Rank._train_step

    def step(rank: Any, batch: Any) -> None:
        taken(rank, batch)
        videos = [int(v) for v, w in zip(batch.videos, batch.weights, strict=True) if w > 0]
        line = {
            "at": time.time(),
            "group": group,
            "world_size": rank.group.world_size,
            "step": rank.place.step,
            "epoch": batch.epoch,
            "videos": videos,
        }
        with (folder / f"{group}-{rank.group.rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    loop._Rank._train_step = step  # type: ignore[method-assign]
    return loop.train_loop(settings)


def main(scenario: str, folder: Path) -> None:
    steps = folder / "steps"
    steps.mkdir()
    os.environ["STM_CHAOS_STEPS"] = str(steps)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from stm import cluster

    for key, value in cluster.RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray
    from ray.cluster_utils import Cluster
    from runs import config_for

    import stm.train.loop
    from stm.log import shown_by
    from stm.train import fit, trainer

    fit.RESIZE_CHECK_S = 2.0
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1, resources={"trainer": 1})
    second = nodes.add_node(num_cpus=1, resources={"trainer": 1}) if scenario != "grown" else None
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    stm.train.loop.train_loop = recording_loop  # type: ignore[assignment]

    said = (folder / "said.txt").open("a", buffering=1)
    result: dict[str, Any] = {}
    config = config_for(
        json.loads((folder / "manifests.json").read_text()),
        folder / "runs",
        scenario,
        workers=2,
        min_workers=None if scenario == "replaced" else 1,
        cpus_per_worker=0.9,
        resources_per_worker={"trainer": 1},
        # Preempted, it is to be training still when the notice is over; replaced, it is compared with another run.
        epochs={"preempted": 14, "replaced": 6}.get(scenario, 8),
    )

    def run() -> None:
        try:
            handler = logging.StreamHandler(said)
            handler.setFormatter(logging.Formatter("%(created).1f %(message)s"))
            with shown_by(handler, logging.INFO):
                result.update(trainer.train(config).as_dict())
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_steps(steps, 10, thread)
    if scenario == "lost":
        nodes.remove_node(second, allow_graceful=False)
    elif scenario == "replaced":
        second.kill_raylet(check_alive=False)  # its workers are left to themselves
        nodes.add_node(num_cpus=1, resources={"trainer": 1})
    elif scenario == "grown":
        nodes.add_node(num_cpus=1, resources={"trainer": 1})
    elif scenario == "preempted":
        drain(nodes.address, second, notice_s=10)
        time.sleep(10)
        nodes.remove_node(second, allow_graceful=False)
    thread.join()
    (folder / "result.json").write_text(json.dumps(result))
    ray.shutdown()
    nodes.shutdown()


def wait_for_steps(steps: Path, number: int, thread: threading.Thread) -> None:
    while thread.is_alive():
        lines = sum(len(file.read_text().splitlines()) for file in steps.glob("*.jsonl"))
        if lines >= number:
            return
        time.sleep(0.2)


def drain(address: str, node: Any, notice_s: int) -> None:
    """Tell the cluster, as a cloud does, that a node will be taken away."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud wants it back"]
    subprocess.run([*command, "--deadline-remaining-seconds", str(notice_s)], check=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
