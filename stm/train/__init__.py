"""Training: the loop that each rank runs, and the Ray Train job around it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stm.config import Config
    from stm.results import TrainResult
    from stm.train.events import Event


class _Train(ModuleType):
    """Makes the package callable: ``stm.train(config)`` has the name of this package."""

    def __call__(
        self,
        config: Config,
        *,
        address: str | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> TrainResult:
        """Call ``stm.train.trainer.train``."""
        from stm.train.trainer import train

        return train(config, address=address, on_event=on_event)

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Train
