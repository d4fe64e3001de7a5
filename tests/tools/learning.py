"""Measure what each network learns about time: the learning benchmark of docs/benchmarks.md.

    python -m tests.tools.learning learning                    writes 2,000 videos, trains 5 networks x 3 seeds
    python -m tests.tools.learning learning --share 0.1        STM on 10 % of them, with and without augmentation

There are twelve classes in six pairs, each the other played backwards. They are harder than the demo's: besides the
acting digit, another one swings (which looks the same backwards) and a third stands still, the action begins and ends
at any time, and its speed changes. Each training is an ordinary run in the folder's ``runs``, named after its network
and seed; the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path

import numpy as np

import stm
from stm.data.synthetic import digits, encode, paste, texture

PAIRS = (
    ("left", "right"),
    ("up", "down"),
    ("fall", "rise"),
    ("grow", "shrink"),
    ("clockwise", "anticlockwise"),
    ("vanish", "appear"),
)
NETWORKS = ("stm", "tsm", "tsn", "cstm", "cmm")
NUM_FRAMES = 32
SIZE = 72
STUDENT_95 = {1: 0.0, 2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Half of the 95 % interval of the mean, in standard errors, by the number of seeds."""


def action(pair: int, generator: np.random.Generator) -> np.ndarray:
    """Return centre x, y, edge (each a share of the frame) and opacity of the acting digit, float [NUM_FRAMES, 4].

    This is for the first class of a pair. The action takes 50 to 100 % of the video, and its speed changes.
    """
    length = generator.uniform(0.5, 1.0)
    start = generator.uniform(0, 1 - length)
    time = np.clip((np.linspace(0, 1, NUM_FRAMES) - start) / length, 0, 1)
    time = time ** generator.uniform(0.6, 1.7) - 0.5
    x, y = 0.5 + generator.uniform(-0.12, 0.12, size=2)
    edge, travel = generator.uniform(0.28, 0.38), generator.uniform(0.4, 0.6)
    track = np.tile([x, y, edge, 1.0], (NUM_FRAMES, 1))
    if pair == 0:
        track[:, 0] -= travel * time
    elif pair == 1:
        track[:, 1] -= travel * time
    elif pair == 2:
        track[:, :2] += 0.8 * travel * time[:, None]
    elif pair == 3:
        track[:, 2] *= 2.0 ** (1.6 * time)
    elif pair == 4:
        angle = 2 * np.pi * (generator.random() + generator.uniform(0.6, 0.9) * time)
        track[:, :2] += 0.27 * np.stack([np.cos(angle), np.sin(angle)], 1)
    else:
        track[:, 3] = 0.55 - 0.9 * time
    return track


def distractors(generator: np.random.Generator) -> list[np.ndarray]:
    """Return tracks, as from `action`, of two digits that are as likely backwards: one stands still, one swings."""
    still = np.tile(
        [*generator.uniform(0.1, 0.9, size=2), generator.uniform(0.15, 0.25), 0.8], (NUM_FRAMES, 1)
    )
    swing = still.copy()
    swing[:, :2] = generator.uniform(0.2, 0.8, size=2)
    phase = (
        2 * np.pi * (generator.random() + generator.uniform(1, 2) * np.linspace(0, 1, NUM_FRAMES))
    )
    swing[:, :2] += np.sin(phase)[:, None] * generator.uniform(-0.25, 0.25, size=2)
    return [still, swing]


def draw(pair: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a video of a pair's first class, uint8 [NUM_FRAMES, SIZE, SIZE, 3]."""
    background = texture(SIZE, generator)
    tracks = [*distractors(generator), action(pair, generator)]
    shown = [digits()[generator.integers(len(digits()))] for _ in tracks]
    tints = [0.5 + 0.5 * generator.random(3) for _ in tracks]
    frames = []
    for k in range(NUM_FRAMES):
        frame = background
        for digit, tint, track in zip(shown, tints, tracks, strict=True):
            x, y, edge, opacity = track[k]
            frame = paste(frame, opacity * digit, tint, SIZE * x, SIZE * y, SIZE * edge)
        frames.append(frame)
    return np.stack(frames)


def write_videos(root: Path, counts: dict[str, int]) -> Path:
    """Write ``counts[split]`` videos per class into ``root/videos``, once; return the annotation file."""
    annotations = root / "annotations.csv"
    if annotations.exists():
        return annotations
    rows = [("path", "label", "split")]
    for number, (split, count) in enumerate(counts.items()):
        (root / "videos" / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            for pair, names in enumerate(PAIRS):
                for backwards, name in enumerate(names):
                    clip = draw(pair, np.random.default_rng([number, i, pair, backwards]))
                    path = root / "videos" / split / f"{name}-{i:04d}.mp4"
                    encode(path, clip[::-1] if backwards else clip)
                    rows.append((str(path.relative_to(root)), name, split))
    with annotations.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return annotations


def config_of(network: str, seed: int, manifests: Path, given: argparse.Namespace) -> stm.Config:
    """Return a config with the demo's small network and schedule."""
    augmented = {"color_jitter": 0.4, "erasing": 0.25} if network.endswith("+augmented") else {}
    return stm.Config(
        model=stm.ModelConfig(variant=network.split("+")[0], depth=26, width=32, dropout=0.2),
        data=stm.DataConfig(
            train=str(manifests / "train.parquet"), val=str(manifests / "val.parquet"),
            num_segments=8, size=48, scales=[1.0, 0.875], **augmented,
        ),
        optim=stm.OptimConfig(
            batch_size=given.batch_size, lr=given.lr, epochs=given.epochs, milestones=[0.6, 0.85], warmup_epochs=1.0
        ),
        train=stm.TrainConfig(
            name=f"{network.replace('+', '-')}-{seed}-of-{given.share:g}", storage=str(Path(given.folder) / "runs"),
            seed=seed, val_every_epochs=given.epochs,
        ),
    )  # fmt: skip


def main() -> None:
    """Train the networks that are not trained yet, and print the accuracies of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--networks", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    root = Path(given.folder)
    annotations = write_videos(root, {"train": 134, "val": 33})
    manifests = root / f"index-{given.share:g}"
    if not (manifests / "val.parquet").exists():
        stm.index(
            str(root),
            str(manifests),
            format="csv",
            annotations=str(first_of(annotations, given.share)),
        )
    networks = given.networks or (NETWORKS if given.share == 1 else ("stm", "stm+augmented"))
    found: dict[str, list[dict[str, float]]] = {network: [] for network in networks}
    for seed in range(given.seeds):
        for network in networks:
            config = config_of(network, seed, manifests, given)
            kept = root / "figures" / f"{config.train.name}.json"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(json.dumps(measure(config)))
            found[network].append(json.loads(kept.read_text()))
            print(network, seed, found[network][-1], flush=True)
    for network, values in found.items():
        for name in values[0]:
            shares = [100 * value[name] for value in values]
            interval = (
                STUDENT_95[len(shares)] * statistics.stdev(shares) / len(shares) ** 0.5
                if len(shares) > 1
                else 0
            )
            print(
                f"{network:14s} {name:9s} {statistics.mean(shares):5.1f} % +- {interval:.1f}  of {len(shares)} seeds"
            )


def first_of(annotations: Path, share: float) -> Path:
    """Write and return the list with the first ``share`` of each class's training videos, and all other videos."""
    with annotations.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    number = round(share * sum(split == "train" for _, _, split in rows) / (2 * len(PAIRS)))
    kept = [row for row in rows if row[2] != "train" or int(Path(row[0]).stem[-4:]) < number]
    path = annotations.with_name(f"annotations-{share:g}.csv")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *kept])
    return path


def measure(config: stm.Config) -> dict[str, float]:
    """Train, evaluate the last checkpoint, and return the shares of right answers by order of frames, and in pairs."""
    trained = stm.train(config)
    result = stm.evaluate(
        trained.last_checkpoint, config.data.val, frames=["reversed", "shuffled"], pairs=PAIRS
    )
    pairs = [pair["played"]["share"] for pair in result.frames["pairs"]]
    orders = {order: found["top1"] for order, found in result.frames["orders"].items()}
    return {**orders, "pairs": statistics.mean(pairs)}


if __name__ == "__main__":
    main()
