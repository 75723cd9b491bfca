# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Forwarding, which is the host's: switched on for networks, and put back as it was before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Mapping

from ... import store
from ...site import Site
from . import nft, roots, sysctls

FORWARD = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
ACCEPT_REDIRECTS = "ipv4/conf/all/accept_redirects"
DEVICE_AFTER_OFF = "0"


@dataclass(frozen=True)
class Forwarding:
    """Forwarding of one family now, and what to restore when it was us who switched it on.

    ``shared``: another root of sandlot has done it, and we don't know of it yet.
    """

    enabled: bool
    prior: Mapping[str, str] | None
    shared: bool = False

    @property
    def ours(self) -> bool:
        """Whether sandlot has switched it on, or would have to."""
        return self.prior is not None or not self.enabled or self.shared

    @property
    def due(self) -> bool:
        return not self.enabled or self.shared


def file(site: Site, version: int) -> str:
    return f"{site.state}/forwarding{'' if version == 4 else version}.json"


def observe(site: Site, version: int) -> Forwarding:
    record = store.read(file(site, version))
    # A record from before a reboot says nothing: the boot has set everything anew.
    current = record is not None and record.get("boot_id") == store.boot_id()
    prior = record["prior"] if record and current else None
    enabled = sysctls.read(FORWARD[version]) not in ("0", None)
    shared = enabled and prior is None and roots.guards(site, version)
    return Forwarding(enabled, prior, shared)


def enable(site: Site, version: int) -> None:
    """Switch it on, having recorded all that the kernel changes along with it."""
    with roots.alone():
        state = observe(site, version)
        if not state.due:
            return
        if state.prior is None:
            _record(site, version, _before(version, shared=state.shared))
        if not state.enabled:
            if version == 6:
                _keep_advertisements()
            sysctls.write(FORWARD[version], "1")


def _record(site: Site, version: int, prior: Mapping[str, str]) -> None:
    os.makedirs(site.state, mode=0o700, exist_ok=True)
    store.write(file(site, version), {"boot_id": store.boot_id(), "prior": dict(prior)})


def _before(version: int, *, shared: bool) -> Dict[str, str]:
    """Forwarding and the settings that are overwritten along with it.

    What these were before another root came is known to that one only.
    """
    if shared:
        return {FORWARD[version]: "0"}
    return _current4() if version == 4 else _current6()


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
    """Put back what was before, unless somebody else has changed it or needs it since."""
    with roots.alone():
        _put_back(site, version)
        store.remove(file(site, version))


def leave(site: Site) -> None:
    """Restore all, and take away the rules by which other roots know that we need it.

    In one go, else two roots that leave at the same time would each leave it to the other.
    """
    with roots.alone():
        for version in FORWARD:
            _put_back(site, version)
        nft.remove(site)
        for version in FORWARD:
            store.remove(file(site, version))


def _put_back(site: Site, version: int) -> None:
    prior, forward = observe(site, version).prior, FORWARD[version]
    if prior is None or roots.guards(site, version):
        return
    if sysctls.read(forward) == "1":
        sysctls.write(forward, prior[forward])
    for key, value in prior.items():
        if key != forward and sysctls.read(key) == _after_off(key):
            sysctls.write(key, value)


def _after_off(key: str) -> str:
    """What it is once forwarding was switched off: by the kernel (ip-sysctl.rst), or by us."""
    if key == ACCEPT_REDIRECTS:
        return "1"
    return "2" if key.endswith("/accept_ra") else DEVICE_AFTER_OFF
