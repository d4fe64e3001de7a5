"""Evaluation of a trained network: named protocols, metrics and figures."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stm.results import EvaluateResult


class _Evaluate(ModuleType):
    """Makes the package callable: ``stm.evaluate(...)`` has the name of this package."""

    def __call__(self, checkpoint: str, manifest: str, **options: Any) -> EvaluateResult:
        """Call ``stm.evaluate.evaluate.evaluate``."""
        from stm.evaluate.evaluate import evaluate

        return evaluate(checkpoint, manifest, **options)

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Evaluate
