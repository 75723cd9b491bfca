# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Takes any mail at port 1025, and shows it at port 8025."""

from __future__ import annotations

import os
import socketserver
import threading
from pathlib import Path

import kit

mails: list[str] = []
store = Path(os.environ["MP_DATABASE"])


class Smtp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 mailpit")
        for line in self.rfile:
            word = line.decode().strip().upper()
            if word == "DATA":
                self._say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                mails.append("\n".join(lines))
                store.write_text("\n\n".join(mails))
            if word == "QUIT":
                self._say("221 bye")
                return
            self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


def answer(_method: str, path: str, _body: str) -> tuple[int, str]:
    return (200, "\n\n".join(mails)) if path == "/api/v1/messages" else (200, "ready")


class Threaded(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


threading.Thread(target=Threaded(("", 1025), Smtp).serve_forever, daemon=True).start()
threading.Thread(target=kit.serve, args=(8026, answer), daemon=True).start()
kit.serve(8025, answer)
