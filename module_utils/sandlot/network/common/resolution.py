# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Addresses behind the names of egress lists, as this host resolves them.

An address stays for KEEP seconds after it was last in an answer, so that answers which take turns
add up. No answer at all leaves what is known; it never grants anything new.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import Dict, Iterable, Mapping

from ... import store
from ...errors import StateError
from ...plan import Operation
from ...site import Site
from ...spec.grants import is_metadata

KEEP = 3600.0
DEADLINE = 3.0
WORKERS = 16
# The newest ones; whoever answers for a name must not fill the kernel's memory.
MAX_ADDRESSES = 128
# getaddrinfo's words for "there is no such name" and "it has no address".
NOTHING = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Observed = Dict[str, Dict[str, float]]


@dataclass(frozen=True)
class Resolution:
    """``seen`` is when each address of each name was last in an answer; ``before`` is stored."""

    seen: Mapping[str, Mapping[str, float]]
    before: Mapping[str, Mapping[str, float]]

    @property
    def changed(self) -> list[str]:
        """Names that come or go, and those whose addresses are others than those stored."""
        new, old = _sets(self.seen), _sets(self.before)
        return [name for name in sorted({*new, *old}) if new.get(name) != old.get(name)]


def _sets(seen: Mapping[str, Mapping[str, float]]) -> dict[str, set[str]]:
    return {name: set(addresses) for name, addresses in seen.items()}


def told(resolution: Resolution) -> str:
    """For a line about rules: whose addresses are others now."""
    both = resolution.seen.keys() & resolution.before.keys()
    known = [name for name in resolution.changed if name in both]
    return f" (addresses of {', '.join(known)} changed)" if known else ""


def current(site: Site, names: Iterable[str]) -> Resolution:
    """Ask for each name now and add what is stored."""
    wanted = sorted(set(names))
    before = load(site)
    answers = resolve(wanted) if wanted else {}
    now = time.time()
    seen = {name: merge(before.get(name, {}), answers.get(name), now) for name in wanted}
    return Resolution(seen, before)


def operations(site: Site, resolution: Resolution) -> list[Operation]:
    """For names that make no difference to the rules, as when no sandbox is there to use them."""
    if not resolution.changed:
        return []
    summary = f"record addresses of {', '.join(resolution.changed)}"
    return [Operation("network", summary, lambda: save(site, resolution))]


def warnings(site: Site) -> list[str]:
    """What a user should know after a run: entries that allow nothing yet."""
    return [
        f"{name}, in an egress list, has no address; nothing is allowed for it until it has"
        for name, seen in sorted(load(site).items())
        if not seen
    ]


def load(site: Site) -> Observed:
    path = site.names_file
    data = store.read(path)
    if data is None:
        return {}
    try:
        return {
            str(name): {str(address): float(when) for address, when in seen.items()}
            for name, seen in data["names"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        hint = "remove it: names are resolved again by the next run"
        raise StateError(f"{path} is unusable ({error!r})", hint=hint) from error


def save(site: Site, resolution: Resolution) -> None:
    if not resolution.seen:
        store.remove(site.names_file)
        return
    os.makedirs(site.state, mode=0o700, exist_ok=True)
    store.write(site.names_file, {"names": resolution.seen})


def merge(seen: Mapping[str, float], answer: Iterable[str] | None, now: float) -> dict[str, float]:
    """What is known of one name after an answer; None is no answer."""
    if answer is None:
        return dict(seen)
    # A clock that was set back must not keep an address for ever.
    found = {address: min(when, now) for address, when in seen.items() if now - when < KEEP}
    found.update((address, now) for address in answer)
    newest = sorted(found, key=lambda address: (-found[address], address))[:MAX_ADDRESSES]
    return {address: found[address] for address in sorted(newest)}


def resolve(names: Iterable[str], deadline: float = DEADLINE) -> dict[str, list[str] | None]:
    """Addresses of each name; a name without an answer in time is missing.

    The resolver can't be interrupted, so threads that are late are left behind.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, list[str] | None]] = queue.SimpleQueue()
    wanted = list(names)
    for name in wanted:
        todo.put(name)
    count = len(wanted)
    for _ in range(min(count, WORKERS)):
        threading.Thread(target=_work, args=(todo, done), daemon=True).start()
    end = time.monotonic() + deadline
    found: dict[str, list[str] | None] = {}
    while len(found) < count:
        try:
            name, addresses = done.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        found[name] = addresses
    return found


def _work(
    todo: queue.SimpleQueue[str], done: queue.SimpleQueue[tuple[str, list[str] | None]]
) -> None:
    while True:
        try:
            name = todo.get_nowait()
        except queue.Empty:
            return
        done.put((name, _ask(name)))


def _ask(name: str) -> list[str] | None:
    try:
        answer = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [] if error.errno in NOTHING else None
    except (OSError, UnicodeError):
        return None
    addresses = {str(item[4][0]).partition("%")[0] for item in answer}
    return sorted(address for address in addresses if is_usable(address))


def is_usable(address: str) -> bool:
    """Who answers for a name can't grant this host, its link or the metadata service with it."""
    parsed = ipaddress.ip_address(address)
    special = parsed.is_loopback or parsed.is_multicast or parsed.is_unspecified
    mapped = isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None
    return not (special or mapped or parsed.is_link_local or is_metadata(address))
