"""Wait until the cluster has the resources that a job needs, and request them from its autoscaler.

The request is a placement group, which is removed when the wait ends. It belongs to this driver, so it disappears if
the driver dies, and it does not affect the requests of other jobs. Ray's ``request_resources`` would: it holds a single
list for the whole cluster, which every caller overwrites.
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
    """Request nodes until the cluster has the sum ``needed`` or ``timeout_s`` is over; return what it has then.

    ``bundles`` are the parts that must each fit on one node. What the cluster has and what is missing is logged at
    once and every 30 s.
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
                    f"on {counted(alive, 'node')}; missing: {in_words(missing)}; {timeout_s - waited:.0f} s left"
                )
            time.sleep(_LOOK_EVERY_S)


@contextlib.contextmanager
def _request(bundles: list[Resources]) -> Iterator[None]:
    """Request these bundles from the autoscaler while the body runs."""
    from ray.util import placement_group, remove_placement_group

    # Ray warns every few seconds that the group cannot be placed, which is expected here.
    logging.getLogger("ray.util.placement_group").setLevel(logging.ERROR)
    group: Any = placement_group(bundles, strategy="PACK")
    try:
        yield
    finally:
        remove_placement_group(group)


def in_words(resources: Resources) -> str:
    """Return the resources as text, such as `4 CPU, 1 GPU`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
