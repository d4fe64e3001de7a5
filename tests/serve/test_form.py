"""A file is found in the forms that browsers and curl send, whatever bytes it holds."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stm.serve.form import first_file


def encode(parts):
    """The body and content type of a form as an HTTP client writes them."""
    prepared = requests.Request("POST", "http://x/", files=parts).prepare()
    return prepared.body, prepared.headers["Content-Type"]


@given(st.binary(max_size=300))
def test_the_file_comes_out_byte_for_byte(data):
    body, kind = encode([("name", (None, "a value")), ("video", ("käse.mp4", data))])
    assert first_file(body, kind) == data


def test_the_first_of_two_files_is_taken():
    body, kind = encode([("a", ("a.mp4", b"\r\n--")), ("b", ("b.mp4", b"second"))])
    assert first_file(body, kind) == b"\r\n--"


def test_a_quoted_boundary_and_text_before_the_first_part_are_allowed():
    body = b'preamble\r\n--x y\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\nDATA\r\n--x y--\r\n'
    assert first_file(body, 'multipart/form-data; boundary="x y"') == b"DATA"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        b"--b",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\nDATA',
        b'--b\r\nContent-Disposition: form-data; name="v"\r\n\r\nDATA\r\n--b--\r\n',
    ],
)
def test_a_form_without_a_whole_file_has_none(body):
    assert first_file(body, "multipart/form-data; boundary=b") is None
    assert first_file(body, "multipart/form-data") is None
