"""The one error that the person who typed the command can correct."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: a missing file, an impossible setting, a cluster too small for the job.

    The message says what happened, where, and what to do. The command line prints it without a traceback and
    exits with status 2; anything else that escapes is a defect of ours and keeps its traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: in a notebook too it is one message."""
        return [f"{type(self).__name__}: {self}"]
