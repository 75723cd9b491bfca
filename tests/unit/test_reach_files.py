# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files of a sandbox: answers of a server, and how the client bounds those of a hostile one."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sandlot import wire
from sandlot.cli import copy
from sandlot.errors import SandlotError
from sandlot.init import files as server
from sandlot.reach import files as client
from sandlot.reach import trees
from sandlot.sandbox.runtime import Running

Answers = Sequence[bytes]
REGULAR = (stat.S_IFREG | 0o644, 0, 0)


def answer(data: bytes = b"", code: int = 0) -> bytes:
    return server.CODE.pack(code) + data


def status(size: int, *, mode: int = REGULAR[0], uid: int = 0) -> bytes:
    return answer(server.STATUS.pack(mode, uid, 0, size, 0, 1), server.MORE)


def part(start: int, end: int, code: int = server.MORE) -> bytes:
    return answer(server.PART.pack(start, end), code)


@pytest.fixture
def hostile() -> Iterator[Callable[..., client.Files]]:
    """A client of a server that sends these answers, and this content by the pipe it gets."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def made(*answers: bytes, content: bytes = b"") -> client.Files:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        init, gone = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gone.close()
        opened.extend((ours, theirs, init))

        def serve() -> None:
            dummy, fds = wire.receive_request(theirs)
            for text in answers:
                wire.transmit(theirs, text, ())
            for fd in fds:
                with contextlib.suppress(BrokenPipeError):
                    os.write(fd, content)
                os.close(fd)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return client.Files("a", Running(os.getpid(), 0, "", 0.0), init, ours)

    yield made
    for thread in threads:
        thread.join()
    for sock in opened:
        sock.close()


@pytest.mark.parametrize(
    "names",
    [b"..", b".", b"a/../b", b"//", b"a\0b", b"x" * 256, b"ok/."],
)
def test_names_are_single_names(hostile: Callable[..., client.Files], names: bytes) -> None:
    assert hostile(answer(b"b/a/\xff\n")).list() == [b"a", b"b", b"\xff\n"]
    with pytest.raises(SandlotError, match="invalid answer"):
        hostile(answer(names)).list()


def test_names_are_bounded(
    hostile: Callable[..., client.Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_NAMES", 3)
    assert len(hostile(answer(b"a/b", server.MORE), answer(b"c")).list()) == 3
    with pytest.raises(SandlotError, match="more than 3 names"):
        hostile(*[answer(b"a/b", server.MORE)] * 3, answer()).list()


def test_names_that_are_held_at_a_time_are_bounded(
    hostile: Callable[..., client.Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_HELD", 400)
    name = answer(b"x" * 200)
    # One directory after the other, and one in the other.
    served = hostile(*[answer(), name, answer()] * 3)
    for dummy in range(3):
        with served.inside(b"d"):
            assert len(served.list()) == 1
    served = hostile(answer(), name, answer(), name, answer())
    with served.inside(b"d"):
        served.list()
        with pytest.raises(SandlotError, match="MiB"), served.inside(b"d"):
            served.list()


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4096])
def test_links_have_a_text(hostile: Callable[..., client.Files], target: bytes) -> None:
    assert hostile(answer(b"../x")).readlink(b"l") == b"../x"
    with pytest.raises(SandlotError, match="invalid answer"):
        hostile(answer(target)).readlink(b"l")


@pytest.mark.parametrize(
    "answers",
    [
        [status(4), part(0, 5)],
        [status(4), part(2, 1)],
        [status(4), part(-1, 2)],
        [status(4), part(0, 2), part(1, 3)],
        [status(4), part(0, 0)],
        [status(4), part(0, 4), part(0, 1 << 40, 0)],
        [status(4), answer(b"x")],
        [status(-1)],
        [status(4, uid=65536)],
        [status(4, uid=-1)],
        [answer(b"short", server.MORE)],
        [b"x"],
        [status(0), part(0, server.MOST_UNSIZED + 1)],
    ],
)
def test_contents_are_what_was_announced(
    hostile: Callable[..., client.Files], answers: Answers, tmp_path: Path
) -> None:
    with open(tmp_path / "x", "wb") as target:
        files = hostile(*answers, content=b"12345678")
        with pytest.raises(SandlotError, match="invalid answer"):
            files.get(b"x", target.fileno(), sparse=True)
        target.flush()
    assert (tmp_path / "x").stat().st_size <= 4


def test_no_more_content_is_taken_than_announced(
    hostile: Callable[..., client.Files], tmp_path: Path
) -> None:
    with open(tmp_path / "x", "wb") as target:
        files = hostile(status(8), part(2, 4), part(0, 8, 0), content=b"12345678")
        files.get(b"x", target.fileno(), sparse=False)
    assert (tmp_path / "x").read_bytes() == b"\0\0" + b"12" + bytes(4)


def test_errors_have_no_text_of_the_sandbox(hostile: Callable[..., client.Files]) -> None:
    with pytest.raises(client.FileError) as caught:
        hostile(answer(b"\x1b[31m", 13)).stat(b"/a\n\x1b[31m")
    assert caught.value.message == r"a:/a\n\x1b[31m: Permission denied"
    assert (caught.value.code, caught.value.path) == (13, r"/a\n\x1b[31m")


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("web:/etc", ("web", "/etc")),
        ("web:a:b", ("web", "a:b")),
        ("./a:b", (None, "./a:b")),
        ("/a:b", (None, "/a:b")),
        ("a", (None, "a")),
        ("-", (None, "-")),
        (":a", (None, ":a")),
    ],
)
def test_places(word: str, place: tuple[str | None, str]) -> None:
    assert copy.place(word) == place


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/a/b", ("b", False)),
        ("/a/b/", ("b", False)),
        ("/a/.", (".", True)),
        ("..", ("..", True)),
        ("/", ("", True)),
    ],
)
def test_last_names(path: str, last: tuple[str, bool]) -> None:
    assert trees.last_name(path) == last
