"""A file is found in the forms that browsers and curl send, whatever bytes it holds."""

from __future__ import annotations

import tracemalloc

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stm.serve.form import Form


def files(body, kind, most, size=None):
    """The files of a body that arrives in chunks of ``size``, or at once."""
    form = Form(kind, most)
    size = size or len(body) or 1
    for at in range(0, len(body), size):
        form.feed(body[at : at + size])
    return form.files()


def encode(parts):
    """The body and content type of a form as an HTTP client writes them."""
    prepared = requests.Request("POST", "http://x/", files=parts).prepare()
    return prepared.body, prepared.headers["Content-Type"]


HEAD = b'Content-Disposition: form-data; name="v"; filename="v"\r\n\r\n'


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_the_files_come_out_byte_for_byte_with_their_names(contents):
    names = [f"käse {k}.mp4" for k in range(len(contents))]
    parts = [("video", (name, data)) for name, data in zip(names, contents, strict=True)]
    body, kind = encode([("name", (None, "a value")), *parts, ("more", (None, "text"))])
    assert files(body, kind, 9) == list(zip(names, contents, strict=True))
    assert files(body, kind, 1) == [(names[0], contents[0])]
    for size in (1, 2, 7, 64):
        assert files(body, kind, 9, size) == list(zip(names, contents, strict=True))


def test_a_name_may_have_a_folder_and_quotes():
    head = 'Content-Disposition: form-data; name="v"; filename="a/b \\"c\\";.jpg"'
    body = f"--b\r\n{head}\r\n\r\nDATA\r\n--b--\r\n".encode()
    assert files(body, "multipart/form-data; boundary=b", 9) == [('a/b "c";.jpg', b"DATA")]


def test_a_quoted_boundary_and_text_before_the_first_part_are_allowed():
    body = b'preamble\r\n--x y\r\nContent-Disposition: form-data; name="v"; filename="v"\r\n\r\nDATA\r\n--x y--\r\n'
    for size in (None, 1, 9):
        assert files(body, 'multipart/form-data; boundary="x y"', 9, size) == [("v", b"DATA")]


def test_a_name_in_the_extended_form_is_a_files_too():
    head = "content-disposition: form-data; name=v; filename*=utf-8''k%C3%A4se.mp4"
    body = f"--b\r\n{head}\r\n\r\nDATA\r\n--b--".encode()
    assert files(body, "multipart/form-data; boundary=b", 9) == [("käse.mp4", b"DATA")]


def test_only_files_are_kept_in_memory():
    """Of 64 MiB of values and of files beyond the limit, next to nothing."""
    form = Form("multipart/form-data; boundary=b", 1)
    block = bytes(2**20)
    tracemalloc.start()
    for name in (b'"v"', b'"v"; filename="v"', b'"v"; filename="w"'):
        form.feed(b"--b\r\n" if name == b'"v"' else b"\r\n--b\r\n")
        form.feed(b"Content-Disposition: form-data; name=" + name + b"\r\n\r\n")
        for _ in range(1 if b'"v"; ' in name else 32):
            form.feed(block)
    form.feed(b"\r\n--b--\r\n")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert form.files() == [("v", block)]
    assert most < 5 * 2**20


def test_text_before_the_first_part_is_not_kept():
    form = Form("multipart/form-data; boundary=b", 1)
    tracemalloc.start()
    for _ in range(64):
        form.feed(bytes(2**20))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b--\r\n",
        b"--b x\r\n" + HEAD + b"DATA\r\n--b--\r\n",
        b"--b\r\n" + b"A" * 5000 + b": b\r\n" + HEAD + b"DATA\r\n--b--\r\n",
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
    for end in range(len(body) - 2):
        assert files(body[:end], kind, 9) == []
