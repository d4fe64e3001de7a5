"""What a connection may take before it is a request: limits in the process of Ray Serve's proxy, which has none.

Ray Serve 2.60 runs uvicorn with its parser in C: a head may have any size and take any time, and any number of them be
unfinished. `guard` puts `Guarded` in the parser's place. Ray calls it in the proxy where the variable ``CALLBACK`` of
``stm.serve.app`` names it, as ``stm serve`` has it do on a cluster of its own; one that runs already must have been
started with it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers, and of what frames its body. A `_PIECE_BYTES` may go beyond."""
_PIECE_BYTES = 2**16
"""Read at once: a whole read of 256 KiB, in chunks of a byte, would take too long to refuse."""
HEAD_S = 10.0
"""For a head to arrive."""
LINGER_S = 10.0
"""For the rest of a body that nobody reads, once it is answered."""
MOST_IDLE = 200
"""Connections without a whole head, new ones and kept ones. The oldest is closed for the next: strangers cannot keep
others out by holding connections."""
MOST_CONNECTIONS = 1000
"""In all; beyond them, too, the oldest is closed."""


def guard() -> list[Any]:
    """Put `Guarded` in the place of uvicorn's own; returns the middlewares that Ray asks for: none."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Guarded"
    return []


class Guarded(HttpToolsProtocol):
    """One connection. No request may be without end, and none upgrades to a WebSocket."""

    _open: dict[Guarded, None] = {}  # noqa: RUF012  (all there are, the oldest first)
    _idle: dict[Guarded, None] = {}  # noqa: RUF012
    _late: asyncio.TimerHandle | None = None
    _received = _body = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._add_to(self._open, MOST_CONNECTIONS)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.pop(self, None)
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            self._received += len(piece)
            super().data_received(piece)
            # Chunks of a few bytes, their extensions and trailers weigh more than the body that they carry.
            if self._received - self._body > MOST_HEAD_BYTES + self._body // 2:
                self._refuse(b"431 Request Header Fields Too Large")
            if self.transport.is_closing():
                return

    def on_message_begin(self) -> None:
        self._received = self._body = 0
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._forget_head()
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            self.loop.call_later(LINGER_S, self.transport.close)
        elif self._late is None:
            self._add_to(self._idle, MOST_IDLE)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _add_to(self, which: dict[Guarded, None], most: int) -> None:
        which[self] = None
        if len(which) > most:
            oldest = next(iter(which))
            del which[oldest]
            oldest.transport.abort()

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._refuse, b"408 Request Timeout")
            self._add_to(self._idle, MOST_IDLE)

    def _forget_head(self) -> None:
        self._idle.pop(self, None)
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: bytes) -> None:
        """Close the connection, with a word where it is not in the middle of an answer."""
        is_quiet = self._late is not None and (self.cycle is None or self.cycle.response_complete)
        if is_quiet and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self._forget_head()
        self.transport.close()
