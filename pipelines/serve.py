"""Answer videos over HTTP: ``stm serve --checkpoint runs/first``, then open http://127.0.0.1:8000."""

from __future__ import annotations

import signal
import time
from typing import Annotated, Any

from pipelines.console import Result, logger
from pipelines.options import (
    Address,
    CheckpointOrModel,
    Count,
    CountOrNull,
    Positive,
    Tracking,
    Which,
)
from stm import ending
from stm.bounds import Bounds


def serve(
    *,
    checkpoint: CheckpointOrModel,
    which: Which = "best",
    tracking: Tracking = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Bounds(ge=1, le=65535)] = 8000,
    replicas: Count = 1,
    decoders: CountOrNull = None,
    max_mib: Positive = 64.0,
    max_in_flight: Count = 32,
    receive_s: Positive = 30.0,
    answer_s: Positive = 30.0,
    decode_s: Positive = 10.0,
    stream_s: Positive = 600.0,
    decode_mib: Positive = 2048.0,
    allowed_hosts: list[str] | None = None,
    token: str | None = None,
    address: Address = None,
) -> dict[str, Any]:
    """Classify uploaded videos over HTTP.

    POST a video to /predict, or drop it on the page. The server runs on Ray Serve. After Ctrl-C or SIGTERM it answers
    the uploads in progress, and exits with status 130 or 143. The numbers in brackets below are the HTTP status of a
    refusal.

    Examples:
        stm serve --checkpoint runs/first
        stm serve --model models:/actions@champion --port 8080 --replicas 2
        curl --data-binary @clip.mp4 http://127.0.0.1:8000/predict
        curl -N --data-binary @match.mp4 'http://127.0.0.1:8000/windows?window_s=2&stride_s=1'

    Args:
        host: address to listen on; 0.0.0.0 admits other machines, so set a --token with it
        port: port to listen on
        replicas: processes that run the network
        decoders: processes that decode; null starts one for each core, and at most four
        max_mib: largest size of an upload, MiB (413)
        max_in_flight: largest number of uploads at once; others are refused with Retry-After (503)
        receive_s: seconds that an upload may take to arrive (408)
        answer_s: seconds from the end of an upload to its answer, or to the next window of a long video (504)
        decode_s: seconds that decoding one video may take, or one packet of a long video (504)
        stream_s: seconds that answering all windows of a long video may take (504)
        decode_mib: memory that decoding one video may use, MiB (422)
        allowed_hosts: host names, without ports, by which clients may call the server (421); null allows any name
        token: token that clients must send as bearer token or as password (401); null uses $STM_SERVE_TOKEN, which is
            safer, since other users of the machine can see the options of a command
    """
    from stm.serve import app

    app.require_serve()
    from stm.serve.front import Limits

    limits = Limits(
        max_bytes=int(max_mib * 2**20),
        receive_s=receive_s,
        answer_s=answer_s,
        decode_s=decode_s,
        stream_s=stream_s,
        decode_memory_bytes=int(decode_mib * 2**20),
        max_in_flight=max_in_flight,
    )
    started = time.monotonic()
    with (
        app.running(
            checkpoint,
            limits,
            host=host,
            port=port,
            num_replicas=replicas,
            num_decoders=decoders,
            tracking=tracking,
            which=which,
            address=address,
            allowed_hosts=allowed_hosts,
            token=token,
        ) as url,
        app.stop_signals() as stopped,
    ):
        logger.info(f"serving {url}  (POST /predict, GET / /health /metrics); Ctrl-C ends it")
        app.watch(stopped)
        patience_s = min(receive_s + answer_s + 10, ending.LIMIT_S)
        logger.info(f"stopping: finishing the uploads in progress, for up to {patience_s:g} s")
        app.drain(patience_s)
    result = Result(url=url, seconds=round(time.monotonic() - started, 1))
    return result.ending_with(128 + (ending.received() or signal.SIGINT))


def show(result: dict[str, Any]) -> str:
    return f"served {result['url']} for {result['seconds']:g} s"
