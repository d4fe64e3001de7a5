"""A file is found in the forms that browsers and curl send, whatever bytes it holds."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stm.serve.form import files


def encode(parts):
    """The body and content type of a form as an HTTP client writes them."""
    prepared = requests.Request("POST", "http://x/", files=parts).prepare()
    return prepared.body, prepared.headers["Content-Type"]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_the_files_come_out_byte_for_byte_with_their_names(contents):
    names = [f"käse {k}.mp4" for k in range(len(contents))]
    parts = [("video", (name, data)) for name, data in zip(names, contents, strict=True)]
    body, kind = encode([("name", (None, "a value")), *parts, ("more", (None, "text"))])
    assert files(body, kind, 9) == list(zip(names, contents, strict=True))
    assert files(body, kind, 1) == [(names[0], contents[0])]


def test_a_name_may_have_a_folder_and_quotes():
    head = 'Content-Disposition: form-data; name="v"; filename="a/b \\"c\\";.jpg"'
    body = f"--b\r\n{head}\r\n\r\nDATA\r\n--b--\r\n".encode()
    assert files(body, "multipart/form-data; boundary=b", 9) == [('a/b "c";.jpg', b"DATA")]


def test_a_quoted_boundary_and_text_before_the_first_part_are_allowed():
    body = b'preamble\r\n--x y\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\nDATA\r\n--x y--\r\n'
    assert files(body, 'multipart/form-data; boundary="x y"', 9) == [("v", b"DATA")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b--\r\n",
        b"--b",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\nDATA',
        b'--b\r\nContent-Disposition: form-data; name="v"\r\n\r\nDATA\r\n--b--\r\n',
    ],
)
def test_a_form_without_a_whole_file_has_none(body):
    assert files(body, "multipart/form-data; boundary=b", 9) == []
    assert files(body, "multipart/form-data", 9) == []


def test_a_form_that_is_cut_short_has_none_since_frames_would_be_missing():
    body, kind = encode([("v", (f"{k}.jpg", b"image")) for k in range(3)])
    assert len(files(body, kind, 9)) == 3
    for end in range(len(body) - 4):
        assert files(body[:end], kind, 9) == []
