# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot trace: each refusal has its remedy, with which the same command works."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root
from converge_fixtures import sandbox as deployed
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, children, status_fields, until, wait_dead
from sandlot import wire
from sandlot.security import seccomp
from sandlot.security.syscalls import ARCHITECTURES
from sandlot.spec import confinement

pytestmark = needs_root
SLEEP = ["sleep", "100000"]
NUMBER = ARCHITECTURES[os.uname().machine].numbers["io_uring_setup"]
IO_URING = f"""
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(ctypes.c_long({NUMBER}), ctypes.c_long(1), ctypes.create_string_buffer(120))
sys.exit(3 if ring < 0 and ctypes.get_errno() == 1 else 0)
"""
AUDIT = """
import socket
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
except OSError as error:
    print(error.errno)
"""
OWN_FILTER = f"""
import ctypes, struct
libc = ctypes.CDLL(None)
# A filter that ends the process at getppid(2).
number = {ARCHITECTURES[os.uname().machine].numbers["getppid"]}
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x30000), (6, 0, 0, 0x7fff0000)]
program = b"".join(struct.pack("HBBI", *each) for each in code)
held = ctypes.create_string_buffer(program)
fprog = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
libc.prctl(22, 2, fprog, 0, 0)
libc.getppid()
"""


def granted(*names: str) -> dict[str, Any]:
    program = seccomp.program(capabilities=names) or b""
    mask = confinement.mask(names)
    return {"capabilities": mask, "seccomp": base64.b64encode(program).decode()}


def python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-ISc", code]


def trace(box: Sandbox, *words: str, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "trace", *words]
    return subprocess.run(
        command, env=environment(box.host), capture_output=True, text=True, timeout=limit
    )


def traced(box: Sandbox, *argv: str, seconds: float = 20.0) -> dict[str, Any]:
    words = [
        "--format",
        "json",
        "--timeout",
        str(seconds),
        box.name,
        *(("--", *argv) if argv else ()),
    ]
    done = trace(box, *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shell(code: str) -> list[str]:
    return ["sh", "-c", code]


# Command, its failing call, words of the remedy, and the changes that they ask for.
CASES: dict[str, tuple[list[str], str, str, dict[str, Any]]] = {
    "chown": (
        shell("rm -f /x; touch /x && chown 7 /x"),
        "chown EPERM",
        "capabilities: [CHOWN] or security_profile: daemon",
        granted("CHOWN"),
    ),
    "setgroups": (
        python("import os; os.setgroups([44]); os.setuid(33)"),
        "setgroups EPERM",
        "capabilities: [SETGID]",
        granted("SETGID", "SETUID"),
    ),
    "chroot": (["chroot", "/", "true"], "chroot EPERM", "[SYS_CHROOT]", granted("SYS_CHROOT")),
    "mount": (
        ["mount", "-t", "tmpfs", "none", "/tmp"],
        "mount EPERM",
        "nothing else allows it but capability SYS_ADMIN",
        granted("SYS_ADMIN"),
    ),
    "directory": (
        ["cat", "/data/below/file"],
        "open EACCES",
        "the directory /data belongs to user 999, mode 0700; runs as 0 without capability"
        " DAC_OVERRIDE",
        granted("DAC_OVERRIDE"),
    ),
    "owner": (
        ["cat", "/data/below/file"],
        "open EACCES",
        "or set user: 999",
        {"user": "999:999"},
    ),
    "read-only": (
        shell("echo x > /var/x"),
        "open EROFS",
        "list the directory in tmpfs",
        {"tmpfs": {"/var": "size=1m"}},
    ),
    "io_uring": (
        python(IO_URING),
        "io_uring_setup EPERM",
        "refused on purpose, no option allows it alone",
        {"seccomp": None},
    ),
    "missing": (
        shell("exec 2>/dev/null; exec ${TOOL:-/bin/nothing}"),
        "execve ENOENT",
        "missing in the image",
        {"env": {"PATH": "/bin", "TOOL": "/bin/true"}},
    ),
}


@pytest.fixture(scope="module")
def bare(module_host: Host) -> Sandbox:
    """A sandbox without rights, in which /data is another user's."""
    return started(module_host, "bare")


def started(host: Host, name: str, **changes: Any) -> Sandbox:
    box = host.sandbox(name, SLEEP, lower=host.python_image, **changes)
    place = Path(box.paths.upper, "data/below")
    place.mkdir(parents=True)
    (place / "file").write_text("x")
    for path in (place.parent, place, place / "file"):
        os.chown(path, box.config["ids"]["uid"] + 999, box.config["ids"]["gid"] + 999)
    place.parent.chmod(0o700)
    box.create()
    return box.start()


@pytest.mark.parametrize("case", CASES)
def test_the_remedy_of_a_refusal_helps(sandbox_host: Host, bare: Sandbox, case: str) -> None:
    argv, failure, words, changes = CASES[case]
    box = bare
    if case == "read-only":
        box = started(sandbox_host, "a", read_only=True)
        changes = {**changes, "read_only": True}
    report = traced(box, *argv)
    assert report["exit_code"] not in (0, None), report
    call, error = failure.split()
    fits = [r for r in report["refusals"] if call in r["call"] and r["error"] == error]
    assert fits and words in fits[0]["remedy"], report
    helped = started(sandbox_host, "b", **changes)
    assert helped.exec(argv).code == 0


def test_what_is_told_of_programs_that_go_on_or_end_themselves(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, lower=sandbox_host.python_image)
    report = traced(box, *python(AUDIT))
    (entry,) = [r for r in report["refusals"] if r["call"] == "socket"]
    assert entry["harmless"] and "audit log" in entry["remedy"] and report["output"] == ["93"]
    report = traced(box, *python(OWN_FILTER))
    (entry,) = [r for r in report["refusals"] if r["by"] == "program"]
    assert (entry["call"], entry["error"]) == ("getppid", "SIGSYS")
    assert report["ended"] == "was ended by SIGSYS"


def test_a_port_in_use(sandbox_host: Host) -> None:
    """The workload holds it; another one is free."""
    box = sandbox_host.started("a", ["httpd", "-f", "-p", "80"])
    box.until(lambda: ":0050 " in Path(f"/proc/{box.init}/net/tcp6").read_text())
    text = trace(box, "--timeout", "1", "a").stdout
    assert re.search(r"^bind\(.*\) EADDRINUSE: the port is in use", text, re.M)
    text = trace(box, "--timeout", "1", "a", "--", "httpd", "-f", "-p", "81").stdout
    assert "still ran after 1 seconds, and was ended" in text and "no call was refused" in text


@pytest.mark.parametrize("user", ["0:0", "33:33"])
def test_a_traced_command_is_as_confined_as_the_workload(sandbox_host: Host, user: str) -> None:
    box = sandbox_host.started("a", SLEEP, user=user, **granted("CHOWN"))
    lines = "Cap|Seccomp|NoNew|Uid|Gid|Sig[BIC]"
    look = shell(f"grep -E '^({lines})' /proc/self/status | tr -d '\\t\\n0'")
    report = traced(box, *look)
    assert report["output"] == [box.exec(look).stdout.decode()] and "NoNewPrivs:1" in str(report)
    assert report["refusals"] == [] and report["exit_code"] == 0


@pytest.mark.parametrize("strict", [True, False])
def test_setuid_programs_gain_what_they_gain_untraced(sandbox_host: Host, strict: bool) -> None:
    changes: dict[str, Any] = {} if strict else {"no_new_privileges": False}
    changes.update(user="33:33", lower=sandbox_host.python_image)
    box = sandbox_host.sandbox("a", SLEEP, **changes)
    tool = Path(box.paths.upper, "tool")
    shutil.copy("/usr/bin/python3", tool)
    os.chown(tool, box.config["ids"]["uid"], box.config["ids"]["gid"])
    tool.chmod(0o4755)
    box.create()
    box.start()
    argv = ["/tool", "-ISc", "import os; print(os.geteuid())"]
    assert box.exec(argv).stdout.decode() == ("33\n" if strict else "0\n")
    assert traced(box, *argv)["output"] == ["33" if strict else "0"]


def group(leader: int) -> list[str]:
    """The processes of a group; a dead one that nobody has reaped does not count."""
    command = ["ps", "-eo", "pgid=,stat=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in lines]
    return [row[2] for row in rows if int(row[0]) == leader and row[1][0] != "Z"]


def test_strace_has_few_rights(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    command = [*COMMAND, "trace", "--timeout", "60", "a"]
    client = subprocess.Popen(command, env=environment(sandbox_host), stdout=subprocess.PIPE)
    try:
        tracer = until(lambda: next(iter(children(client.pid)), None))
        until(lambda: b"strace" in Path(f"/proc/{tracer}/cmdline").read_bytes())
        fields = status_fields(tracer)
        assert set(fields["Uid"].split()) == {str(box.config["ids"]["uid"])}
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 19  # SYS_PTRACE
        assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
        networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in (tracer, client.pid, box.init)}
        assert len(networks) == 3
        user = os.readlink(f"/proc/{tracer}/ns/user")
        assert user == os.readlink(f"/proc/{box.init}/ns/user")
        before = set(box.pids())
        client.send_signal(signal.SIGKILL)
        client.wait()
        # Neither strace nor what it traced outlives the command, even killed.
        wait_dead(tracer)
        until(lambda: not group(tracer))
        box.until(lambda: len(box.pids()) == 2)
        assert set(box.pids()) < before
    finally:
        client.kill()
        client.wait()


def test_an_interrupt_ends_the_trace_with_its_report(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    code = "chroot / true; echo begun > /begun; sleep 1000"
    client = subprocess.Popen(
        [*COMMAND, "trace", "--timeout", "60", "a", "--", "sh", "-c", code],
        env=environment(sandbox_host),
        stdout=subprocess.PIPE,
        text=True,
    )
    until(Path(box.paths.upper, "begun").exists)
    client.send_signal(signal.SIGTERM)
    report, _ = client.communicate(timeout=20)
    assert client.returncode == 130 and "chroot" in report and "was interrupted" in report
    box.until(lambda: len(box.pids()) == 2)


def test_an_init_of_an_older_version(sandbox_host: Host) -> None:
    """Such an init answers that it does not know the request."""
    box = sandbox_host.started("a", SLEEP)
    os.unlink(box.paths.socket)
    listener = wire.listen(box.paths.socket)
    listener.setblocking(True)
    client = subprocess.Popen(
        [*COMMAND, "trace", "a"],
        env=environment(sandbox_host),
        stderr=subprocess.PIPE,
        text=True,
    )
    connection = wire.accept(listener)
    listener.close()
    assert connection is not None
    request, fds = wire.receive_request(connection)
    wire.close_all(fds)
    assert request is not None and request["op"] == "trace"
    wire.answer(connection, {"error": "this init is of an older sandlot"})
    connection.close()
    _, errors = client.communicate(timeout=20)
    assert client.returncode == 1 and "has to be restarted: sandlot restart a" in errors


def test_a_hostile_command_ends_in_time(sandbox_host: Host) -> None:
    """It forks, ignores signals, floods both reports, and writes to the terminal."""
    box = sandbox_host.started("a", SLEEP, rlimits={"nproc": [60, 60]})
    before = box.pids()
    code = r"""
    trap '' TERM INT HUP
    f="$(printf '/\033[31m\n"x')"
    bomb() { while :; do chown 7 "$f" /etc 2>&1; printf '\033[2J'; done; }
    for i in 1 2 3 4 5 6 7 8; do bomb & setsid sh -c 'while :; do sleep 0.01 & done' & done
    while :; do yes "$f" | head -c 1000000; done
    """
    began = time.monotonic()
    done = trace(box, "--timeout", "2", "a", "--", "sh", "-c", code)
    assert time.monotonic() - began < 6 and done.returncode == 0, done
    assert "needs capability CHOWN" in done.stdout and "\x1b" not in done.stdout + done.stderr
    box.until(lambda: box.pids() == before)


def test_a_workload_that_crashes_waits_for_the_trace(sandbox_host: Host) -> None:
    """Init starts nothing and ends nothing meanwhile; without a trace it starts again."""
    argv = shell("echo x >> /runs; exit 1")
    box = sandbox_host.started("a", argv, restart={"policy": "always", "retries": 0})
    runs = Path(box.paths.upper, "runs")
    box.until(lambda: box.status().get("restarts", 0) >= 1)
    code = 'a=$(cat /runs); sleep 2; test "$a" = "$(cat /runs)"'
    assert traced(box, *shell(code))["exit_code"] == 0
    before = runs.read_text()
    box.until(lambda: runs.read_text() != before)


def test_a_command_that_is_missing(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    done = trace(box, "a", "--", "/bin/nothing")
    assert (
        done.returncode == 0
        and "could not be started: /bin/nothing: command not found" in done.stdout
    )
    assert len(box.pids()) == 2


def test_a_workload_that_stays_down(host: Deployment) -> None:
    """The traced run is its run: it leaves the same state. One that is stopped is not started."""
    code = "echo x >> /runs; mknod /b b 1 1 2>/dev/null; echo Operation not permitted; exit 3"
    spec = deployed("a", command=shell(code), restart_policy="no")
    host.run(spec)
    eventually(lambda: host.info("a")["state"] == "exited")
    assert "sandlot trace a" in host.run(spec, watch=30.0).failed["a"]
    command = [*COMMAND, "trace", "--format", "json", "a"]
    eventually(lambda: host.info("a")["state"] == "exited")
    done = subprocess.run(command, env=environment(host), capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["exit_code"] == 3 and "no option makes devices inside" in done.stdout, done
    eventually(lambda: host.info("a")["exit_code"] == 3)
    assert Path(host.paths.sandbox("a").upper, "runs").read_text() == "x\n" * 3
    host.run({**spec, "state": "stopped"})
    done = subprocess.run(command, env=environment(host), capture_output=True, text=True)
    assert done.returncode == 1 and "hint: start it: sandlot start a" in done.stderr
