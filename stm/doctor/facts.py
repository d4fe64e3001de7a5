"""Collect facts about a machine. This runs on every node, so it imports as little as possible.

host, python     names
versions         {library: version, or null if it is not installed}
code             digest of the source of stm and pipelines
shm_bytes        size of /dev/shm; null if there is none
disk             {path: {free_bytes, total_bytes}}
open_files       soft limit of open files of a process
cores            CPUs of the machine that this process may use
gpus             {on_bus, with_driver, torch: {count, build, error}}; torch is null if no GPU is visible or expected
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class of display controllers, which GPUs have
_TORCH_ASKED_S = 60.0

_ASK_TORCH = """
import json, torch
found = {"build": torch.version.cuda, "count": 0, "error": ""}
try:
    found["count"] = torch.cuda.device_count()
    for number in range(found["count"]):
        torch.ones(8, device=f"cuda:{number}").sum().item()
except Exception as error:
    found["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
print(json.dumps(found))
"""


def gather(
    libraries: list[str], folders: list[str] | None = None, expected_gpus: int = 0
) -> dict[str, Any]:
    """Return the table at the top of this file; ``disk`` has the file systems of ``folders``."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in libraries},
        "code": code_digest(),
        "shm_bytes": _shm_bytes(),
        "disk": {folder: _disk(folder) for folder in folders or []},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(expected_gpus),
    }


def code_digest() -> str:
    """Return 12 hex digits of the SHA-256 of all Python files of ``stm`` and ``pipelines``."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("stm", "pipelines"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def version_of(name: str) -> str | None:
    """Return the version of an installed library, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _shm_bytes() -> int | None:
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def _disk(folder: str) -> dict[str, int]:
    """Return the space of the file system in which the folder is, or would be created."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = shutil.disk_usage(path)
    return {"free_bytes": usage.free, "total_bytes": usage.total}


def _gpus(expected: int) -> dict[str, Any]:
    on_bus = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        on_bus += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    with_driver = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    asked = on_bus or with_driver or expected
    return {"on_bus": on_bus, "with_driver": with_driver, "torch": _ask_torch() if asked else None}


def _ask_torch() -> dict[str, Any]:
    """Test the GPUs in a new process: Ray hides GPUs from a task that reserves none, and a broken driver may hang."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=_TORCH_ASKED_S,
            env=environment,
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"build": None, "count": 0, "error": f"CUDA did not answer in {_TORCH_ASKED_S:g} s"}
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"build": None, "count": 0, "error": last[0]}
