# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves the names of egress lists on this host.

An address stays for KEEP seconds after its last answer, so that alternating answers add up. Without
an answer, the known addresses stay and none is added.
"""

from __future__ import annotations

import contextlib
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
# Only the newest addresses are kept: answers for a name must not fill the kernel's memory.
MAX_ADDRESSES = 128
# getaddrinfo: "no such name" and "a name without addresses".
NOTHING = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Observed = Dict[str, Dict[str, float]]


@dataclass(frozen=True)
class Resolution:
    """The time of the last answer for each address of each name: now, and as stored."""

    seen: Mapping[str, Mapping[str, float]]
    before: Mapping[str, Mapping[str, float]]

    @property
    def changed(self) -> list[str]:
        """Names that are new, gone, or have other addresses."""
        new, old = _sets(self.seen), _sets(self.before)
        return [name for name in sorted({*new, *old}) if new.get(name) != old.get(name)]


def _sets(seen: Mapping[str, Mapping[str, float]]) -> dict[str, set[str]]:
    return {name: set(addresses) for name, addresses in seen.items()}


def describe(resolution: Resolution) -> str:
    """The names with changed addresses, for the line of the rules' operation."""
    both = resolution.seen.keys() & resolution.before.keys()
    known = [name for name in resolution.changed if name in both]
    return f" (addresses of {', '.join(known)} changed)" if known else ""


def current(site: Site, names: Iterable[str]) -> Resolution:
    """Resolve each name now and add the stored addresses."""
    asked = sorted(set(names))
    before = load(site)
    answers = resolve(asked) if asked else {}
    now = time.time()
    seen = {name: merge(before.get(name, {}), answers.get(name), now) for name in asked}
    return Resolution(seen, before)


def operations(site: Site, resolution: Resolution) -> list[Operation]:
    """The operation that stores names which change no rule, as no sandbox uses them."""
    if not resolution.changed:
        return []
    summary = f"record addresses of {', '.join(resolution.changed)}"
    return [Operation("network", summary, lambda: save(site, resolution))]


def warnings(site: Site) -> list[str]:
    """Warnings about entries that allow nothing yet."""
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
    """The addresses of one name after an answer (None: there was none)."""
    if answer is None:
        return dict(seen)
    # A clock that was set back must not keep an address forever.
    times = {address: min(when, now) for address, when in seen.items() if now - when < KEEP}
    times.update((address, now) for address in answer)
    newest = sorted(times, key=lambda address: (-times[address], address))[:MAX_ADDRESSES]
    return {address: times[address] for address in sorted(newest)}


def resolve(names: Iterable[str], deadline: float = DEADLINE) -> dict[str, list[str] | None]:
    """Resolve names to addresses; a name without an answer in time is left out.

    The resolver can't be interrupted, so late threads are left behind.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, list[str] | None]] = queue.SimpleQueue()
    asked = list(names)
    for name in asked:
        todo.put(name)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                name = todo.get_nowait()
                done.put((name, _ask(name)))

    count = len(asked)
    for dummy in range(min(count, WORKERS)):
        threading.Thread(target=work, daemon=True).start()
    end = time.monotonic() + deadline
    answers: dict[str, list[str] | None] = {}
    while len(answers) < count:
        try:
            name, addresses = done.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        answers[name] = addresses
    return answers


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
    """Whether an answer may be granted: not this host, its link or the metadata service."""
    parsed = ipaddress.ip_address(address)
    special = parsed.is_loopback or parsed.is_multicast or parsed.is_unspecified
    mapped = isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None
    return not (special or mapped or parsed.is_link_local or is_metadata(address))
