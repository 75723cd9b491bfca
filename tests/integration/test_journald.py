# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Output of workloads in the host's journal, which is played by a socket where journald has its."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import DEADLINE, Host


class Journald:
    """Takes streams; a stream is its header's seven lines, then whatever was written."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()

    def accept(self) -> socket.socket:
        assert select.select([self.listener], [], [], DEADLINE)[0], "nobody came"
        connection = self.listener.accept()[0]
        connection.settimeout(DEADLINE)
        return connection

    def close(self) -> None:
        self.listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


def everything(connection: socket.socket) -> bytes:
    """Until the other end is closed, which init does by ending."""
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def header(level: int, name: str = "a") -> bytes:
    return f"sandlot/{name}\n\n{level}\n0\n0\n0\n0\n".encode()


@pytest.fixture
def journald(sandbox_host: Host) -> Iterator[Journald]:
    made = Journald(sandbox_host.paths.journal)
    yield made
    made.close()


def test_the_journal_has_what_the_ring_has(sandbox_host: Host, journald: Journald) -> None:
    script = "echo one; echo two >&2; echo '<0>three'; printf 'a\\nb'"
    box = sandbox_host.started("a", ["sh", "-c", script])
    out, err = journald.accept(), journald.accept()
    box.until_final()
    assert everything(out) == header(6) + b"one\n<0>three\na\nb\n"
    assert everything(err) == header(3) + b"two\n"
    assert box.log("stdout") == ["one", "<0>three", "a", "b"]


def test_a_workload_has_no_way_to_the_journal(sandbox_host: Host, journald: Journald) -> None:
    """Neither a descriptor nor a socket; what looks like a header is text."""
    forged = "printf 'sshd\\n\\n0\\n1\\n1\\n1\\n1\\nforged\\n'"
    script = f"{forged}; ls /run/systemd /dev/log; exec sleep 1000"
    box = sandbox_host.started("a", ["sh", "-c", script])
    out, err = journald.accept(), journald.accept()
    box.until(lambda: len(box.log("stderr")) == 2)
    assert sorted(os.listdir(f"/proc/{box.workload}/fd")) == ["0", "1", "2"]
    assert box.shell("ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]
    # The control: init has them beside the socket it serves, so they could be inherited.
    descriptors = Path(f"/proc/{box.asleep().init}/fd")
    assert sum(os.readlink(fd).startswith("socket:") for fd in descriptors.iterdir()) >= 3
    box.stop()
    assert everything(out) == header(6) + b"sshd\n\n0\n1\n1\n1\n1\nforged\n"
    assert everything(err).startswith(header(3))


def test_a_journal_that_hangs_holds_nobody_up(sandbox_host: Host, journald: Journald) -> None:
    script = "yes 0123456789012345678901234567890123456789 | head -n 40000; echo done"
    box = sandbox_host.started("a", ["sh", "-c", script], log_max_size=1 << 23)
    out, err = journald.accept(), journald.accept()
    box.until_final()
    assert box.log("stdout")[-1] == "done"
    assert len(box.log("stdout")) == 40001
    assert box.status()["lost_log_bytes"] == 0
    assert len(everything(out)) < 1 << 20
    err.close()


def test_a_journal_that_goes_takes_nobody_along(sandbox_host: Host, journald: Journald) -> None:
    script = "echo one; while ! [ -e /tmp/go ]; do sleep 0.1; done; echo two; echo three"
    box = sandbox_host.started("a", ["sh", "-c", script])
    for connection in (journald.accept(), journald.accept()):
        connection.close()
    journald.close()
    box.shell("touch /tmp/go")
    box.until_final()
    assert box.log("stdout") == ["one", "two", "three"]
    box.write(argv=["echo", "four"])
    box.start().until_final()
    assert box.log("stdout")[-1] == "four"
