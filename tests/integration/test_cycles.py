# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sandboxes that come and go leave nothing: mounts, links, cgroups, ids, files, memory.

SANDLOT_CYCLES=500 makes and removes as many; the figures are printed with -s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment, descriptors, eventually, needs_root, sandbox
from sandboxes import zygote_of
from sandlot import cgroups, idmap
from sandlot.kernel import netlink
from sandlot.launcher.client import Launcher
from sandlot.network.common.model import identity
from sandlot.sandbox import runtime

pytestmark = needs_root

CYCLES = int(os.environ.get("SANDLOT_CYCLES", "60"))
BATCH = 10
# Caches grow to a size and stay there; a leak of one object a cycle would be more than this.
WARM_UP = 2
MEMORY_KB = 256


def specs() -> list[dict[str, Any]]:
    """Limits, a log, a port, a tmpfs, and one that shares another's network."""
    plain = [sandbox(f"n{number}", memory="32m") for number in range(BATCH - 2)]
    talks = sandbox("talks", command=["sh", "-c", "echo up; exec sleep 1000"], tmpfs=["/x"])
    return [*plain, talks, sandbox("shares", network_mode="container:n0")]


def processes(host: Deployment) -> dict[str, int]:
    launcher = int((Launcher(host.paths).ping() or {})["pid"])
    return {"launcher": launcher, "zygote": zygote_of(launcher)}


def memory(pid: int) -> int:
    """Kilobytes of its own, and its share of what it and its children have in common.

    Not of files: that share grows when another process of the machine that runs Python ends.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def mounted(host: Deployment, pids: dict[str, int]) -> int:
    """On the host, and on the launcher's build namespace."""
    found = 0
    for pid in ("self", str(pids["launcher"])):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            found += host.paths.root in line
    return found


def files(host: Deployment) -> int:
    return sum(len(names) + len(found) for _, names, found in os.walk(host.paths.root))


def links(host: Deployment) -> list[str]:
    with netlink.connect() as sock:
        macs = {link.name: link.mac for link in netlink.links(sock)}
    return sorted(name for name, mac in macs.items() if mac == identity(host.paths, name))


def looked(host: Deployment) -> tuple[dict[str, Any], dict[str, int]]:
    """What has to be the same after each cycle, and memory."""
    pids = processes(host)
    found = {
        "pids": pids,
        "mounts": mounted(host, pids),
        "links": links(host),
        "cgroups": cgroups.names(host.paths),
        "run": runtime.names(host.paths),
        "files": files(host),
        "id lines": len(idmap.recorded(idmap.observe(host.paths))),
        "descriptors": {name: descriptors(pid, looks=2000) for name, pid in pids.items()},
        "children": Path(f"/proc/{pids['launcher']}/task/{pids['launcher']}/children").read_text(),
    }
    return found, {name: memory(pid) for name, pid in pids.items()}


def cycle(host: Deployment) -> None:
    result = host.run(*specs())
    assert not result.failed, result.failed
    result = host.run(purge=True)
    assert not result.failed, result.failed


def settled(host: Deployment) -> tuple[dict[str, Any], dict[str, int]]:
    """The launcher notes the end of its last child a moment after it has answered."""
    zygote = str(processes(host)["zygote"])
    eventually(lambda: looked(host)[0]["children"].split() == [zygote])
    return looked(host)


def test_nothing_is_left_of_many_cycles(host: Deployment) -> None:
    for _ in range(WARM_UP):
        cycle(host)
    before, memory_before = settled(host)
    for _ in range(CYCLES // BATCH):
        cycle(host)
    after, memory_after = settled(host)
    grown = {name: memory_after[name] - memory_before[name] for name in memory_before}
    print(f"{CYCLES} sandboxes: {after}; kB before {memory_before}, grown by {grown}")
    assert after == before
    assert max(grown.values()) < MEMORY_KB
