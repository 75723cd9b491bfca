# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Limits the bandwidth of sandboxes at the host ends of their links, out of any tenant's reach.

Packets to a sandbox wait in a token bucket of the host end. Packets from a sandbox arrive there,
and arriving packets can't wait: they pass through another link (ifb), which hands them back at the
given rate. Dropping them instead (policing) would slow TCP far below that rate.
"""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass
from typing import Mapping, Sequence

from ...errors import ForeignError, HostError
from ...kernel import fork, netlink, traffic
from ...kernel.namespaces import CLONE_NEWNET, unshare
from ...kernel.netlink import Link
from ...kernel.traffic import Traffic
from ...plan import Operation
from ...site import Site
from ..common.model import DEFAULT_MTU, Interface, Network, Rates, identity
from . import adapter, sysctls
from .adapter import Bucket
from .observe import BridgeState, owned

HANDLE = 0x51A0 << 16
# A burst must hold the largest packet; a queue holds so many seconds of traffic, but some packets.
BURST_SECONDS = 0.01
BURST_PACKETS = 10
QUEUE_SECONDS = 0.05
QUEUE_PACKETS = 32
HEADERS = 18


@dataclass(frozen=True)
class _Shaping:
    """The host links of one interface, with their queueing disciplines."""

    outer: Link | None
    shaper: Link | None
    at_outer: Traffic
    at_shaper: Traffic
    mtu: int

    @property
    def redirected(self) -> bool:
        """Whether the sandbox sends to its shaper, and nowhere else."""
        target = self.shaper.index if self.shaper else -1
        return [item.redirect for item in self.at_outer.filters] == [target]


def rate_operations(
    site: Site,
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    rates: Rates,
    state: BridgeState,
) -> list[Operation]:
    """Operations that set the limits of one sandbox; apply them after its links are plugged."""
    wrong = []
    for item in interfaces:
        shaping = _observed(site, item, networks[item.network], state)
        if _ingress_differs(shaping, rates) or _egress_differs(shaping, rates):
            wrong.append(item)
    if not wrong:
        return []
    adapter.require(foreseen=state.foreseen)
    if str(rates) and adapter.installed():
        require_kernel()
    names = ", ".join(item.ifname for item in wrong)
    summary = f"limit {names} ({rates})" if str(rates) else f"lift the limits of {names}"
    return [Operation(wrong[0].sandbox, summary, lambda: _shape_all(site, wrong, rates))]


def bucket(rate: int, mtu: int) -> Bucket:
    """The token bucket for ``rate`` bits a second."""
    packet = mtu + HEADERS
    second = rate // 8
    burst = max(int(second * BURST_SECONDS), packet * BURST_PACKETS)
    waiting = max(int(second * QUEUE_SECONDS), packet * QUEUE_PACKETS)
    return Bucket(HANDLE, second, burst, burst + waiting)


def _observed(site: Site, item: Interface, network: Network, state: BridgeState) -> _Shaping:
    outer = owned(site, state.links, item.link, "veth")
    shaper = owned(site, state.links, site.shaper(item.sandbox, item.ifname), "ifb")
    none = Traffic()
    return _Shaping(
        outer,
        shaper,
        state.traffic.get(outer.index, none) if outer else none,
        state.traffic.get(shaper.index, none) if shaper else none,
        network.link_mtu,  # links are put right before their limits
    )


def _ingress_differs(shaping: _Shaping, rates: Rates) -> bool:
    root = shaping.at_outer.root
    if rates.ingress is None:
        return root is not None and root.handle == HANDLE
    if shaping.outer is None:
        return True
    if root is not None and root.handle != HANDLE:
        link = shaping.outer.name
        raise ForeignError(
            f"the queueing discipline {root.kind} of {link} was not made by sandlot",
            hint=f"remove it (tc qdisc del dev {link} root), or leave out ingress_rate",
        )
    return not _limits(shaping.at_outer, bucket(rates.ingress, shaping.mtu))


def _egress_differs(shaping: _Shaping, rates: Rates) -> bool:
    if rates.egress is None:
        return shaping.shaper is not None or shaping.redirected or _is_orphan(shaping)
    if shaping.outer is None:
        return True
    _refuse_filters(shaping.outer, shaping)
    if shaping.shaper is None:
        return True
    limited = _limits(shaping.at_shaper, bucket(rates.egress, shaping.mtu))
    return not (limited and shaping.shaper.up and shaping.redirected)


def _limits(traffic: Traffic, desired: Bucket) -> bool:
    root = traffic.root
    present = (root.kind, root.handle, root.rate, root.limit) if root else None
    return present == ("tbf", HANDLE, desired.rate, desired.limit)


def _is_orphan(shaping: _Shaping) -> bool:
    """Whether packets are redirected to a missing link, which drops all of them."""
    return [item.redirect for item in shaping.at_outer.filters] == [0]


def _refuse_filters(link: Link, shaping: _Shaping) -> None:
    ingress = shaping.at_outer.ingress
    foreign = ingress is not None and ingress.kind != "ingress"
    if foreign or (shaping.at_outer.filters and not shaping.redirected and not _is_orphan(shaping)):
        raise ForeignError(
            f"filters of what {link.name} receives were not made by sandlot",
            hint=f"remove them (tc qdisc del dev {link.name} ingress), or leave out egress_rate",
        )


def _shape_all(site: Site, interfaces: Sequence[Interface], rates: Rates) -> None:
    with netlink.connect() as sock, adapter.host() as host:
        for item in interfaces:
            shaping = _look(site, sock, item)
            if _ingress_differs(shaping, rates):
                if rates.ingress is None:
                    host.drop_rate(item.link)
                else:
                    host.set_rate(item.link, bucket(rates.ingress, shaping.mtu))
            _shape_egress(site, sock, item, rates, host)


def _look(site: Site, sock: socket.socket, item: Interface) -> _Shaping:
    outer = _link(site, sock, item.link, "veth")
    if outer is None:
        raise HostError(
            f"the link {item.link} of sandbox {item.sandbox} is missing",
            hint="run again: links are put right before their limits",
        )
    shaper = _link(site, sock, site.shaper(item.sandbox, item.ifname), "ifb")
    at_shaper = traffic.traffic_of(sock, shaper.index) if shaper else Traffic()
    at_outer = traffic.traffic_of(sock, outer.index)
    return _Shaping(outer, shaper, at_outer, at_shaper, outer.mtu)


def _link(site: Site, sock: socket.socket, name: str, kind: str) -> Link | None:
    link = netlink.link(sock, name)
    return owned(site, {name: link} if link else {}, name, kind)


def _shape_egress(
    site: Site, sock: socket.socket, item: Interface, rates: Rates, host: adapter.Links
) -> None:
    shaping = _look(site, sock, item)
    if not _egress_differs(shaping, rates):
        return
    name = site.shaper(item.sandbox, item.ifname)
    if rates.egress is None:
        if shaping.redirected or _is_orphan(shaping):
            host.drop_redirect(item.link)
        host.delete([name])
        return
    _ensure_shaper(site, shaping, name, bucket(rates.egress, shaping.mtu), host)
    shaping = _look(site, sock, item)
    if shaping.redirected:
        return
    if shaping.at_outer.ingress is not None:
        host.drop_redirect(item.link)
    host.redirect(item.link, name)


def _ensure_shaper(
    site: Site, shaping: _Shaping, name: str, desired: Bucket, host: adapter.Links
) -> None:
    if shaping.shaper is None:
        host.add_ifb(name, identity(site, name))
    if not _limits(shaping.at_shaper, desired):
        host.set_rate(name, desired)
    if shaping.shaper is None or not shaping.shaper.up:
        sysctls.silence_ipv6(name)
        host.set_link(name, state="up")


@functools.cache
def require_kernel() -> None:
    """HostError when the kernel can't shape; the test runs in a new network namespace."""
    adapter.load()
    problem, status = fork.call(lambda _report: _try_shaping().encode())
    if status:
        raise HostError("the kernel's traffic shaping could not be tried")
    if problem:
        raise HostError(
            f"bandwidth can't be limited: {problem.decode()}",
            hint="boot a kernel with these modules, or leave out ingress_rate and egress_rate",
        )


def _try_shaping() -> str:
    """Try to shape; the first problem, "" when everything works."""
    unshare(CLONE_NEWNET)
    try:
        with adapter.opened() as links:
            links.set_rate("lo", bucket(10**6, DEFAULT_MTU))
            links.add_ifb("ifb-trial", "02:00:00:00:00:01")
            links.redirect("lo", "ifb-trial")
    except HostError as error:
        return error.message
    return ""
