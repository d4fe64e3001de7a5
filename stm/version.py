"""The version of stm and the name it is installed by. A room that imports ``stm`` for them would import all of it."""

__version__ = "0.1.0"
DISTRIBUTION = "stm-video"
"""What pip calls this package; `stm` on PyPI is another project."""
