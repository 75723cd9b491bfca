# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands run through init: as confined as the workload, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import (
    Host,
    Result,
    Sandbox,
    children,
    exit_code,
    receive,
    status_fields,
    wait_dead,
)
from sandlot import wire
from sandlot.errors import LaunchError
from sandlot.spec import confinement

SLEEP = ["sleep", "100000"]
SWITCHING = confinement.mask(["SETUID", "SETGID"])
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")
CONFINEMENT = (
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"),
    *("Seccomp_filters", "Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "SigCgt"),
)
FILES = ("cgroup", "uid_map", "gid_map", "setgroups", "limits", "mountinfo", "oom_score_adj")


def vector(pid: int) -> dict[str, Any]:
    """All that confines a process."""
    fields = status_fields(pid)
    root = os.stat(f"/proc/{pid}/root/")
    return {
        **{kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES},
        **{name: fields.get(name) for name in CONFINEMENT},
        **{name: Path(f"/proc/{pid}/{name}").read_text() for name in FILES},
        "root": (root.st_dev, root.st_ino),
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "environ": set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")),
        "fds": sorted(os.listdir(f"/proc/{pid}/fd")),
    }


def executed(box: Sandbox, *, tty: bool) -> tuple[Any, int]:
    """An exec'ed sleep: the session and its pid on the host."""
    before = set(children(box.init))
    null = os.open("/dev/null", os.O_RDWR)
    connection = box.session(SLEEP, [] if tty else [null] * 3, tty=tty)
    os.close(null)
    message, fds = receive(connection)
    assert "pid" in message, message
    wire.close_all(fds[1:])
    return (connection, fds), (set(children(box.init)) - before).pop()


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "pty"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user": "33:33"},
        {"user": "33:44", "capabilities": confinement.mask(["NET_BIND_SERVICE", "KILL"])},
        {"capabilities": confinement.mask(["CHOWN", "NET_RAW"]), "seccomp": None},
        {"rlimits": {"nofile": [64, 128], "nproc": [50, 50], "fsize": [1 << 20, 1 << 21]}},
        {"time_offset": {"monotonic": 1000.5, "boottime": 5000}},
        {"cwd": "/tmp", "read_only": True},
    ],
    ids=["default", "user", "user-caps", "caps", "rlimits", "time", "cwd"],
)
def test_exec_is_as_confined_as_the_workload(
    sandbox_host: Host, options: dict[str, Any], tty: bool
) -> None:
    box = sandbox_host.started("a", SLEEP, **options)
    session, pid = executed(box, tty=tty)
    expected, found = vector(box.workload), vector(pid)
    assert found == expected
    assert found["fds"] == ["0", "1", "2"]
    assert found["NoNewPrivs"] == "1"
    assert found["CapInh"] == found["CapAmb"] or "user" in options
    host = vector(os.getpid())
    assert not {kind for kind in NAMESPACES if host[kind] == found[kind]} - {"time", "cgroup"}
    session[0].close()
    wire.close_all(session[1])


def test_init_is_as_confined_as_the_workload(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, user="33:33")
    init, workload = vector(box.init), vector(box.workload)
    for name in (*NAMESPACES, "CapPrm", "CapBnd", "CapEff", "NoNewPrivs", "Uid", "Gid", "Groups"):
        assert init[name] == workload[name], name
    for name in ("Seccomp", "Seccomp_filters", "cgroup", "uid_map", "mountinfo"):
        assert init[name] == workload[name], name


def test_bounding_set_is_what_was_granted(sandbox_host: Host) -> None:
    mask = confinement.mask(["CHOWN", "NET_RAW", "CHECKPOINT_RESTORE"])
    box = sandbox_host.started("a", SLEEP, capabilities=mask)
    fields = status_fields(box.workload)
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{mask:016x}"}
    assert {fields[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
    other = status_fields(sandbox_host.started("b", SLEEP).workload)
    assert {other[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}


def test_non_root_user_keeps_what_is_granted(sandbox_host: Host) -> None:
    mask = confinement.mask(["NET_RAW"])
    box = sandbox_host.started("a", SLEEP, user="33:33", capabilities=mask)
    fields = status_fields(box.workload)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert fields[name] == f"{mask:016x}"


def test_parallel_execs_leave_nothing(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    before = open_files(box.init)
    for _ in range(3):
        null = os.open("/dev/null", os.O_RDWR)
        sessions = [box.session(["sh", "-c", f"exit {n}"], [null] * 3) for n in range(128)]
        os.close(null)
        assert [exit_code(session) for session in sessions] == list(range(128))
        for session in sessions:
            session.close()
    # The socket to the builder may be among the first ones, as init closes it after its answer.
    box.until(lambda: open_files(box.init).items() <= before.items())
    assert len(box.pids()) == 2


def open_files(pid: int) -> dict[str, str]:
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
    return found


def test_more_commands_than_allowed_are_refused(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, stop={"signal": 9, "timeout": 5.0})
    null = os.open("/dev/null", os.O_RDWR)
    sessions = [box.session(SLEEP, [null] * 3) for _ in range(256)]
    assert all("pid" in receive(session)[0] for session in sessions)
    os.close(null)
    with pytest.raises(LaunchError, match="256 commands"):
        box.shell("true")
    for session in sessions:
        wire.send(session, {"op": "signal", "signal": 9})
    assert {exit_code(session) for session in sessions} == {137}
    for session in sessions:
        session.close()
    assert box.shell("true").code == 0


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup that counts processes."""
    rows = [row.split() for row in Path("/proc/self/mountinfo").read_text().splitlines()]
    root = next(row[4] for row in rows if row[-3] == "cgroup2" or "pids" in row[-1].split(","))
    made = Path(root, f"sandlot-pids-{os.getpid()}")
    made.mkdir()
    yield made
    made.rmdir()


def test_a_full_sandbox_names_its_limit(cgroup: Path, sandbox_host: Host) -> None:
    limit = cgroup / "pids.max"
    box = sandbox_host.started("a", SLEEP, cgroups=[str(cgroup)])
    # The joiner counts until it is reaped.
    box.until(lambda: (cgroup / "pids.current").read_text() == "2\n")
    limit.write_text("2")
    refusal = "no more processes are allowed by pids_limit"
    with pytest.raises(LaunchError, match=f"^starting the command: {refusal}"):
        box.shell("true")
    limit.write_text("3")
    assert box.exec(["true"]).code == 0, "the control"
    box.stop()
    # None for init, none for the workload.
    for most in (1, 2):
        limit.write_text(str(most))
        with pytest.raises(LaunchError, match=refusal):
            box.start()
    box.destroy()
    box.until(lambda: not (cgroup / "cgroup.procs").read_text())


def test_command_outlives_its_caller(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    before = open_files(box.init)
    (connection, fds), pid = executed(box, tty=True)
    connection.close()
    # The socket to the builder may be among the first ones, as init closes it after its answer.
    box.until(lambda: open_files(box.init).items() <= before.items())
    assert pid in children(box.init)
    wire.close_all(fds)
    wait_dead(pid)


@pytest.mark.parametrize(
    "request_",
    [{}, {"op": "exec"}, {"op": "signal", "signal": 9999}, {"op": "configure"}, {"op": 7}, [1], 3],
)
def test_nonsense_does_not_hurt_init(sandbox_host: Host, request_: Any) -> None:
    box = sandbox_host.started("a", SLEEP)
    init = box.init
    with wire.connect(box.paths.socket) as connection:
        wire.send(connection, request_)
    with wire.connect(box.paths.socket) as connection:
        connection.send(b"\xff\xfe{}")
    assert box.shell("echo ok").stdout == b"ok\n"
    assert box.init == init


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65536, 65537, 20_000_000])
def test_binary_data_passes_unchanged(sandbox_host: Host, size: int) -> None:
    box = sandbox_host.started("a", SLEEP)
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert box.exec(["cat"], stdin=data) == Result(0, data, b"")
    assert box.shell("cat >&2", stdin=data) == Result(0, b"", data)


@pytest.mark.parametrize(
    ("argv", "options", "code"),
    [
        (["no-such"], {}, 127),
        (["/etc/passwd"], {}, 126),
        (["true"], {"cwd": "/no/such"}, 126),
        (["true"], {"user": "nobody-here"}, 126),
        (["true"], {"user": "-1"}, 126),
        (["true"], {"user": "70000"}, 126),
        ([], {}, 126),
        (["a\0b"], {}, 126),
    ],
)
def test_failures_are_reported(
    sandbox_host: Host, argv: list[str], options: dict[str, Any], code: int
) -> None:
    box = sandbox_host.started("a", SLEEP, capabilities=SWITCHING)
    with box.session(argv, **options) as connection:
        message, _ = receive(connection)
    assert message["code"] == code
    assert message["error"]


# -- pty


def screen(master: int, *, until: bytes) -> bytes:
    seen = b""
    while until not in seen:
        assert select.select([master], [], [], 20)[0], seen
        try:
            seen += os.read(master, 65536)
        except OSError:
            break
    return seen


def pty(box: Sandbox, script: str, **options: Any) -> tuple[Any, int]:
    connection = box.session(["sh", "-c", script], tty=True, **options)
    message, fds = receive(connection)
    assert "pid" in message, message
    return connection, fds[0]


def test_pty_is_made_inside_and_sized_by_the_caller(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    connection, master = pty(box, "tty; echo go; read x; stty size; exit 5")
    seen = screen(master, until=b"go")
    assert b"/dev/pts/0" in seen
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
    os.write(master, b"\n")
    assert b"33 111" in screen(master, until=b"33 111")
    assert exit_code(connection) == 5
    connection.close()
    os.close(master)


def test_pty_has_a_session_and_signals(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    connection, master = pty(
        box, "trap 'echo caught; exit 9' INT; echo go; while :; do sleep 1; done"
    )
    screen(master, until=b"go")
    os.write(master, b"\x03")
    screen(master, until=b"caught")
    assert exit_code(connection) == 9
    connection.close()
    os.close(master)


def test_signal_reaches_the_command(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    (connection, _), _ = executed(box, tty=False)
    wire.send(connection, {"op": "signal", "signal": 10})
    assert exit_code(connection) == 138
    connection.close()


# -- users


def test_user_can_not_be_switched_without_the_capabilities(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    with pytest.raises(LaunchError, match="SETUID"):
        box.exec(["id", "-u"], user="web")
    assert box.exec(["id", "-u"], user="root").stdout == b"0\n"


def test_variables_of_a_login_are_those_of_the_user(sandbox_host: Host) -> None:
    """Unless the sandbox or the command has its own, also with a launch file of dd050e5."""
    show = "echo $HOME $USER $LOGNAME $SHELL"
    env = {"PATH": "/bin", "HOME": "/root", "SHELL": "/own"}
    settings = {"capabilities": SWITCHING, "env": env, "login": ["HOME", "USER", "LOGNAME"]}
    box = sandbox_host.created(
        "a", ["sh", "-c", f"{show}; exec sleep 1000"], user="web", **settings
    )
    Path(box.paths.upper, "etc").mkdir()
    os.chown(Path(box.paths.upper, "etc"), box.config["ids"]["uid"], box.config["ids"]["gid"])
    passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv/web:/bin/sh\nnone:x:5:5:::\n"
    Path(box.paths.upper, "etc/passwd").write_text(passwd)
    box.start()
    box.until(lambda: box.log() == ["/srv/web web web /own"])
    shown = {
        user: box.shell(show, user=user).stdout for user in (None, "root", "none", "77", "0:0")
    }
    assert shown == {
        None: b"/srv/web web web /own\n",
        "root": b"/root root root /own\n",
        "none": b"/ none none /own\n",
        "77": b"/ /own\n",
        "0:0": b"/root root root /own\n",
    }
    given = {"HOME": "/x", "USER": "y"}
    assert box.shell(show, user="none", env=given).stdout == b"/x y none /own\n"
    earlier = sandbox_host.created("b", SLEEP, user="web", env=env)
    del earlier.config["login"]
    earlier.write()
    assert earlier.start().shell(show).stdout == b"/ web web /own\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("web", b"33 33 33 44"),
        ("33", b"33 33 33 44"),
        ("web:root", b"33 0 0"),
        ("web:44", b"33 44 44"),
        ("1234", b"1234 0 0"),
        ("1234:55", b"1234 55 55"),
        ("0", b"0 0 0"),
    ],
)
def test_user_is_switched_with_them(sandbox_host: Host, user: str, ids: bytes) -> None:
    box = sandbox_host.started("a", SLEEP, capabilities=SWITCHING)
    script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n | uniq)"
    assert box.shell(script, user=user).stdout == ids + b"\n"
    fields = box.exec(["grep", "Cap", "/proc/self/status"], user="33").stdout.decode().split("\n")
    granted = f"{SWITCHING:016x}"
    assert {f.split("\t")[0]: f.split("\t")[1] for f in fields if f} == {
        **{f"Cap{name}:": "0" * 16 for name in ("Inh", "Prm", "Eff", "Amb")},
        "CapBnd:": granted,
    }


def plant(box: Sandbox, kind: str) -> None:
    """A hostile /etc/passwd, as the sandbox's root could make it."""
    path = Path(box.paths.upper, "etc", "passwd")
    if box.running():
        # Through the mount, as an overlay's layer must not be changed below it.
        path = Path(f"/proc/{box.init}/root/etc/passwd")
        path.unlink()
    else:
        path.parent.mkdir()
        os.chown(path.parent, *(box.config["ids"][kind] for kind in ("uid", "gid")))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        with open(path, "wb") as handle:
            handle.truncate(10 << 30)
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    elif kind == "line":
        path.write_bytes(b"web:" + b"x" * (1 << 20))
    elif kind == "symlink":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"web:x:99999999999999999999:0:::\nweb\xff:x:1:1\n\0\n")


HOSTILE = ["fifo", "sparse", "device", "line", "symlink", "directory", "number"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_passwd_is_refused_in_bounds_by_exec(sandbox_host: Host, kind: str) -> None:
    box = sandbox_host.started("a", SLEEP, capabilities=SWITCHING)
    plant(box, kind)
    with box.session(["true"], user="web") as connection:
        message, _ = receive(connection, seconds=5.0)
    assert message["code"] == 126, message
    assert box.shell("echo alive").stdout == b"alive\n"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_passwd_is_refused_in_bounds_by_start(sandbox_host: Host, kind: str) -> None:
    box = sandbox_host.created("a", SLEEP, user="web")
    plant(box, kind)
    with pytest.raises(LaunchError, match="passwd|no id"):
        box.start()
    assert box.running() is None


@pytest.mark.parametrize("user", ["4294967295", "65536", "0:4294967295", "\u00b2", "-1", "9" * 30])
def test_ids_beyond_the_map_are_refused(sandbox_host: Host, user: str) -> None:
    """setresuid(2) takes -1 for "as it is": such a number must not end as root."""
    box = sandbox_host.started("ids", SLEEP, capabilities=SWITCHING)
    assert box.exec(["id", "-u"], user="33").stdout == b"33\n"
    with pytest.raises(LaunchError, match="no id from 0 to 65535|is not in the sandbox"):
        box.exec(["id", "-u"], user=user)
