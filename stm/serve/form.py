"""Read the files of a ``multipart/form-data`` body (RFC 7578), which ``curl -F video=@clip.mp4`` and browsers send."""

from __future__ import annotations

import re
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_NAMED = re.compile(rb";\s*filename\*?=", re.IGNORECASE)


class Form:
    """Parses a body as it arrives, and keeps only its files; other values are dropped.

    It never keeps more bytes than it was fed. The caller limits how many these are.
    """

    def __init__(self, content_type: str, most: int) -> None:
        """Keep at most the first ``most`` files."""
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        self._mark = b"\r\n--" + boundary
        self._before: bytes | None = b"\r\n"
        """Last bytes before the first boundary, which is at the start of a line. None after that boundary."""
        self._most = most
        self._sent: list[tuple[str, bytes]] = []
        self._is_whole = False
        self._is_broken = not boundary
        if boundary:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_field,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        if self._is_broken or self._is_whole:
            return
        if self._before is not None:  # the parser accepts no text before the first part
            self._before += chunk
            at = self._before.find(self._mark)
            if at < 0:
                self._before = self._before[1 - len(self._mark) :]
                return
            chunk, self._before = self._before[at + 2 :], None
        try:
            self._parser.write(chunk)
        except FormParserError:
            self._is_broken = True

    def files(self) -> list[tuple[str, bytes]]:
        """Return (name as sent, bytes) of each part with a file name; [] if there is none, or the form is incomplete or
        malformed."""
        return self._sent if self._is_whole or len(self._sent) == self._most else []

    # ------------------------------------------------------------------ callbacks of the parser

    def _begin_part(self) -> None:
        self._name: str | None = None
        self._content = bytearray()
        self._field, self._value = b"", b""

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._name = _file_name(self._value)
        self._field, self._value = b"", b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None and len(self._sent) < self._most:
            self._content += data[start:end]

    def _end_part(self) -> None:
        if self._name is not None and len(self._sent) < self._most:
            self._sent.append((self._name, bytes(self._content)))
        self._content = bytearray()

    def _end(self) -> None:
        self._is_whole = True


def _file_name(disposition: bytes) -> str | None:
    """Return the file name in the header of a part; "" if it cannot be read, None if the part is not a file."""
    if not _NAMED.search(disposition):
        return None
    message = Message()  # also reads `filename*=`, which the parser's own function does not
    message["content-disposition"] = disposition.decode("utf-8", "replace").strip()
    return message.get_filename() or ""
