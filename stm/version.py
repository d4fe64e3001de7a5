"""The version of stm and its name on PyPI, in a module of its own: modules of stm may not import ``stm`` itself."""

__version__ = "0.1.0"
DISTRIBUTION = "stm-video"
"""Name of this package for pip; `stm` on PyPI is another project."""
