# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the applications share: a small web server, a client of redis, one of web servers.

Few imports: each of them is compiled at each start, as packages of Debian have no compiled code.
"""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Callable
from typing import Any

# The status, and the body.
Answer = Callable[[str, str, str], "tuple[int, str]"]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    answer: Answer


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        words = self.rfile.readline().decode().split()
        if len(words) < 2:
            return
        length = 0
        for line in iter(self.rfile.readline, b"\r\n"):
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        body = self.rfile.read(length).decode()
        status, text = self.server.answer(words[0], words[1], body)
        content = text.encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode() + content)


def serve(port: int, answer: Answer) -> None:
    with _Server(("", port), _Handler) as server:
        server.answer = answer
        print(f"listening on {port}", flush=True)
        server.serve_forever()


def request(host: str, port: int, method: str, path: str, body: str = "") -> str:
    """The body of the answer; an error for a status other than 200."""
    content = body.encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(head.encode() + content)
        whole = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    status, _, rest = whole.partition("\r\n")
    if status.split()[1] != "200":
        raise OSError(f"{host}: {status}")
    return rest.partition("\r\n\r\n")[2]


class Redis:
    """One connection for each command."""

    def __init__(self, url: str) -> None:
        address = url.removeprefix("redis://").partition("/")[0]
        self._password, _, address = address.rpartition("@")
        host, _, port = address.partition(":")
        self._address = (host, int(port or 6379))

    def __call__(self, *words: Any) -> Any:
        with socket.create_connection(self._address) as connection:
            stream = connection.makefile("rwb")
            if self._password:
                self._ask(stream, "AUTH", self._password.removeprefix(":"))
            return self._ask(stream, *words)

    def _ask(self, stream: Any, *words: Any) -> Any:
        parts = [str(word).encode() for word in words]
        lines = [f"*{len(parts)}\r\n".encode()]
        lines += [f"${len(part)}\r\n".encode() + part + b"\r\n" for part in parts]
        stream.write(b"".join(lines))
        stream.flush()
        return self._reply(stream)

    def _reply(self, stream: Any) -> Any:
        line = stream.readline().decode().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == "$":
            return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return None if rest == "-1" else [self._reply(stream) for _ in range(int(rest))]
        if kind == "-":
            raise OSError(rest)
        return int(rest) if kind == ":" else rest


def rows(connection: Any, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one query of PostgreSQL; closes the connection."""
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
