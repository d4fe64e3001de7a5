"""Check in bounded time that a Ray cluster answers at an address, because Ray itself would try forever.

    with_gcs("10.0.0.1:6379", 60.0)   # returns when a Ray cluster answers there, else raises

A Ray head (its GCS) speaks gRPC, and a gRPC server first sends a SETTINGS frame of HTTP/2. A web server, a port that
does not answer and a suspended head do not send one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from stm import authentication, ray_compat
from stm.errors import UserError
from stm.log import get_logger
from stm.storage import is_url

logger = get_logger(__name__)

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The preface of an HTTP/2 client, and an empty SETTINGS frame."""
_FRAME_BYTES, _SETTINGS = 9, 4
_LOOK_S = 10.0
"""Seconds to wait for an answer before connecting again."""


class Unheard(UserError):
    """No Ray cluster answers; ``may_pass`` tells whether one may answer later."""

    def __init__(self, why: str, may_pass: bool = True) -> None:
        super().__init__(why)
        self.may_pass = may_pass


def with_gcs(address: str, patience_s: float) -> None:
    """Return when a Ray cluster answers at ``address`` (HOST:PORT, or ``auto``), within ``patience_s``.

    The first failure is logged. Raises `Unheard` if nothing answers in time, or if something other than a Ray cluster
    does. Addresses of other kinds, and clusters with TLS (``RAY_USE_TLS``), are left to Ray.
    """
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            return look(address, min(max(deadline - time.monotonic(), 0.1), _LOOK_S))
        except Unheard as error:
            if not error.may_pass or time.monotonic() > deadline:
                raise
            if not told:
                logger.warning(
                    f"no Ray cluster answers yet: {error}; trying for up to {patience_s:g} s"
                )
            told = True
            time.sleep(1.0)


def look(address: str, seconds: float = 5.0) -> None:
    """Raise `Unheard` if no Ray cluster answers within ``seconds``, and ``UserError`` if it refuses our token."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false", "False", ""):
        return
    place = _place(address)
    if place is None:
        return
    where = f"{place[0]}:{place[1]}"
    try:
        connection = socket.create_connection(place, timeout=seconds)
    except OSError as error:
        raise Unheard(f"nothing listens at {where} ({error.strerror or error})") from error
    heard = b""
    with connection, contextlib.suppress(OSError):
        connection.sendall(_HELLO)
        while len(heard) < _FRAME_BYTES and (more := connection.recv(4096)):
            heard += more
    if len(heard) >= _FRAME_BYTES and heard[3] == _SETTINGS:
        if ray_compat.refuses(where, authentication.token()):  # Ray would try for a minute
            raise UserError(
                f"the cluster at {where} asks for a token, and this machine's is missing or different: copy "
                f"~/.ray/auth_token from its head to {authentication.token_path()}"
            )
        return
    if heard.startswith((b"HTTP/", b"<")):
        raise Unheard(f"a web server answers at {where}, perhaps the dashboard", may_pass=False)
    if heard:
        raise Unheard(f"{where} answers, but is not a Ray cluster", may_pass=False)
    raise Unheard(f"{where} accepts connections but does not answer; its head may be suspended")


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port, or None if only Ray can resolve the address. Raises `Unheard` for an invalid address."""
    if address.startswith(("http://", "https://")):
        raise Unheard("a dashboard's URL is for `stm submit` and `stm jobs`", may_pass=False)
    if is_url(address):
        return None
    if address == "auto":
        try:
            found = ray_compat.head_here()
        except ConnectionError as error:
            raise Unheard(str(error), may_pass=False) from error
        if found is None:
            return None
        address = found
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise Unheard("it is neither HOST:PORT nor auto", may_pass=False)
    return host.strip("[]"), int(port)
