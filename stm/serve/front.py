"""The HTTP routes, with the limits of uploads and the answer for each failure.

POST /predict    a video as the body or as a file of a form, or its frames: a zip or tar file of images, or a form with
                 several of them; 200 with the answer below
POST /windows?window_s=2&stride_s=1    a long video as the body or as a file of a form; a JSON line for each window
GET  /           the page on which you drop a video
GET  /health     200 if the network answers, else 503
GET  /metrics    counts and times, for Prometheus

{"model", "top5": [{"class", "score"}, ...],
 "video": {"num_frames", "fps", "duration_s", "width", "height", "codec"},
 "ms": {"receive", "decode", "network", "total"}}              decode and network include the time in a queue

{"start_s", "end_s", "top5" or "error"}                                        for each window, and at the end
{"model", "num_windows", "segments": [{"class", "start_s", "end_s", "score", "peak"}, ...], "ms": {"receive", "total"}}

{"error": {"reason", "detail"}} with a status (for windows, the last line if a window has been answered)
400 empty          the upload has no bytes, or the form has no file
400 option         window_s is missing, or an option is unknown or out of range
400 several        the form has several files that are not the images of one video
401 token          the request does not have the server's token
408 receive_time   the upload took too long to arrive
413 too_large      the upload has more bytes than the limit
421 host           the request uses a host name that is not allowed
422 ...            the video cannot be decoded; `reason` and `detail` are those of all verbs
500 defect         the server has a defect, which its log describes
503 busy           the limit of uploads in progress is reached: try again after `Retry-After` seconds
503 ending         the server stops before it has answered all windows
503 unavailable    a process was lost, and Ray is restarting it
504 decode_time    decoding this video takes too long
504 time           there was no answer in time, including time in queues
"""

# Annotations are not postponed here, because FastAPI evaluates them in another process.
import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from starlette.requests import ClientDisconnect

from stm.data.annotations.common import VIDEO_EXTENSIONS
from stm.data.decode.frame_names import IMAGE_EXTENSIONS
from stm.serve.decoder import OPTIONS
from stm.serve.form import Form
from stm.serve.frames import MOST_FILES, Images
from stm.serve.meters import Meters
from stm.serve.page import CONTENT_SECURITY_POLICY, page
from stm.serve.uploads import Refused

TOP_K = 5
RETRY_AFTER_S = 1
_ATTEMPTS = 3
_FORM_BYTES = 2**20
"""Bytes that a form may have in addition to ``max_bytes``."""
_PING_S = 5.0
_ENDING = Refused(503, "ending", "the server is stopping")
"""It has no Retry-After, since this server will not answer again."""

# FastAPI's documentation pages are off, because they load scripts from elsewhere.
app = FastAPI(title="stm", docs_url=None, redoc_url=None, openapi_url=None)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server."""

    max_bytes: int
    """Bytes of one upload."""
    receive_s: float
    """Seconds for an upload to arrive."""
    answer_s: float
    """Seconds from the last byte of an upload to its answer, including time in queues."""
    decode_s: float
    """Seconds for decoding one video."""
    decode_memory_bytes: int
    """Memory for decoding one video."""
    stream_s: float
    """Seconds from the last byte of a long video to its last window."""
    max_in_flight: int
    """Uploads that are received, decoded or scored at the same time. Further uploads are refused."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Conditions under which a server answers a request."""

    hosts: tuple[str, ...] = ()
    """Host names without ports that requests may use; () allows all. This prevents DNS rebinding by web pages."""
    token: str = field(default="", repr=False)
    """Token that a client must send; "" requires none."""

    def refused(self, headers: Any) -> Refused | None:
        """Return why a request with these headers is refused; None if it is not."""
        host = headers.get("host", "").lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name not in self.hosts:
            return Refused(
                421, "host", "this server does not answer to that host name (--allowed_hosts)"
            )
        if self.token and not hmac.compare_digest(_token_in(headers), self.token.encode()):
            detail = "send the server's token: curl -H 'Authorization: Bearer TOKEN'"
            return Refused(401, "token", detail)
        return None


def _token_in(headers: Any) -> bytes:
    """Return the token of a request: the bearer token, or the password that a browser asked its user for."""
    kind, _, value = headers.get("authorization", "").strip().partition(" ")
    if kind.lower() != "basic":
        return value.strip().encode() if kind.lower() == "bearer" else b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


class RefusedError(Exception):
    """Carries a `Refused` to the code that answers the request."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


# These functions are above the class, because Serve pickles it with the module as it is at the decorator.
def _refused(status: int, reason: str, detail: str) -> RefusedError:
    return RefusedError(Refused(status, reason, detail))


def _answered(refused: Refused) -> Response:
    asked = (
        {"WWW-Authenticate": 'Basic realm="stm", charset="UTF-8"'} if refused.status == 401 else {}
    )
    answer = {"error": {"reason": refused.reason, "detail": refused.detail}}
    return JSONResponse(answer, refused.status, {"Cache-Control": "no-store", **asked})


def _options(given: list[tuple[str, str]]) -> dict[str, float]:
    """Parse the query of ``/windows``; ``RefusedError`` if an option is missing, unknown or not a number."""
    options = {}
    for name, value in given:
        if name not in OPTIONS:
            raise _refused(
                400, "option", f"unknown option {name!r:.80}; the options are {', '.join(OPTIONS)}"
            )
        try:
            options[name] = float(value)
        except ValueError:
            raise _refused(400, "option", f"{name} {value!r:.80}: must be a number") from None
    if "window_s" not in options:
        raise _refused(400, "option", "window_s is missing: POST /windows?window_s=2")
    return options


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


@serve.deployment(name="front", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000)
@serve.ingress(app)
class Front:
    """The deployment that answers HTTP. Its one process passes bytes on, and counts the uploads in flight."""

    def __init__(
        self,
        decoder: Any,
        network: Any,
        limits: Limits,
        classes: list[str],
        label: str,
        doors: Doors = Doors(),
        max_long: int = 1,
    ) -> None:
        self._decoder, self._network = decoder, network
        self._limits, self._classes, self._label = limits, classes, label
        self._doors = doors
        self._in_flight = self._discarding = self._num_long = 0
        self._max_long = max_long
        self._closing = False
        # One thread parses all forms, so that the event loop shares Python's lock with no other thread.
        self._forms = ThreadPoolExecutor(1)
        self._meters = Meters(lambda: self._in_flight)

    async def close(self) -> int:
        """Refuse new uploads, wait for those in progress, and return how many were not answered in time."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.receive_s + self._limits.answer_s):
                while self._in_flight:
                    await asyncio.sleep(0.05)
        return self._in_flight

    @app.get("/")
    async def look(self, request: Request) -> Response:
        if refused := self._doors.refused(request.headers):
            return _answered(refused)
        html = page(self._label, len(self._classes), self._limits.max_bytes)
        return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    @app.get("/health")
    async def health(self, request: Request) -> Response:
        if self._closing:
            return JSONResponse({"status": "the server is stopping"}, 503)
        try:
            async with asyncio.timeout(_PING_S):
                await self._call(self._network.ping)
        except (RefusedError, TimeoutError):
            return JSONResponse({"status": "the network does not answer"}, 503)
        if self._doors.refused(request.headers):  # a load balancer has no host name and no token
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "ok", "model": self._label, "in_flight": self._in_flight})

    @app.get("/metrics")
    async def metrics(self, request: Request) -> Response:
        if refused := self._doors.refused(request.headers):
            return _answered(refused)
        return PlainTextResponse(self._meters.text(), media_type=self._meters.media_type)

    @app.post("/predict")
    async def predict(self, request: Request) -> Response:
        return await self._handle(request, self._answer)

    @app.post("/windows")
    async def windows(self, request: Request) -> Response:
        return await self._handle(request, self._stream)

    async def _handle(self, request: Request, answering: Any) -> Response:
        started = time.perf_counter()
        if refused := self._doors.refused(request.headers):
            self._meters.count(refused.status, refused.reason, 0.0)
            return _answered(refused)
        headers, reason = {"Cache-Control": "no-store"}, ""
        try:
            status, answer = 200, await answering(request, started)
            if isinstance(answer, Response):  # a stream, which updates the metrics itself
                return answer
        except RefusedError as error:
            refused = error.refused
            status, reason = refused.status, refused.reason
            answer = {"error": {"reason": reason, "detail": refused.detail}}
            if status == 503 and refused is not _ENDING:
                headers["Retry-After"] = str(RETRY_AFTER_S)
        except ClientDisconnect:
            status, reason, answer = 499, "gone", {}
        except Exception:
            logging.getLogger("ray.serve").exception("an upload failed because of a defect")
            status, reason = 500, "defect"
            answer = {
                "error": {
                    "reason": reason,
                    "detail": "the server has a defect, which its log describes",
                }
            }
        self._meters.count(status, reason, time.perf_counter() - started)
        return JSONResponse(answer, status, headers)

    async def _check_room(self, request: Request) -> None:
        if self._closing:
            await self._discard(request, self._limits.max_bytes)
            raise RefusedError(_ENDING)
        if self._in_flight >= self._limits.max_in_flight:
            detail = f"uploads in progress: {self._in_flight}; try again in {RETRY_AFTER_S} s"
            await self._discard(request, self._limits.max_bytes)
            raise _refused(503, "busy", detail)

    async def _stream(self, request: Request, started: float) -> Response:
        """Answer with a line for each window of a long video. An error before the first window has its own status."""
        options = _options(request.query_params.multi_items())
        await self._check_room(request)
        if self._num_long >= self._max_long:
            await self._discard(request, self._limits.max_bytes)
            detail = f"long videos in progress: {self._num_long}; try again in {RETRY_AFTER_S} s"
            raise _refused(503, "busy", detail)
        lines = self._lines(request, started, options)
        first = await anext(lines)

        async def all_lines() -> AsyncIterator[bytes]:
            try:
                yield first
                async for line in lines:
                    yield line
            finally:
                await lines.aclose()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(all_lines(), 200, headers, "application/x-ndjson")

    async def _lines(
        self, request: Request, started: float, options: dict[str, float]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the answer. A refusal is raised as ``RefusedError`` before the first line, else it is the
        last line."""
        self._in_flight += 1
        self._num_long += 1
        rows, refused, is_over, num_lines = None, None, False, 0
        try:
            video = await self._receive(request)
            received = time.perf_counter()
            rows = self._decoder.options(stream=True).windows.remote(video, options)
            del video
            until = received + self._limits.stream_s
            while not (is_over or refused):
                row = await self._next(rows, until)
                if isinstance(row, Refused):
                    refused = row
                    continue
                if is_over := "segments" in row:
                    spent = {
                        "receive": _ms(received - started),
                        "total": _ms(time.perf_counter() - started),
                    }
                    row = {"model": self._label, **row, "ms": spent}
                num_lines += 1
                yield json.dumps(row).encode() + b"\n"
            if refused and not num_lines:
                raise RefusedError(refused)
            if refused:
                answer = {"error": {"reason": refused.reason, "detail": refused.detail}}
                yield json.dumps(answer).encode() + b"\n"
        finally:
            self._in_flight -= 1
            self._num_long -= 1
            if rows is not None and not is_over:
                rows.cancel()
            if num_lines:
                status, reason = (refused.status, refused.reason) if refused else (200, "")
                if not (is_over or refused):
                    status, reason = 499, "gone"
                self._meters.count(status, reason, time.perf_counter() - started)

    async def _next(self, rows: Any, until: float) -> Any:
        """Return the next row, or the reason why there is none."""
        left_s = min(self._limits.answer_s, until - time.perf_counter())
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                row = await anext(rows)
        except TimeoutError:
            limits = f"{self._limits.answer_s:g} s, or not all windows within {self._limits.stream_s:g} s"
            return Refused(504, "time", f"the next window was not scored within {limits}")
        except (RayActorError, RayServeException):
            return Refused(503, "unavailable", "a process was lost and is being restarted")
        return _ENDING if self._closing else row

    async def _answer(self, request: Request, started: float) -> dict[str, Any]:
        await self._check_room(request)
        self._in_flight += 1
        try:
            video = await self._receive(request)
            received = time.perf_counter()
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    decoded = await self._call(self._decoder.decode, video)
                    del video
                    if isinstance(decoded, Refused):
                        raise RefusedError(decoded)
                    decoded_at = time.perf_counter()
                    scores = await self._call(self._network.scores, decoded.clip)
            except TimeoutError:
                detail = f"no answer within {self._limits.answer_s:g} s, including time in queues"
                raise _refused(504, "time", detail) from None
        finally:
            self._in_flight -= 1
        done = time.perf_counter()
        info = decoded.info
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        return {
            "model": self._label,
            "top5": [{"class": self._classes[k], "score": float(scores[k])} for k in best],
            "video": {
                "num_frames": info.num_frames,
                "fps": info.fps or None,
                "duration_s": info.num_frames / info.fps if info.fps else None,
                "width": info.width,
                "height": info.height,
                "codec": info.codec,
            },
            "ms": {
                "receive": _ms(received - started),
                "decode": _ms(decoded_at - received),
                "network": _ms(done - decoded_at),
                "total": _ms(done - started),
            },
        }

    async def _receive(self, request: Request) -> bytes | Images:
        """Receive the video of a request, or its images, and never keep more bytes than the limit.

        Raises:
            RefusedError: the upload is too large, too slow or empty, or has several videos.
        """
        kind = request.headers.get("content-type", "")
        is_form = kind.lower().startswith("multipart/form-data")
        most = self._limits.max_bytes + (_FORM_BYTES if is_form else 0)
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        too_large = _refused(
            413, "too_large", f"a video may have at most {self._limits.max_bytes} bytes"
        )
        if announced > most:
            # A client that is still sending when the connection closes may never see the answer.
            if announced <= 4 * most:
                await self._discard(request, announced)
            raise too_large
        form = Form(kind, MOST_FILES + 1) if is_form else None
        # A bytearray, because a list of many small chunks would need more memory than their bytes.
        body, received = bytearray(), 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.receive_s):
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > most:
                        raise too_large
                    if form is None:
                        body += chunk
                    else:
                        await loop.run_in_executor(self._forms, form.feed, chunk)
        except TimeoutError:
            detail = f"only {received} bytes arrived within {self._limits.receive_s:g} s"
            raise _refused(408, "receive_time", detail) from None
        sent = [("", bytes(body))] if form is None else form.files()
        if not sent:
            raise _refused(400, "empty", "the form has no file: curl -F video=@clip.mp4 URL")
        num_bytes = sum(len(data) for _, data in sent)
        if not num_bytes:
            raise _refused(
                400,
                "empty",
                "the upload is empty: send a video as the body, or as a file of a form",
            )
        if num_bytes > self._limits.max_bytes:
            raise too_large
        if len(sent) == 1:
            return sent[0][1]
        suffixes = {os.path.splitext(name)[1].lower() for name, _ in sent}
        if suffixes & VIDEO_EXTENSIONS or not suffixes & IMAGE_EXTENSIONS:
            detail = (
                f"{len(sent)} files that are not the images of one video: send one video at a time"
            )
            raise _refused(400, "several", detail)
        return sent

    async def _discard(self, request: Request, most: int) -> None:
        """Receive and drop up to ``most`` bytes of a refused upload, for up to ``max_in_flight`` uploads at a time."""
        if self._discarding >= self._limits.max_in_flight:
            return
        self._discarding += 1
        try:
            async with asyncio.timeout(self._limits.receive_s):
                async for chunk in request.stream():
                    most -= len(chunk)
                    if most < 0:
                        return
        except TimeoutError:
            return
        finally:
            self._discarding -= 1

    async def _call(self, method: Any, *arguments: Any) -> Any:
        """Call a deployment, and again if its process is lost, which is safe because calls have no side effects."""
        for attempt in range(_ATTEMPTS):
            response = method.remote(*arguments)
            try:
                return await response
            except asyncio.CancelledError:  # the time is up, or the client has disconnected
                response.cancel()
                raise
            except (RayActorError, RayServeException):
                if attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(0.2 * 4**attempt)
        raise _refused(503, "unavailable", "a process was lost and is being restarted")
