# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot logs on the log of a real init."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from sandboxes import ENGINE, Host, wait_dead

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

CODE = f"import sys; sys.path.insert(0, {str(ENGINE.parent)!r}); from sandlot.cli import main; "
COMMAND = [sys.executable, "-I", "-c", CODE + "sys.exit(main())", "logs"]
SPEAK = "echo out; echo err >&2; printf unfinished"


def environment(host: Host) -> dict[str, str]:
    return {**os.environ, "SANDLOT_ROOT": host.paths.root}


def logs(host: Host, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, env=environment(host), check=True, timeout=60
    )


def spoken(host: Host, script: str = SPEAK, **changes: object) -> None:
    host.started("a", ["sh", "-c", script], **changes).until_final()


def lines(text: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_stream_where_it_belongs(sandbox_host: Host) -> None:
    spoken(sandbox_host)
    done = logs(sandbox_host, "a")
    assert (done.stdout, done.stderr) == (b"out\nunfinished\n", b"err\n")
    found = lines(logs(sandbox_host, "--format", "json", "a").stdout)
    assert sorted((each["stream"], each["line"]) for each in found) == [
        ("stderr", "err"),
        ("stdout", "out"),
        ("stdout", "unfinished"),
    ]
    assert [each["time"] for each in found] == sorted(each["time"] for each in found)


def test_tail_since_and_timestamps(sandbox_host: Host) -> None:
    spoken(sandbox_host, "seq 1 100")
    assert logs(sandbox_host, "--tail", "2", "a").stdout == b"99\n100\n"
    assert logs(sandbox_host, "--tail", "0", "a").stdout == b""
    assert logs(sandbox_host, "--since", "1h", "--tail", "1", "a").stdout == b"100\n"
    assert logs(sandbox_host, "--since", "2999-01-01", "a").stdout == b""
    stamp, number = logs(sandbox_host, "-t", "--tail", "1", "a").stdout.split()
    assert number == b"100"
    assert logs(sandbox_host, "--since", stamp.decode(), "--tail", "1", "a").stdout == b"100\n"


def test_long_lines_and_any_bytes(sandbox_host: Host) -> None:
    script = r"head -c 100000 /dev/zero | tr '\0' x; printf '\377\n\033[2J\n'"
    spoken(sandbox_host, script)
    assert logs(sandbox_host, "a").stdout == b"x" * 100_000 + b"\xff\n\033[2J\n"


def test_a_terminal_is_not_commanded(sandbox_host: Host) -> None:
    spoken(sandbox_host, r"printf '\033[2J\n'")
    master, slave = pty.openpty()
    subprocess.run([*COMMAND, "a"], stdout=slave, env=environment(sandbox_host), check=True)
    os.close(slave)
    shown = os.read(master, 1000)
    os.close(master)
    assert shown == b"\\x1b[2J\r\n"


def follow(host: Host, *words: str) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "-f", *words, "a"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env=environment(host),
        bufsize=0,
    )


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], 20)[0], line
        line += process.stdout.read(1)
    return line


def test_follow_from_before_through_every_switch_to_the_end(sandbox_host: Host) -> None:
    """Held back to the reader's pace, so that the bounded ring has to lose nothing."""
    script = (
        "i=0; while read -r n; do i=$((i+1)); seq $((i*100)) $((i*100+99)) | sed s/^/line-/; done"
    )
    box = sandbox_host.started(
        "a", ["sh", "-c", "mkfifo /tmp/go; exec 3<>/tmp/go; echo ready; " + script + " <&3"],
        log_max_size=16384, restart={"policy": "no", "retries": 0},
    )  # fmt: skip
    process = follow(sandbox_host)
    assert process.stdout
    assert read_line(process) == b"ready\n"
    for turn in range(1, 31):
        box.shell("echo go >/tmp/go")
        for number in range(turn * 100, turn * 100 + 100):
            assert read_line(process) == b"line-%d\n" % number
    # A tenth of what was written fits into the ring.
    assert 0 < len(box.log_lines()) < 500
    box.stop()
    assert process.stdout.read() == b""
    assert process.wait(20) == 0


def test_follow_ends_with_init_and_with_the_reader(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["sh", "-c", "echo first; sleep 1000000"])
    ended, interrupted = follow(sandbox_host), follow(sandbox_host, "--tail", "1")
    for process in (ended, interrupted):
        assert read_line(process) == b"first\n"
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(20) == 130
    init = box.init
    os.kill(init, signal.SIGKILL)
    wait_dead(init)
    assert ended.wait(20) == 0


def test_follow_of_what_does_not_run_only_prints(sandbox_host: Host) -> None:
    spoken(sandbox_host)
    process = follow(sandbox_host)
    assert process.stdout and process.stdout.read() == b"out\nunfinished\n"
    assert process.wait(20) == 0


def refused(host: Host, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, env=environment(host), check=False
    )


def test_what_is_wrong_is_said(sandbox_host: Host) -> None:
    spoken(sandbox_host)
    done = refused(sandbox_host, ["b"])
    assert done.returncode == 1 and done.stderr.startswith(b"sandlot: no sandbox is named 'b'")
    done = refused(sandbox_host, ["--since", "yesterday", "a"])
    assert done.returncode == 1 and b"hint: write 10m" in done.stderr
