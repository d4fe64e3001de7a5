"""The version of stm, where every room may ask for it: a room that imports ``stm`` itself imports all of it."""

__version__ = "0.1.0"
