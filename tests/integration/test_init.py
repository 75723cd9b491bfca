# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Init as PID 1: exit codes, reaping, signals, restarts, idleness, argument vectors."""

from __future__ import annotations

import base64
import os
import re
import select
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import isolation
import pytest
from sandboxes import (
    Host,
    Sandbox,
    open_host,
    pid_inside,
    status_fields,
    switches,
    until,
    wait_dead,
    zygote_of,
)
from sandlot.errors import LaunchError
from sandlot.kernel.inotify import Watch

SLEEP = ["sleep", "100000"]
# Ignored or stopping by default (signal(7)); the rest kill.
HARMLESS = {"CHLD", "CONT", "URG", "WINCH", "STOP", "TSTP", "TTIN", "TTOU"}
DEADLY = [n for n in range(1, 65) if n not in {getattr(signal, f"SIG{s}") for s in HARMLESS}]
# Not passed on: faults are init's own, SIGPIPE and SIGXFSZ are caused by what init writes, and
# SIGCHLD tells it of its children.
KEPT = {"SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS", "PIPE", "XFSZ", "CHLD", "KILL", "STOP"}
FORWARDED = sorted(
    set(range(1, 65)) - {32, 33} - {int(getattr(signal, f"SIG{name}")) for name in KEPT}
)


def codes(host: Host, scripts: dict[str, str]) -> dict[str, int]:
    """Exit codes in status of one sandbox per script, started together."""
    boxes = [host.sandbox(name, ["sh", "-c", script]) for name, script in scripts.items()]
    assert not host.launcher.create([box.name for box in boxes])
    assert not host.launcher.start([box.name for box in boxes])
    return {box.name: box.until_final()["exit_code"] for box in boxes}


def test_a_step_of_the_confinement_that_fails_is_named(sandbox_host: Host) -> None:
    nonsense = base64.b64encode(b"no filter").decode()
    box = sandbox_host.created("a", SLEEP, seccomp=nonsense)
    with pytest.raises(LaunchError, match="^confining init: seccomp: Invalid argument;"):
        box.start()
    assert box.running() is None
    box.write(seccomp="")
    box.start()
    assert box.running() is not None


@pytest.mark.parametrize("block", range(8))
def test_exit_codes_are_exact(sandbox_host: Host, block: int) -> None:
    expected = {f"x{code}": code for code in range(block * 32, block * 32 + 32)}
    assert codes(sandbox_host, {name: f"exit {c}" for name, c in expected.items()}) == expected


@pytest.mark.parametrize("half", [DEADLY[:28], DEADLY[28:]], ids=["low", "high"])
def test_death_by_signal_is_128_plus_its_number(sandbox_host: Host, half: list[int]) -> None:
    boxes = {n: sandbox_host.sandbox(f"s{n}", SLEEP) for n in half}
    names = [box.name for box in boxes.values()]
    assert not sandbox_host.launcher.create(names)
    assert not sandbox_host.launcher.start(names)
    for number, box in boxes.items():
        os.kill(box.workload, number)
    assert {n: box.until_final()["exit_code"] for n, box in boxes.items()} == {
        n: 128 + n for n in half
    }


def test_last_output_is_logged_before_the_exit_code_shows(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["sh", "-c", "mkfifo /f; read x < /f; echo bye; exit 7"])
    init, workload = box.init, box.workload
    fifo = Path(f"/proc/{workload}/root/f")
    box.until(fifo.exists)
    os.kill(init, signal.SIGSTOP)
    with Watch(box.paths.run, box.paths.state) as watch:
        fifo.write_text("go\n")
        until(lambda: status_fields(workload)["State"].startswith("Z"))
        os.kill(init, signal.SIGCONT)
        assert box.until_final()["exit_code"] == 7
        names = changed(watch)
    assert names.index("log.0") < names.index("status")
    assert box.log() == ["bye"]


def changed(watch: Watch) -> list[str]:
    """Names of files that were changed, in order (inotify(7))."""
    data, names = os.read(watch.fd, 1 << 16), []
    while data:
        end = 16 + int.from_bytes(data[12:16], sys.byteorder)
        names.append(data[16:end].rstrip(b"\0").decode())
        data = data[end:]
    return names


def test_exit_codes_of_exec(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    assert [box.shell(f"exit {code}").code for code in range(0, 256, 5)] == list(range(0, 256, 5))
    assert [box.shell(f"kill -{n} $$").code for n in (1, 9, 15, 34, 64)] == [
        129,
        137,
        143,
        162,
        192,
    ]


def test_ten_thousand_orphans_are_reaped(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    burst = "i=0; while [ $i -lt 1000 ]; do (true &) ; i=$((i+1)); done"
    for _ in range(10):
        assert box.shell(burst).code == 0
    box.until(lambda: len(box.pids()) == 2)


def caught(box: Sandbox) -> set[int]:
    return {int(line.split()[1]) for line in box.log() if line.startswith("got ")}


def test_every_catchable_signal_reaches_the_workload(sandbox_host: Host) -> None:
    traps = "; ".join(f"trap 'echo got {n}' {n}" for n in FORWARDED)
    script = f"{traps}; echo ready; sleep 100000 & while :; do wait; done"
    box = sandbox_host.started("a", ["sh", "-c", script], stop={"signal": 9, "timeout": 5.0})
    box.until(lambda: "ready" in box.log())
    for number in FORWARDED:
        # One by one, as the kernel lets a pending stop signal and SIGCONT cancel each other.
        os.kill(box.init, number)
        box.until(lambda n=number: n in caught(box))
    assert caught(box) == set(FORWARDED)


def test_every_queued_signal_reaches_the_workload(sandbox_host: Host) -> None:
    """Init is stopped while they are sent, as a kernel queues what nobody takes."""
    first = signal.SIGRTMIN
    script = (
        "import signal\n"
        f"numbers = set(range({first}, {first + 3}))\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "print('ready', flush=True)\n"
        "while True: print(signal.sigwaitinfo(numbers).si_signo, flush=True)\n"
    )
    argv = ["/usr/bin/python3", "-ISc", script]
    box = sandbox_host.started("a", argv, lower=sandbox_host.python_image)
    box.until(lambda: "ready" in box.log())
    os.kill(box.init, signal.SIGSTOP)
    for number in range(1000):
        os.kill(box.init, first + number % 3)
    os.kill(box.init, signal.SIGCONT)
    box.until(lambda: len(box.log()) > 1000)
    found = box.log()[1:]
    assert [found.count(str(first + number)) for number in range(3)] == [334, 333, 333]


@pytest.mark.parametrize("main", [True, False], ids=["workload", "exec"])
def test_a_child_that_is_traced_by_init_goes_on(sandbox_host: Host, main: bool) -> None:
    """It asks its parent to trace it and gets a signal: waitpid(2) tells init of a stop."""
    script = (
        "import ctypes, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('caught', flush=True))\n"
        "print(ctypes.CDLL(None).ptrace(0, 0, 0, 0), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "sys.exit(7)\n"
    )
    argv = ["/usr/bin/python3", "-ISc", script]
    options = {"lower": sandbox_host.python_image, "seccomp": None}
    box = sandbox_host.started("a", argv if main else SLEEP, **options)
    if main:
        assert (box.until_final()["exit_code"], box.log()) == (7, ["0", "caught"])
    else:
        init = box.init
        result = box.exec(argv)
        assert (result.code, result.stdout, box.init) == (7, b"0\ncaught\n", init)


def test_signals_from_inside_do_not_end_init(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    init = box.init
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGILL):
        box.shell(f"kill -{int(number)} 1")
    assert box.shell("echo alive").stdout == b"alive\n"
    assert box.init == init


def test_stop_sends_the_stop_signal(sandbox_host: Host) -> None:
    stop = {"signal": int(signal.SIGUSR1), "timeout": 20.0}
    box = sandbox_host.started(
        "a", ["sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"], stop=stop
    )
    box.until(lambda: "ready" in box.log())
    box.stop()
    status = box.status()
    assert (status["state"], status["exit_code"], status["final"]) == ("stopped", 7, True)
    assert box.running() is None


def test_stop_kills_after_the_timeout(sandbox_host: Host) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    box = sandbox_host.started("a", ["sh", "-c", script], stop={"signal": 15, "timeout": 0.3})
    box.until(lambda: "ready" in box.log())
    init = box.init
    box.stop()
    assert box.status()["exit_code"] == 137
    wait_dead(init)


def test_stop_of_a_program_that_forks_when_told_to_end(sandbox_host: Host) -> None:
    bomb = "while :; do sleep 1000 & sleep 0.01; done"
    script = f"trap '{bomb}' TERM; echo ready; while :; do sleep 0.1; done"
    box = sandbox_host.started("a", ["sh", "-c", script], stop={"signal": 15, "timeout": 0.3})
    box.until(lambda: "ready" in box.log())
    init = box.init
    box.stop()
    wait_dead(init)


def test_daemons_left_behind_get_term_then_kill(sandbox_host: Host) -> None:
    polite = "(trap 'echo told' TERM; echo up; while :; do sleep 0.1; done) &"
    script = f"{polite} (trap '' TERM; sleep 1000) & sleep 0.3; exit 4"
    box = sandbox_host.started("a", ["sh", "-c", script], stop={"signal": 15, "timeout": 1.0})
    assert box.until_final()["exit_code"] == 4
    assert "told" in box.log()


@pytest.mark.parametrize(
    ("head", "missing"),
    [
        (b"#!/no/such/interpreter -x\n", "'/no/such/interpreter' "),
        (b"#! \t/bin/sh\r\necho x\r\n", r"'/bin/sh\r' "),
        (b"#!/opt/other\n", "'/no/such/second' "),
        (None, "'/lib/no-loader.so' "),
    ],
    ids=["script", "crlf", "script of a script", "elf"],
)
def test_a_missing_interpreter_is_named(
    sandbox_host: Host, head: bytes | None, missing: str
) -> None:
    box = sandbox_host.created("a", ["program"], env={"PATH": "/bin:/opt"})
    program = Path(box.paths.upper, "opt", "program")
    program.parent.mkdir()
    program.write_bytes(dynamic_program("/lib/no-loader.so") if head is None else head)
    program.with_name("other").write_bytes(b"#!/no/such/second\n")
    for path in (program, program.with_name("other")):
        path.chmod(0o755)
    text = f"/opt/program: its interpreter {missing}is missing"
    with pytest.raises(LaunchError, match=re.escape(text)):
        box.start()
    assert box.status()["exit_code"] == 126
    running = sandbox_host.sandbox("a", SLEEP, env={"PATH": "/bin:/opt"}).start()
    with pytest.raises(LaunchError, match=re.escape(text)):
        running.exec(["program"])


def dynamic_program(loader: str) -> bytes:
    """The smallest ELF program of this machine with a dynamic linker (elf(5))."""
    with open("/bin/sh", "rb") as handle:
        own = handle.read(64)
    header = own[:32] + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
    name = loader.encode() + b"\0"
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1)
    return header + segment + name


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (["no-such-command"], 127, "not found"),
        (["/bin/no-such"], 127, "not found"),
        (["/etc/passwd"], 126, "denied"),
        (["/etc"], 126, "denied"),
        (["/bin/busybox/x"], 127, "not found"),
    ],
)
def test_command_that_can_not_run_is_reported(
    sandbox_host: Host, argv: list[str], code: int, word: str
) -> None:
    box = sandbox_host.created("a", argv, restart={"policy": "always", "retries": 0})
    with pytest.raises(LaunchError, match=word):
        box.start()
    assert box.status()["exit_code"] == code
    assert box.status()["final"]
    assert box.running() is None
    assert box.log("stderr")


def counter(box: Sandbox) -> int:
    return len([line for line in box.log() if line == "run"])


@pytest.mark.parametrize(
    ("policy", "retries", "code", "runs"),
    [("no", 0, 1, 1), ("on-failure", 0, 0, 1), ("on-failure", 2, 1, 3)],
)
def test_policies_that_end(
    sandbox_host: Host, policy: str, retries: int, code: int, runs: int
) -> None:
    restart = {"policy": policy, "retries": retries}
    box = sandbox_host.started("a", ["sh", "-c", f"echo run; exit {code}"], restart=restart)
    status = box.until_final()
    assert (counter(box), status["exit_code"], status["restarts"]) == (runs, code, runs - 1)


@pytest.mark.parametrize(
    ("policy", "code"), [("always", 0), ("unless-stopped", 0), ("on-failure", 1)]
)
def test_policies_that_go_on_until_stopped(sandbox_host: Host, policy: str, code: int) -> None:
    restart = {"policy": policy, "retries": 0}
    box = sandbox_host.started("a", ["sh", "-c", f"echo run; exit {code}"], restart=restart)
    init = box.init
    box.until(lambda: counter(box) >= 3)
    box.until(lambda: box.state() == "backoff")
    box.stop()
    wait_dead(init)
    status = box.status()
    assert (status["state"], status["final"], status["exit_code"]) == ("stopped", True, code)
    assert box.running() is None


def test_back_off_doubles(sandbox_host: Host) -> None:
    restart = {"policy": "always", "retries": 0}
    box = sandbox_host.started(
        "a", ["sh", "-c", "read up rest </proc/uptime; echo $up"], restart=restart
    )
    box.until(lambda: len(box.log()) >= 5)
    times = [float(line) for line in box.log()[:5]]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert all(0.09 * 2**n <= gap for n, gap in enumerate(gaps)), gaps


@pytest.fixture
def undisturbed_host() -> Iterator[Host]:
    """The launcher looks at each change of the rules and links of its network."""
    with isolation.undisturbed():
        host = open_host()
        try:
            yield host
        finally:
            host.close()


def test_idle_sandbox_never_wakes_up(undisturbed_host: Host) -> None:
    box = undisturbed_host.started("a", SLEEP)
    launcher = undisturbed_host.launcher_pid()
    watched = [box.init, launcher, zygote_of(launcher)]
    until(lambda: undisturbed_host.launcher.ping())
    pidfds = [os.pidfd_open(pid) for pid in watched]

    def quiet() -> bool:
        before = [switches(pid) for pid in watched]
        assert not select.select(pidfds, [], [], 3.0)[0], "a process died"
        return before == [switches(pid) for pid in watched]

    until(quiet, what="no context switch of init and launcher for three seconds")
    for pidfd in pidfds:
        os.close(pidfd)


EVERY_BYTE = os.fsdecode(bytes(range(1, 256)))


def test_arguments_and_environment_are_byte_exact(sandbox_host: Host) -> None:
    argv = ["sh", "-c", "sleep 100000; :", EVERY_BYTE, "", " a  b ", "\n", "\u65e5\u672c"]
    env = {"PATH": "/bin", "EVERY": EVERY_BYTE, "EMPTY": "", "EQ": "a=b"}
    box = sandbox_host.started("a", argv, env=env)
    expected = {os.fsencode(f"{key}={value}") for key, value in env.items()}

    def shells() -> list[int]:
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in box.pids()}
        return [pid for pid, line in lines.items() if line[:2] == b"sh"]

    with box.session(argv):
        # A shell is there twice until the copy has become its command.
        box.until(lambda: len(box.pids()) == 5 and len(shells()) == 2)
        for pid in shells():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            assert words == [os.fsencode(word) for word in argv]
            assert set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]) == expected


@pytest.mark.parametrize(
    ("size", "stack"),
    [(1_500_000, None), ((2 << 20) - 20000, None), ((6 << 20) - 20000, 24 << 20)],
)
def test_a_large_environment(sandbox_host: Host, size: int, stack: int | None) -> None:
    values = {f"V{number}": "x" * 100_000 for number in range(size // 100_014)}
    rlimits = {"stack": [stack, -1]} if stack else {}
    box = sandbox_host.started("a", SLEEP, env={"PATH": "/bin", **values}, rlimits=rlimits)
    environment = Path(f"/proc/{box.workload}/environ").read_bytes()
    assert environment.count(b"x" * 100_000) == len(values)
    assert box.shell("echo ${#V0}").stdout == b"100000\n"
    if not stack:
        more = {f"W{number}": "x" * 100_000 for number in range(9)}
        with pytest.raises(LaunchError, match="env and arguments are more than the kernel takes"):
            box.exec(["true"], env=more)


def test_workload_environment_is_the_given_one_alone(
    fresh_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/marker-of-the-host")
    box = fresh_host.started("a", SLEEP, env={"PATH": "/bin", "A": "b"})
    for pid in (box.init, fresh_host.launcher_pid()):
        assert b"marker-of-the-host" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert Path(f"/proc/{box.workload}/environ").read_bytes() == b"A=b\0PATH=/bin\0"


def test_workload_starts_with_default_signals_and_three_descriptors(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    fields = status_fields(box.workload)
    for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"):
        assert int(fields[name], 16) == 0, (name, fields[name])
    assert sorted(os.listdir(f"/proc/{box.workload}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{box.workload}/cwd") == os.readlink(f"/proc/{box.workload}/root")


def test_closed_stdio_does_not_make_init_spin(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["sh", "-c", "exec <&- >&- 2>&-; exec sleep 100000"])
    box.until(lambda: not os.listdir(f"/proc/{box.workload}/fd"))
    box.until(lambda: quiet_for(box.init, 1.0))


def quiet_for(pid: int, seconds: float) -> bool:
    before = switches(pid)
    pidfd = os.pidfd_open(pid)
    try:
        assert not select.select([pidfd], [], [], seconds)[0]
    finally:
        os.close(pidfd)
    return before == switches(pid)


def test_pid_one_is_init(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    assert pid_inside(box.init) == 1
    assert Path(f"/proc/{box.init}/comm").read_text() == "sandlot-init\n"
