# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values of structured options; all hashable, each `str` in the user's notation."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

ANY_ADDRESS = "0.0.0.0"
ANY_ADDRESS6 = "::"
PRIVATE = "rprivate"
# When a changed file or secret is in place.
NONE, RELOAD, RESTART = "none", "reload", "restart"
# Secrets of a sandbox, unless they have other targets.
SECRETS = "/run/secrets"


@dataclass(frozen=True)
class Attachment:
    """One interface of a sandbox: its network, and the addresses and names that the user set."""

    name: str
    ipv4_address: IPv4Address | None = None
    mac_address: str | None = None
    ipv6_address: IPv6Address | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedPort:
    """A port of the host that leads to a port of the sandbox; ``host_ip`` "" is all addresses."""

    host_ip: str
    host_port: int
    port: int
    protocol: str

    def __str__(self) -> str:
        host = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{host}{':' if host else ''}{self.host_port}:{self.port}/{self.protocol}"

    def collides(self, other: PublishedPort) -> bool:
        if (self.host_port, self.protocol) != (other.host_port, other.protocol):
            return False
        hosts = {self.host_ip, other.host_ip}
        if "" in hosts or len(hosts) == 1:
            return True
        one_family = len({":" in host for host in hosts}) == 1
        return one_family and bool(hosts & {ANY_ADDRESS, ANY_ADDRESS6})


@dataclass(frozen=True)
class Tmpfs:
    """A tmpfs in the sandbox; the kernel chooses options that are None."""

    path: str
    size: int | None = None
    nr_inodes: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    executable: bool = False
    copy_up: bool = False
    """Whether it starts with the files that the image has in its place."""

    @property
    def options(self) -> tuple[str, ...]:
        """The words of the data argument of mount(2)."""
        mode = None if self.mode is None else f"{self.mode:o}"
        numbers = {"size": self.size, "nr_inodes": self.nr_inodes, "mode": mode}
        owners = {"uid": self.uid, "gid": self.gid}
        given = {**numbers, **owners}.items()
        return tuple(f"{key}={value}" for key, value in given if value is not None)

    def __str__(self) -> str:
        flags = {"exec": self.executable, "tmpcopyup": self.copy_up}
        words = ",".join((*(flag for flag, given in flags.items() if given), *self.options))
        return f"{self.path}:{words}" if words else self.path


@dataclass(frozen=True)
class Mount:
    """A mount that the user asks for, at ``target`` in the sandbox.

    ``source`` is the name of a volume or a path of the host; ``tmpfs`` has the options of one.
    """

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = PRIVATE
    no_copy: bool = False
    no_exec: bool = False
    idmap: bool = False
    subpath: str = ""
    tmpfs: Tmpfs | None = None

    def __str__(self) -> str:
        """The short notation."""
        flags = {"ro": self.read_only, "nocopy": self.no_copy, "noexec": self.no_exec}
        flags.update({"idmap": self.idmap, self.propagation: self.propagation != PRIVATE})
        words = ",".join(word for word, given in flags.items() if given)
        return ":".join(filter(None, (self.source, self.target, words)))


@dataclass(frozen=True)
class Ulimit:
    """A resource limit; -1 is unlimited."""

    name: str
    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{self.name}:{self.soft}:{self.hard}"


@dataclass(frozen=True)
class TimeOffset:
    """The seconds by which the sandbox's clocks are ahead of the host's."""

    monotonic: float = 0.0
    boottime: float = 0.0

    def clocks(self) -> dict[str, tuple[int, int]]:
        """Seconds and nanoseconds of each clock, as /proc/PID/timens_offsets takes them."""
        return {"monotonic": _split(self.monotonic), "boottime": _split(self.boottime)}


def _split(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds; the kernel wants 0 to 999999999 ns, also with negative seconds."""
    whole_seconds = math.floor(seconds)
    micro = round((seconds - whole_seconds) * 1_000_000)
    return whole_seconds + micro // 1_000_000, micro % 1_000_000 * 1000


@dataclass(frozen=True)
class Dependency:
    """A sandbox that has to be started, healthy or completed before another one starts."""

    name: str
    condition: str


@dataclass(frozen=True)
class Sealed:
    """A value that records know by its keyed digest only.

    ``digest`` is "" until it is sealed, ``value`` is there in the run that brings it.
    """

    digest: str = ""
    value: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Placed:
    """A value at ``target`` in the sandbox, read-only there.

    ``owner`` and ``group`` are names or ids inside; without a group, it is the owner's.
    """

    target: str
    content: Sealed
    owner: str = "0"
    group: str = ""
    mode: int = 0o644
    on_change: str = NONE
    reload_signal: int = int(signal.SIGHUP)

    @property
    def key(self) -> str:
        """The identity of an entry: with another one, it is another entry."""
        return self.target


@dataclass(frozen=True)
class File(Placed):
    """A file of the configuration."""


@dataclass(frozen=True)
class Secret(Placed):
    """A secret; its ``content`` is in memory only while the sandbox runs."""

    name: str = ""

    @property
    def key(self) -> str:
        return self.name

    @property
    def shared_name(self) -> str:
        """The name in the directory of secrets, "" for one with another target."""
        directory, dummy, name = self.target.rpartition("/")
        return name if directory == SECRETS else ""
