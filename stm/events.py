"""The typed events of a run, which ``stm.train(config, on_event=...)`` passes to a function, in order.

docs/python.md shows how to send them to TensorBoard and to Weights & Biases.
"""

from stm.train.events import Controlled as Controlled
from stm.train.events import EpochEnded as EpochEnded
from stm.train.events import Event as Event
from stm.train.events import Failed as Failed
from stm.train.events import Kept as Kept
from stm.train.events import Logged as Logged
from stm.train.events import Started as Started
from stm.train.events import Stepped as Stepped

__all__ = ["Controlled", "EpochEnded", "Event", "Failed", "Kept", "Logged", "Started", "Stepped"]
