# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Keeps the networks of running sandboxes whole when another program changes them.

The kernel announces changes, so nothing is polled. A change is ours if a run of ours holds the
writer lock, or if the record of our rules has its transaction. After any other change to our rules
the bridges go down at once, as everything is open without rules. Then `sandlot repair`, a process
of its own, restores the network.
"""

from __future__ import annotations

import os
import time

from .. import store
from ..errors import SandlotError
from ..kernel import flock, linkflags, nftables
from ..kernel.files import write_value
from ..kernel.signals import signal
from .command import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Callable, Iterator, List, Optional, Tuple

    from ..site import Site
    from ..store import Json

    Source = Tuple[int, Callable[[], None]]

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
# After that long without a repair, the delay starts at FIRST_DELAY again.
QUIET = 300.0
MAX_FAILURES = 5


class Watch:
    """Watches links and rules; ``due`` is the time of the next repair, None for no repair."""

    def __init__(self, site: Site, shed: Callable[[], None]) -> None:
        self.site = site
        self.due: Optional[float] = None
        self._shed = shed
        self._rules: Optional[_socket.socket] = None
        self._links: Optional[_socket.socket] = None
        self._waiter = self._repair = 0
        self._delay, self._started, self._failures = 0.0, -QUIET, 0
        # Transactions: the last one on our table, that of the last repair, and of the last success.
        self._generation = self._looked = self._settled = 0
        self._gone = self._closed = self._again = False

    def sources(self) -> List[Source]:
        """Descriptors to poll, each with the function to call when it is readable."""
        try:
            self._rules, self._links = nftables.changes(), nftables.departures()
        except OSError as error:
            log(f"the packet filter can't be watched: {error}")
            return []
        record = self._record()
        if record is not None and not nftables.has_table(nftables.INET, _table(record)):
            self._gone, self._generation = True, nftables.generation()
            self._judge()
        return [
            (self._rules.fileno(), self._on_rules),
            (self._links.fileno(), self._on_links),
        ]

    # -- news of the kernel

    def _on_rules(self) -> None:
        if self._read_rules():
            self._judge()

    def _read_rules(self) -> bool:
        """Read waiting news; whether a transaction touched our table. Note the last one."""
        record = self._record()
        table = _table(record) if record else b""
        ours = touched = gone = False
        for message, value in self._news(table):
            if message == nftables.NEWGEN:
                if touched:
                    self._generation, self._gone = int.from_bytes(value, "big"), gone
                    ours = True
                touched = gone = False
            elif value == table:
                touched = True
                if message in (nftables.DELTABLE, nftables.NEWTABLE):
                    gone = message == nftables.DELTABLE
        return ours

    def _news(self, table: bytes) -> Iterator[Tuple[int, bytes]]:
        """Yield waiting changes; a lost message counts as a change to our table."""
        try:
            for data in nftables.drained(self._rules):
                yield from nftables.transactions(data)
        except OSError:
            yield nftables.NEWGEN + 1, table
            yield nftables.NEWGEN, bytes(4)

    def _on_links(self) -> None:
        record = self._record()
        ours = {str(name).encode() for name in record["links"]} if record else set()
        try:
            waiting = list(nftables.drained(self._links))
            gone = {name for data in waiting for name in nftables.departed(data)}
        except OSError:
            gone = ours
        if not ours & gone:
            return
        if self._repair:
            self._again = True
        elif not self._is_locked():
            self._schedule()

    # -- ours or not

    def _judge(self, *, waited: bool = False) -> None:
        """Repair changes by others; a run of ours may remove the table too, with its record."""
        if self._gone:
            self._close()
        if self._repair or self._waiter:
            return
        if self._is_locked():
            self._wait()
            return
        self._read_rules()
        record = self._record()
        if record is None:
            return
        if self._generation in (record["generation"], self._settled):
            # A run of ours may have opened the bridges before news of its first change closed them.
            if self._closed:
                self._gone = False
                self._schedule()
            return
        # After a run with an unknown transaction, the change is most likely that run's.
        if not waited or record["generation"]:
            self._close()
        self._schedule()

    def _record(self) -> Optional[Json]:
        """The record of our rules that the last run wrote; None without rules."""
        try:
            return store.read(self.site.watched)
        except SandlotError as error:
            log(str(error))
            return None

    def _is_locked(self) -> bool:
        """Whether a run of ours is under way."""
        return flock.is_held(self.site.lock)

    def _wait(self) -> None:
        """Fork a child that ends when the present run ends."""
        self._waiter = os.fork()
        if self._waiter == 0:
            self._shed()
            fd = os.open(self.site.lock, os.O_RDONLY | os.O_NONBLOCK)
            flock.take(fd)
            os._exit(0)

    def _close(self) -> None:
        self._closed = True
        record = self._record()
        for name in record["bridges"] if record else ():
            close_link(str(name))

    # -- repairs

    def _schedule(self) -> None:
        """Plan a repair: at once, or after a growing delay if another tool undoes repairs."""
        now = time.monotonic()
        if now - self._started >= QUIET:
            self._delay = 0.0
        self.due = max(now, self._started + self._delay)

    def act(self) -> None:
        """Start a repair that is due."""
        now = time.monotonic()
        if self.due is None or self._repair or self.due > now:
            return
        self.due = None
        self._again = self._closed = False
        self._started, self._looked = now, self._generation
        self._delay = min(LONGEST_DELAY, self._delay * 2 or FIRST_DELAY)
        self._repair = start(self.site, "repair")

    def ended(self, pid: int, status: int) -> None:
        """Handle the end of a child of the launcher, which may be a child of the watch."""
        if pid == self._waiter:
            self._waiter = 0
            self._judge(waited=True)
        elif pid == self._repair:
            self._repair = 0
            self._failures = self._failures + 1 if status else 0
            if not status:
                self._settled = self._looked
            if self._again or 0 < self._failures < MAX_FAILURES:
                self._schedule()
            else:
                self._judge(waited=True)

    @property
    def children(self) -> List[int]:
        return [pid for pid in (self._waiter, self._repair) if pid]

    def end(self) -> None:
        """End our children at a teardown, after which they have nothing to do."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def close_link(name: str) -> None:
    """Set a link down; sandboxes behind it then reach nothing."""
    # Without this, the kernel removes its IPv6 addresses, too.
    try:
        write_value(f"/proc/sys/net/ipv6/conf/{name}/keep_addr_on_down", "1")
    except OSError:
        pass  # there is no IPv6, or the link is gone
    linkflags.change(name, up=False)


def _table(record: Json) -> bytes:
    return str(record["table"]).encode()


def log(text: str) -> None:
    os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
