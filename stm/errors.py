"""The error for mistakes that the user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: a missing file, an impossible setting, a cluster too small for the job.

    The message says what happened, where, and what to do. The command line prints it without a traceback and
    exits with status 2; any other exception is a defect of stm and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows, so that a notebook shows only the message too."""
        return [f"{type(self).__name__}: {self}"]
