# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec: what a command can do with its standard streams, and what becomes of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from exec_fixtures import COMMAND, Terminal, environment
from sandboxes import Host, Sandbox, exit_code, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

SLEEP = ["sleep", "1000000"]
BY_PATH = "echo out >/dev/stdout; echo err >/dev/stderr; cat </dev/stdin"
TAMPER = """
import fcntl, os
try:
    fcntl.fcntl(1, fcntl.F_SETFL, 0)
    os.lseek(1, 0, 0)
    print("read", os.pread(1, 100, 0), file=open("/tmp/seen", "w"))
    os.ftruncate(1, 0)
except OSError as error:
    os.write(1, error.strerror.encode())
os.write(1, b"forged\\n")
"""


@pytest.fixture
def box(sandbox_host: Host) -> Sandbox:
    return sandbox_host.started("a", SLEEP)


def run(host: Host, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run sandlot with the caller's own descriptors."""
    command = [*COMMAND, *words]
    return subprocess.run(command, env=environment(host), timeout=60, check=False, **options)


def test_the_null_device_is_the_sandbox_s_own(box: Sandbox) -> None:
    """The host's is one inode for all: a lock on it, or a new time, would show everywhere."""
    test = "[ /proc/self/fd/0 -ef /dev/null ] && [ /proc/self/fd/1 -ef /dev/null ] && echo own >&2"
    for words in (("exec",), ("exec", "-i")):
        done = run(
            *(box.host, *words, "a", "--", "sh", "-c", test),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert done.stderr == b"own\n"


@pytest.mark.parametrize("user", ["0:0", "33:33"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "fifo", "terminal"])
def test_streams_open_by_their_paths(
    sandbox_host: Host, kind: str, user: str, tmp_path: Path
) -> None:
    box = sandbox_host.started("a", SLEEP, user=user)
    words = ("exec", "-i", "a", "--", "sh", "-c", BY_PATH)
    given = tmp_path / "given"
    given.write_bytes(b"in\n")
    if kind == "terminal":
        with Terminal() as terminal:
            terminal.run(box.host, *words)
            terminal.type(b"in\n\x04")
            assert terminal.finish() == 0
            assert sorted(terminal.seen.split()) == [b"err", b"in", b"in", b"out"]
        return
    with open(given, "rb") as source:
        if kind == "pipe":
            done = run(box.host, *words, input=b"in\n", capture_output=True)
            assert done.stdout + done.stderr == b"out\nin\nerr\n"
        elif kind == "file":
            with open(tmp_path / "out", "wb") as target:
                run(box.host, *words, stdin=source, stdout=target, stderr=target)
            assert (tmp_path / "out").read_bytes() == b"out\nerr\nin\n"
        elif kind == "fifo":
            os.mkfifo(tmp_path / "fifo", 0o600)
            fifo = os.open(tmp_path / "fifo", os.O_RDWR)
            run(box.host, *words, stdin=source, stdout=fifo, stderr=fifo)
            assert os.read(fifo, 100) == b"out\nerr\nin\n"
            assert os.fstat(fifo).st_mode & 0o777 == 0o600
            os.close(fifo)
        else:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                theirs.sendall(b"")
                ours.sendall(b"in\n")
                ours.shutdown(socket.SHUT_WR)
                run(box.host, *words, stdin=theirs, stdout=theirs, stderr=theirs)
                assert ours.recv(100, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == b"out\nerr\nin\n"


@pytest.mark.parametrize("passed", [True, False], ids=["control", "exec"])
def test_a_log_is_only_appended_to(sandbox_host: Host, tmp_path: Path, passed: bool) -> None:
    box = sandbox_host.started("a", SLEEP, lower=sandbox_host.python_image)
    log = tmp_path / "log"
    log.write_bytes(b"earlier\n")
    argv = ["/usr/bin/python3", "-ISc", TAMPER]
    with open(log, "a+b") as target, open(os.devnull, "r+b") as null:
        if passed:
            with box.session(argv, [null.fileno(), target.fileno(), target.fileno()]) as session:
                assert exit_code(session) == 0
        else:
            assert run(box.host, "exec", "a", "--", *argv, stdout=target).returncode == 0
    seen = box.shell("cat /tmp/seen").stdout
    if passed:
        assert log.read_bytes() == b"forged\n"
    else:
        assert log.read_bytes() == b"earlier\nIllegal seekforged\n"
        assert seen == b""


def test_a_pipe_of_the_caller_keeps_its_flags_and_its_content(sandbox_host: Host) -> None:
    """Other programs may write to it; the command may neither read that nor change O_NONBLOCK."""
    box = sandbox_host.started("a", SLEEP, lower=sandbox_host.python_image)
    reader, writer = os.pipe()
    os.write(writer, b"of another\n")
    script = (
        "import os\n"
        "os.set_blocking(1, False)\n"
        "try: os.write(2, os.read(os.open('/dev/stdout', os.O_RDONLY | os.O_NONBLOCK), 99))\n"
        "except OSError as error: os.write(2, error.strerror.encode())\n"
    )
    argv = ("exec", "a", "--", "/usr/bin/python3", "-ISc", script)
    done = run(box.host, *argv, stdout=writer, stderr=subprocess.PIPE)
    assert done.stderr == b"Permission denied"
    assert os.get_blocking(writer)
    os.close(writer)
    assert os.read(reader, 99) == b"of another\n"
    os.close(reader)


@pytest.mark.parametrize("options", [["-i"], ["-it"]])
def test_files_are_written_and_read_where_they_stand(
    box: Sandbox, options: list[str], tmp_path: Path
) -> None:
    given, log = tmp_path / "given", tmp_path / "log"
    given.write_bytes(b"1\n2\n3\n")
    log.write_bytes(b"earlier\n")
    script = "stty -echo 2>/dev/null; read line; echo got $line"
    with open(given, "rb", buffering=0) as source, open(log, "ab") as target:
        assert source.read(2) == b"1\n"
        words = ("exec", *options, "a", "--", "sh", "-c", script)
        assert run(box.host, *words, stdin=source, stdout=target).returncode == 0
        if options == ["-i"]:
            assert source.read() == b"3\n", "the command read one line"
    shown = log.read_bytes().split()
    assert (shown[0], shown[-2:]) == (b"earlier", [b"got", b"2"])
    assert b"1" not in shown, "the terminal echoes what the command may read"


def test_output_that_can_not_be_written_is_an_error(box: Sandbox) -> None:
    with open("/dev/full", "wb") as full:
        done = run(box.host, "exec", "a", "echo", "x", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 125
    assert done.stderr.startswith(b"sandlot: a: the output can't be written: No space left")


@pytest.mark.parametrize("options", [[], ["-t"]])
def test_exec_ends_when_nobody_reads(box: Sandbox, options: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "exec", *options, "a", "yes"],
        env=environment(box.host),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline().rstrip() == b"y"
    process.stdout.close()
    assert process.wait(20) in (128 + signal.SIGPIPE, 128 + signal.SIGHUP)
    box.until(lambda: len(box.pids()) == 2)


@pytest.mark.parametrize("options", [["-i"], ["-it"]])
def test_exec_ends_when_its_terminal_hangs_up(box: Sandbox, options: list[str]) -> None:
    """As after a lost connection; the command ignores SIGHUP and prints afterwards."""
    script = "trap '' HUP; echo ready; read x; while echo more; do :; done"
    with Terminal() as terminal:
        process = terminal.run(box.host, "exec", *options, "a", "--", "sh", "-c", script)
        terminal.expect(b"ready")
        terminal.hang_up()
        assert process.wait(20) in (0, 1, 128 + signal.SIGPIPE, 128 + signal.SIGHUP)
    box.until(lambda: len(box.pids()) == 2)


def test_exec_ends_by_a_signal_while_its_terminal_takes_nothing(box: Sandbox) -> None:
    with Terminal() as terminal:
        process = terminal.run(
            box.host, "exec", "-t", "a", "--", "head", "-c", "9999999", "/dev/zero"
        )
        terminal.expect(b"\0")
        terminal.stop()

        def ended() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        until(ended)
        # The command's end by the signal, or the client's own once it forwards no more.
        assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_dev_null(box: Sandbox, closed: str) -> None:
    """No connection of the client's takes the number of a stream, where it would be relayed."""
    command = [*COMMAND, "exec", "-i", "a", "--", "sh", "-c", "cat; echo out; echo err >&2; exit 3"]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(
        shell, env=environment(box.host), timeout=20, check=False, text=True, **options
    )
    assert done.returncode == 3
    assert done.stdout == ("" if "1>" in closed else "out\n")
    assert done.stderr == ("" if "2>" in closed else "err\n")
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "list"]
    listed = subprocess.run(shell, env=environment(box.host), timeout=20, check=False, **options)
    assert (listed.returncode, listed.stderr) == (0, b"")
