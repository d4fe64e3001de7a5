"""A pause between the scheduling steps of a Ray Data execution, so that waiting for a slow reader costs nothing.

When all that an executor could read is held back (ranks are slower than decoders: what one hopes for), Ray 2.60's
loop turns without a pause and burns a core beside the training workers.
"""

from __future__ import annotations

import time
from typing import Any

from stm.ray_compat import execution_callback

PAUSE_S = 0.01
"""A step dispatches all that is ready, so this delays a block by at most that."""


class Pace(execution_callback()):  # type: ignore[misc]
    """Registered through ``stm.ray_compat.add_execution_callback``."""

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray after every step of the loop."""
        del executor
        time.sleep(PAUSE_S)
