# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Counts visits in redis."""

from __future__ import annotations

import http.server
import socket


def count() -> bytes:
    with socket.create_connection(("db", 6379), timeout=5) as connection:
        connection.sendall(b"INCR visits\r\n")
        return connection.recv(64).strip(b":\r\n")


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"visits: " + count() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


Server(("::", 8000), Page).serve_forever()
