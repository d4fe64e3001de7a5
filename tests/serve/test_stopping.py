"""A server that is stopping says so, to uploads that come then."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import Request

from stm.serve.front import Front, Limits

FRONT = Front.func_or_class.__mro__[1]
"""The class itself, without Ray Serve."""
LIMITS = Limits(
    max_bytes=100, receive_s=5, answer_s=5, decode_s=5, decode_memory_bytes=1, stream_s=5, max_in_flight=0
)  # fmt: skip


def upload(path: str) -> Request:
    async def receive():
        return {"type": "http.request", "body": b"video", "more_body": False}

    path, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    return Request({**scope, "query_string": query.encode()}, receive)


@pytest.mark.parametrize("path", ["/predict", "/windows?window_s=2"])
@pytest.mark.parametrize("stopping", [True, False])
def test_an_upload_during_the_stop_is_told_that_the_server_is_stopping(path, stopping):
    async def asked():
        front = FRONT(None, None, LIMITS, ["a"], "a")
        if stopping:
            await front.close()
        return await (front.windows if "windows" in path else front.predict)(upload(path))

    reply = asyncio.run(asked())
    error = json.loads(reply.body)["error"]
    assert reply.status_code == 503
    if stopping:
        assert error == {"reason": "ending", "detail": "the server is stopping"}
        assert "retry-after" not in reply.headers, "it will not answer again"
    else:
        assert error["reason"] == "busy"
        assert reply.headers["retry-after"] == "1"
