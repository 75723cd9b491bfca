# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Kernel settings of the network: of our links, and forwarding, which is the host's.

Files below /proc/sys/net show the network namespace of the process that opens them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, Mapping

from .. import store
from ..paths import Paths

ROOT = "/proc/sys/net"
FORWARD = "ipv4/ip_forward"
ACCEPT_REDIRECTS = "ipv4/conf/all/accept_redirects"
# What the kernel itself writes into these when forwarding is switched off (ip-sysctl.rst).
AFTER_OFF = {ACCEPT_REDIRECTS: "1"}
DEVICE_AFTER_OFF = "0"

IPV6 = "ipv6/conf/all/disable_ipv6"
FORWARD6 = "ipv6/conf/all/forwarding"

# route_localnet lets ports published on 127.0.0.1 lead to a bridge; the rules keep everybody
# but this host from using it.
BRIDGE = {
    "ipv4/conf/{}/route_localnet": "1",
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/arp_ignore": "1",
    "ipv4/conf/{}/arp_announce": "2",
}
NO_IPV6 = {
    "ipv6/conf/{}/disable_ipv6": "1",
    "ipv6/conf/{}/accept_ra": "0",
}
# Addresses are ours to give, link-local ones too, and of use at once: nobody else can have them,
# so there is nothing to detect (DAD).
IPV6_BY_US = {
    "ipv6/conf/{}/accept_ra": "0",
    "ipv6/conf/{}/accept_redirects": "0",
    "ipv6/conf/{}/autoconf": "0",
    "ipv6/conf/{}/use_tempaddr": "0",
    "ipv6/conf/{}/accept_dad": "0",
    "ipv6/conf/{}/dad_transmits": "0",
    "ipv6/conf/{}/addr_gen_mode": "1",
    "ipv6/conf/{}/disable_ipv6": "0",
}


@dataclass(frozen=True)
class Forwarding:
    """Forwarding of one family now, and what to restore when it was us who switched it on."""

    enabled: bool
    prior: Mapping[str, str] | None

    @property
    def ours(self) -> bool:
        """Whether we have switched it on, or would have to."""
        return self.prior is not None or not self.enabled


def read(key: str) -> str | None:
    """The value, None when the kernel has no such setting (say, without IPv6)."""
    try:
        with open(f"{ROOT}/{key}", encoding="ascii") as handle:
            return handle.read().strip()
    except FileNotFoundError:
        return None


def write(key: str, value: str) -> None:
    try:
        with open(f"{ROOT}/{key}", "w", encoding="ascii") as handle:
            handle.write(value)
    except FileNotFoundError:
        return


def has_ipv6() -> bool:
    """Whether the kernel can do IPv6 (it was not booted with ipv6.disable=1)."""
    return read(IPV6) is not None


def bridge_settings(bridge: str, *, ipv6: bool) -> dict[str, str]:
    wanted = {**BRIDGE, **(IPV6_BY_US if ipv6 else NO_IPV6)}
    return {key.format(bridge): value for key, value in wanted.items()}


def settings(bridge: str) -> dict[str, str]:
    """Those settings of a bridge that matter, as they are; without what the kernel lacks."""
    found = {key: read(key) for ipv6 in (False, True) for key in bridge_settings(bridge, ipv6=ipv6)}
    return {key: value for key, value in found.items() if value is not None}


def wrong_settings(found: Mapping[str, str], bridge: str, *, ipv6: bool) -> dict[str, str]:
    """Settings of a bridge to write."""
    wanted = bridge_settings(bridge, ipv6=ipv6)
    return {key: value for key, value in wanted.items() if found.get(key, value) != value}


def silence_ipv6(link: str) -> None:
    """Keep a link from announcing itself over IPv6; write it before the link comes up."""
    write(f"ipv6/conf/{link}/disable_ipv6", "1")


def prepare_ipv6(link: str) -> None:
    """Let a link have IPv6, with the addresses that we give it."""
    silence_ipv6(link)
    for key, value in IPV6_BY_US.items():
        write(key.format(link), value)


def forwarding_file(paths: Paths) -> str:
    return f"{paths.state}/forwarding.json"


def forwarding6_file(paths: Paths) -> str:
    return f"{paths.state}/forwarding6.json"


def observe_forwarding(paths: Paths) -> Forwarding:
    return _observed(forwarding_file(paths), FORWARD)


def observe_forwarding6(paths: Paths) -> Forwarding:
    return _observed(forwarding6_file(paths), FORWARD6)


def _observed(path: str, key: str) -> Forwarding:
    record = store.read(path)
    # A record from before a reboot says nothing: the boot has set everything anew.
    current = record is not None and record.get("boot_id") == store.boot_id()
    return Forwarding(
        enabled=read(key) not in ("0", None), prior=record["prior"] if record and current else None
    )


def enable_forwarding(paths: Paths) -> None:
    """Switch it on, having recorded all that the kernel changes along with it."""
    state = observe_forwarding(paths)
    if state.enabled:
        return
    if state.prior is None:
        _record(forwarding_file(paths), paths, _current())
    write(FORWARD, "1")


def _record(path: str, paths: Paths, prior: Mapping[str, str]) -> None:
    os.makedirs(paths.state, mode=0o700, exist_ok=True)
    store.write(path, {"boot_id": store.boot_id(), "prior": dict(prior)})


def enable_forwarding6(paths: Paths) -> None:
    """Switch it on, and keep the host's own links accepting router advertisements.

    A link that forwards ignores them unless accept_ra is 2, and the kernel forgets at once the
    default routes it learned from them: a host with an address by SLAAC would go silent.
    """
    state = observe_forwarding6(paths)
    if state.enabled:
        return
    if state.prior is None:
        _record(forwarding6_file(paths), paths, _current6())
    for device in os.listdir(f"{ROOT}/ipv6/conf"):
        accept = f"ipv6/conf/{device}/accept_ra"
        if device not in ("all", "default", "lo") and read(accept) == "1":
            write(accept, "2")
    write(FORWARD6, "1")


def restore_forwarding6(paths: Paths) -> None:
    """Put back what was before, unless somebody else has changed it since."""
    prior = observe_forwarding6(paths).prior
    if prior is not None:
        if read(FORWARD6) == "1":
            write(FORWARD6, prior[FORWARD6])
        for key, value in prior.items():
            expected = "2" if key.endswith("/accept_ra") else DEVICE_AFTER_OFF
            if key != FORWARD6 and read(key) == expected:
                write(key, value)
    store.remove(forwarding6_file(paths))


def _current6() -> Dict[str, str]:
    """IPv6 forwarding and the settings that are overwritten along with it."""
    values = {FORWARD6: read(FORWARD6) or "0"}
    for device in sorted(os.listdir(f"{ROOT}/ipv6/conf")):
        for name in ("forwarding", "accept_ra"):
            key = f"ipv6/conf/{device}/{name}"
            if device != "all" and read(key) == "1":
                values[key] = "1"
    return values


def restore_forwarding(paths: Paths) -> None:
    """Put back what was before, unless somebody else has changed it since."""
    prior = observe_forwarding(paths).prior
    if prior is not None:
        if read(FORWARD) == "1":
            write(FORWARD, prior[FORWARD])
        for key, value in prior.items():
            if key != FORWARD and read(key) == AFTER_OFF.get(key, DEVICE_AFTER_OFF):
                write(key, value)
    store.remove(forwarding_file(paths))


def _current() -> Dict[str, str]:
    """Forwarding and the settings that writing it overwrites."""
    values = {FORWARD: read(FORWARD) or "0"}
    redirects = read(ACCEPT_REDIRECTS)
    if redirects is not None:
        values[ACCEPT_REDIRECTS] = redirects
    for device in sorted(os.listdir(f"{ROOT}/ipv4/conf")):
        key = f"ipv4/conf/{device}/forwarding"
        if device != "all" and read(key) == "1":
            values[key] = "1"
    return values
