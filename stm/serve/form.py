"""The first file of a ``multipart/form-data`` body (RFC 7578), as ``curl -F video=@clip.mp4`` and browsers send it."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


def first_file(body: bytes, content_type: str) -> bytes | None:
    """The bytes of the first part that has a file name; None where there is none, or the body is no such form."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return None
    mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    # The boundary stands at the start of a line: of the body's first, or after the part before.
    start = 0 if body.startswith(mark) else body.find(b"\r\n" + mark)
    while start >= 0:
        head = body.find(b"\r\n", start + len(mark))
        blank = body.find(b"\r\n\r\n", head)
        end = body.find(b"\r\n" + mark, blank)
        if head < 0 or blank < 0 or end < 0:
            return None
        if re.search(rb"content-disposition:[^\r\n]*;\s*filename\*?=", body[head:blank], re.I):
            return body[blank + 4 : end]
        start = end + 2
    return None
