# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Capability names and the ledger of relaxations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sandlot.security import MASKED, READONLY, relaxed
from sandlot.spec import confinement, grants, mounts


@pytest.mark.parametrize(
    ("names", "mask"),
    [
        ((), 0),
        (("CHOWN",), 1),
        (("NET_RAW",), 1 << 13),
        (("NET_RAW", "SYS_ADMIN"), 1 << 13 | 1 << 21),
        (("SYSLOG",), 1 << 34),
        (("CHECKPOINT_RESTORE",), 1 << 40),
        (confinement.CAPABILITIES, (1 << 41) - 1),
    ],
)
def test_mask(names, mask):
    """The kernel's numbers; other spellings are a matter of the option."""
    assert confinement.mask(names) == mask


def spec(
    *,
    granted=(),
    profile="default",
    foreign=(),
    pids=512,
    lxcfs=False,
    mode="bridge",
    pin="",
    egress=None,
    host_access=None,
    confined=True,
    nodes=(),
    volumes=(),
):
    return SimpleNamespace(
        capabilities=granted,
        no_new_privileges=confined,
        seccomp_profile=profile,
        seccomp_architectures=foreign,
        pids_limit=pids,
        devices=nodes,
        volumes=volumes and mounts.short("volumes", volumes),
        mounts=(),
        lxcfs=lxcfs,
        network_mode=mode,
        network_pin=pin,
        egress=egress and grants.egress("egress", egress),
        host_access=host_access and grants.host_access("host_access", host_access),
    )


@pytest.mark.parametrize(
    ("desired", "lines"),
    [
        (spec(), []),
        (spec(lxcfs=True), ["lxcfs: a program of the host's root answers reads of /proc"]),
        (
            spec(granted=("NET_RAW", "SYS_TIME")),
            ["capabilities: NET_RAW", "capabilities: SYS_TIME"],
        ),
        (
            spec(profile="unconfined", pids=-1),
            ["seccomp_profile: unconfined", "pids_limit: -1"],
        ),
        (spec(foreign=("x86",)), ["seccomp_architectures: x86"]),
        (spec(confined=False), ["no_new_privileges: false"]),
        (
            spec(nodes=("/dev/fuse", "/dev/kvm:/dev/x:r")),
            ["devices: /dev/fuse", "devices: /dev/kvm:/dev/x:r"],
        ),
        (spec(mode="host"), ["network_mode: host"]),
        (spec(mode="ns:/run/netns/vpn", pin="/run/netns/vpn"), ["network_mode: ns:/run/netns/vpn"]),
        (spec(mode="none"), []),
        (
            spec(volumes=("data:/data", "/srv/www:/www:ro", "/srv:/x:idmap,slave")),
            ["volumes: /srv/www:/www:ro", "volumes: /srv:/x:idmap,rslave"],
        ),
        (spec(mode="container:db"), []),
        (spec(egress=("0.0.0.0/0", "10.0.0.1:443/tcp", "dns", "a.example"), host_access=()), []),
        (
            spec(egress=("169.254.169.254:80/tcp", "fd00:ec2::254"), host_access=("53/udp",)),
            ["egress: 169.254.169.254:80/tcp", "egress: fd00:ec2::254", "host_access: 53/udp"],
        ),
    ],
)
def test_relaxed_lists_each_loosening(desired, lines):
    assert relaxed(desired, "strict") == lines
    assert relaxed(desired, "daemon") == ["security_profile: daemon", *lines]


def test_kernel_paths_are_absolute_unique_and_disjoint():
    both = MASKED + READONLY
    assert len(set(both)) == len(both)
    assert all(path.startswith(("/proc/", "/sys/")) for path in both)
    assert {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(MASKED)
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(READONLY)
