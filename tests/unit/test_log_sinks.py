# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Log sinks are rows: one more takes a class and its row."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandlot.init import logs, warm_up
from sandlot.init.memory import Memory
from sandlot.init.reaper import Reaper
from sandlot.init.ring import Ring
from sandlot.kernel import calls
from sandlot.site import SandboxPaths, Site


class Copy:
    """A file with everything, opened beside the ring."""

    lost = 0
    sample = (1, "> ")

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

    def saved(self) -> None:
        return None

    def restore(self, saved: None) -> None:
        return None


def test_a_row_is_a_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SINKS", {"ring": Ring, "copy": Copy})
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


def test_the_warm_up_opens_every_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that each sandbox has a copy of memory that all could share."""
    written: dict[str, int] = {}
    opened: dict[str, tuple[int, Any]] = {}

    def seen(name: str, sink: type[logs.Sink]) -> type[logs.Sink]:
        class Seen(sink):  # type: ignore[misc, valid-type]
            def __init__(self, fds: Sequence[int], state: Any) -> None:
                opened[name] = (len(fds), state)
                super().__init__(fds, state)

            def write(self, stream: str, entries: list[bytes]) -> None:
                written[name] = written.get(name, 0) + 1
                super().write(stream, entries)

        return Seen

    sinks = {name: seen(name, sink) for name, sink in {**logs.SINKS, "copy": Copy}.items()}
    monkeypatch.setattr(warm_up, "SINKS", sinks)
    monkeypatch.setattr(logs, "SINKS", sinks)
    buffer = calls.Buffer()
    warm_up.run(buffer, Reaper(Memory(buffer.shared)))
    assert opened == {name: sink.sample for name, sink in sinks.items()}
    assert written.keys() == sinks.keys()


def test_samples_are_as_a_builder_opens_sinks(tmp_path: Path) -> None:
    box = Site(str(tmp_path)).sandbox("a")
    os.makedirs(box.state)
    os.makedirs(os.path.dirname(box.site.journal))
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(box.site.journal)
        journal.listen()
        opened, fds = logs.open_sinks(box)
    for fd in fds:
        os.close(fd)
    assert {"ring", "journal"} <= {name for name, _, _ in opened}
    for name, count, state in opened:
        assert (count, type(state)) == (
            logs.SINKS[name].sample[0],
            type(logs.SINKS[name].sample[1]),
        )
