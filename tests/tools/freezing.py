"""Measure what freezing saves in a training step on a CPU, as a table: ``python -m tests.tools.freezing [ROUNDS]``.

Each measurement is a separate process: the CPU seconds of its second and third step, and its peak memory. Each round
measures all settings in turn, so that a slow machine affects all of them.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "nothing": {},
    "`partial_bn: true`": {"partial_bn": True},
    "`freeze: [stem, layer1]`": {"freeze": ["stem", "layer1"]},
    "`freeze: [stem, layer1, layer2]`": {"freeze": ["stem", "layer1", "layer2"]},
    "all but the classifier": {"freeze": ["stem", "layer1", "layer2", "layer3", "layer4"]},
}
BATCH, FRAMES, SIZE, CLASSES = 8, 8, 112, 5


def measured(optim: dict[str, object]) -> tuple[float, float]:
    """Return the CPU seconds of a step, and the peak memory of the process beyond that before the first step, in GB."""
    import numpy as np
    import torch

    from stm.config import Config
    from stm.data.stream.graph import ClipBatch
    from stm.train.replica import Replica

    torch.set_num_threads(1)
    config = Config.from_dict(
        {
            "data": {"num_segments": FRAMES, "size": SIZE},
            "optim": {"batch_size": BATCH, **optim},
        }
    )
    replica = Replica(config, CLASSES, torch.device("cpu"), 1, None)
    batch = ClipBatch(
        clips=np.random.default_rng(0).integers(
            0, 256, (BATCH, 1, FRAMES, SIZE, SIZE, 3), dtype=np.uint8
        ),
        labels=np.arange(BATCH) % CLASSES,
        weights=np.ones(BATCH, np.float32),
        videos=np.arange(BATCH),
        epoch=0,
        offset_end=BATCH,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for step in range(3):
        begun = time.process_time()
        replica.step(batch, 1e-4, seed=step)
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return statistics.mean(seconds[1:]), peak * 1024 / 1e9


def main() -> None:
    if len(sys.argv) > 2:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, optim in SETTINGS.items():
            command = [sys.executable, "-m", __spec__.name, "1", json.dumps(optim)]
            found[name].append(json.loads(subprocess.check_output(command)))
    whole = found["nothing"]
    print(
        "| frozen | CPU s per step | range | relative to nothing frozen | GB |\n|---|---|---|---|---|"
    )
    for name, values in found.items():
        seconds = [value for value, _ in values]
        share = statistics.median(a / b for (a, _), (b, _) in zip(values, whole, strict=True))
        memory = statistics.median(value for _, value in values)
        print(
            f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {share:.2f} "
            f"| {memory:.2f} |"
        )


if __name__ == "__main__":
    main()
