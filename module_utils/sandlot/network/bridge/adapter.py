# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes links, addresses and routes; the only module that uses pyroute2 (0.7 to 0.9).

The import of pyroute2 takes a third of a second, so the first change does it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import ipaddress
import os
import re
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, Iterable, Iterator, NamedTuple, Sequence

from ...errors import HostError
from ...kernel import netlink
from ...kernel.nlmsg import messages
from ..common.model import Interface
from . import announce

if TYPE_CHECKING:
    from ...kernel.nlmsg import Message

NUD_NOARP = 0x40  # a static entry of a bridge
NTF_MASTER = 0x04
IFA_F_NODAD = 0x02
RT_SCOPE_LINK = 253
# Matches routes of any scope in a deletion.
RT_SCOPE_NOWHERE = 255
RTPROT_KERNEL = 2
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
def batched() -> Iterator[Links]:
    """Collect changes and send them together at the end, in the thread's present namespace.

    Opening a pyroute2 connection would cost more than the few changes inside a sandbox.
    """
    batch = Batch(_compiler())
    yield batch
    batch.send()


def _everywhere(address: str) -> dict[str, Any]:
    """Matches default routes in the family of ``address``."""
    if ":" in address:
        return {"family": socket.AF_INET6, "dst": "::/0"}
    return {"family": socket.AF_INET, "dst": "0.0.0.0/0"}


@functools.cache
def _compiler() -> Any:
    return load().IPBatch()


class Links:
    """A netlink connection; it stays in the network namespace that it was opened in."""

    def __init__(self, route: Any = None) -> None:
        pyroute2 = load()
        self._refused = pyroute2.NetlinkError
        self._route: Any = route or pyroute2.IPRoute()
        # To close one waits for all processors, so it lasts as long as the connection.
        self._packets: socket.socket | None = None

    def close(self) -> None:
        self._route.close()
        if self._packets is not None:
            self._packets.close()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._refused as error:
            raise HostError(f"the kernel refused to {what}: {error}") from error

    @contextlib.contextmanager
    def _unless_gone(self, what: str) -> Iterator[None]:
        """The kernel deletes links with their network namespace, at a moment of its own."""
        with self._explained(what):
            try:
                yield
            except self._refused as error:
                if error.code != errno.ENODEV:
                    raise

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

    def add_veth(
        self, interface: Interface, mac: str, *, master: int, netns: int, mtu: int
    ) -> None:
        """Make a veth pair; one end, still down, is in ``netns`` under its final name."""
        peer = {
            "ifname": interface.ifname,
            "address": interface.mac,
            "net_ns_fd": netns,
            "mtu": mtu,
        }
        with self._explained(f"plug sandbox {interface.sandbox} into network {interface.network}"):
            self._route.link(
                "add",
                ifname=interface.link,
                kind="veth",
                address=mac,
                master=master,
                state="up",
                peer=peer,
                mtu=mtu,
            )

    def set_port(self, name: str, mac: str, *, isolated: bool) -> None:
        """Set up a bridge port: isolation, or hairpin mode, and a static forwarding entry.

        With br_netfilter on, packets of a sandbox to a port that it publishes leave by the bridge
        port they came in by; hairpin mode allows that.

        The entry is static, as a bridge also learns entries from link-local frames (LLDP), which
        no hook of the packet filter sees.
        """
        index = socket.if_nametoindex(name)
        with self._explained(f"set the bridge port {name}"):
            self._route.link(
                "set",
                index=index,
                kind="bridge_slave",
                mode=int(not isolated),
                isolated=int(isolated),
                learning=0,
            )
            self._route.fdb("append", ifindex=index, lladdr=mac, state=NUD_NOARP, flags=NTF_MASTER)

    def forget_neighbours(self, index: int, addresses: Iterable[str]) -> None:
        """Make the host ask again for the MAC addresses behind a link."""
        for address in addresses:
            try:
                self._route.neigh("del", ifindex=index, dst=address)
            except self._refused as error:
                if error.code != errno.ENOENT:
                    raise HostError(f"the kernel refused to forget {address}: {error}") from error

    def announce(self, interface: Interface, link: str) -> None:
        if self._packets is None:
            self._packets = announce.opened()
        announce.send(self._packets, interface, link)

    def set_link(self, name: str, **changes: Any) -> None:
        with self._explained(f"set {changes} on {name}"):
            self._route.link("set", index=socket.if_nametoindex(name), **changes)

    def set_addresses(
        self, name: str, addresses: Sequence[str], *, instead_of: Sequence[str] = ()
    ) -> None:
        """Give a link these addresses ("address/prefix"); take ``instead_of`` from it."""
        index = socket.if_nametoindex(name)
        with self._explained(f"give {name} the address {' and '.join(addresses)}"):
            for old in instead_of:
                if old not in addresses:
                    self._address("del", index, old)
            for address in addresses:
                if address not in instead_of:
                    self._address("replace", index, address)

    def _address(self, command: str, index: int, address: str) -> None:
        plain, dummy, prefix = address.partition("/")
        six = {"family": socket.AF_INET6, "flags": IFA_F_NODAD} if ":" in plain else {}
        self._route.addr(command, index=index, address=plain, prefixlen=int(prefix), **six)

    def set_subnet_route(self, name: str, address: str) -> None:
        """Restore the route that the kernel makes with an address, if somebody deleted it."""
        subnet = ipaddress.ip_interface(address)
        # IPv6 has no such scope, and chooses the source by itself.
        four = {"prefsrc": str(subnet.ip), "scope": RT_SCOPE_LINK} if subnet.version == 4 else {}
        with self._explained(f"set the route to {subnet.network}"):
            self._route.route(
                "replace",
                family=socket.AF_INET if subnet.version == 4 else socket.AF_INET6,
                dst=str(subnet.network),
                oif=socket.if_nametoindex(name),
                proto=RTPROT_KERNEL,
                **four,
            )

    def set_default_route(self, name: str, gateway: str) -> None:
        """Set the default route in the family of ``gateway``."""
        with self._explained(f"set the default route via {gateway}"):
            index = socket.if_nametoindex(name)
            self._route.route("replace", **_everywhere(gateway), gateway=gateway, oif=index)

    def remove_default_route(self, via: str, index: int, metric: int) -> None:
        """Remove a default route; ``via`` is its gateway, or the destination of one without."""
        match = _everywhere(via) if "/" in via else {**_everywhere(via), "gateway": via}
        # Without a gateway to match, the kernel takes the first one with this metric.
        match.update(scope=RT_SCOPE_NOWHERE, priority=metric)
        with self._explained(f"remove the default route via {via}"):
            self._route.route("del", oif=index, **match)

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

    def delete(self, names: Iterable[str]) -> None:
        """Delete the links that exist; many take about as long as one.

        The kernel waits for all processors at each deletion, but only once for a link group. The
        group is random, so that no other link is in it.
        """
        group = secrets.randbelow(1 << 30) + (1 << 30)
        marked = [name for name in names if self._mark(name, group)]
        if marked:
            with self._unless_gone(f"delete {', '.join(marked)}"):
                self._route.link("del", group=group)

    def _mark(self, name: str, group: int) -> bool:
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return False
        marked = False
        with self._unless_gone(f"mark {name}"):
            self._route.link("set", index=index, group=group)
            marked = True
        return marked


class Batch(Links):
    """Requests to send in order, each with its purpose for error messages."""

    def __init__(self, compiler: Any) -> None:
        super().__init__(compiler)
        self._route.reset()
        self._requests: list[tuple[str, Message]] = []

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        yield
        self._requests += [(what, each) for each in messages(bytes(self._route.batch))]
        self._route.reset()

    def send(self) -> None:
        with netlink.connect() as sock:
            codes = netlink.change(sock, [message for dummy, message in self._requests])
        for (what, dummy), code in zip(self._requests, codes):
            if code:
                raise HostError(f"the kernel refused to {what}: {os.strerror(code)}")
