# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A web server on loopback that resumes, breaks off, stalls and lies as it is told."""

from __future__ import annotations

import contextlib
import functools
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path


class Server:
    """``files`` by path; ``script`` has one word for each request to come, "" for a good answer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: list[str] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.etag: str | None = '"1"'
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.held = threading.Event()
        self.freed = threading.Event()
        self.url = ""

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *arguments: object) -> None:
        self.scripted = server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        server = self.scripted
        server.asked.append(
            (self.path, {key.lower(): value for key, value in self.headers.items()})
        )
        word, _, number = (server.script.pop(0) if server.script else "").partition(" ")
        data = server.files.get(self.path)
        if word == "status":
            self._head(int(number), 0, **{"Retry-After": "0"})
        elif word == "moved":
            self._head(302, 0, Location=number)
        elif word == "endless":
            self._endless()
        elif data is None:
            self._head(404, 0)
        else:
            self._body(data, word, int(number or 0))

    def _body(self, data: bytes, word: str, number: int) -> None:
        server, start, headers = self.scripted, 0, {}
        if server.etag:
            headers["ETag"] = server.etag
        asked = self.headers.get("Range", "")
        same = self.headers.get("If-Range", server.etag) == server.etag
        if asked and same and word != "whole":
            start = int(asked[len("bytes=") : -1]) + (number if word == "shifted" else 0)
            if start >= len(data):
                self._head(416, 0, **{"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(206 if "Content-Range" in headers else 200, len(data) - start, **headers)
        rest = data[start:]
        if word in ("cut", "stall", "hold", "drip"):
            self._write(rest[:number])
            self.close_connection = True
            if word == "stall":
                server.stalled.set()
                server.released.wait(60)
            if word == "hold":
                server.held.set()
                server.freed.wait(60)
            while word == "drip" and not server.released.wait(0.01):
                number += 1
                self._write(rest[number - 1 : number])
        else:
            self._write(rest)

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.scripted.sent += len(data)
        except OSError:
            self.scripted.released.set()

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """``certificate`` holds a key as well."""
    server = Server()
    handler = functools.partial(_Handler, server)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            running.socket = context.wrap_socket(running.socket, server_side=True)
        scheme = "https" if certificate else "http"
        server.url = f"{scheme}://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.freed.set()
            running.shutdown()
            thread.join()
