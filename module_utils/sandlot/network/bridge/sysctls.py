# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Kernel settings of our links.

A file below /proc/sys/net is about the network namespace of the process that opens it.
"""

from __future__ import annotations

import contextlib
from typing import Mapping

from ...kernel.files import read_value, write_value

ROOT = "/proc/sys/net"
IPV6 = "ipv6/conf/all/disable_ipv6"

# route_localnet lets ports that are published on 127.0.0.1 lead to a bridge; the rules allow that
# for this host only.
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
# Sandlot gives all addresses, link-local ones too. Nobody else has them, so the kernel need not
# detect duplicates (DAD) first.
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


def read(key: str) -> str | None:
    """The value of a setting; None when the kernel lacks it, as without IPv6."""
    return read_value(f"{ROOT}/{key}")


def write(key: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        write_value(f"{ROOT}/{key}", value)


def has_ipv6() -> bool:
    """Whether the kernel can do IPv6 (it was not booted with ipv6.disable=1)."""
    return read(IPV6) is not None


def bridge_settings(bridge: str, *, ipv6: bool) -> dict[str, str]:
    desired = {**BRIDGE, **(IPV6_BY_US if ipv6 else NO_IPV6)}
    return {key.format(bridge): value for key, value in desired.items()}


def settings(bridge: str) -> dict[str, str]:
    """The present values of a bridge's settings, without those that the kernel lacks."""
    values = {
        key: read(key) for ipv6 in (False, True) for key in bridge_settings(bridge, ipv6=ipv6)
    }
    return {key: value for key, value in values.items() if value is not None}


def wrong_settings(known: Mapping[str, str], bridge: str, *, ipv6: bool) -> dict[str, str]:
    """The settings of a bridge that differ, with the values to write."""
    desired = bridge_settings(bridge, ipv6=ipv6)
    return {key: value for key, value in desired.items() if known.get(key, value) != value}


def silence_ipv6(link: str) -> None:
    """Keep a link from announcing itself over IPv6; call it before the link comes up."""
    write(f"ipv6/conf/{link}/disable_ipv6", "1")


def prepare_ipv6(link: str) -> None:
    """Enable IPv6 on a link, with no addresses but those that we give it."""
    silence_ipv6(link)
    for key, value in IPV6_BY_US.items():
        write(key.format(link), value)
