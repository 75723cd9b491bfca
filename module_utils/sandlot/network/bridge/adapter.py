# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes links, addresses and routes; the only module that uses pyroute2 (0.7 to 0.9).

The import of pyroute2 takes a third of a second, so the first change of a bridge or of bandwidth
does it. The links of sandboxes are many, and pyroute2 takes longer for them than the kernel, so
their requests are built by kernel.rtnetlink.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import os
import re
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, Iterable, Iterator, NamedTuple, Sequence

from ...errors import HostError
from ...kernel import netlink, rtnetlink
from ..common.model import Interface
from . import announce

if TYPE_CHECKING:
    from ...kernel.nlmsg import Message

TC_H_ROOT = 0xFFFFFFFF
INGRESS = 0xFFFF0000
ETH_P_ALL = 3
MINIMUM_VERSION = (0, 7)
_REMEDY = "install the package python3-pyroute2 (or pip install pyroute2) for this Python"
_shared: list[_Session] = []


class Bucket(NamedTuple):
    """A token bucket: bytes a second, bytes in a burst, bytes in the queue."""

    handle: int
    rate: int
    burst: int
    limit: int


class _Session:
    """A connection that is opened at its first use."""

    def __init__(self) -> None:
        self._links: Links | None = None

    def links(self) -> Links:
        if self._links is None:
            self._links = Links()
        return self._links

    def close(self) -> None:
        if self._links is not None:
            self._links.close()


def installed() -> bool:
    return importlib.util.find_spec("pyroute2") is not None


def require(*, foreseen: bool = False) -> None:
    """Raise when pyroute2 is missing or too old, without paying for its import.

    A check (``foreseen``) may come before it is installed.
    """
    if not installed():
        if foreseen:
            return
        raise HostError("the Python module pyroute2 was not found", hint=_REMEDY)
    check_version(_version(), sys.executable)


def check_version(version: str, python: str) -> None:
    """HostError for a version of pyroute2 that lacks what we use; an unknown one, "", passes."""
    numbers = tuple(map(int, re.findall("[0-9]+", version)[:2]))
    if numbers and numbers < MINIMUM_VERSION:
        least = ".".join(map(str, MINIMUM_VERSION))
        raise HostError(
            f"pyroute2 {version} is too old: links need {least} or later",
            hint=f"pip install 'pyroute2>={least}' for {python}",
        )


@functools.cache
def _version() -> str:
    """The version of pyroute2 by its metadata, "" without any."""
    from importlib import metadata

    try:
        return metadata.version("pyroute2")
    except metadata.PackageNotFoundError:
        return ""


def load() -> Any:
    """The module pyroute2."""
    try:
        import pyroute2
    except ImportError as error:
        raise HostError(f"pyroute2 can't be imported: {error}", hint=_REMEDY) from error
    return pyroute2


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Operations applied inside share one connection to the kernel."""
    current = _Session()
    _shared.append(current)
    try:
        yield
    finally:
        _shared.remove(current)
        current.close()


@contextlib.contextmanager
def host() -> Iterator[Links]:
    """The session's connection, else a new one; enter it in the host's network namespace."""
    if _shared:
        yield _shared[-1].links()
        return
    with opened() as links:
        yield links


@contextlib.contextmanager
def opened() -> Iterator[Links]:
    """A connection in the thread's present network namespace."""
    links = Links()
    try:
        yield links
    finally:
        links.close()


@contextlib.contextmanager
def batched() -> Iterator[Batch]:
    """Collect changes and send them together at the end, in the thread's present namespace."""
    with netlink.connect() as sock:
        batch = Batch(sock)
        yield batch
        batch.send()


class Changes:
    """Changes to links, addresses and routes, by a socket of one network namespace."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def _submit(self, what: str, *requests: Message, unless: int = 0) -> None:
        """Send requests; ``unless`` is the error of one that finds nothing to do."""
        for code in netlink.change(self._sock, requests):
            if code not in (0, unless):
                raise HostError(f"the kernel refused to {what}: {os.strerror(code)}")

    def add_veth(
        self, interface: Interface, mac: str, *, master: int, netns: int, mtu: int
    ) -> None:
        """Make a veth pair; one end, still down, is in ``netns`` under its final name."""
        outer, inner = (interface.link, mac), (interface.ifname, interface.mac)
        self._submit(
            f"plug sandbox {interface.sandbox} into network {interface.network}",
            rtnetlink.new_veth(outer, inner, master=master, netns=netns, mtu=mtu),
        )

    def set_port(self, name: str, mac: str, *, isolated: bool) -> None:
        """Set up a bridge port: isolation, or hairpin mode, and a static forwarding entry.

        With br_netfilter on, packets of a sandbox to a port that it publishes leave by the bridge
        port they came in by; hairpin mode allows that.

        The entry is static, as a bridge also learns entries from link-local frames (LLDP), which
        no hook of the packet filter sees.
        """
        index = socket.if_nametoindex(name)
        self._submit(
            f"set the bridge port {name}",
            rtnetlink.bridge_port(index, isolated=isolated),
            rtnetlink.static_entry(index, mac),
        )

    def forget_neighbours(self, index: int, addresses: Iterable[str]) -> None:
        """Make the host ask again for the MAC addresses behind a link."""
        requests = [rtnetlink.delete_neighbour(index, address) for address in addresses]
        self._submit(f"forget {', '.join(addresses)}", *requests, unless=errno.ENOENT)

    def set_link(self, name: str, **changes: Any) -> None:
        request = rtnetlink.change_link(socket.if_nametoindex(name), **changes)
        self._submit(f"set {changes} on {name}", request)

    def set_addresses(
        self, name: str, addresses: Sequence[str], *, instead_of: Sequence[str] = ()
    ) -> None:
        """Give a link these addresses ("address/prefix"); take ``instead_of`` from it."""
        index = socket.if_nametoindex(name)
        old = [address for address in instead_of if address not in addresses]
        new = [address for address in addresses if address not in instead_of]
        self._submit(
            f"give {name} the address {' and '.join(addresses)}",
            *(rtnetlink.delete_address(index, address) for address in old),
            *(rtnetlink.set_address(index, address) for address in new),
        )

    def set_subnet_route(self, name: str, address: str) -> None:
        """Restore the route that the kernel makes with an address, if somebody deleted it."""
        request = rtnetlink.set_subnet_route(socket.if_nametoindex(name), address)
        self._submit(f"set the route to the subnet of {address}", request)

    def set_default_route(self, name: str, gateway: str) -> None:
        """Set the default route in the family of ``gateway``."""
        request = rtnetlink.set_default_route(socket.if_nametoindex(name), gateway)
        self._submit(f"set the default route via {gateway}", request)

    def remove_default_route(self, via: str, index: int, metric: int) -> None:
        """Remove a default route; ``via`` is its gateway, or the destination of one without."""
        request = rtnetlink.delete_default_route(index, via, metric)
        self._submit(f"remove the default route via {via}", request)


class Batch(Changes):
    """Changes to send in order, each with its purpose for error messages."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._requests: list[tuple[str, Message]] = []

    def _submit(self, what: str, *requests: Message, unless: int = 0) -> None:
        self._requests += [(what, request) for request in requests]

    def send(self) -> None:
        codes = netlink.change(self._sock, [request for dummy, request in self._requests])
        for (what, dummy), code in zip(self._requests, codes):
            if code:
                raise HostError(f"the kernel refused to {what}: {os.strerror(code)}")


class Links(Changes):
    """A connection; it stays in the network namespace that it was opened in."""

    def __init__(self) -> None:
        super().__init__(netlink.connect())
        # To close one waits for all processors, so it lasts as long as the connection.
        self._packets: socket.socket | None = None
        self._opened: Any = None

    def close(self) -> None:
        self._sock.close()
        if self._packets is not None:
            self._packets.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def _route(self) -> Any:
        """The connection of pyroute2, opened at its first use, which is in the same namespace."""
        if self._opened is None:
            self._opened = load().IPRoute()
        return self._opened

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        refused = load().NetlinkError
        try:
            yield
        except refused as error:
            raise HostError(f"the kernel refused to {what}: {error}") from error

    def announce(self, interface: Interface, link: str) -> None:
        if self._packets is None:
            self._packets = announce.opened()
        announce.send(self._packets, interface, link)

    def delete(self, names: Iterable[str]) -> None:
        """Delete the links that exist; many take about as long as one.

        The kernel waits for all processors at each deletion, but only once for a link group. The
        group is random, so that no other link is in it. The kernel also deletes links itself, with
        their network namespace, at a moment of its own.
        """
        group = secrets.randbelow(1 << 30) + (1 << 30)
        marked = [name for name in names if self._mark(name, group)]
        if marked:
            request = rtnetlink.delete_group(group)
            self._submit(f"delete {', '.join(marked)}", request, unless=errno.ENODEV)

    def _mark(self, name: str, group: int) -> bool:
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return False
        self._submit(f"mark {name}", rtnetlink.change_link(index, group=group), unless=errno.ENODEV)
        return True

    def add_bridge(self, name: str, mac: str) -> None:
        # Multicast snooping would keep timers running; without it, neighbour discovery works
        # with no listener reports, which the rules can then drop.
        with self._explained(f"make the bridge {name}"):
            self._route.link(
                "add",
                ifname=name,
                kind="bridge",
                address=mac,
                br_stp_state=0,
                br_forward_delay=0,
                br_mcast_snooping=0,
            )

    def add_ifb(self, name: str, mac: str) -> None:
        """Make an ifb link, still down: it queues packets sent to it and hands them back."""
        with self._explained(f"make the link {name} (kernel module ifb)"):
            self._route.link("add", ifname=name, kind="ifb", address=mac)

    def set_rate(self, name: str, bucket: Bucket) -> None:
        """Limit a link to ``bucket``; a bucket of ours is changed without losing its queue."""
        with self._explained(f"limit what {name} sends (kernel module sch_tbf)"):
            self._route.tc(
                "replace",
                "tbf",
                socket.if_nametoindex(name),
                handle=bucket.handle,
                # pyroute2 takes a number as bytes a second.
                rate=bucket.rate,
                burst=bucket.burst,
                limit=bucket.limit,
            )

    def drop_rate(self, name: str) -> None:
        with self._explained(f"lift the limit of what {name} sends"):
            self._route.tc("del", index=socket.if_nametoindex(name), parent=TC_H_ROOT)

    def redirect(self, name: str, target: str) -> None:
        """Redirect all packets that ``name`` receives through ``target``, before any other hook."""
        index, other = socket.if_nametoindex(name), socket.if_nametoindex(target)
        with self._explained(f"queue what {name} receives (kernel module sch_ingress)"):
            self._route.tc("add", "ingress", index)
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": other}
        with self._explained(f"send it to {target} (kernel modules cls_u32, act_mirred)"):
            self._route.tc(
                "add-filter",
                "u32",
                index,
                parent=INGRESS,
                prio=1,
                protocol=ETH_P_ALL,
                target=0x10001,
                keys=["0x0/0x0+0"],
                action=action,
            )

    def drop_redirect(self, name: str) -> None:
        with self._explained(f"no longer queue what {name} receives"):
            self._route.tc("del", "ingress", socket.if_nametoindex(name))
