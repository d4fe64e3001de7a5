"""The files of a ``multipart/form-data`` body (RFC 7578), as ``curl -F video=@clip.mp4`` and browsers send them."""

from __future__ import annotations

import re
from email.message import Message

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition:([^\r\n]*)", re.IGNORECASE)


def files(body: bytes, content_type: str, most: int) -> list[tuple[str, bytes]]:
    """(name as sent, bytes) of each part that has a file name, in order, at most ``most`` of them; [] where there is
    none, or the body is no such form, or it is cut short."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return []
    mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    sent: list[tuple[str, bytes]] = []
    # The boundary stands at the start of a line: of the body's first, or after the part before.
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    while len(sent) < most and not body.startswith(b"--", at + len(mark)):
        head = body.find(b"\r\n", at + len(mark))
        blank = body.find(b"\r\n\r\n", head)
        end = body.find(b"\r\n" + mark, blank)
        if at == 1 or head < 0 or blank < 0 or end < 0:
            return []
        name = _file_name(body[head:blank])
        if name is not None:
            sent.append((name, body[blank + 4 : end]))
        at = end + 2
    return sent


def _file_name(head: bytes) -> str | None:
    """What a part's head calls its file; "" where it has one without a name that can be read, None where it is none."""
    disposition = _DISPOSITION.search(head)
    if disposition is None or not re.search(rb";\s*filename\*?=", disposition[1], re.IGNORECASE):
        return None
    message = Message()
    message["content-disposition"] = disposition[1].decode("utf-8", "replace").strip()
    return message.get_filename() or ""
