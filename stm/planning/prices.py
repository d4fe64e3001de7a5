"""What machines there are and what they cost, from a YAML file such as ``stm/planning/prices.yaml``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm.errors import UserError

SAMPLE = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """One kind of machine."""

    name: str
    on_demand: float
    """Price an hour."""
    spot: float | None = None
    """Price an hour where it may be taken away; null where there is none."""
    interruptions_per_hour: float | None = None
    """How often one spot node is taken away, on average."""
    cpus: float = 0.0
    """As Ray counts them."""
    gpus: int = 0
    network_gbit_s: float = 0.0
    """What its card carries in each direction, all the time (not the burst)."""
    gpu_link_gbyte_s: float | None = None
    """What one GPU carries to the next within the node; needed where there are several."""
    core_speed: float = 1.0
    """Clips that one of these CPUs decodes for each one of a core of the machine where the rate was measured."""


@dataclass(frozen=True)
class Prices:
    """Machines by name."""

    currency: str
    source: str
    """Where the prices come from, and of what day."""
    nodes: dict[str, NodeType]

    def __getitem__(self, name: str) -> NodeType:
        return self.nodes[name]


def read_prices(path: str) -> Prices:
    """Read a file of prices; ``UserError`` names the node and the field that is wrong."""
    import yaml

    try:
        given = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"--prices {path}: {error.strerror}; a sample is {SAMPLE}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--prices {path}: {error}") from error
    if not isinstance(given, dict) or not isinstance(given.get("nodes"), dict):
        raise UserError(f"--prices {path}: no `nodes`; a sample is {SAMPLE}")
    for key in ("currency", "source"):
        if not given.get(key):
            raise UserError(f"--prices {path}: no `{key}`; a sample is {SAMPLE}")
    nodes = {name: _node(path, name, fields) for name, fields in given["nodes"].items()}
    return Prices(str(given["currency"]), " ".join(str(given["source"]).split()), nodes)


def _node(path: str, name: str, fields: Any) -> NodeType:
    where = f"--prices {path}: nodes.{name}"
    known = {field.name: field for field in dataclasses.fields(NodeType) if field.name != "name"}
    if not isinstance(fields, dict):
        raise UserError(f"{where} is not a table of {', '.join(known)}")
    for key, value in fields.items():
        if key not in known:
            raise UserError(f"{where}.{key}: unknown; there are {', '.join(known)}")
        optional = known[key].default is None
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UserError(f"{where}.{key} {value!r}: must be a number that is not negative")
    if "on_demand" not in fields:
        raise UserError(f"{where}.on_demand is missing: the price an hour")
    node = NodeType(name=name, **fields)
    for key in ("network_gbit_s", "core_speed", "cpus"):
        if getattr(node, key) <= 0:
            raise UserError(f"{where}.{key} is missing or 0")
    if node.gpus > 1 and not node.gpu_link_gbyte_s:
        raise UserError(f"{where}.gpu_link_gbyte_s is missing: the node has {node.gpus} GPUs")
    if node.gpus != int(node.gpus):
        raise UserError(f"{where}.gpus {node.gpus}: must be whole")
    return node
