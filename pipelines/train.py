"""Train a network: ``stm train --data.train train.parquet --data.val val.parquet``."""

from __future__ import annotations

from typing import Any

from pipelines.options import Address, Workers
from stm.config import Config
from stm.plural import counted
from stm.progress_view import progress_view


def train(
    config: Config, *, workers: Workers = None, address: Address = None, json: bool = False
) -> dict[str, Any]:
    """Train a network; the same command continues an interrupted run.

    Examples:
        stm train --data.train train.parquet --data.val val.parquet --train.name first
        stm train --config something-v1-t8 --workers 2
        stm train --config mine.yaml --optim.lr 0.02 --print_config
    """
    from stm.train.trainer import train as run

    with progress_view(plain=json) as view:
        return run(config, address=address, on_event=view.training(config)).as_dict()


def show(result: dict[str, Any]) -> str:
    lines = [f"checkpoint {result['checkpoint']}"]
    if result["val_top1"] is not None:
        last = result["last_val_top1"]
        lines.append(
            f"validation top-1: best {result['val_top1']:.1%} (epoch {result['best_epoch']:.0f}), last "
            f"{'not validated' if last is None else f'{last:.1%}'}, of "
            f"{counted(result['val_num_videos'], 'video', '.0f')}"
        )
        if result["test_list"]:
            lines.append(
                f"{result['test_list']} publishes no validation list, so the best checkpoint was chosen on its test "
                "list and its figure is too high; report that of the last checkpoint (stm evaluate --which last)"
            )
        if result["last_checkpoint"] != result["checkpoint"]:
            lines.append(f"last checkpoint {result['last_checkpoint']}")
    lines.append(f"next: stm evaluate --checkpoint {result['checkpoint']} --manifest MANIFEST")
    return "\n".join(lines)
