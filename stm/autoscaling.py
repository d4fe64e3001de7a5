"""Wait until the cluster has what a job needs, and let its autoscaler know: the nodes of a cloud come when asked.

The request is a placement group that is taken back when the wait ends. It belongs to this driver, so that a driver that
dies leaves none behind, and it stands beside the requests of other jobs; ``request_resources``, Ray's other way, is one
list for the whole cluster, and the last caller's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from stm.log import get_logger
from stm.plural import counted

logger = get_logger(__name__)

Resources = dict[str, float]

SAY_EVERY_S = 30.0
_LOOK_EVERY_S = 0.5


def wait_for(
    needed: Resources,
    bundles: list[Resources],
    timeout_s: float,
) -> Resources:
    """Ask for nodes until the cluster has the sum ``needed``, or the time is up; returns what it has then.

    ``bundles`` are the parts that must each fit on one node. What is there and what is missing is said at once and
    every 30 s.
    """
    import ray

    began = time.monotonic()
    said = -SAY_EVERY_S
    with _request(bundles):
        while True:
            has = ray.cluster_resources()
            waited = time.monotonic() - began
            missing = {name: amount - has.get(name, 0.0) for name, amount in needed.items()}
            missing = {name: amount for name, amount in missing.items() if amount > 1e-6}
            if not missing:
                if said >= 0:
                    logger.info(f"the nodes have joined after {waited:.0f} s")
                return has
            if waited >= timeout_s:
                return has
            if waited - said >= SAY_EVERY_S:
                said = waited
                alive = sum(node["Alive"] for node in ray.nodes())
                logger.info(
                    f"waiting for nodes: the cluster has {in_words({name: has.get(name, 0.0) for name in needed})} "
                    f"on {counted(alive, 'node')}, and {in_words(missing)} are missing; {timeout_s - waited:.0f} s left"
                )
            time.sleep(_LOOK_EVERY_S)


@contextlib.contextmanager
def _request(bundles: list[Resources]) -> Iterator[None]:
    """Show the autoscaler these bundles while the body runs."""
    from ray.util import placement_group, remove_placement_group

    # Ray writes a warning every few seconds that a group cannot be placed: that is what we wait for.
    logging.getLogger("ray.util.placement_group").setLevel(logging.ERROR)
    group: Any = placement_group(bundles, strategy="PACK")
    try:
        yield
    finally:
        remove_placement_group(group)


def in_words(resources: Resources) -> str:
    """As in `4 CPU, 1 GPU`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
