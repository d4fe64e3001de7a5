"""Limit connections before they become requests, in the process of Ray Serve's proxy, which has no limits.

Ray Serve 2.60 runs uvicorn with its parser in C, which allows any number of heads (request line and headers), of any
size, that take any time. ``guard`` replaces the parser by ``Guarded``. Ray calls ``guard`` in the proxy if the
environment variable ``stm.serve.app.CALLBACK`` names it. ``stm serve`` sets the variable for a cluster that it starts;
a cluster that already runs must have been started with it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 2**10
"""Limit for the request line, the headers and the framing of the body, which one ``_PIECE_BYTES`` can exceed."""
_PIECE_BYTES = 2**16
"""Bytes that are parsed at once. Refusing a read of 256 KiB in chunks of one byte would take too long."""
HEAD_S = 10.0
"""Seconds for a head to arrive."""
LINGER_S = 10.0
"""Seconds for the rest of a body that is not read, after the answer."""
MOST_IDLE = 200
"""Connections without a complete head, both new and kept alive. Beyond this, the oldest is closed, so that nobody can
keep other clients out by holding connections."""
MOST_CONNECTIONS = 1000
"""All connections. Beyond this, the oldest is closed too."""


def guard() -> list[Any]:
    """Replace uvicorn's protocol by ``Guarded``. Returns no middlewares, which Ray expects from this callback."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Guarded"
    return []


class Guarded(HttpToolsProtocol):
    """A connection whose requests are limited in size and time, and cannot upgrade to a WebSocket."""

    _open: dict[Guarded, None] = {}  # noqa: RUF012  (all connections, the oldest first)
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
            # Tiny chunks with their extensions and trailers can have more bytes than the body in them.
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
        """Close the connection, after an answer with ``status`` unless another answer is being sent."""
        is_quiet = self._late is not None and (self.cycle is None or self.cycle.response_complete)
        if is_quiet and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self._forget_head()
        self.transport.close()
