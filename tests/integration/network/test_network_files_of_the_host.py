# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hosts without the files that name protocols and services, as without Debian's netbase."""

from __future__ import annotations

import os
import subprocess

import pytest
from lab import call
from sandlot.kernel import mounts
from sandlot.kernel.namespaces import CLONE_NEWNS, unshare

NAMES = (
    *("/etc/protocols", "/etc/services", "/etc/networks", "/etc/hosts"),
    *("/etc/iproute2/rt_marks", "/etc/iproute2/rt_realms", "/etc/iproute2/group"),
)
UNKNOWN = "table inet x { chain c { meta l4proto ipv6-icmp accept; }; }\n"


def without_names(function):
    """Call a function in a mount namespace where files of names are empty."""
    unshare(CLONE_NEWNS)
    mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
    for path in filter(os.path.exists, NAMES):
        mounts.mount("/dev/null", path, "", mounts.MS_BIND)
    return function()


@pytest.fixture
def full(lab):
    """Every kind of rule."""
    lab.enable_ipv6()
    lab.networks[0].update(ipv6_subnet="fd77::/64", egress=["dns", "203.0.113.0/24:443"])
    lab.networks[0].update(host_access=["53/udp", "9100/tcp"])
    lab.add("web", "other")
    lab.publish("web", 8080, 80)
    lab.publish("web", 8080, 80, "::")
    return lab


def test_rules_need_no_file_of_the_host(full):
    assert call(full.host, without_names, full.apply)
    # And with these files, the kernel's rules are the same.
    assert full.plan() == []
    assert call(full.host, without_names, lambda: len(full.operations())) == 0


def test_a_name_of_these_files_is_missed(full):
    """The control: the place of the test above has no names."""

    def load():
        return subprocess.run(["nft", "-c", "-f", "-"], input=UNKNOWN.encode()).returncode

    assert call(full.host, load) == 0
    assert call(full.host, without_names, load) == 1
