"""Register a trained network: ``stm register --checkpoint runs/first --name actions``."""

from __future__ import annotations

from typing import Any

from pipelines.options import Address, Checkpoint, Count, Protocol, Root, Which


def register(
    *,
    checkpoint: Checkpoint,
    which: Which = "best",
    name: str,
    rule: str = "never",
    manifest: str | None = None,
    root: Root = None,
    protocol: Protocol = "efficient",
    tracking: str | None = None,
    workers: Count = 1,
    address: Address = None,
) -> dict[str, Any]:
    """Register a trained network as an MLflow model, which other programs can load.

    The model gets a model card. It can be measured on a manifest first, and --rule can make it the `champion`.

    Examples:
        stm register --checkpoint runs/first --name actions --rule always
        stm register --checkpoint runs/second --name actions --manifest val.parquet --rule better:top1
        stm predict --model models:/actions@champion clip.mp4

    Args:
        name: name of the registered model
        rule: when the new version gets the alias `champion`: `always`, `never`, or only if it is better than the
            present one on the same manifest and protocol: `better:top1`, `better:top5`, `better:mean_class_accuracy`
        manifest: manifest on which to measure the network first
        tracking: MLflow server or database; null uses the one that has the run's record
        workers: processes that run the network
    """
    from stm.package.register import register as enter

    return enter(
        checkpoint,
        name,
        which=which,
        rule=rule,
        manifest=manifest,
        root=root,
        protocol=protocol,
        tracking=tracking,
        num_workers=workers,
        address=address,
    )


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['uri']} in {result['tracking']}"]
    if result["measured"]:
        found = result["measured"]
        lines.append(
            f"  {found['protocol']}: top-1 {found['top1']:.2%}   top-5 {found['top5']:.2%}   "
            f"N = {found['num_videos']}, of which {found['unreadable']} unreadable and counted as wrong"
        )
    if result["champion"]:
        before = f"; it replaces version {result['previous']}" if result["previous"] else ""
        lines.append(f"  now the champion ({result['reason']}{before})")
    else:
        holder = f"version {result['previous']}" if result["previous"] else "not set"
        lines.append(f"  not the champion ({result['reason']}); the champion is {holder}")
    return "\n".join(lines)
