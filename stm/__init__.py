"""STM: spatiotemporal and motion encoding for action recognition, trained on Ray.

    import stm
    stm.index("videos", "index/mine", val_fraction=0.2)
    result = stm.train(stm.Config(data=stm.DataConfig(train="index/mine/train.parquet")))
    stm.load(result.checkpoint).predict(["clip.mp4"])

A name is imported when it is first used, so that ``import stm`` is fast. docs/python.md has examples.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stm.version import __version__ as __version__

logging.getLogger("stm").addHandler(logging.NullHandler())

_WHERE = {
    "Block": "stm.model",
    "Config": "stm.config",
    "DataConfig": "stm.config",
    "Model": "stm.loaded",
    "ModelConfig": "stm.config",
    "OptimConfig": "stm.config",
    "TrackingConfig": "stm.config",
    "TrainConfig": "stm.config",
    "UserError": "stm.errors",
    "build_model": "stm.model",
    "connect": "stm.cluster",
    "index": "stm.dataset",
    "load": "stm.loaded",
    "load_pretrained": "stm.checkpoint.pretrained",
    "predict": "stm.evaluate.predict",
    "show_progress": "stm.progress_view:progress_view",
}
"""Module of each name, and the name's own name there after a colon if it differs."""

if TYPE_CHECKING:
    from stm import events as events
    from stm.checkpoint.pretrained import load_pretrained as load_pretrained
    from stm.cluster import connect as connect
    from stm.config import Config as Config
    from stm.config import DataConfig as DataConfig
    from stm.config import ModelConfig as ModelConfig
    from stm.config import OptimConfig as OptimConfig
    from stm.config import TrackingConfig as TrackingConfig
    from stm.config import TrainConfig as TrainConfig
    from stm.dataset import index as index
    from stm.errors import UserError as UserError
    from stm.evaluate.evaluate import evaluate as evaluate
    from stm.evaluate.predict import predict as predict
    from stm.loaded import Model as Model
    from stm.loaded import load as load
    from stm.model import Block as Block
    from stm.model import build_model as build_model
    from stm.progress_view import progress_view as show_progress
    from stm.train.trainer import train as train

_MODULES = ("evaluate", "events", "train")
"""Modules that are attributes of this one; `evaluate` and `train` can also be called."""

__all__ = [*_WHERE, "evaluate", "events", "train"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"stm.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'stm' has no attribute {name!r}")
    module, _, there = _WHERE[name].partition(":")
    value = getattr(import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
