"""Run the whole path on this machine in minutes: ``stm demo``.

It writes short H.264 videos in four pairs of classes that are each other played backwards, indexes them, and trains STM
and a network that ignores the order of frames (TSN) on them with Ray Data and Ray Train. It then evaluates both with
the frames as played, reversed, shuffled, and one repeated, and compares them. A cluster runs the same code; only the
network is small here (depth 26, width 32, 48 px).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.console import logger
from pipelines.options import Address, Count, Output
from stm.config import Config, DataConfig, ModelConfig, OptimConfig, Seed, TrainConfig
from stm.plural import counted
from stm.progress_view import progress_view
from stm.ticker import Ticker

VARIANTS = ("stm", "tsn")


def demo_config(
    variant: str, manifests: dict[str, str], storage: Path, *, epochs: int, workers: int, seed: int
) -> Config:
    """Return settings with which a laptop trains in a minute; the schedule has the shape of the paper's."""
    return Config(
        model=ModelConfig(variant=variant, depth=26, width=32, dropout=0.2),
        data=DataConfig(
            train=manifests["train"],
            val=manifests["val"],
            num_segments=8,
            size=48,
            scales=[1.0, 0.875],
        ),
        optim=OptimConfig(
            batch_size=8,
            lr=0.005,
            epochs=epochs,
            milestones=[0.75],
            warmup_epochs=1.0,
        ),
        train=TrainConfig(
            name=f"{variant}26",
            storage=str(storage),
            num_workers=workers,
            seed=seed,
            val_every_epochs=max(1, epochs // 2),
        ),
    )


def demo(
    *,
    output: Output = "demo",
    train_videos: Count = 256,
    test_videos: Count = 96,
    epochs: Count = 8,
    workers: Count = 1,
    seed: Seed = 0,
    address: Address = None,
    json: bool = False,
) -> dict[str, Any]:
    """Make videos, train STM and a network that ignores the order of frames, and compare them.

    The classes of a pair differ only in the order of frames. If the demo is interrupted, the same command continues it.

    Examples:
        stm demo
        stm demo --output demo --train_videos 512 --epochs 12
        stm demo --json

    Args:
        output: folder for videos, runs and figures
        train_videos: number of videos to train on
        test_videos: number of videos to test on
        epochs: number of passes over the training videos
        workers: number of training workers
        seed: seed of every random choice
    """
    started = time.monotonic()
    folder = Path(output)
    from stm import cluster
    from stm.data.synthetic import CLASSES, write_videos

    # Other settings would draw other videos with the same names, so each has its own folder.
    videos = folder / f"videos-{train_videos}-{test_videos}-{seed}"
    annotations = videos / "annotations.csv"
    if not annotations.exists():
        logger.info(f"[1/4] writing {train_videos} + {test_videos} videos into {videos}")
        write_videos(
            videos,
            num_train=train_videos,
            num_test=test_videos,
            seed=seed,
            tick=Ticker("videos"),
        )
    logger.info("[2/4] starting Ray and indexing: every file is opened and its frames are counted")
    storage = folder / f"runs-{train_videos}-{test_videos}-{seed}-{epochs}"
    manifests = {split: str(videos / f"{split}.parquet") for split in ("train", "val")}
    configs = {
        variant: demo_config(variant, manifests, storage, epochs=epochs, workers=workers, seed=seed)
        for variant in VARIANTS
    }
    cluster.connect(address, num_cpus=cluster.logical_cpus(configs["stm"]))
    _index(videos, manifests)

    from stm import figures, spool
    from stm.evaluate.evaluate import evaluate
    from stm.train.trainer import train

    result: dict[str, Any] = {}
    for variant in VARIANTS:
        logger.info(
            f"[3/4] training {variant}"
            + (", which sees the frames but not their order" if variant == "tsn" else "")
        )
        config = configs[variant]
        with progress_view(plain=json) as view:
            trained = train(config, address=address, on_event=view.training(config))
            measured = evaluate(
                trained["last_checkpoint"], manifests["val"], output=str(folder / "figures" / variant),
                num_workers=workers, batch_size=16, address=address, frames=["reversed", "shuffled", "still"],
                tick=view.counting("clips"),
            )  # fmt: skip
        kept = (
            "top1",
            "top5",
            "num_videos",
            "unreadable",
            "checkpoint",
            "per_class",
            "files",
            "frames",
        )
        result[variant] = {name: measured[name] for name in kept}
        result[variant]["run"] = trained["run"]
        logger.info(
            f"  {variant}: top-1 {measured['top1']:.1%} of {counted(measured['num_videos'], 'video')}"
        )
    logger.info("[4/4] drawing")
    spools = {variant: storage / result[variant]["run"] / spool.NAME for variant in VARIANTS}
    result["figures"] = [
        str(figures.plot_curves(folder / "figures" / "curves.png", spools)),
        *(result[variant]["files"]["confusion"] for variant in VARIANTS),
    ]
    result["chance_within_a_pair"] = 0.5
    result["sample_video"] = str(videos / "videos" / "val" / f"{CLASSES[0]}-0000.mp4")
    result["manifest"] = manifests["val"]
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def _index(videos: Path, manifests: dict[str, str]) -> None:
    from stm.data.annotations import read_annotations
    from stm.data.index.indexing import index_videos

    annotations = read_annotations("csv", videos, videos / "annotations.csv")
    indexed, summary = index_videos(
        replace(annotations, dataset="demo"),
        root=videos,
        work_dir=videos / "index",
        cross_check=8,
    )
    for split, manifest in indexed.items():
        manifest.write(manifests[split])
    logger.info(
        f"  {counted(summary.num_videos, 'video')}: {summary.status}, "
        f"{summary.num_cross_checked} cross-checked with decord"
    )


def show(result: dict[str, Any]) -> str:
    from stm.data.synthetic import CLASSES

    orders = ("played", "reversed", "shuffled", "still")
    rows: list[tuple[str, ...]] = [("network", *orders, "pairs, as played")]
    for variant in VARIANTS:
        found = result[variant]["frames"]
        top1 = [f"{found['orders'][order]['top1']:.1%}" for order in orders]
        told = {frozenset(pair["classes"]): pair["played"]["share"] for pair in found["pairs"]}
        pairs = [
            f"{a}/{b} {told[frozenset((a, b))]:.0%}"
            for a, b in zip(CLASSES[::2], CLASSES[1::2], strict=True)
        ]
        rows.append((variant.upper(), *top1, ", ".join(pairs)))
    lines = [f"  {a:<9}{b:>7}{c:>10}{d:>10}{e:>8}   {f}" for a, b, c, d, e, f in rows]
    for variant in VARIANTS:
        lines += [
            "",
            f"  {variant.upper()}:",
            *(f"  - {s}" for s in result[variant]["frames"]["says"]),
        ]
    lines += [
        "",
        "  The table shows top-1 for the same frames in four orders. Between two classes that are reversals of",
        "  each other, a network that ignores order names the right one for half of the videos. "
        f"N = {counted(result['stm']['num_videos'], 'video')}, {result['seconds']:.0f} s in all.",
    ]
    reports = [result[variant]["files"].get("report") for variant in VARIANTS]
    lines += ["", "reports (open them in a browser):", *(f"  {path}" for path in reports if path)]
    lines += ["", "pictures:", *(f"  {path}" for path in result["figures"]), "", "next:"]
    lines.append(
        f"  stm predict --checkpoint {result['stm']['checkpoint']} {result['sample_video']}"
    )
    lines.append(
        f"  stm evaluate --checkpoint {result['stm']['checkpoint']} --manifest {result['manifest']} --protocol accurate"
    )
    return "\n".join(lines)
