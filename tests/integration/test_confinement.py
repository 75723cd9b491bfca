# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Attacks from inside, and the same against sandboxes weakened by the test, where they succeed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import secrets
import select
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from sandboxes import DEADLINE, Host, Sandbox, exit_code, pid_inside, receive, until
from sandlot import wire
from sandlot.security import MASKED
from sandlot.security.syscalls import ARCHITECTURES
from sandlot.spec import confinement

SLEEP = ["sleep", "100000"]
NUMBERS = ARCHITECTURES[platform.machine()].numbers
ADMIN = {"seccomp": None, "capabilities": confinement.mask(["SYS_ADMIN", "SYS_CHROOT"])}

# Runs inside: results of attempts by name, 0 or an error number, as JSON.
PRELUDE = f"""
import ctypes, errno, fcntl, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {dict(NUMBERS)!r}
def call(name, *words):
    ctypes.set_errno(0)
    raw = [ctypes.c_long(w) if isinstance(w, int) else w for w in words]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *raw)
    return 0 if result >= 0 else ctypes.get_errno()
def opened(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags))
        return 0
    except OSError as error:
        return error.errno
"""


@pytest.fixture(scope="module")
def boxes(module_host: Host) -> Iterator[dict[str, Sandbox]]:
    """Sandboxes with Python in them: as deployed, without the filter, and with rights to mount."""
    image = module_host.python_image
    kinds: dict[str, dict[str, Any]] = {
        "default": {},
        "nofilter": {"seccomp": None},
        "admin": ADMIN,
    }
    yield {
        kind: module_host.started(kind, SLEEP, lower=image, **options)
        for kind, options in kinds.items()
    }


def attempt(box: Sandbox, script: str, *arguments: str) -> Any:
    result = box.python(PRELUDE + script, *arguments)
    assert result.code == 0, result
    return json.loads(result.stdout)


# -- mounts

MOUNTING = """
flags = {"bind": 4096, "remount": 32 | 4096, "private": 1 << 18, "detach": 2}
os.makedirs("/tmp/m", exist_ok=True)
results = {
    "mount": call("mount", b"none", b"/tmp/m", b"tmpfs", 0, 0),
    "bind": call("mount", b"/etc", b"/tmp/m", 0, 4096, 0),
    "propagation": call("mount", b"none", b"/", 0, 1 << 18, 0),
    "unmount": call("umount2", b"/tmp/m", 2),
    "open_tree": call("open_tree", -100, b"/etc", 1),
    "fsopen": call("fsopen", b"tmpfs", 1),
    "unshare": call("unshare", 0x20000),
    "chroot": call("chroot", b"/tmp"),
}
print(json.dumps(results))
"""


def test_mounts_can_not_be_changed(boxes: dict[str, Sandbox]) -> None:
    for kind in ("default", "nofilter"):
        results = attempt(boxes[kind], MOUNTING)
        assert all(code in (1, 38) for code in results.values()), (kind, results)
    control = attempt(boxes["admin"], MOUNTING)
    assert set(control.values()) == {0}, control


def test_new_namespaces_can_not_be_made(boxes: dict[str, Sandbox]) -> None:
    """A user namespace would bring capabilities; without the filter the kernel allows it."""
    script = 'print(json.dumps(call("unshare", 0x10000000)))'
    assert attempt(boxes["default"], script) == 1
    assert attempt(boxes["nofilter"], script) == 0


LOCKED = """
def unmount(path): return call("umount2", path.encode(), 2)
def reveal(path):
    return call("mount", b"none", path.encode(), 0, 32 | 4096, 0)
print(json.dumps({"masks": [unmount(p) for p in sys.argv[1:] if os.path.exists(p)],
                  "sysctl": unmount("/proc/sys"), "writable": reveal("/proc/sys"),
                  "fresh proc": call("mount", b"proc", b"/tmp", b"proc", 0, 0)}))
"""


def test_masks_need_no_more_than_missing_capabilities(boxes: dict[str, Sandbox]) -> None:
    found = attempt(boxes["nofilter"], LOCKED, *MASKED)
    assert {*found.pop("masks"), *found.values()} == {1}


@pytest.mark.parametrize("path", MASKED)
def test_masked_path_is_empty(boxes: dict[str, Sandbox], module_host: Host, path: str) -> None:
    script = 'test -e "$1" || exit 7; test -d "$1" && ls -A "$1" || head -c 100 "$1"'
    result = boxes["default"].exec(["sh", "-c", script, "sh", path])
    assert result.code == 7 or (result.code, result.stdout) == (0, b"")
    if not os.path.exists(path):
        assert result.code == 7


def test_masked_paths_show_without_masks(sandbox_host: Host, boxes: dict[str, Sandbox]) -> None:
    box = sandbox_host.started("bare", SLEEP, masked=[], readonly=[])
    shown = box.shell("cat /proc/interrupts; cat /proc/keys; ls /sys/firmware /sys/kernel/notes")
    assert len(shown.stdout) > 200
    assert box.shell("test -w /proc/sys/kernel/hostname").code == 0


def test_a_mask_stays_empty_for_who_may_mount(boxes: dict[str, Sandbox]) -> None:
    script = """
MS_REMOUNT, MS_BIND, MS_KEPT = 32, 4096, 2 | 4 | 8 | 1 << 21
found = {}
for path in ("/sys/firmware", "/proc/irq"):
    found[path] = call("mount", 0, path.encode(), 0, MS_REMOUNT | MS_BIND | MS_KEPT, 0)
try:
    os.mkdir("/sys/firmware/x")
except OSError as error:
    found["made"] = error.errno
print(json.dumps(found))
"""
    # Control: a mount that is read-only without a lock of the kernel becomes writable.
    assert attempt(boxes["admin"], script) == {
        "/sys/firmware": errno.EPERM,
        "/proc/irq": 0,
        "made": errno.EROFS,
    }


def test_kernel_settings_are_read_only(boxes: dict[str, Sandbox]) -> None:
    script = """
found = {}
for top in ("/proc/sys", "/sys", "/proc/bus", "/proc/irq", "/proc/fs", "/proc/sysrq-trigger"):
    for directory, _, names in os.walk(top) if os.path.isdir(top) else [("", "", [top])]:
        for name in names:
            path = os.path.join(directory, name)
            if opened(path, os.O_WRONLY | os.O_NONBLOCK) == 0:
                found[path] = 0
print(json.dumps(found))
"""
    for kind in ("default", "nofilter"):
        # A masked file is /dev/null.
        assert set(attempt(boxes[kind], script)) <= set(MASKED)


# -- the way out

ESCAPE = """
os.makedirs("/tmp/jail", exist_ok=True)
outside = os.open("/", os.O_RDONLY)
jailed = call("chroot", b"/tmp/jail")
os.fchdir(outside)
for _ in range(64):
    os.chdir("..")
escaped = call("chroot", b".")
here = os.stat("/")
seen = [p for p in (sys.argv[1], "/proc/1/root" + sys.argv[1]) if os.path.exists(p)]
print(json.dumps({"jailed": jailed, "escaped": escaped, "root": [here.st_dev, here.st_ino],
                  "seen": seen, "names": sorted(os.listdir("/"))}))
"""


def test_old_root_is_out_of_reach(boxes: dict[str, Sandbox], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("host")
    for kind in ("default", "nofilter", "admin"):
        box = boxes[kind]
        root = os.stat(f"/proc/{box.init}/root/")
        found = attempt(box, ESCAPE, str(canary))
        assert found["seen"] == []
        # With the capability the classic escape works: out of the inner jail, not of the sandbox.
        assert (found["jailed"] == found["escaped"] == 0) == (kind == "admin")
        assert found["root"] == [root.st_dev, root.st_ino]


@pytest.mark.parametrize("name", ["exe", "root", "cwd", "environ", "mem", "maps", "fd", "fdinfo"])
def test_init_is_closed_to_the_workload(boxes: dict[str, Sandbox], name: str) -> None:
    script = """
path = f"/proc/{sys.argv[2]}/{sys.argv[1]}"
try:
    if os.path.islink(path): os.readlink(path)
    if os.path.isdir(path): os.listdir(path)
    else: os.close(os.open(path, os.O_RDONLY))
    print(0)
except OSError as error:
    print(error.errno)
"""
    for kind in ("default", "nofilter", "admin"):
        box = boxes[kind]
        assert attempt(box, script, name, "1") in (1, 13), kind
        workload = str(box.status()["pid"])
        expected = 0 if kind != "admin" else attempt(box, script, name, workload)
        assert attempt(box, script, name, workload) == expected


def test_init_can_not_be_traced(boxes: dict[str, Sandbox], sandbox_host: Host) -> None:
    script = 'print(json.dumps([call("ptrace", 16, int(p), 0, 0) for p in sys.argv[1:]]))'
    options = {"seccomp": None, "capabilities": confinement.mask(["SYS_PTRACE"])}
    stop = {"signal": 9, "timeout": 5.0}
    image = sandbox_host.python_image
    box = sandbox_host.started("t", SLEEP, lower=image, stop=stop, **options)
    assert attempt(box, script, "1", str(box.status()["pid"])) == [1, 0]


def test_interpreter_of_init_can_not_be_written(boxes: dict[str, Sandbox]) -> None:
    script = """
codes = set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    if os.path.exists(f"/proc/{pid}/exe") or pid == "1":
        codes.add(opened(f"/proc/{pid}/exe", os.O_WRONLY))
codes.add(opened("/proc/self/exe", os.O_WRONLY))
print(json.dumps(sorted(codes)))
"""
    before = Path(os.path.realpath("/usr/bin/python3")).stat()
    for kind in ("default", "nofilter", "admin"):
        assert 0 not in attempt(boxes[kind], script)
    assert Path(os.path.realpath("/usr/bin/python3")).stat().st_mtime_ns == before.st_mtime_ns


def test_file_handles_lead_nowhere(boxes: dict[str, Sandbox]) -> None:
    script = """
handle = struct.pack("IiQI", 12, 1, 2, 0)
buffer = ctypes.create_string_buffer(handle, 64)
root = os.open("/etc/hosts", os.O_RDONLY)
print(json.dumps(call("open_by_handle_at", root, buffer, 0)))
"""
    for kind in ("default", "nofilter", "admin"):
        assert attempt(boxes[kind], script) == 1


@pytest.mark.parametrize("number", range(3, 40))
def test_descriptors_lead_nowhere(boxes: dict[str, Sandbox], number: int) -> None:
    """Of what init holds, the one directory is its /dev/pts."""
    box = boxes["default"]
    for path in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}"):
        with box.session(["sleep", "100000"], cwd=path) as connection:
            answer = receive(connection)[0]
            if "pid" in answer:
                pid = next(p for p in box.pids() if pid_inside(p) == answer["pid"])
                assert os.readlink(f"/proc/{pid}/cwd") == "/dev/pts"
                wire.send(connection, {"op": "signal", "signal": 9})
                assert exit_code(connection) == 137
            else:
                assert answer["code"] == 126
        with box.session([path]) as connection:
            assert receive(connection)[0].get("code") in (126, 127)


@pytest.mark.parametrize(
    "cwd", ["/proc/1/root", "/proc/1/cwd", "/proc/self/fd/3", "/proc/self/root/tmp"]
)
def test_working_directory_stays_inside(sandbox_host: Host, cwd: str) -> None:
    from sandlot.errors import LaunchError

    box = sandbox_host.created("c", SLEEP, cwd=cwd)
    with pytest.raises(LaunchError):
        box.start()


# -- terminal, keys, signals, network names


TIOCSTI = """
fd = os.open("/dev/tty", os.O_RDWR)
codes = []
for request in (0x5412, 0x5412 | 0xDEADBEEF << 32, 0x541C):
    ctypes.set_errno(0)
    argument = ctypes.create_string_buffer(b"Z" if request != 0x541C else b"\\x02")
    result = libc.syscall(ctypes.c_long(NUMBERS["ioctl"]), fd, ctypes.c_ulong(request), argument)
    codes.append(0 if result >= 0 else ctypes.get_errno())
sys.stdout.write("codes " + json.dumps(codes) + " end\\n")
"""


def terminal_output(master: int) -> bytes:
    """All of it: the kernel hands it on a little later, and fails when it is at its end."""
    text = b""
    with os.fdopen(master, "rb", buffering=0) as terminal:
        while select.select([terminal], [], [], DEADLINE)[0]:
            try:
                text += terminal.read(65536)
            except OSError as error:
                assert error.errno == errno.EIO
                return text
    raise AssertionError(f"the terminal does not end after {text!r}")


def injected(box: Sandbox) -> tuple[list[int], bytes]:
    argv = ["/usr/bin/python3", "-ISc", PRELUDE + TIOCSTI]
    with box.session(argv, tty=True) as connection:
        message, (master,) = receive(connection)
        assert "pid" in message
        code = exit_code(connection)
        text = terminal_output(master)
    assert code == 0, text
    return json.loads(text.split(b"codes ")[1].split(b" end")[0]), text


def test_terminal_injection_is_refused(boxes: dict[str, Sandbox]) -> None:
    codes, _ = injected(boxes["default"])
    assert codes == [1, 1, 1]


def test_terminal_injection_works_without_the_filter(boxes: dict[str, Sandbox]) -> None:
    switch = Path("/proc/sys/dev/tty/legacy_tiocsti")
    if switch.exists() and switch.read_text().strip() != "1":
        pytest.skip("this kernel refuses TIOCSTI to everybody")
    codes, text = injected(boxes["nofilter"])
    assert codes[:2] == [0, 0]
    assert b"ZZ" in text


LIBC = ctypes.CDLL(None, use_errno=True)
SEARCH = """
session = libc.syscall(ctypes.c_long(NUMBERS["keyctl"]), 0, -3, 0)
found = libc.syscall(ctypes.c_long(NUMBERS["keyctl"]), 10, -3, b"user", sys.argv[1].encode(), 0)
print(json.dumps(found > 0))
"""


def test_keys_of_the_operator_stay_outside(fresh_host: Host) -> None:
    name = f"sandlot-test-{secrets.token_hex(4)}"
    # A session keyring for this process and the launcher it starts, gone with them.
    assert LIBC.syscall(NUMBERS["keyctl"], 1, None) > 0
    key = LIBC.syscall(NUMBERS["add_key"], b"user", name.encode(), b"secret", 6, -3)
    assert key > 0
    try:
        command = ["/usr/bin/python3", "-ISc", PRELUDE + SEARCH, name]
        control = subprocess.run(command, capture_output=True, check=True)
        assert json.loads(control.stdout) is True
        box = fresh_host.started("k", SLEEP, lower=fresh_host.python_image, seccomp=None)
        assert attempt(box, SEARCH, name) is False
        assert name not in box.shell("cat /proc/keys").stdout.decode()
    finally:
        LIBC.syscall(NUMBERS["keyctl"], 9, key, -3)


def test_signals_stay_inside(boxes: dict[str, Sandbox]) -> None:
    canary = subprocess.Popen(SLEEP)
    neighbour = boxes["nofilter"].init
    pids = " ".join(str(pid) for pid in (canary.pid, neighbour, os.getpid()))
    try:
        assert boxes["default"].shell(f"kill -9 {pids}; kill -0 {canary.pid}").code != 0
        assert canary.poll() is None
        assert boxes["nofilter"].init == neighbour
    finally:
        canary.kill()
        canary.wait()


def test_host_name_and_clock_are_out_of_reach(boxes: dict[str, Sandbox]) -> None:
    script = """
now = struct.pack("qq", 1, 0)
print(json.dumps([call("sethostname", b"x", 1), call("settimeofday", now, 0),
                  call("clock_settime", 0, now), call("reboot", 0xfee1dead, 672274793, 0x1234567)]))
"""
    for kind in ("default", "nofilter"):
        assert set(attempt(boxes[kind], script)) == {1}


def test_sockets_and_state_of_the_host_are_not_in_sight(boxes: dict[str, Sandbox]) -> None:
    box = boxes["default"]
    assert box.shell("cat /proc/net/unix | grep -c sandlot").stdout == b"0\n"
    found = box.shell("ls -A /run /var/lib 2>/dev/null").stdout
    assert b"sandlot" not in found
    mounts = box.shell("cat /proc/self/mountinfo").stdout.decode()
    assert "shared:" not in mounts
    assert "master:" not in mounts


def test_control_files_are_closed_to_other_users(boxes: dict[str, Sandbox]) -> None:
    paths = boxes["default"].paths
    for path in (paths.socket, paths.status, paths.launch, *paths.logs, paths.site.launcher_socket):
        assert os.stat(path).st_mode & 0o077 == 0, path
    reader = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat"]
    for path in (paths.launch, paths.status):
        assert subprocess.run([*reader, path], capture_output=True, check=False).returncode != 0


def test_cgroup_file_systems_are_not_there(boxes: dict[str, Sandbox]) -> None:
    for kind in ("default", "nofilter"):
        assert boxes[kind].shell("grep -c cgroup /proc/self/mountinfo").stdout == b"0\n"
        assert boxes[kind].shell("mount -t cgroup -o memory none /tmp").code != 0


def test_set_user_id_gains_nothing(sandbox_host: Host) -> None:
    box = sandbox_host.created("s", SLEEP, user="33:33", lower=sandbox_host.python_image)
    tool = Path(box.paths.upper, "tool")
    tool.write_bytes(Path("/usr/bin/python3").read_bytes())
    os.chown(tool, box.config["ids"]["uid"], box.config["ids"]["gid"])
    tool.chmod(0o6755)
    box.start()
    script = "import os; print(os.getresuid(), os.getresgid())"
    result = box.exec(["/tool", "-ISc", script])
    assert result.stdout == b"(33, 33, 33) (33, 33, 33)\n"


def test_devices_planted_in_the_layer_do_not_open(sandbox_host: Host, boxes: Any) -> None:
    box = sandbox_host.created("d", SLEEP)
    node = Path(box.paths.upper, "disk")
    os.mknod(node, 0o60666, os.stat("/").st_dev)
    os.mknod(Path(box.paths.upper, "zero"), 0o20666, os.makedev(1, 5))
    box.start()
    for name in ("/disk", "/zero"):
        assert b"ermission denied" in box.exec(["head", "-c1", name]).stderr
    assert box.shell("head -c1 /dev/zero | od -An -tx1").stdout.split() == [b"00"]


def test_secret_of_one_sandbox_is_in_no_other_process(sandbox_host: Host) -> None:
    marker = secrets.token_hex(16)
    first = sandbox_host.started("first", SLEEP, env={"SECRET": marker})
    second = sandbox_host.started("second", SLEEP).asleep()
    first.asleep()
    assert until(lambda: marker.encode() in memory(first.init))
    for pid in (sandbox_host.launcher_pid(), second.init):
        assert marker.encode() not in memory(pid)


def memory(pid: int) -> bytes:
    """The memory of a process, and of its files in memory."""
    descriptors = [Path(f"/proc/{pid}/fd", name) for name in os.listdir(f"/proc/{pid}/fd")]
    files = [each for each in descriptors if os.readlink(each).startswith("/memfd:")]
    parts = [each.read_bytes() for each in files]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as handle:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            extent, mode, *_ = line.split()
            start, end = (int(word, 16) for word in extent.split("-"))
            if "w" in mode and "[v" not in line:
                handle.seek(start)
                parts.append(handle.read(end - start))
    return b"".join(parts)


def test_answer_of_a_hostile_init_is_refused() -> None:
    from sandlot.errors import LaunchError

    ours, theirs = wire.pair()
    for raw in (b"exit -1", b"exit 1" + b"0" * 30, b"pid x", b"\xff\xfe", b"{}", b"[" * 5000):
        theirs.send(raw)
        with pytest.raises(LaunchError):
            wire.receive(ours)
    theirs.send(b"error \x1b[2Jowned\ncode 126")
    assert "\x1b" not in wire.receive(ours)[0]["error"]
