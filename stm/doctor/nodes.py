"""The nodes of the connected cluster, and functions run on each of them with a deadline."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stm.doctor.finding import first_line


@dataclass(frozen=True)
class Node:
    """A live node, as Ray's head reports it."""

    id: str
    name: str
    """Its address, with the start of its id if several nodes share the address."""
    address: str
    cpus: float
    gpus: int
    object_store_bytes: int
    session_folder: str
    """Folder in which Ray writes logs and spills objects."""


@dataclass(frozen=True)
class Missing:
    """The reason why a node did not answer."""

    reason: str


def alive() -> list[Node]:
    """Return the live nodes, beginning with the node of this process."""
    import ray

    found = [node for node in ray.nodes() if node["Alive"]]
    addresses = Counter(node["NodeManagerAddress"] for node in found)
    here = ray.get_runtime_context().get_node_id()
    nodes = []
    for node in sorted(found, key=lambda node: (node["NodeID"] != here, node["NodeID"])):
        address, resources = node["NodeManagerAddress"], node["Resources"]
        alone = addresses[address] == 1
        nodes.append(
            Node(
                id=node["NodeID"],
                name=address if alone else f"{address}/{node['NodeID'][:6]}",
                address=address,
                cpus=resources.get("CPU", 0.0),
                gpus=int(resources.get("GPU", 0)),
                object_store_bytes=int(resources.get("object_store_memory", 0)),
                session_folder=os.path.dirname(os.path.dirname(node["ObjectStoreSocketName"])),
            )
        )
    return nodes


def on(node: Node, **options: Any) -> dict[str, Any]:
    """Return Ray options that place a task or an actor on the node.

    By default it reserves no CPU, so that it does not wait on a busy cluster.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy, **options}


def on_each(
    nodes: Sequence[Node],
    function: Callable[..., Any],
    *arguments: Any,
    deadline_s: float,
    each: Callable[[Node], tuple[Any, ...]] = lambda node: (),
) -> dict[str, Any]:
    """Run ``function(*arguments, *each(node))`` on every node; return each node's result, or ``Missing``, by name.

    A task that has not answered by the deadline is killed with its process.
    """
    import ray

    remote = ray.remote(function)
    shipped = [ray.put(argument) for argument in arguments]
    tasks = {
        node: remote.options(**on(node, max_retries=0)).remote(*shipped, *each(node))
        for node in nodes
    }
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=deadline_s)
    return {node.name: collect(task, deadline_s) for node, task in tasks.items()}


def collect(task: Any, waited_s: float) -> Any:
    """Return a task's result, or ``Missing`` if it failed, died or still runs; in that case it is killed."""
    import ray

    ready, _ = ray.wait([task], timeout=0.01)
    if not ready:
        ray.cancel(task, force=True)
        return Missing(f"no answer within {waited_s:g} s")
    try:
        return ray.get(task)
    except Exception as error:
        return Missing(first_line(error))


def answers(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split the results of ``on_each`` into answers, and the reasons of missing ones."""
    came = {name: value for name, value in results.items() if not isinstance(value, Missing)}
    absent = {name: value.reason for name, value in results.items() if isinstance(value, Missing)}
    return came, absent


def listed(reasons: dict[str, str], most: int = 4) -> str:
    """Return ``node: reason; node: reason`` for the first ``most`` nodes."""
    shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:most]]
    rest = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {rest} more" if rest else "")
