"""Measuring a trained network: named protocols, exact counts, figures."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stm.results import EvaluateResult


class _Evaluate(ModuleType):
    """``stm.evaluate(...)``: a package stands in the place of a function of its name, so it is called itself."""

    def __call__(self, checkpoint: str, manifest: str, **options: Any) -> EvaluateResult:
        """As ``stm.evaluate.evaluate.evaluate``."""
        from stm.evaluate.evaluate import evaluate

        return evaluate(checkpoint, manifest, **options)

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Evaluate
