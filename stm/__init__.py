"""STM: spatiotemporal and motion encoding for action recognition, trained on Ray."""

import logging

__version__ = "0.1.0"

logging.getLogger("stm").addHandler(logging.NullHandler())
