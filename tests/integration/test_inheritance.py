# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Neither the launcher nor a sandbox has anything of the process that started the launcher."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import ENGINE, Host, status_fields, zygote_of
from sandlot.kernel import libc

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

SLEEP = ["sleep", "100000"]
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_TIMERSLACK, PR_SET_THP_DISABLE = 29, 41
SYS_IOPRIO_SET, SYS_IOPRIO_GET = (30, 31) if libc.AARCH64 else (251, 252)
SYS_SET_MEMPOLICY = 237 if libc.AARCH64 else 238
IDLE = 3 << 13
MPOL_LOCAL = 4
# Soft limits; hard ones are lowered to them where root can raise them again.
LIMITS = {
    "Max open files": (resource.RLIMIT_NOFILE, 200),
    "Max file size": (resource.RLIMIT_FSIZE, 1 << 30),
    "Max processes": (resource.RLIMIT_NPROC, 5000),
    "Max stack size": (resource.RLIMIT_STACK, 1 << 20),
    "Max cpu time": (resource.RLIMIT_CPU, 3000),
}
CAP_SYS_RESOURCE = 24
# The limits of a deployed sandbox without the option ulimits.
DEFAULTS = {
    "Max open files": "1024",
    "Max core file size": "0",
    "Max stack size": str(8 << 20),
    "Max file size": "unlimited",
    "Max cpu time": "unlimited",
}
CHANGED = {
    *("SigIgn", "SigBlk", "THP_enabled", "Cpus_allowed_list", "memory", "nice", "policy"),
    *("ioprio", "session", "group", "cgroups", "oom_score_adj", "coredump_filter"),
    *("timerslack_ns", "personality", *LIMITS),
}
ENSURE = (
    f"import sys; sys.path.insert(0, {str(ENGINE.parent)!r})\n"
    "from sandlot.launcher.client import Launcher\n"
    "from sandlot.site import Site\n"
    "from sandlot.kernel import signals\n"
    "signals.reset()\n"
    "Launcher(Site(sys.argv[1])).ensure()\n"
)


def traits(pid: int) -> dict[str, object]:
    """All that fork and exec pass on, beyond what the sandbox itself sets."""
    process = Path(f"/proc/{pid}")
    fields = status_fields(pid)
    names = ("SigIgn", "SigBlk", "THP_enabled", "Cpus_allowed_list")
    files = ("oom_score_adj", "coredump_filter", "timerslack_ns", "personality")
    limits = (process / "limits").read_text().splitlines()[1:]
    return {
        **{name: fields.get(name) for name in names},
        **{name: (process / name).read_text() for name in files},
        "policy": os.sched_getscheduler(pid),
        "memory": (process / "numa_maps").read_text().split()[1],
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "ioprio": libc.syscall(SYS_IOPRIO_GET, "ioprio_get", 1, pid),
        "session": os.getsid(pid),
        "group": os.getpgid(pid),
        "cgroups": {row.partition(":")[2] for row in (process / "cgroup").read_text().split()},
        **{row[:26].strip(): row[26:].split()[0] for row in limits},
    }


def spoil(cgroup: Path) -> None:
    """Set everything for a child to inherit."""
    (cgroup / "cgroup.procs").write_text("0")
    os.nice(7)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    libc.syscall(SYS_IOPRIO_SET, "ioprio_set", 1, 0, IDLE)
    libc.syscall(SYS_SET_MEMPOLICY, "set_mempolicy", MPOL_LOCAL, 0, 0)
    for option, value in ((PR_SET_TIMERSLACK, 12345), (PR_SET_THP_DISABLE, 1)):
        libc.check(libc.libc.prctl(option, value, 0, 0, 0), "prctl")
    libc.libc.personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE))
    Path("/proc/self/oom_score_adj").write_text("300")
    Path("/proc/self/coredump_filter").write_text("0x1")
    os.umask(0)
    for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
    raises = int(status_fields(os.getpid())["CapEff"], 16) >> CAP_SYS_RESOURCE & 1
    for number, soft in LIMITS.values():
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (soft, soft if raises else hard))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup in the hierarchy with memory limits, as a session of a user may have."""
    rows = [row.split() for row in Path("/proc/self/mountinfo").read_text().splitlines()]
    root = next(row[4] for row in rows if row[-3] == "cgroup2" or "memory" in row[-1].split(","))
    made = Path(root, f"sandlot-test-{os.getpid()}")
    made.mkdir()
    yield made
    made.rmdir()


def test_a_spoiled_starter(fresh_host: Host, cgroup: Path) -> None:
    control = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: spoil(cgroup))
    try:
        spoiled = traits(control.pid)
    finally:
        control.kill()
        control.wait()
    subprocess.run(
        [sys.executable, "-I", "-c", ENSURE, fresh_host.paths.root],
        preexec_fn=lambda: spoil(cgroup),
        check=True,
        timeout=60,
    )
    launcher = fresh_host.launcher_pid()
    box = fresh_host.started("a", SLEEP)
    mine = traits(os.getpid())
    for pid in (launcher, zygote_of(launcher), box.init, box.workload):
        found = traits(pid)
        same = {name for name in found if found[name] == spoiled[name] and name in CHANGED}
        assert same == set(), pid
        assert found["nice"] == found["ioprio"] == 0
        assert found["Cpus_allowed_list"] == status_fields(1)["Cpus_allowed_list"]
        assert found["memory"] == "default" != spoiled["memory"]
        assert not any(cgroup.name in path for path in found["cgroups"])
        for name in ("policy", "personality", "oom_score_adj", "coredump_filter", "THP_enabled"):
            assert found[name] == mine[name], name
    assert {name: traits(box.workload)[name] for name in DEFAULTS} == DEFAULTS
    assert status_fields(box.workload)["Umask"] == "0022"
