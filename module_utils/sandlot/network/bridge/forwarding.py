# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Forwarding, a setting of the host: switched on for networks, and restored later.

It is the only setting that all roots of a host share. A root's rules that drop packets forwarded
for others tell other roots that sandlot switched forwarding on and that this root needs it. The
roots share no file, so a kill leaves no stale one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, Mapping

from ... import store
from ...kernel import flock, nftables
from ...site import Site
from . import nft, sysctls

FORWARD = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
ACCEPT_REDIRECTS = "ipv4/conf/all/accept_redirects"
DEVICE_AFTER_OFF = "0"
_TABLE = re.compile(rb"sandlot(_[0-9a-f]{6})?")


@dataclass(frozen=True)
class Forwarding:
    """Forwarding of one family; ``prior`` are the settings to restore if we switched it on.

    ``shared`` tells that another root of sandlot switched it on, and that our record lacks this.
    """

    enabled: bool
    prior: Mapping[str, str] | None
    shared: bool = False

    @property
    def ours(self) -> bool:
        """Whether sandlot switched forwarding on, or would have to."""
        return self.prior is not None or not self.enabled or self.shared

    @property
    def due(self) -> bool:
        return not self.enabled or self.shared


def file(site: Site, version: int) -> str:
    return f"{site.state}/forwarding{'' if version == 4 else version}.json"


def observe(site: Site, version: int) -> Forwarding:
    record = store.read(file(site, version))
    # A record from before a reboot is void: the boot has reset every setting.
    current = record is not None and record.get("boot_id") == store.boot_id()
    prior = record["prior"] if record and current else None
    enabled = sysctls.read(FORWARD[version]) not in ("0", None)
    shared = enabled and prior is None and _others_need(site, version)
    return Forwarding(enabled, prior, shared)


def enable(site: Site, version: int) -> None:
    """Record every setting that the kernel changes along with forwarding, then switch it on."""
    with _alone():
        state = observe(site, version)
        if not state.due:
            return
        if state.prior is None:
            # Only the root that switched it on knows the settings from before.
            settings = {FORWARD[version]: "0"} if state.shared else PRIOR[version]()
            os.makedirs(site.state, mode=0o700, exist_ok=True)
            record = {"boot_id": store.boot_id(), "prior": settings}
            store.write(file(site, version), record)
        if not state.enabled:
            if version == 6:
                _keep_advertisements()
            sysctls.write(FORWARD[version], "1")


def _current4() -> Dict[str, str]:
    values = {FORWARD[4]: sysctls.read(FORWARD[4]) or "0"}
    redirects = sysctls.read(ACCEPT_REDIRECTS)
    if redirects is not None:
        values[ACCEPT_REDIRECTS] = redirects
    for device in _devices(4):
        key = f"ipv4/conf/{device}/forwarding"
        if device != "all" and sysctls.read(key) == "1":
            values[key] = "1"
    return values


def _current6() -> Dict[str, str]:
    values = {FORWARD[6]: sysctls.read(FORWARD[6]) or "0"}
    for device in _devices(6):
        for name in ("forwarding", "accept_ra"):
            key = f"ipv6/conf/{device}/{name}"
            if device != "all" and sysctls.read(key) == "1":
                values[key] = "1"
    return values


# The present values of all settings that the kernel overwrites along with forwarding.
PRIOR: Mapping[int, Callable[[], Dict[str, str]]] = {4: _current4, 6: _current6}


def _devices(version: int) -> list[str]:
    return sorted(os.listdir(f"{sysctls.ROOT}/ipv{version}/conf"))


def _keep_advertisements() -> None:
    """Keep the host's own links accepting router advertisements.

    A link that forwards ignores them unless accept_ra is 2, and the kernel forgets at once the
    default routes it learned from them: a host with an address by SLAAC would go silent.
    """
    for device in _devices(6):
        accept = f"ipv6/conf/{device}/accept_ra"
        if device not in ("all", "default", "lo") and sysctls.read(accept) == "1":
            sysctls.write(accept, "2")


def restore(site: Site, version: int) -> None:
    """Restore the earlier settings, except those that somebody changed or needs meanwhile."""
    with _alone():
        _put_back(site, version)
        store.remove(file(site, version))


def leave(site: Site) -> None:
    """Restore all settings and remove the rules that tell other roots of our need.

    Both happen under one lock: of two roots that leave at once, each would rely on the other.
    """
    with _alone():
        for version in FORWARD:
            _put_back(site, version)
        nft.remove(site)
        for version in FORWARD:
            store.remove(file(site, version))


def _put_back(site: Site, version: int) -> None:
    prior, forward = observe(site, version).prior, FORWARD[version]
    if prior is None or _others_need(site, version):
        return
    if sysctls.read(forward) == "1":
        sysctls.write(forward, prior[forward])
    for key, value in prior.items():
        if key != forward and sysctls.read(key) == _after_off(key):
            sysctls.write(key, value)


def _after_off(key: str) -> str:
    """The value of a setting once forwarding is off: the kernel's (ip-sysctl.rst), or ours."""
    if key == ACCEPT_REDIRECTS:
        return "1"
    return "2" if key.endswith("/accept_ra") else DEVICE_AFTER_OFF


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other roots from reading or changing forwarding; the setting's file is the lock."""
    fd = os.open(f"/proc/sys/net/{FORWARD[4]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        flock.take(fd)
        yield
    finally:
        os.close(fd)


def _others_need(site: Site, version: int) -> bool:
    """Whether another root's rules tell that it needs forwarding of this version of IP."""
    try:
        names = nftables.tables(nftables.INET)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return False
    ours, drop = site.nft_table.encode(), f"meta nfproto ipv{version} drop"
    others = [name.decode() for name in names if name != ours and _TABLE.fullmatch(name)]
    return any(drop in nft.chain(table, "forward") for table in others)
