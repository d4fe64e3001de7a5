"""What a test must leave as it found it: scheduling class, umask, working directory, environment of the process."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_OF_OTHERS = {
    "PYTEST_CURRENT_TEST",
    "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTHONBREAKPOINT",
}
"""Set by pytest for each test, by PyTorch when it first compiles, by an import of scikit-learn, by Ray's start."""
_DEFAULTS = ("MLFLOW_", "RAY_", "TUNE_")
"""stm sets some of these for its whole process where the user has set none: they stay. One that was set must."""
OF_MLFLOW = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
)
"""What MLflow's own calls leave in the environment, and what would lead the records of later tests elsewhere."""
_DECORD = f":{sysconfig.get_path('platlib')}/decord"


@dataclass(frozen=True)
class ProcessState:
    """The parts of a process that its children inherit."""

    scheduling: tuple[int, int] | None
    """Class and priority of the main thread; None where the system has none."""
    umask: int
    folder: str
    environment: dict[str, str]

    @classmethod
    def now(cls) -> ProcessState:
        environment = {name: value for name, value in os.environ.items() if name not in _OF_OTHERS}
        # decord appends its folder when it is imported.
        environment["PATH"] = environment.get("PATH", "").removesuffix(_DECORD)
        return cls(_scheduling(), _umask(), _folder(), environment)

    def changed(self, before: ProcessState) -> list[str]:
        """What is not as it was, a line each."""
        lines = [
            f"{name}: was {getattr(before, field)}, is {getattr(self, field)}"
            for field, name in (
                ("scheduling", "scheduling class and priority"),
                ("umask", "umask"),
                ("folder", "working directory"),
            )
            if getattr(self, field) != getattr(before, field)
        ]
        names = self.environment.keys() | before.environment.keys()
        for name in sorted(names):
            was, is_ = before.environment.get(name), self.environment.get(name)
            if was != is_ and not (was is None and name.startswith(_DEFAULTS)):
                lines.append(f"${name}: was {was!r}, is {is_!r}")
        return lines

    def restore(self) -> None:
        """Make the process so again."""
        if self.scheduling is not None:
            os.sched_setscheduler(0, self.scheduling[0], os.sched_param(self.scheduling[1]))
        os.umask(self.umask)
        os.chdir(self.folder)
        for name in os.environ.keys() - self.environment.keys() - _OF_OTHERS:
            if not name.startswith(_DEFAULTS):
                del os.environ[name]
        os.environ.update(self.environment)


def _scheduling() -> tuple[int, int] | None:
    if not hasattr(os, "sched_getscheduler"):
        return None
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def _umask() -> int:
    """Read without setting it where that can be done: another thread may be making files."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"
