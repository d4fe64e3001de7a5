"""Compare fine-tuning with training from scratch on a small data set, with three seeds each (docs/benchmarks.md).

    stm index mini5 ...            (docs/lists.md)
    python -m tests.tools.finetuning runs/made index/train.parquet index/val.parquet --epochs 20

The first argument is a value of ``--model.pretrained``: a run of the same network. Each training is an ordinary run in
``runs``, named after its initial weights and seed, so that the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace

import stm
from stm.checkpoint.format import config_of, read_meta
from stm.checkpoint.locate import locate


def main() -> None:
    """Train, and print one JSON object: the last top-1 (percent) of each seed, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pretrained")
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    first = config_of(read_meta(locate(given.pretrained).directory))
    found: dict[str, list[float]] = {}
    for name, pretrained in (("scratch", None), ("finetuned", given.pretrained)):
        for seed in range(given.seeds):
            config = stm.Config(
                model=replace(first.model, pretrained=pretrained),
                data=replace(first.data, train=given.train, val=given.val, root=None),
                optim=stm.OptimConfig(
                    batch_size=given.batch_size,
                    lr=given.lr,
                    epochs=given.epochs,
                    milestones=[given.epochs * 3 // 5, given.epochs * 4 // 5],
                ),
                train=stm.TrainConfig(name=f"{name}-{seed}", seed=seed),
            )
            result = stm.train(config)
            found.setdefault(name, []).append(round(100 * (result.last_val_top1 or 0.0), 1))
    means = {name: statistics.mean(values) for name, values in found.items()}
    print(json.dumps({"top1_by_seed": found, "mean": means}, indent=1))


if __name__ == "__main__":
    main()
