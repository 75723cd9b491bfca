# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Kernel settings of the network: of our bridges, and IPv4 forwarding, which is the host's.

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

# route_localnet lets ports published on 127.0.0.1 lead to a bridge; the rules keep everybody
# but this host from using it. Sandboxes have no IPv6, and the host must not offer them any.
BRIDGE = {
    "ipv4/conf/{}/route_localnet": "1",
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/arp_ignore": "1",
    "ipv4/conf/{}/arp_announce": "2",
    "ipv6/conf/{}/disable_ipv6": "1",
    "ipv6/conf/{}/accept_ra": "0",
}


@dataclass(frozen=True)
class Forwarding:
    """IPv4 forwarding now, and the values to restore when it was us who switched it on."""

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


def bridge_settings(bridge: str) -> dict[str, str]:
    return {key.format(bridge): value for key, value in BRIDGE.items()}


def wrong_settings(bridge: str) -> dict[str, str]:
    """Settings of a bridge to write; those the kernel lacks are not among them."""
    wanted = bridge_settings(bridge)
    return {key: value for key, value in wanted.items() if read(key) not in (value, None)}


def silence_ipv6(link: str) -> None:
    """Keep a link from announcing itself over IPv6; write it before the link comes up."""
    write(f"ipv6/conf/{link}/disable_ipv6", "1")


def forwarding_file(paths: Paths) -> str:
    return f"{paths.state}/forwarding.json"


def observe_forwarding(paths: Paths) -> Forwarding:
    record = store.read(forwarding_file(paths))
    # A record from before a reboot says nothing: the boot has set everything anew.
    current = record is not None and record.get("boot_id") == store.boot_id()
    return Forwarding(
        enabled=read(FORWARD) == "1", prior=record["prior"] if record and current else None
    )


def enable_forwarding(paths: Paths) -> None:
    """Switch it on, having recorded all that the kernel changes along with it."""
    state = observe_forwarding(paths)
    if state.enabled:
        return
    if state.prior is None:
        os.makedirs(paths.state, mode=0o700, exist_ok=True)
        record = {"boot_id": store.boot_id(), "prior": _current()}
        store.write(forwarding_file(paths), record)
    write(FORWARD, "1")


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
