# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Bandwidth of sandboxes, kept on the host's ends of their links, out of any tenant's reach.

What a sandbox takes in waits in a token bucket of the host end. What it sends arrives there,
where nothing can wait: it takes a turn through a link of its own (ifb), which hands it back at
the given rate. Dropping it instead (policing) costs TCP far more than the rate says.
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
from ..common.model import Interface, Network, Rates, identity
from . import adapter, sysctls
from .adapter import Bucket
from .observe import BridgeState, owned

HANDLE = 0x51A0 << 16
# A burst has to hold the largest packet; a queue so many seconds of traffic, but some packets.
BURST_SECONDS = 0.01
BURST_PACKETS = 10
QUEUE_SECONDS = 0.05
QUEUE_PACKETS = 32
HEADERS = 18
MTU = 1500


@dataclass(frozen=True)
class _Found:
    """The links of one interface on the host and what shapes them."""

    outer: Link | None
    shaper: Link | None
    at_outer: Traffic
    at_shaper: Traffic
    mtu: int

    @property
    def redirected(self) -> bool:
        """Whether what the sandbox sends goes to its shaper, and nowhere else."""
        target = self.shaper.index if self.shaper else -1
        return [item.redirect for item in self.at_outer.filters] == [target]


def rate_operations(
    site: Site,
    networks: Mapping[str, Network],
    interfaces: Sequence[Interface],
    rates: Rates,
    state: BridgeState,
) -> list[Operation]:
    """Makes the limits of one sandbox right; apply it when its links are plugged."""
    wrong = [
        item
        for item in interfaces
        if not _is_right(_seen(site, item, networks[item.network], state), rates)
    ]
    if not wrong:
        return []
    adapter.require()
    if str(rates):
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


def _seen(site: Site, item: Interface, network: Network, state: BridgeState) -> _Found:
    outer = owned(site, state.links, item.link, "veth")
    shaper = owned(site, state.links, site.shaper(item.sandbox, item.ifname), "ifb")
    none = Traffic()
    # A link that has another MTU yet is put right before its limits.
    mtu = network.mtu or (outer.mtu if outer else MTU)
    return _Found(
        outer,
        shaper,
        state.traffic.get(outer.index, none) if outer else none,
        state.traffic.get(shaper.index, none) if shaper else none,
        mtu,
    )


def _is_right(found: _Found, rates: Rates) -> bool:
    return not _ingress_differs(found, rates) and not _egress_differs(found, rates)


def _ingress_differs(found: _Found, rates: Rates) -> bool:
    root = found.at_outer.root
    if rates.ingress is None:
        return root is not None and root.handle == HANDLE
    if found.outer is None:
        return True
    _refuse_foreign(found.outer, root)
    return not _limits(found.at_outer, bucket(rates.ingress, found.mtu))


def _egress_differs(found: _Found, rates: Rates) -> bool:
    if rates.egress is None:
        return found.shaper is not None or found.redirected or _is_orphan(found)
    if found.outer is None:
        return True
    _refuse_filters(found.outer, found)
    if found.shaper is None:
        return True
    limited = _limits(found.at_shaper, bucket(rates.egress, found.mtu))
    return not (limited and found.shaper.up and found.redirected)


def _limits(there: Traffic, wanted: Bucket) -> bool:
    root = there.root
    found = (root.kind, root.handle, root.rate, root.limit) if root else None
    return found == ("tbf", HANDLE, wanted.rate, wanted.limit)


def _is_orphan(found: _Found) -> bool:
    """A redirection to a link that is gone, which drops everything; nobody needs that one."""
    return [item.redirect for item in found.at_outer.filters] == [0]


def _refuse_foreign(link: Link, root: traffic.Qdisc | None) -> None:
    if root is not None and root.handle != HANDLE:
        raise ForeignError(
            f"the queueing discipline {root.kind} of {link.name} was not made by sandlot",
            hint=f"remove it (tc qdisc del dev {link.name} root), or leave out ingress_rate",
        )


def _refuse_filters(link: Link, found: _Found) -> None:
    ingress = found.at_outer.ingress
    foreign = ingress is not None and ingress.kind != "ingress"
    if foreign or (found.at_outer.filters and not found.redirected and not _is_orphan(found)):
        raise ForeignError(
            f"filters of what {link.name} receives were not made by sandlot",
            hint=f"remove them (tc qdisc del dev {link.name} ingress), or leave out egress_rate",
        )


def _shape_all(site: Site, interfaces: Sequence[Interface], rates: Rates) -> None:
    with netlink.connect() as sock, adapter.host() as host:
        for item in interfaces:
            _shape_ingress(_look(site, sock, item), rates, host)
            _shape_egress(site, sock, item, rates, host)


def _look(site: Site, sock: socket.socket, item: Interface) -> _Found:
    outer = _link(site, sock, item.link, "veth")
    if outer is None:
        raise HostError(
            f"the link {item.link} of sandbox {item.sandbox} is missing",
            hint="run again: links are put right before their limits",
        )
    shaper = _link(site, sock, site.shaper(item.sandbox, item.ifname), "ifb")
    at_shaper = traffic.traffic_of(sock, shaper.index) if shaper else Traffic()
    at_outer = traffic.traffic_of(sock, outer.index)
    return _Found(outer, shaper, at_outer, at_shaper, outer.mtu)


def _link(site: Site, sock: socket.socket, name: str, kind: str) -> Link | None:
    found = netlink.link(sock, name)
    return owned(site, {name: found} if found else {}, name, kind)


def _shape_ingress(found: _Found, rates: Rates, host: adapter.Links) -> None:
    if found.outer is None or not _ingress_differs(found, rates):
        return
    if rates.ingress is None:
        host.drop_rate(found.outer.name)
    else:
        host.set_rate(found.outer.name, bucket(rates.ingress, found.mtu))


def _shape_egress(
    site: Site, sock: socket.socket, item: Interface, rates: Rates, host: adapter.Links
) -> None:
    found = _look(site, sock, item)
    if not _egress_differs(found, rates):
        return
    name = site.shaper(item.sandbox, item.ifname)
    if rates.egress is None:
        if found.redirected or _is_orphan(found):
            host.drop_redirect(item.link)
        host.delete([name])
        return
    _ensure_shaper(site, found, name, bucket(rates.egress, found.mtu), host)
    _redirect(site, sock, item, name, host)


def _ensure_shaper(
    site: Site, found: _Found, name: str, wanted: Bucket, host: adapter.Links
) -> None:
    if found.shaper is None:
        host.add_ifb(name, identity(site, name))
    if not _limits(found.at_shaper, wanted):
        host.set_rate(name, wanted)
    if found.shaper is None or not found.shaper.up:
        sysctls.silence_ipv6(name)
        host.set_link(name, state="up")


def _redirect(
    site: Site, sock: socket.socket, item: Interface, name: str, host: adapter.Links
) -> None:
    found = _look(site, sock, item)
    if found.redirected:
        return
    if found.at_outer.ingress is not None:
        host.drop_redirect(item.link)
    host.redirect(item.link, name)


@functools.cache
def require_kernel() -> None:
    """HostError when the kernel can't shape; tried in a network namespace made for it."""
    adapter.load()
    problem, status = fork.call(lambda _report: _trial().encode())
    if status:
        raise HostError("the kernel's traffic shaping could not be tried")
    if problem:
        raise HostError(
            f"bandwidth can't be limited: {problem.decode()}",
            hint="boot a kernel with these modules, or leave out ingress_rate and egress_rate",
        )


def _trial() -> str:
    """The first problem, in words; "" when everything works."""
    unshare(CLONE_NEWNET)
    try:
        with adapter.opened() as links:
            links.set_rate("lo", bucket(10**6, MTU))
            links.add_ifb("ifb-trial", "02:00:00:00:00:01")
            links.redirect("lo", "ifb-trial")
    except HostError as error:
        return error.message
    return ""
