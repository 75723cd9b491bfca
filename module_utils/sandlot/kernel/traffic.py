# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads queueing disciplines and filters of links (rtnetlink(7), tc(8))."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Iterable

from .netlink import dump, get
from .nlmsg import attributes

RTM_NEWQDISC = 36
RTM_GETQDISC = 38
RTM_NEWTFILTER = 44
RTM_GETTFILTER = 46
TC_H_ROOT = 0xFFFFFFFF
TC_H_INGRESS = 0xFFFFFFF1
INGRESS = 0xFFFF0000
TCA_KIND = 1
TCA_OPTIONS = 2
TCA_TBF_PARMS = 1
TCA_U32_SEL = 5
TCA_U32_ACT = 7
TCA_ACT_KIND = 1
TCA_ACT_OPTIONS = 2
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR = 1
ALL_PROTOCOLS = socket.htons(3)
MESSAGE = struct.Struct("=BxxxiIII")
# struct tc_tbf_qopt: the rate after other fields, the peak rate (skipped), the length of the queue.
TOKEN_BUCKET = struct.Struct("=8xI8x4xI")
SELECTOR = struct.Struct("=BBBxHHhhI")
KEY = struct.Struct("=IIii")
MIRRED = struct.Struct("=20xiI")


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline; a token bucket has ``rate`` (bytes a second) and ``limit`` (bytes)."""

    index: int
    kind: str
    handle: int
    parent: int
    rate: int = 0
    limit: int = 0


@dataclass(frozen=True)
class Filter:
    """A filter; ``redirect`` is the link that gets all packets, 0 if it is gone, else None."""

    priority: int
    redirect: int | None


@dataclass(frozen=True)
class Traffic:
    """The shaping of one link: ``root`` for sent packets, ``ingress`` for received ones."""

    root: Qdisc | None = None
    ingress: Qdisc | None = None
    filters: tuple[Filter, ...] = ()


def traffic(sock: socket.socket, indexes: Iterable[int]) -> dict[int, Traffic]:
    """The shaping of all shaped links; the kernel's own defaults have the handle 0."""
    wanted = set(indexes)
    payload = MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    bodies = dump(sock, RTM_GETQDISC, RTM_NEWQDISC, payload)
    qdiscs = [item for item in map(_qdisc, bodies) if item.index in wanted and item.handle]
    roots = {item.index: item for item in qdiscs if item.parent == TC_H_ROOT}
    ingress = {item.index: item for item in qdiscs if item.handle == INGRESS}
    filters = {index: tuple(_filters(sock, index)) for index in ingress}
    return {
        index: Traffic(roots.get(index), ingress.get(index), filters.get(index, ()))
        for index in {*roots, *ingress}
    }


def traffic_of(sock: socket.socket, index: int) -> Traffic:
    """The shaping of one link, by a request for it alone."""
    root = _one(sock, index, TC_H_ROOT)
    ingress = _one(sock, index, TC_H_INGRESS)
    return Traffic(root, ingress, tuple(_filters(sock, index)) if ingress else ())


def _one(sock: socket.socket, index: int, parent: int) -> Qdisc | None:
    """Parse a queueing discipline; None for a kernel default, which has few or no details."""
    payload = MESSAGE.pack(socket.AF_UNSPEC, index, 0, parent, 0)
    try:
        replies = [_qdisc(body) for body in get(sock, RTM_GETQDISC, RTM_NEWQDISC, payload)]
    except FileNotFoundError:
        return None
    return next((item for item in replies if item.handle), None)


def _filters(sock: socket.socket, index: int) -> list[Filter]:
    """The filters for packets that a link receives."""
    payload = MESSAGE.pack(socket.AF_UNSPEC, index, 0, INGRESS, 0)
    bodies = dump(sock, RTM_GETTFILTER, RTM_NEWTFILTER, payload)
    return [rule for rule in map(_filter, bodies) if rule is not None]


def _qdisc(body: bytes) -> Qdisc:
    dummy, index, handle, parent, dummy = MESSAGE.unpack_from(body)
    values = attributes(body, MESSAGE.size)
    kind = _name(values.get(TCA_KIND))
    rate, limit = 0, 0
    if kind == "tbf":
        parameters = attributes(values.get(TCA_OPTIONS, b"")).get(TCA_TBF_PARMS, b"")
        rate, limit = TOKEN_BUCKET.unpack_from(parameters)
    return Qdisc(index, kind, handle, parent, rate, limit)


def _filter(body: bytes) -> Filter | None:
    """Parse a filter; None for a table of filters, which a dump lists too."""
    dummy, dummy, dummy, dummy, info = MESSAGE.unpack_from(body)
    values = attributes(body, MESSAGE.size)
    options = attributes(values.get(TCA_OPTIONS, b""))
    if _name(values.get(TCA_KIND)) == "u32" and TCA_U32_SEL not in options:
        return None
    selector = options.get(TCA_U32_SEL, b"")
    complete = len(selector) == SELECTOR.size + KEY.size
    # An empty mask matches every packet.
    takes_all = complete and KEY.unpack_from(selector, SELECTOR.size)[:2] == (0, 0)
    everything = takes_all and info & 0xFFFF == ALL_PROTOCOLS
    return Filter(info >> 16, _redirect(options) if everything else None)


def _redirect(options: dict[int, bytes]) -> int | None:
    actions = attributes(options.get(TCA_U32_ACT, b""))
    action = attributes(actions.get(1, b""))
    if len(actions) != 1 or _name(action.get(TCA_ACT_KIND)) != "mirred":
        return None
    parameters = attributes(action.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
    kind, index = MIRRED.unpack_from(parameters)
    return int(index) if kind == TCA_EGRESS_REDIR else None


def _name(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")
