# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The log ring under a flood, and exactness under moderate output."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sandboxes import Host, Sandbox

LINE = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] [^\n]*\n", re.DOTALL
)
MAX = 1 << 16


def sizes(box: Sandbox) -> list[int]:
    return [os.path.getsize(path) for path in box.paths.logs]


def test_flood_stays_within_the_ring(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["yes", "x" * 100], log_max_size=MAX)
    inodes = [os.stat(path).st_ino for path in box.paths.logs]
    turns = set()

    def turned() -> bool:
        assert sum(sizes(box)) <= MAX
        turns.add(tuple(line[:30] for line in box.log_lines()[:1]))
        return len(turns) > 20

    box.until(turned)
    assert box.shell("echo served").stdout == b"served\n"
    assert [os.stat(path).st_ino for path in box.paths.logs] == inodes
    box.stop()
    assert all(LINE.fullmatch(line) for line in box.log_lines())
    assert sum(sizes(box)) > MAX // 2


def test_flood_of_empty_lines(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["yes", ""], log_max_size=MAX)
    box.until(lambda: min(sizes(box)) > MAX // 4)
    assert sum(sizes(box)) <= MAX
    box.stop()
    assert all(LINE.fullmatch(line) for line in box.log_lines())


def test_moderate_output_is_exact(sandbox_host: Host) -> None:
    script = "seq 1 5000; seq 1 3000 >&2"
    box = sandbox_host.started("a", ["sh", "-c", script], log_max_size=1 << 22)
    assert box.until_final()["lost_log_bytes"] == 0
    assert box.log("stdout") == [str(n) for n in range(1, 5001)]
    assert box.log("stderr") == [str(n) for n in range(1, 3001)]


def test_what_a_program_writes_last_is_kept(sandbox_host: Host) -> None:
    script = "head -c 60000 /dev/zero | tr '\\0' x; echo; printf 'no newline'"
    for round_number in range(5):
        box = sandbox_host.started(f"a{round_number}", ["sh", "-c", script])
        box.until_final()
        assert "".join(box.log("stdout")) == "x" * 60000 + "no newline"


def test_long_lines_come_in_parts(sandbox_host: Host) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' y; echo; echo short"
    box = sandbox_host.started("a", ["sh", "-c", script])
    box.until_final()
    lines = [line.split(b" ", 3)[2:] for line in box.log_lines()]
    *parts, short = lines
    assert short == [b"F", b"short\n"]
    assert [tag for tag, _ in parts] == [b"P"] * (len(parts) - 1) + [b"F"]
    assert max(len(text) for _, text in parts) <= 16385
    assert b"".join(text[:-1] for _, text in parts) == b"y" * 40000


def test_binary_bytes_are_kept(sandbox_host: Host) -> None:
    every = bytes(b for b in range(256) if b != 10)
    octal = "".join(f"\\{byte:03o}" for byte in every)
    box = sandbox_host.started("a", ["printf", octal + "\\n"])
    box.until_final()
    assert Path(box.paths.logs[0]).read_bytes().split(b" ", 3)[3] == every + b"\n"


def test_ring_goes_on_after_a_restart(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["echo", "first"])
    box.until_final()
    box.write(argv=["echo", "second"])
    box.start()
    box.until(lambda: box.log() == ["first", "second"])


def test_size_can_be_changed_while_running(sandbox_host: Host) -> None:
    from sandlot.sandbox import live

    box = sandbox_host.started("a", ["yes", "x" * 100], log_max_size=MAX * 4)
    box.until(lambda: sum(sizes(box)) > MAX * 2)
    box.write(log_max_size=MAX)
    live.configure(box.paths, box.config)
    box.until(lambda: sum(sizes(box)) <= MAX)
