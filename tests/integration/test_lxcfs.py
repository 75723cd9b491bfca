# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option lxcfs with Debian's: what tools show, a server that is missing, hangs or ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from hung_fuse import hung
from netmode_fixtures import output, run_inside
from sandboxes import workload_of
from sandlot.errors import LaunchError
from sandlot.host import doctor, facts
from sandlot.kernel import mountinfo, mounts
from sandlot.launcher.client import Launcher
from sandlot.sandbox import lxcfs
from test_cli_explain import explain, release, running_script
from test_cli_explain import mounts as mounted

# Made by `make test-packages`.
TREE = Path(sys.prefix, "share/lxcfs")
LIBRARIES = [str(path.parent) for path in TREE.rglob("*.so*")]
pytestmark = [needs_root, pytest.mark.skipif(not LIBRARIES, reason="no lxcfs")]
WEB = sandbox("web", lxcfs=True, memory="64m", cpuset_cpus="0")
LOOK = """
grep MemTotal /proc/meminfo; grep -c processor /proc/cpuinfo; cut -d . -f 1 /proc/uptime
cat /sys/devices/system/cpu/online
"""


@contextlib.contextmanager
def server(host: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    """lxcfs, mounted for the host; at the end unmounted as Debian's unit does."""
    directory = Path(host.paths.lxcfs)
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [f"{TREE}/usr/bin/lxcfs", "-f", "-p", f"{host.paths.root}/lxcfs.pid", str(directory)],
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(LIBRARIES)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: mountinfo.server_of(str(directory)) == lxcfs.KIND)
        yield process
    finally:
        process.kill()
        process.wait()
        while mountinfo.server_of(str(directory)):
            mounts.umount(str(directory))
        directory.rmdir()


def advice(host: Deployment) -> dict[str, doctor.Finding]:
    findings = doctor.examine(host.paths, facts.gather(host.paths))
    return {each.name: each for each in findings if each.name.startswith("lxcfs")}


def test_tools_show_the_limits(host: Deployment) -> None:
    with server(host):
        assert not host.run(sandbox("other")).failed
        host.converged(WEB, sandbox("other"))
        memory, cpus, uptime, online = output(host, "web", "sh", "-c", LOOK).splitlines()
        assert (memory.split()[1], cpus, online) == ("65536", "1", "0")
        assert int(uptime) < 60
        # Control: without the option, they show the host.
        others = output(host, "other", "sh", "-c", LOOK).splitlines()
        assert others[0] in Path("/proc/meminfo").read_text()
        assert others[1] == str(os.cpu_count()) and int(others[2]) > 60
        real = mounted(workload_of(host.pid("web")))
        own = [row for row in real if row[2] == lxcfs.KIND]
        assert len(own) == 9 and {row[1] for row in own} == {"ro,nosuid,nodev,noexec,relatime"}
        assert [line for line in host.info("web")["relaxed"] if line.startswith("lxcfs")]
        assert advice(host)["lxcfs"].detail == "1 sandboxes use it"
        script = explain.script(explain.look(host.paths, "web", show_env=True))
        host.run({**WEB, "state": "stopped"}, sandbox("other"))
        release(host, "web")
        with running_script(script) as pid:
            assert mounted(pid) == real


def test_a_server_that_ends_takes_its_files_along(host: Deployment) -> None:
    """Until the sandbox restarts; no run stops it for a server that is not there."""
    with server(host) as process:
        host.converged(WEB)
        pid = host.pid("web")
        process.kill()
        process.wait()
        done = run_inside(host, "web", "cat", "/proc/meminfo")
        assert done.returncode == 1 and "not connected" in done.stderr
        assert advice(host)["lxcfs"].status == doctor.FAILURE
        assert host.run(WEB).actions == []
        with pytest.raises(LaunchError, match="lxcfs .* does not work") as caught:
            host.run({**WEB, "restart": True})
        assert "systemctl restart lxcfs" in caught.value.hint and host.pid("web") == pid
    with server(host):
        assert run_inside(host, "web", "cat", "/proc/meminfo").returncode == 1
        assert advice(host)["lxcfs in sandboxes"].remedy.endswith("sandlot restart web")
        assert not host.run({**WEB, "restart": True}).failed
        assert "65536" in output(host, "web", "cat", "/proc/meminfo")
        assert list(advice(host)) == ["lxcfs"]
        assert not host.run(sandbox("web", state="absent")).failed


def test_without_lxcfs_it_is_refused_before_any_change(host: Deployment) -> None:
    with pytest.raises(LaunchError, match="lxcfs is not mounted") as caught:
        host.run(WEB)
    assert "apt install lxcfs" in caught.value.hint
    assert not os.path.exists(host.paths.sandboxes)
    host.converged({**WEB, "state": "stopped"})
    assert "lxcfs is not mounted" in str(Launcher(host.paths).start(["web"])["web"])


def test_a_server_that_hangs_holds_nobody_up(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher goes on, and neither keeps a lock."""
    monkeypatch.setattr(lxcfs, "PATIENCE_SECONDS", 0.5)
    host.converged({**WEB, "state": "stopped"}, sandbox("other"))
    os.makedirs(host.paths.lxcfs)
    with hung(host.paths.lxcfs, lxcfs.KIND):
        with pytest.raises(LaunchError, match="does not answer"):
            host.run(WEB)
        assert "does not answer within 5 seconds" in str(Launcher(host.paths).start(["web"])["web"])
        assert advice(host)["lxcfs"].status == doctor.WARNING
        host.converged(sandbox("web"), sandbox("other"))
    # The readers end with the server.
    for _ in range(2):
        os.waitpid(-1, 0)
    os.rmdir(host.paths.lxcfs)
