# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Log sinks are rows: one more takes a class and its row."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandlot.init import logs
from sandlot.site import SandboxPaths, Site


class Copy:
    """A file with everything, opened beside the ring."""

    lost = 0

    @staticmethod
    def open(paths: SandboxPaths) -> tuple[list[int], str]:
        return [os.open(f"{paths.state}/copy", os.O_RDWR | os.O_CREAT)], "> "

    def __init__(self, fds: Sequence[int], state: str) -> None:
        self.fd, self.prefix = fds[0], state.encode()

    def configure(self, config: Mapping[str, Any]) -> None:
        self.longest = config["log_max_size"] - 8000

    def write(self, stream: str, entries: list[bytes]) -> None:
        for entry in entries:
            os.write(self.fd, self.prefix + entry[-self.longest :])


def test_a_row_is_a_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logs.SINKS, "copy", Copy)
    box = Site(str(tmp_path)).sandbox("a")
    os.makedirs(box.state)
    opened, fds = logs.open_sinks(box)
    assert [(name, count) for name, count, _ in opened] == [("ring", 2), ("copy", 1)]
    log = logs.Log(opened, fds, {"log_max_size": 8192})
    log.feed("stdout", b"one\ntwo\n")
    log.configure({"log_max_size": 8006})
    log.feed("stderr", b"three\n")
    ring = Path(box.logs[0]).read_bytes()
    copy = Path(box.state, "copy").read_bytes()
    assert [line.split(b" ", 1)[1] for line in ring.splitlines()] == [
        b"stdout F one",
        b"stdout F two",
        b"stderr F three",
    ]
    assert copy.splitlines() == [*(b"> " + line for line in ring.splitlines()[:2]), b"> three"]
    for fd in fds:
        os.close(fd)
