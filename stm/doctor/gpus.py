"""Compare the GPUs on the bus, with a driver, in PyTorch, and in Ray."""

from __future__ import annotations

from typing import Any

from stm.doctor.finding import Finding, fails, ok, warning
from stm.doctor.nodes import listed
from stm.plural import counted


def check(reports: dict[str, dict[str, Any]], given_by_ray: dict[str, int]) -> Finding:
    """Check that every GPU of Ray computes in PyTorch, and that Ray offers all GPUs."""
    broken: dict[str, str] = {}
    idle: dict[str, str] = {}
    total = 0
    for name, report in reports.items():
        gpus, given = report["gpus"], given_by_ray[name]
        torch = gpus["torch"] or {"count": 0, "build": None, "error": ""}
        total += given
        if torch["count"] < given or torch["error"]:
            broken[name] = _why(given, torch)
        elif torch["count"] > given:
            idle[name] = f"PyTorch sees {torch['count']}, Ray offers {given}"
        elif gpus["on_bus"] > torch["count"]:
            idle[name] = f"{gpus['on_bus']} NVIDIA on the bus, " + _why(gpus["on_bus"], torch)
    if broken:
        return fails(
            "gpu",
            listed(broken),
            "install PyTorch for the CUDA of the driver, start the container with its GPUs (`--gpus all`), "
            "and check `nvidia-smi` on that node",
        )
    if idle:
        return warning(
            "gpu",
            listed(idle),
            "install the driver and PyTorch for CUDA, and start Ray with `--num-gpus`, unless they should stay unused",
        )
    if not total:
        return ok("gpu", "none: training runs on CPUs")
    with_gpus = sum(given > 0 for given in given_by_ray.values())
    return ok(
        "gpu",
        f"{total} on {counted(with_gpus, 'node')}, each computes in PyTorch",
    )


def _why(expected: int, torch: dict[str, Any]) -> str:
    if torch["error"]:
        return f"PyTorch sees {torch['count']} of {expected}: {torch['error']}"
    build = "" if torch["build"] else ", a build without CUDA"
    return f"PyTorch{build} sees {torch['count']} of {expected}"
