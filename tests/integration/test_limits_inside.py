# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The limits of a sandbox as its programs read them, and what they can do to them: nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from netmode_fixtures import output
from sandlot import cgroups
from sandlot.kernel import libc, namespaces
from sandlot.kernel.fork import call

pytestmark = needs_root

ROOT = "/sys/fs/cgroup"
LIMITED = {"memory": "64m", "cpus": 0.5, "pids_limit": 77, "cpuset_cpus": "0"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "joined": {"network_mode": "container:plain"},
    "shared": {"network_mode": "host", "allow_host_network": True},
    "fixed": {"read_only": True},
    "alone": {"network_mode": "none", "user": "www-data"},
}
# Files of limits in version 1 and in version 2, and what they hold.
FILES = {
    f"{ROOT}/memory/memory.limit_in_bytes": 64 << 20,
    f"{ROOT}/memory.max": 64 << 20,
    f"{ROOT}/cpu/cpu.cfs_quota_us": 50000,
    f"{ROOT}/pids/pids.max": 77,
    f"{ROOT}/pids.max": 77,
    f"{ROOT}/cpuset/cpuset.cpus": 0,
}
LOOK = f"for f in {' '.join(FILES)}; do [ ! -e $f ] || echo $f $(cat $f); done; echo nproc $(nproc)"
# Prints what succeeds.
ATTACK = f"""
exec 2>/dev/null; cd {ROOT}; [ ! -d memory ] || cd memory
for file in cgroup.event_control cgroup.procs notify_on_release *.limit_in_bytes memory.max; do
  if [ -e $file ] && (: >>$file); then echo opened $file; fi
done
if mkdir below; then echo made; rmdir below; fi
if (echo 0 >cgroup.procs); then echo joined; fi
for file in memory.limit_in_bytes memory.max; do
  if [ -e $file ] && (echo 67108864 >$file); then echo limited; fi
done
"""
REMOUNT = f"for d in {ROOT} {ROOT}/*/; do mount -o remount,bind,rw $d 2>/dev/null; done; {ATTACK}"


def mounted(host: Deployment, name: str) -> dict[str, str]:
    """Mount points of cgroups with their options; each one's root is "/"."""
    found = {}
    for line in Path(f"/proc/{host.pid(name)}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4].startswith(ROOT):
            found[before.split()[4]] = before.split()[5]
    return found


def test_programs_find_their_own_limits(host: Deployment) -> None:
    """Whatever network, root and user a sandbox has; ``nproc`` asks for the CPUs alone."""
    host.converged(*(sandbox(name, **LIMITED, **kind) for name, kind in KINDS.items()))
    shown = set(cgroups.shown(cgroups.detect()))
    for name in KINDS:
        places = mounted(host, name)
        assert {*places.values()} == {"ro,nosuid,nodev,noexec,relatime"}
        assert {path[len(ROOT) :].strip("/") for path in places} >= shown
        rows = [line.split() for line in output(host, name, "sh", "-c", LOOK).splitlines()]
        found = {path: int(value) for path, value in rows}
        assert found.pop("nproc") == 1
        assert len(found) >= 2 and found == {path: FILES[path] for path in found}
        assert host.info(name)["cgroups_shown"] == sorted(",".join(shown).split(","))


def test_no_path_of_the_host_is_told(host: Deployment) -> None:
    host.converged(sandbox("web"), sandbox("neighbour"))
    text = output(host, "web", "grep", "cgroup", "/proc/self/mountinfo")
    # The directory around the hierarchies is one of the sandbox's own file system in memory.
    shown = {(line.split()[3], line.partition(" - ")[2].split()[0]) for line in text.splitlines()}
    assert shown - {("/cgroup", "tmpfs")} == {("/", "cgroup")}, text
    assert host.paths.cgroup not in text
    for line in output(host, "web", "cat", "/proc/self/cgroup").splitlines():
        assert line.endswith(":/"), line
    # Below its own cgroups are none, and above them is the directory that they are mounted in.
    find = f"find {ROOT}/*/ {ROOT}/*/../.. -maxdepth 1 -type d"
    names = {
        line.rstrip("/.").rpartition("/")[2]
        for line in output(host, "web", "sh", "-c", find).splitlines()
    }
    assert not names & {"web", "neighbour", host.paths.cgroup}
    # Control: where the host's are mounted, they are all there.
    assert {"web", "neighbour"} <= cgroups.names(host.paths)


def test_limits_are_read_only(host: Deployment) -> None:
    """Also for a sandbox that may mount: the files are the host's root's."""
    host.converged(
        sandbox("web", memory="32m", capabilities=["DAC_OVERRIDE"]),
        sandbox("strong", memory="32m", capabilities=["DAC_OVERRIDE", "SYS_ADMIN", "SYS_RESOURCE"]),
    )
    assert output(host, "web", "sh", "-c", ATTACK) == ""
    assert output(host, "strong", "sh", "-c", ATTACK) == ""
    assert output(host, "strong", "sh", "-c", REMOUNT) == ""
    assert {row.partition(",")[0] for row in mounted(host, "strong").values()} == {"rw"}
    # Control: the same by root of the host, in the place of the sandbox's.
    argv = ["nsenter", "--target", str(host.pid("strong")), "--mount", "--root", "--wd"]
    done = subprocess.run([*argv, "sh", "-c", REMOUNT], capture_output=True, text=True, check=True)
    assert {"cgroup.procs", "made", "limited", "joined"} <= set(done.stdout.split())


_HANDLE = 128


class _FileHandle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_char * _HANDLE)]


def _handle(path: str) -> _FileHandle:
    handle, mount = _FileHandle(_HANDLE), ctypes.c_int()
    name_to_handle = libc.bind(
        "name_to_handle_at", *[ctypes.c_int, ctypes.c_char_p], *[ctypes.c_void_p] * 2, ctypes.c_int
    )
    libc.check(
        name_to_handle(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0), path
    )
    return handle


def _opened(place: str, handle: _FileHandle) -> str:
    open_by_handle = libc.bind("open_by_handle_at", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = libc.check(open_by_handle(directory, ctypes.byref(handle), os.O_RDONLY), place)
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(directory)
    return " ".join(os.listdir(fd))


def test_handles_of_other_cgroups_are_refused(host: Deployment) -> None:
    """The file system is the host's, so its handles are valid; the rights over it are not."""
    host.converged(sandbox("web"), sandbox("neighbour"))
    hierarchy = cgroups.detect().having("memory")
    assert hierarchy is not None
    handle = _handle(hierarchy.sandbox(host.paths, "neighbour"))
    pid = host.pid("web")
    place = f"{ROOT}/memory" if f"{ROOT}/memory" in mounted(host, "web") else ROOT

    def inside(*kinds: str) -> bytes:
        fds = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        for kind, fd in zip(kinds, fds):
            namespaces.setns(fd, namespaces.FLAGS[kind])
        return _opened(place, handle).encode()

    # With all capabilities in the sandbox's user namespace, which no sandbox has.
    assert call(lambda _report: inside("cgroup", "mnt", "user"))[0] == b"Operation not permitted"
    # Control: root of the host, in the same mount namespace.
    assert b"cgroup.procs" in call(lambda _report: inside("cgroup", "mnt"))[0]


@pytest.mark.parametrize("kept", [False, True], ids=["gone", "held open"])
def test_cgroups_go_with_the_sandbox(host: Deployment, kept: bool) -> None:
    """Also while somebody keeps its mount namespace, and so the mounts of its cgroups."""
    host.converged(sandbox("web"))
    with contextlib.ExitStack() as stack:
        if kept:
            fd = os.open(f"/proc/{host.pid('web')}/ns/mnt", os.O_RDONLY)
            stack.callback(os.close, fd)
        assert not host.run(sandbox("web", state="absent")).failed
        assert "web" not in cgroups.names(host.paths)
        host.converged(sandbox("web", memory="48m"))
        assert output(
            host,
            "web",
            "sh",
            "-c",
            f"cat {ROOT}/memory*/*limit_in_bytes {ROOT}/memory.max 2>/dev/null; :",
        )
