"""STM: spatiotemporal and motion encoding for action recognition, trained on Ray."""

__version__ = "0.1.0"
