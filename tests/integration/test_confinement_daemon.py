# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Attacks from inside a sandbox with the profile daemon, also without no_new_privs."""

from __future__ import annotations

import base64
import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import Host, Sandbox, status_fields
from sandlot import profiles
from sandlot.security import MASKED, seccomp
from sandlot.spec import confinement
from test_confinement import ADMIN, ESCAPE, MOUNTING, SLEEP, attempt

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and links")
NAMES = profiles.CAPABILITIES[profiles.DAEMON]
MASK = confinement.mask(NAMES)
FILTER = base64.b64encode(
    seccomp.program(capabilities=NAMES, machine=platform.machine()) or b""
).decode()
DAEMON: dict[str, Any] = {"capabilities": MASK, "ambient": 0, "seccomp": FILTER}
KINDS: dict[str, dict[str, Any]] = {
    "strict": {},
    "daemon": DAEMON,
    "set-id": {**DAEMON, "no_new_privileges": False},
    # As the tests weaken it.
    "admin": ADMIN,
}
IDS = "import os; print(os.getresuid(), os.getresgid())"
PYTHON = Path("/usr/bin/python3").resolve()


@pytest.fixture(scope="module")
def boxes(module_host: Host) -> Iterator[dict[str, Sandbox]]:
    yield {
        kind: started(module_host, kind, lower=module_host.python_image, **options)
        for kind, options in KINDS.items()
    }


def started(host: Host, name: str, **options: Any) -> Sandbox:
    """A sandbox with set-user-id interpreters in its layer, which its root might have made."""
    box = host.created(name, SLEEP, **options)
    first = box.config["ids"]["uid"]
    for name, owner, mode in (
        ("root", first, 0o6755),
        ("other", first + 44, 0o6755),
        ("host", 0, 0o6755),
        ("plain", first, 0o755),
    ):
        tool = Path(box.paths.upper, name)
        tool.write_bytes(PYTHON.read_bytes())
        os.chown(tool, owner, owner)
        tool.chmod(mode)
    return box.start()


def sets(box: Sandbox, **options: Any) -> dict[str, int]:
    text = box.exec(["cat", "/proc/self/status"], **options).stdout.decode()
    fields = (line.split(":\t") for line in text.splitlines())
    names = ("Cap", "NoNewPrivs", "Seccomp:")
    return {key: int(value, 16) for key, value in fields if f"{key}:".startswith(names)}


# -- what it holds


def test_init_workload_and_commands_hold_the_profile(boxes: dict[str, Sandbox]) -> None:
    for kind, kept in (("daemon", 1), ("set-id", 0)):
        box = boxes[kind]
        for found in (status_fields(box.init), status_fields(box.workload)):
            assert {int(found[key], 16) for key in ("CapPrm", "CapEff", "CapBnd")} == {MASK}
            assert (found["NoNewPrivs"], found["Seccomp"]) == (str(kept), "2")
        # A user whom root becomes has none of them.
        found = sets(box, user="33")
        assert (found["CapPrm"], found["CapEff"], found["CapAmb"], found["CapBnd"]) == (
            0,
            0,
            0,
            MASK,
        )


def test_another_user_starts_with_the_granted_ones_only(sandbox_host: Host) -> None:
    granted = confinement.mask(["NET_RAW"])
    options = {**DAEMON, "capabilities": MASK | granted, "ambient": granted, "user": "33"}
    box = sandbox_host.started("u", SLEEP, **options)
    workload = {k: int(v, 16) for k, v in status_fields(box.workload).items() if "Cap" in k}
    for found in (sets(box), workload):
        assert {found[key] for key in ("CapPrm", "CapEff", "CapAmb")} == {granted}
        assert found["CapBnd"] == MASK | granted


# -- set-user-id programs


def test_set_user_id_gains_what_the_sandbox_has(boxes: dict[str, Sandbox]) -> None:
    """And nothing with no_new_privs, or as a user that is none of the sandbox's."""
    outcomes = {
        kind: {
            name: box.exec([f"/{name}", "-ISc", IDS], user="33").stdout.decode().strip()
            for name in ("root", "other", "host", "plain")
        }
        for kind, box in boxes.items()
        if kind in ("daemon", "set-id")
    }
    same = "(33, 33, 33) (33, 33, 33)"
    assert outcomes["daemon"] == dict.fromkeys(("root", "other", "host", "plain"), same)
    assert outcomes["set-id"] == {
        "root": "(33, 0, 0) (33, 0, 0)",
        "other": "(33, 44, 44) (33, 44, 44)",
        "host": same,
        "plain": same,
    }


GAINED = """
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status"))
print(status["CapEff"], status["CapBnd"], open("/proc/self/uid_map").read().split()[1])
"""


def test_the_bounding_set_bounds_what_is_gained(boxes: dict[str, Sandbox]) -> None:
    box = boxes["set-id"]
    words = box.exec(["/root", "-ISc", GAINED], user="33").stdout.decode().split()
    assert [int(words[0], 16), int(words[1], 16)] == [MASK, MASK]
    assert int(words[2]) == box.config["ids"]["uid"]


def test_file_systems_below_the_root_give_no_user_id(boxes: dict[str, Sandbox]) -> None:
    """Those in memory are mounted nosuid, and /dev/shm noexec."""
    box = boxes["set-id"]
    script = "cp -p /root /tmp/tool; chmod 6755 /tmp/tool; stat -c %a /tmp/tool"
    assert box.shell(script).stdout == b"6755\n"
    assert box.exec(["/tmp/tool", "-ISc", IDS], user="33").stdout == b"(33, 33, 33) (33, 33, 33)\n"


ON_HOST = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
if sys.argv[2] == "path":
    argv, target = [sys.argv[1]], sys.argv[1]
else:
    target = int(sys.argv[2])
try:
    os.execve(target, ["tool", "-ISc", "import os; print(os.getresuid()[1])"], {})
except OSError as error:
    print(error.strerror)
"""


def on_host(path: str, *, opened: bool, inside: int = 0) -> str:
    """The user id that a program has which nobody starts on the host, or the error."""
    fd = os.open(path, os.O_RDONLY)
    entered = ["nsenter", f"--mount=/proc/{inside}/ns/mnt"] if inside else []
    what = str(fd) if opened else "path"
    command = [*entered, "/usr/bin/python3", "-ISc", ON_HOST, path, what]
    try:
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, check=True)
    finally:
        os.close(fd)
    return done.stdout.strip()


def test_set_user_id_programs_of_a_sandbox_are_none_on_the_host(boxes: dict[str, Sandbox]) -> None:
    box = boxes["set-id"]
    first = box.config["ids"]["uid"]
    layer, merged = f"{box.paths.upper}/root", f"/proc/{box.init}/root/root"
    assert on_host(layer, opened=False) == on_host(merged, opened=False) == "Permission denied"
    # Even for one who was given the file: the mount is no mount of the host.
    assert on_host(merged, opened=True) == "65534"
    # The control: the bits are in force in the sandbox's mount namespace, and in the layer, which
    # only the closed directory above keeps from users.
    assert on_host(merged, opened=True, inside=box.init) == str(first)
    assert on_host(layer, opened=True) == str(first)
    assert on_host(f"{box.paths.upper}/plain", opened=True) == "65534"
    # No mount of the host became one where the bits count.
    assert "/merged" not in Path("/proc/self/mountinfo").read_text()


# -- what the profile does not open


@pytest.mark.parametrize("kind", ["daemon", "set-id"])
def test_the_kernel_surface_stays_closed(boxes: dict[str, Sandbox], kind: str) -> None:
    results = attempt(boxes[kind], MOUNTING)
    assert results.pop("chroot") == 0
    assert all(code in (1, 38) for code in results.values()), results
    script = """
found = {"user": call("unshare", 0x10000000), "net": call("unshare", 0x40000000),
         "clone": call("clone", 0x10000011, 0, 0, 0, 0), "setns": call("setns", 0, 0),
         "ptrace": call("ptrace", 16, os.getppid(), 0, 0), "keyctl": call("keyctl", 0, -3, 0),
         "node": call("mknod", b"/node", 0o20666, 0x0105), "raw": 0}
try: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
except OSError as error: found["raw"] = error.errno
print(json.dumps(found))
"""
    found = attempt(boxes[kind], script)
    assert all(code in (1, 13) for code in found.values()), found
    control = attempt(boxes["admin"], MOUNTING)
    assert set(control.values()) == {0}, control


@pytest.mark.parametrize("kind", ["daemon", "set-id"])
def test_chroot_leads_no_further_than_the_root(
    boxes: dict[str, Sandbox], tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("host")
    root = os.stat(f"/proc/{boxes[kind].init}/root/")
    found = attempt(boxes[kind], ESCAPE, str(canary))
    # The classic escape works: out of the inner jail, not of the sandbox.
    assert (found["jailed"], found["escaped"], found["seen"]) == (0, 0, [])
    assert found["root"] == [root.st_dev, root.st_ino]


@pytest.mark.parametrize("kind", ["daemon", "set-id"])
def test_init_and_kernel_settings_are_out_of_reach(boxes: dict[str, Sandbox], kind: str) -> None:
    script = """
found = {}
for name in ("exe", "root", "cwd", "environ", "mem", "maps", "fd", "fdinfo"):
    path = f"/proc/1/{name}"
    try:
        if os.path.islink(path): os.readlink(path)
        if os.path.isdir(path): os.listdir(path)
        else: os.close(os.open(path, os.O_RDONLY))
        found[path] = 0
    except OSError as error:
        found[path] = error.errno
for top in ("/proc/sys", "/sys", "/proc/bus", "/proc/irq", "/proc/fs", "/proc/sysrq-trigger"):
    for directory, _, names in os.walk(top) if os.path.isdir(top) else [("", "", [top])]:
        for name in names:
            path = os.path.join(directory, name)
            found[path] = opened(path, os.O_WRONLY | os.O_NONBLOCK)
print(json.dumps([path for path, code in found.items() if code == 0]))
"""
    # A masked file is /dev/null.
    assert set(attempt(boxes[kind], script)) <= set(MASKED)


# -- ids


FOREIGN = """
import errno
def tried(work):
    try: work(); return 0
    except OSError as error: return error.errno
def all_of(name):
    path = f"/{name}/file"
    return [tried(lambda: open(path).close()), tried(lambda: os.chmod(path, 0o777)),
            tried(lambda: os.chown(path, 0, 0)), tried(lambda: os.utime(path, (1, 1))),
            tried(lambda: os.rename(path, f"/{name}/b")), tried(lambda: os.unlink(f"/{name}/b"))]
print(json.dumps({name: all_of(name) for name in ("ours", "theirs")}
                 | {"unmapped": tried(lambda: os.chown("/plain", 65536, 0))}))
"""


def test_files_of_other_ids_are_out_of_reach(sandbox_host: Host) -> None:
    box = sandbox_host.created("f", SLEEP, lower=sandbox_host.python_image, **DAEMON)
    first = box.config["ids"]["uid"]
    Path(box.paths.upper, "plain").touch()
    os.chown(Path(box.paths.upper, "plain"), first, first)
    # Somebody of the sandbox, and the next sandbox's root.
    for name, owner in (("ours", first + 5), ("theirs", first + 65536)):
        directory = Path(box.paths.upper, name)
        directory.mkdir()
        (directory / "file").write_text("secret")
        (directory / "file").chmod(0o600)
        directory.chmod(0o755)
        for path in (directory, directory / "file"):
            os.chown(path, owner, owner)
    box.start()
    found = attempt(box, FOREIGN)
    assert found["ours"] == [0] * 6
    assert all(code in (1, 13, 2) for code in found["theirs"]) and found["unmapped"] == 22
    assert Path(box.paths.upper, "theirs/file").read_text() == "secret"


# -- capabilities of files and processes

SETFCAP = """
def attribute(rootid=None):
    magic = 0x02000001 if rootid is None else 0x03000001
    value = struct.pack("<5I", magic, 1, 0, 0, 0)
    return value if rootid is None else value + struct.pack("<I", rootid)
def write(path, value):
    try: os.setxattr(path, "security.capability", value); return 0
    except OSError as error: return error.errno
print(json.dumps([write("/plain", attribute(int(sys.argv[1]))), write("/plain", attribute())]))
"""
OF_FILE = ["/plain", "-ISc", GAINED]


def test_file_capabilities_are_of_the_sandbox_only(boxes: dict[str, Sandbox]) -> None:
    """The kernel writes version 3, with the sandbox's root (capabilities(7))."""
    for kind in ("daemon", "set-id"):
        box = boxes[kind]
        # Another root than the sandbox's own, which has no such user.
        assert attempt(box, SETFCAP, "70000") == [22, 0]
        value = os.getxattr(f"{box.paths.upper}/plain", "security.capability")
        magic, *sets_of_file, root = struct.unpack("<6I", value)
        assert (magic, sets_of_file, root) == (0x03000001, [1, 0, 0, 0], box.config["ids"]["uid"])
        gained = box.exec(OF_FILE, user="33").stdout.decode().split()[0]
        assert int(gained, 16) == (1 if kind == "set-id" else 0)
    assert attempt(boxes["strict"], SETFCAP, "70000")[1] == 1


SETPCAP = """
header = struct.pack("Ii", 0x20080522, 0)
def sets(effective, permitted, inheritable):
    data = struct.pack("6I", effective, permitted, inheritable, 0, 0, 0)
    return call("capset", header, data)
mask, raw = int(sys.argv[1]), 1 << 13
found = {"permitted": sets(mask, mask | raw, 0), "effective": sets(mask | raw, mask, 0),
         "inheritable": sets(mask, mask, raw), "bounding": call("prctl", 23, 13, 0, 0, 0),
         "ambient": call("prctl", 47, 2, 13, 0, 0), "securebits": call("prctl", 28, 32, 0, 0, 0)}
found["control"] = sets(mask, mask, 1)
print(json.dumps(found))
"""


def test_no_right_is_raised_beyond_the_bounding_set(boxes: dict[str, Sandbox]) -> None:
    found = attempt(boxes["daemon"], SETPCAP, str(MASK))
    assert (found.pop("control"), found.pop("securebits"), found.pop("bounding")) == (0, 0, 0)
    assert set(found.values()) == {1}, found
