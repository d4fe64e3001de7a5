"""Check the storage: every node writes a file there, and every node reads all of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from stm.doctor.finding import Finding, fails, first_line, ok
from stm.doctor.nodes import Node, answers, listed, on_each
from stm.plural import counted
from stm.redaction import redact
from stm.storage import filesystem, is_url, join

_TRY_AGAIN_S = (0.5, 1.0)  # NFS may show another client's file late


def check(nodes: Sequence[Node], storage: str, deadline_s: float) -> Finding:
    """Write a file on each node, read all files on each node, and remove them."""
    begun = time.monotonic()
    folder = join(storage, f".stm-doctor-{secrets.token_hex(6)}")
    left = partial(_left, begun, deadline_s)
    names: dict[str, str] = {node.name: f"{node.id}.bin" for node in nodes}
    try:
        written, cannot_write = answers(
            on_each(nodes, write, folder, deadline_s=left(), each=lambda n: (names[n.name],))
        )
        wanted = {names[name]: digest for name, digest in written.items()}
        seen, cannot_read = answers(on_each(nodes, read, folder, wanted, deadline_s=left()))
    finally:
        on_each(nodes, remove, folder, deadline_s=10.0)
    return check_files(storage, {v: k for k, v in names.items()}, cannot_write, cannot_read, seen)


def _left(begun: float, deadline_s: float) -> float:
    return max(1.0, deadline_s - (time.monotonic() - begun))


def check_files(
    storage: str,
    node_of: dict[str, str],
    cannot_write: dict[str, str],
    cannot_read: dict[str, str],
    seen: dict[str, dict[str, str]],
) -> Finding:
    """Judge the answers. ``seen`` has, by reader and file, "" if the bytes are right, else what is wrong."""
    where = redact(storage)
    if cannot_write:
        return fails(
            "storage",
            redact(f"{where} cannot be written: {listed(cannot_write)}"),
            "give the nodes' user the right to write there, or choose another --storage",
        )
    if cannot_read:
        return fails(
            "storage",
            redact(f"{where} cannot be read: {listed(cannot_read)}"),
            "give the nodes' user the right to read there",
        )
    unseen = {
        reader: "does not see what " + ", ".join(node_of[file] for file in sorted(bad)) + " wrote"
        for reader, files in seen.items()
        if (bad := {file: why for file, why in files.items() if why == MISSING})
    }
    if unseen:
        return fails(
            "storage",
            f"{where} is not the same place on every node: {listed(unseen)}",
            "mount one file system at this path on all nodes (NFS, EFS, Filestore), or give a URL such as s3://",
        )
    other = {
        reader: ", ".join(f"{node_of[file]}'s file: {why}" for file, why in bad.items())
        for reader, files in seen.items()
        if (bad := {file: why for file, why in files.items() if why})
    }
    if other:
        return fails(
            "storage",
            redact(f"{where} returns different bytes than were written: {listed(other)}"),
            "choose another --storage: checkpoints would be damaged there",
        )
    nodes = counted(len(seen), "node")
    return ok("storage", f"{where}: written by {nodes}, and all files read by each")


MISSING = "missing"


def write(folder: str, name: str) -> str:
    """Write random bytes; return their sha256 in hex. Runs on every node."""
    found, root = filesystem(folder, fresh=True)
    data = secrets.token_bytes(4096)
    if not is_url(folder):  # a store has no folders, and would create a bucket
        found.makedirs(root, exist_ok=True)
    with found.open(f"{root}/{name}", "wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read(folder: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return for each file "" if its digest is right, "missing", or what is wrong. Runs on every node."""
    found, root = filesystem(folder, fresh=True)
    return {name: _compare(found, f"{root}/{name}", d) for name, d in wanted.items()}


def _compare(found: Any, path: str, digest: str) -> str:
    for pause in (*_TRY_AGAIN_S, None):
        try:
            with found.open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            if pause is None:
                return MISSING
            time.sleep(pause)
            continue
        except Exception as error:
            return first_line(error)
        return "" if hashlib.sha256(data).hexdigest() == digest else "different bytes"
    return MISSING


def remove(folder: str) -> None:
    """Remove the folder, and the storage's folder if it is empty. Runs on every node."""
    found, root = filesystem(folder, fresh=True)
    with contextlib.suppress(FileNotFoundError):
        found.rm(root, recursive=True)
    if not is_url(folder):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(root))  # fails if it is not empty
