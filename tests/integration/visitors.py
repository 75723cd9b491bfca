# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Clients of a web server that ask all the time, and take note of each answer that fails."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

from converge_fixtures import eventually

# More than buffers of sockets hold, so that the server waits for its reader.
LARGE = 32 << 20
_NUMBER = 3


class Visitors:
    """Some keep their connections, some make one for each request."""

    def __init__(self, port: int) -> None:
        self.complaints: list[str] = []
        self._port = port
        self._ended = threading.Event()
        self._last: dict[int, str] = {}
        self._threads = [
            threading.Thread(target=self._visit, args=(number, number % 2 == 0))
            for number in range(2 * _NUMBER)
        ]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def all_see(self, text: str) -> None:
        eventually(lambda: list(self._last.values()) == [text] * len(self._threads))

    def _visit(self, number: int, keeps: bool) -> None:
        connection = self._connected()
        is_fresh = True
        # Both cores are needed for the server and the run that changes it.
        while not self._ended.wait(0.005):
            try:
                self._last[number] = _asked(connection)
                is_fresh = False
            except (http.client.HTTPException, OSError) as error:
                # A server may close a connection between two requests: the client asks again.
                was_idle = isinstance(error, (http.client.RemoteDisconnected, ConnectionError))
                if is_fresh or not was_idle:
                    self.complaints.append(repr(error))
                    break
                keeps_this = False
            else:
                keeps_this = keeps and connection.sock is not None
            if not keeps_this:
                connection.close()
                connection, is_fresh = self._connected(), True
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)


def _asked(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise http.client.HTTPException(f"{answer.status}: {text}")
    return text


@contextlib.contextmanager
def answer_on_its_way(port: int, path: str) -> Iterator[http.client.HTTPResponse]:
    """An answer whose first byte has come, and whose last one the server still has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.sock.settimeout(20)
    connection.sock.connect(("127.0.0.1", port))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.read(1)
        yield answer
    finally:
        connection.close()


def rest_of(answer: http.client.HTTPResponse) -> int:
    """The number of its bytes, with the first one."""
    return 1 + len(answer.read())
