# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A process that runs tests has namespaces of its own, so that it doesn't meet another.

Links, rules, ports, sysctls of the network, mounts and System V objects are then the process's
alone. Processes and cgroups are the machine's: there names and moved roots keep runs apart.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from sandlot.kernel import mount_points, mounts, namespaces

_KINDS = namespaces.CLONE_NEWNET | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC
_machine: list[int] = []


def isolate() -> None:
    """Moves this process, which may have threads that do nothing with the network."""
    _machine.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    namespaces.unshare(_KINDS)
    mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    _let_go_of_others()
    _show_own_links()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Every host has one; a control looks for it.
    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "eth1"], check=True)
    # A new namespace inherits what this machine happens to have set.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


def _let_go_of_others() -> None:
    """Copies of what other tests have mounted would keep them from removing their files."""
    # The sweep's roots are in memory.
    tops = (tempfile.gettempdir(), "/var/tmp", "/dev/shm")
    for top in (*tops, "/run/netns"):
        for path in sorted(mount_points.within(top), reverse=True):
            if path not in tops:
                mounts.umount(path)


def _show_own_links() -> None:
    """sysfs has the links of the namespace that it is mounted in; the cgroups move along."""
    with tempfile.TemporaryDirectory() as aside:
        subprocess.run(["mount", "--rbind", "/sys/fs/cgroup", aside], check=True)
        subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
        subprocess.run(["mount", "--rbind", aside, "/sys/fs/cgroup"], check=True)
        subprocess.run(["umount", "--recursive", aside], check=True)


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """In the machine's own network, for what has to reach a mirror."""
    if not _machine:
        yield
        return
    worker = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    namespaces.setns(_machine[0], namespaces.CLONE_NEWNET)
    try:
        with _among_others():
            yield
    finally:
        namespaces.setns(worker, namespaces.CLONE_NEWNET)
        os.close(worker)


@contextlib.contextmanager
def _among_others() -> Iterator[None]:
    """Other workers use it as well: the fingerprint looks at what is the test's own only."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with mock.patch.dict(os.environ, SANDLOT_SHARED_HOST="1"):
        del os.environ["PYTEST_XDIST_WORKER"]
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """In a network of its own, whose links and rules nobody else changes."""
    found = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    namespaces.unshare(namespaces.CLONE_NEWNET)
    try:
        yield
    finally:
        namespaces.setns(found, namespaces.CLONE_NEWNET)
        os.close(found)
