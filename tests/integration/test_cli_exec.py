# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec: descriptors, terminals, signals and exit codes, through the command itself."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, Terminal, environment
from sandboxes import Host, Sandbox, until, wait_dead
from sandlot.errors import SandlotError
from sandlot.kernel import namespaces
from sandlot.reach import command

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")


@pytest.fixture
def box(sandbox_host: Host) -> Sandbox:
    return sandbox_host.started("a", ["sleep", "1000000"])


def sandlot(host: Host, *words: str | bytes, **options: object) -> subprocess.CompletedProcess:
    options = {"stdin": subprocess.DEVNULL, "timeout": 60, **options}
    command = [*COMMAND, *words]
    return subprocess.run(
        command, capture_output=True, env=environment(host), check=False, **options
    )


def test_output_and_exit_code(box: Sandbox) -> None:
    done = sandlot(box.host, "exec", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("argv", "code", "complaint"),
    [
        (["true"], 0, b""),
        (["sh", "-c", "exit 255"], 255, b""),
        (["sh", "-c", "kill -TERM $$"], 128 + 15, b""),
        (["sh", "-c", "kill -KILL $$"], 128 + 9, b""),
        (["nothing-there"], 127, b"sandlot: a: nothing-there: command not found"),
        (["/etc/passwd"], 126, b"sandlot: a: /etc/passwd: Permission denied"),
    ],
)
def test_exit_codes_are_exact(box: Sandbox, argv: list[str], code: int, complaint: bytes) -> None:
    done = sandlot(box.host, "exec", "a", "--", *argv)
    assert done.returncode == code
    assert done.stderr.startswith(complaint) and bool(done.stderr) == bool(complaint)


def test_names_that_are_no_running_sandbox(box: Sandbox) -> None:
    for name in ("b", "../a", "", "."):
        done = sandlot(box.host, "exec", "--", name, "true")
        assert done.returncode in (2, 125)
        done = sandlot(box.host, "exec", name, "true")
        assert done.returncode == 125, done.stderr
        assert b"no sandbox is named" in done.stderr
    box.stop()
    done = sandlot(box.host, "exec", "a", "true")
    assert done.returncode == 125
    assert done.stderr == b"sandlot: a is not running\nhint: start it: sandlot start a\n"


def test_stdin_only_when_asked_for(box: Sandbox) -> None:
    assert sandlot(box.host, "exec", "a", "cat", stdin=None, input=b"x").stdout == b""
    assert sandlot(box.host, "exec", "-i", "a", "cat", stdin=None, input=b"x").stdout == b"x"
    null = sandlot(box.host, "exec", "a", "readlink", "/proc/self/fd/0")
    assert null.stdout == b"/dev/null\n"


def test_environment_directory_user_and_arguments(box: Sandbox) -> None:
    script = 'printf "%s|" "$A" "$PWD" "$@"'
    words = ["sh", "-c", script, "sh", b"\xff", "--", "-x"]
    done = sandlot(box.host, "exec", "-e", "A=b=c", "-w", "/etc", "a", "--", *words)
    assert done.stdout == b"b=c|/etc|\xff|--|-x|"
    assert sandlot(box.host, "exec", "-u", "0", "a", "id", "-u").stdout == b"0\n"
    refused = sandlot(box.host, "exec", "-u", "web", "a", "id", "-u")
    assert refused.returncode == 126 and b"SETUID" in refused.stderr


def test_too_many_arguments_are_refused(box: Sandbox) -> None:
    words = ["x" * 100_000] * 12
    done = sandlot(box.host, "exec", "a", "--", "echo", *words)
    assert done.returncode == 125 and b"too much room" in done.stderr
    assert sandlot(box.host, "exec", "a", "true").returncode == 0


def test_a_gibibyte_through_pipes(box: Sandbox) -> None:
    block = os.urandom(1 << 20)
    count = 1 << 10
    command = [*COMMAND, "exec", "-i", "a", "--", "cat"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(box.host)
    )
    assert process.stdin and process.stdout
    writer = os.fork()
    if writer == 0:
        process.stdout.close()
        for _ in range(count):
            process.stdin.write(block)
        process.stdin.close()
        os._exit(0)
    process.stdin.close()
    total, digest = 0, hashlib.md5(usedforsecurity=False)
    while data := process.stdout.read(1 << 20):
        total += len(data)
        digest.update(data)
    os.waitpid(writer, 0)
    assert process.wait(20) == 0
    expected = hashlib.md5(usedforsecurity=False)
    for _ in range(count):
        expected.update(block)
    assert (total, digest.digest()) == (count << 20, expected.digest())


def test_a_child_that_keeps_the_output_open_is_not_waited_for(box: Sandbox) -> None:
    done = subprocess.run(
        [*COMMAND, "exec", "a", "--", "sh", "-c", "sleep 1000 & exit 5"],
        env=environment(box.host),
        stdout=subprocess.DEVNULL,
        timeout=20,
        check=False,
    )
    assert done.returncode == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_are_forwarded(box: Sandbox, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*COMMAND, "exec", "a", "--", "sh", "-c", script],
        env=environment(box.host),
        stdout=subprocess.PIPE,
        # The tests may run under nohup, or in the background of a shell.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == b"got\n"
    assert process.returncode == 9


def test_signals_that_the_caller_ignores_stay_ignored(box: Sandbox) -> None:
    """As nohup intends."""
    script = "trap 'echo hup' HUP; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*COMMAND, "exec", "a", "--", "sh", "-c", script],
        env=environment(box.host),
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == b""
    assert process.returncode == 9


def test_a_sandbox_that_dies_is_told_from_a_command_that_ends(box: Sandbox) -> None:
    process = subprocess.Popen(
        [*COMMAND, "exec", "a", "--", "sh", "-c", "echo ready; sleep 1000"],
        env=environment(box.host),
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    init = box.init
    os.kill(init, signal.SIGKILL)
    assert process.wait(20) == 137
    wait_dead(init)


def test_an_open_directory_is_not_handed_in(box: Sandbox) -> None:
    """Python itself refuses one as standard input, so this is for callers of the function."""
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    reader, writer = os.pipe()
    try:
        script = "readlink /proc/self/fd/0; ls /proc/self/fd/0/; cat"
        argv = ["sh", "-c", script]
        command.execute(
            box.host.paths, "a", argv, stdin_fd=directory, stdout_fd=writer, stderr_fd=writer
        )
        shown = os.read(reader, 65536)
    finally:
        for fd in (directory, reader, writer):
            os.close(fd)
    assert shown.startswith(b"pipe:")
    assert b"usr" not in shown


def test_run_for_callers_in_python(box: Sandbox) -> None:
    reader, writer = os.pipe()
    script = "cat; echo $X; pwd; exit 3"
    given, typed = os.pipe()
    os.write(typed, b"in ")
    os.close(typed)
    code = command.execute(
        box.host.paths, "a", ["sh", "-c", script],
        stdin_fd=given, stdout_fd=writer, stderr_fd=writer, env={"X": "y"}, cwd="/tmp",
    )  # fmt: skip
    os.close(writer)
    os.close(given)
    assert (code, os.read(reader, 100)) == (3, b"in y\n/tmp\n")
    os.close(reader)
    with pytest.raises(SandlotError, match="no sandbox is named"):
        command.execute(box.host.paths, "nobody", ["true"])


def test_run_leaks_no_descriptor(box: Sandbox) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with open(os.devnull, "r+b") as null, Terminal() as terminal:
        before = count()
        for fd in (null.fileno(), terminal.slave):
            command.execute(box.host.paths, "a", ["true"], stdin_fd=fd, stdout_fd=fd, stderr_fd=fd)
        command.execute(
            box.host.paths, "a", ["true"],
            stdin_fd=terminal.slave, stdout_fd=terminal.slave, stderr_fd=terminal.slave, tty=True,
        )  # fmt: skip
        assert count() == before


# -- terminals


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as made:
        yield made


def test_tty_has_the_size_of_the_callers_from_the_start(box: Sandbox, terminal: Terminal) -> None:
    terminal.run(box.host, "exec", "-t", "a", "--", "sh", "-c", "stty size; tty; exit 3")
    assert terminal.finish() == 3
    assert terminal.seen.replace(b"\r", b"") == b"33 101\n/dev/pts/0\n"


def test_tty_follows_a_resize(box: Sandbox, terminal: Terminal) -> None:
    script = "trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done"
    terminal.run(box.host, "exec", "-it", "a", "--", "sh", "-c", script)
    terminal.expect(b"ready")
    terminal.resize(12, 34)
    assert terminal.finish() == 4
    assert b"12 34" in terminal.seen


def test_keys_are_the_inner_terminals_business(box: Sandbox, terminal: Terminal) -> None:
    script = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    terminal.run(box.host, "exec", "-it", "a", "--", "sh", "-c", script)
    terminal.expect(b"ready")
    terminal.type(b"\x03")
    assert terminal.finish() == 6
    assert b"interrupted" in terminal.seen


def test_a_shell_on_a_terminal(box: Sandbox, terminal: Terminal) -> None:
    terminal.run(box.host, "exec", "-it", "a", "sh")
    terminal.expect(b"# ")
    terminal.type(b"echo a$((1+1))b\n")
    terminal.expect(b"a2b")
    # Only at its prompt does the shell take control-D for the end.
    terminal.expect(b"# ")
    terminal.type(b"\x04")
    assert terminal.finish() == 0


def test_terminal_is_restored_when_the_sandbox_dies(box: Sandbox, terminal: Terminal) -> None:
    terminal.run(box.host, "exec", "-it", "a", "--", "sh", "-c", "echo ready; sleep 1000")
    terminal.expect(b"ready")
    os.kill(box.init, signal.SIGKILL)
    assert terminal.finish() == 137


def test_the_callers_terminal_never_enters(box: Sandbox, terminal: Terminal) -> None:
    script = "ls -l /proc/self/fd; for i in 0 1 2; do test -t $i && echo terminal $i; done; cat"
    terminal.run(box.host, "exec", "-i", "a", "--", "sh", "-c", script)
    terminal.type(b"typed\n\x04")
    assert terminal.finish() == 0
    assert b"0 -> pipe:" in terminal.seen and b"terminal" not in terminal.seen
    assert b"/dev/pts" not in terminal.seen
    assert terminal.seen.endswith(b"typed\r\n")


@pytest.mark.parametrize("options", [["-i"], ["-it"]])
def test_terminal_relay_is_exact_both_ways(
    box: Sandbox, terminal: Terminal, options: list[str]
) -> None:
    """A screen that is read slowly, while more is typed than any buffer holds."""
    tty.setraw(terminal.slave)
    terminal.settings = termios.tcgetattr(terminal.slave)
    raw = "stty raw -echo; " if "-it" in options else ""
    script = raw + "echo ready; head -c 4000000"
    terminal.run(box.host, "exec", *options, "a", "--", "sh", "-c", script)
    terminal.expect(b"ready\n")
    terminal.seen = terminal.seen.partition(b"ready\n")[2]
    block = bytes(range(256)) * 125
    writer = os.fork()
    if writer == 0:
        for _ in range(125):
            terminal.type(block)
        os._exit(0)
    code = terminal.finish()
    os.waitpid(writer, 0)
    assert code == 0
    assert len(terminal.seen) == 4_000_000
    assert terminal.seen == block * 125


def test_nothing_of_exec_outlives_it(box: Sandbox, terminal: Terminal) -> None:
    """No pty, process or descriptor of a finished command stays with init."""
    before = set(os.listdir(f"/proc/{box.init}/fd"))
    terminal.run(box.host, "exec", "-it", "a", "true")
    assert terminal.finish() == 0
    assert sandlot(box.host, "exec", "-i", "a", "true").returncode == 0
    until(lambda: set(os.listdir(f"/proc/{box.init}/fd")) <= before)
    until(lambda: len(box.pids()) == 2)
    assert os.listdir(f"/proc/{box.init}/root/dev/pts") == ["ptmx"]


def test_init_is_the_one_that_was_recorded(box: Sandbox) -> None:
    """exec refuses when the recorded process is gone, whatever has its number now."""
    record = Path(box.paths.init)
    running = box.running()
    assert running and namespaces.start_time(running.pid) == running.start_time
    text = record.read_text()
    record.write_text(text.replace(str(running.start_time), str(running.start_time + 1)))
    assert sandlot(box.host, "exec", "a", "true").returncode == 125
    record.write_text(text)
    assert sandlot(box.host, "exec", "a", "true").returncode == 0
