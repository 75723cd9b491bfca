# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec --timeout, --output-limit and --detach: what is ended, and what goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, name_of, until
from sandlot import wire
from sandlot.reach import command, ending
from sandlot.reach.errors import TimedOut, Vanished

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")


@pytest.fixture
def box(sandbox_host: Host) -> Sandbox:
    return sandbox_host.started("a", ["sleep", "1000000"])


def sandlot(box: Sandbox, *words: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    settings = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, **more}
    env = environment(box.host)
    return subprocess.run([*COMMAND, "exec", *words], env=env, check=False, **settings)


def sleepers(box: Sandbox) -> list[str]:
    """The arguments of each sleep(1) but the workload's."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in box.pids()[2:]]
    return sorted(words[1].decode() for words in lines if words[0] == b"sleep")


def test_a_command_in_time_and_within_its_limit(box: Sandbox) -> None:
    script = "printf 12345; printf 67890 >&2; exit 3"
    words = ["--timeout", "1000", "--output-limit", "10b", "a", "--", "sh", "-c", script]
    done = sandlot(box, *words)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"12345", b"67890")


def test_a_late_command_ends_with_all_that_it_started(box: Sandbox) -> None:
    """Its own group and session, and a child that has left both; not a daemon."""
    script = (
        "sleep 1001 & (sleep 1002 &); setsid sleep 1003 & (setsid sleep 1004 > /dev/null 2>&1 &);"
        " echo ready; trap 'echo asked; exit' TERM; while :; do sleep 0.1; done"
    )
    begin = time.monotonic()
    done = sandlot(box, "--timeout", "1.5", "a", "--", "sh", "-c", script)
    assert done.returncode == 124
    assert done.stdout == b"ready\nasked\n"
    assert done.stderr.endswith(b"sandlot: a: the command ran for more than 1.5 s, and was ended\n")
    assert time.monotonic() - begin >= 1.5
    assert sleepers(box) == ["1004"]


def test_what_ignores_sigterm_is_killed_after_a_grace(box: Sandbox) -> None:
    script = "trap '' TERM; sleep 1001 & while :; do echo x; sleep 0.1; done"
    done = sandlot(box, "--timeout", "0.1", "--output-limit", "1m", "a", "--", "sh", "-c", script)
    assert done.returncode == 124
    assert done.stdout.count(b"x") > 10, "its output is relayed meanwhile"
    assert sleepers(box) == []


@pytest.mark.parametrize("ended", ["-t", "-i"])
def test_a_terminal_is_limited_too(box: Sandbox, ended: str) -> None:
    script = "while :; do echo 0123456789; done"
    done = sandlot(box, ended, "--output-limit", "1k", "a", "--", "sh", "-c", script)
    assert (done.returncode, len(done.stdout)) == (125, 1024)


@pytest.mark.parametrize("where", ["pipe", "null", "file"])
def test_too_much_output_ends_a_command(box: Sandbox, tmp_path: Path, where: str) -> None:
    script = "yes out & yes err >&2"
    with open(tmp_path / "output", "w+b") as file:
        target = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL, "file": file}[where]
        words = ["--output-limit", "100k", "--errors-as", "T1", "a", "--", "sh", "-c", script]
        done = sandlot(box, *words, capture_output=False, stdout=target, stderr=subprocess.PIPE)
        file.seek(0)
        output = done.stdout or file.read()
    error, _, line = done.stderr.partition(b"sandlot: ")
    assert done.returncode == 125
    assert line.startswith(b"a: the command wrote more than 102400 bytes, and was killed\nhint: ")
    assert json.loads(line.rpartition(b"\nT1 ")[2])["kind"] == "output-limit"
    if where != "null":
        assert len(output) + len(error) == 100 << 10
    until(lambda: len(box.pids()) == 2)


def test_a_fork_bomb_ends_with_its_command(box: Sandbox) -> None:
    script = "ulimit -u 2000; f() { f & f & sleep 1001; }; f"
    done = sandlot(box, "--timeout", "0.3", "a", "--", "sh", "-c", script)
    assert done.returncode == 124
    until(lambda: len(box.pids()) == 2)


def test_no_init_names_a_process_of_the_host(box: Sandbox) -> None:
    """Init tells the pid of the command, and is no more trusted than its workload."""
    init = box.running()
    assert init
    with subprocess.Popen(["sleep", "1000"]) as foreign:
        for named in (1, foreign.pid, os.getpid(), init.pid):
            tree = ending.Tree(init, named)
            assert not tree.signal(signal.SIGKILL)
            tree.close()
        assert foreign.poll() is None and box.running()
        foreign.kill()
    # Its own child is ended (control).
    tree = ending.Tree(init, box.status()["pid"])
    tree.kill()
    tree.close()
    box.until_final()


def test_kernels_without_signals_for_a_group_by_its_pidfd(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 6.9, each process is signalled by itself."""
    monkeypatch.setattr(ending, "_PROCESS_GROUP", 1 << 30)
    monkeypatch.setattr(ending, "GRACE", 0.2)
    script = "sleep 1001 & (sleep 1002 &); setsid sleep 1003 & trap '' TERM; wait; sleep 1004"
    with open(os.devnull, "r+b") as null, pytest.raises(TimedOut, match="ran for more than 1 s"):
        command.execute(
            box.host.paths, "a", ["sh", "-c", script], timeout=1,
            stdout_fd=null.fileno(), stderr_fd=null.fileno(),
        )  # fmt: skip
    assert len(box.pids()) == 2


# -- detached


def test_a_detached_command_runs_on_without_streams(box: Sandbox) -> None:
    script = "readlink /proc/self/fd/0; ls -l /proc/$$/fd > /tmp/fds; sleep 1001; true"
    done = sandlot(box, "-d", "a", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    until(lambda: sleepers(box) == ["1001"])
    assert box.shell("grep -c ' -> /dev/null' /tmp/fds").stdout == b"3\n"
    # Neither the client nor a supervisor is needed for that.
    box.asleep()
    assert sleepers(box) == ["1001"]
    assert {name_of(pid) for pid in box.pids()[1:]} == {"sleep", "sh"}


def test_a_detached_command_that_cannot_start(box: Sandbox) -> None:
    done = sandlot(box, "-d", "a", "nothing-there")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"sandlot: a: nothing-there: command not found\n"


def test_a_detached_command_of_a_sandbox_that_ends(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that nobody takes is no success."""

    def dying(connection: socket.socket, *_more: object) -> None:
        os.kill(box.init, signal.SIGKILL)
        raise BrokenPipeError

    monkeypatch.setattr(wire, "send", dying)
    with pytest.raises(Vanished):
        command.execute(box.host.paths, "a", ["true"], detach=True)


@pytest.mark.parametrize("option", ["-i", "-t", "--timeout=1", "--output-limit=1"])
def test_options_that_need_a_client(box: Sandbox, option: str) -> None:
    done = sandlot(box, "-d", option, "a", "true")
    assert done.returncode == 125 and b"can't be combined" in done.stderr


# -- words


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "2000001", "1e400", "x", ""])
def test_seconds(box: Sandbox, seconds: str) -> None:
    done = sandlot(box, f"--timeout={seconds}", "a", "true")
    assert done.returncode == 125 and b"--timeout" in done.stderr


@pytest.mark.parametrize("size", ["0", "-1", "x", "", "99999999999999999999"])
def test_sizes(box: Sandbox, size: str) -> None:
    done = sandlot(box, f"--output-limit={size}", "a", "true")
    assert done.returncode == 125 and b"--output-limit" in done.stderr


def test_variables_of_a_file(box: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"\xef\xbb\xbf# a comment\n\n  A=1 # no comment\r\nB==\xff\nC=3\nHOME\nGONE\n")
    words = ["--env-file", str(file), "-e", "C=4", "a", "--", "sh", "-c"]
    done = sandlot(box, *words, 'printf "%s|" "$A" "$B" "$C" "$HOME" "${GONE-unset}"')
    assert done.stdout == b"1 # no comment|=\xff|4|%s|unset|" % os.environ["HOME"].encode()
    file.write_text("A=1\n=secret\n")
    done = sandlot(box, *words, "true")
    assert done.returncode == 125 and b"secret" not in done.stderr
    assert f"{file}, line 2: names no variable".encode() in done.stderr
    done = sandlot(box, "--env-file", str(tmp_path / "none"), "a", "true")
    assert done.returncode == 125 and b"none': No such file" in done.stderr
    for path in (str(tmp_path), "/dev/zero"):
        done = sandlot(box, "--env-file", path, "a", "true")
        assert done.returncode == 125 and f"--env-file: '{path}'".encode() in done.stderr
