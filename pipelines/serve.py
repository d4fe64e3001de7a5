"""Answer videos over HTTP: ``python -m pipelines.serve --checkpoint runs/first``, then open http://127.0.0.1:8000."""

from __future__ import annotations

import sys
from typing import Any

from pipelines.console import Parser, add_common, add_model, run_verb, say
from stm.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        "serve",
        "Answer videos over HTTP on Ray Serve: POST one to /predict, or drop it on the page. Ctrl-C ends it.",
        """
        stm serve --checkpoint runs/first
        stm serve --model models:/actions@champion --port 8080 --replicas 2
        curl --data-binary @clip.mp4 http://127.0.0.1:8000/predict
        """,
    )
    add_common(parser)
    add_model(parser)
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines in, and nobody is asked who he is",
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--replicas", type=int, default=1, help="processes that run the network")
    parser.add_argument(
        "--decoders",
        type=int | None,
        default=None,
        help="processes that decode; null is one a core, up to four",
    )
    parser.add_argument("--max_mib", type=float, default=64.0, help="largest video, in MiB")
    parser.add_argument(
        "--max_in_flight",
        type=int,
        default=32,
        help="uploads in work at once; further ones get 503 and Retry-After",
    )
    parser.add_argument(
        "--receive_s", type=float, default=30.0, help="time for an upload to arrive (408)"
    )
    parser.add_argument(
        "--answer_s", type=float, default=30.0, help="time from then to the answer (504)"
    )
    parser.add_argument(
        "--decode_s", type=float, default=10.0, help="time to decode one video (504)"
    )
    parser.add_argument(
        "--decode_mib", type=float, default=2048.0, help="memory to decode one video in, in MiB"
    )
    return parser


def run(args: Any) -> dict[str, Any]:
    """Serve until a signal comes. Returns ``{"url", "seconds"}``."""
    import time

    for name in ("replicas", "decoders", "max_in_flight"):
        if args[name] is not None and args[name] < 1:
            raise UserError(f"--{name} {args[name]}: must be at least 1")
    for name in ("max_mib", "receive_s", "answer_s", "decode_s", "decode_mib"):
        if not args[name] > 0:
            raise UserError(f"--{name} {args[name]:g}: must be above 0")
    if not 1 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: must be from 1 to 65535")
    from stm.serve import app

    app.require_serve()
    from stm.serve.front import Limits

    limits = Limits(
        max_bytes=int(args.max_mib * 2**20),
        receive_s=args.receive_s,
        answer_s=args.answer_s,
        decode_s=args.decode_s,
        decode_memory_bytes=int(args.decode_mib * 2**20),
        max_in_flight=args.max_in_flight,
    )
    started = time.monotonic()
    with (
        app.running(
            args.checkpoint,
            limits,
            host=args.host,
            port=args.port,
            num_replicas=args.replicas,
            num_decoders=args.decoders,
            tracking=args.tracking,
            address=args.address,
        ) as url,
        app.stop_signals() as stopped,
    ):
        say(f"serving {url}  (POST /predict, GET / /health /metrics); Ctrl-C ends it")
        app.watch(stopped)
        say("stopping: what is in work is finished")
    return {"url": url, "seconds": round(time.monotonic() - started, 1)}


def show(result: dict[str, Any]) -> str:
    return f"served {result['url']} for {result['seconds']:g} s"


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
