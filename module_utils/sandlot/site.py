# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths, kernel names and rights of one installation, all of which derive from its root.

The root is "/" on a host. Tests move it (environment variable SANDLOT_ROOT); then kernel names
(bridge, nftables table, cgroup) get a tag of the root, so a test and a deployment never meet.
"""

from __future__ import annotations

import os

from .errors import HostError

PINNED = ("user", "net", "uts", "ipc", "time")
# Slots of a rebuild. Between name and slot of an address; no name has a slash.
NEXT, OLD = "next", "old"
_SLOT = "/rebuild/"


def _short_hash(text: str, length: int) -> str:
    # Not needed by the launcher, whose memory is every sandbox's.
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Site:
    """One installation; ``root`` is absolute and without a trailing slash ("" is "/")."""

    __slots__ = ("root",)

    def __init__(self, root: str = "") -> None:
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    @classmethod
    def from_environment(cls) -> Site:
        return cls(os.environ.get("SANDLOT_ROOT", "").rstrip("/"))

    def require_root(self, hint: str) -> None:
        """HostError unless this process may manage the sandboxes of the site."""
        if os.geteuid() != 0:
            raise HostError("only root can manage sandboxes", hint=hint)

    @property
    def tag(self) -> str:
        return _short_hash(self.root, 6) if self.root else ""

    @property
    def lib(self) -> str:
        return f"{self.root}/usr/local/lib/sandlot"

    @property
    def command(self) -> str:
        return f"{self.root}/usr/local/bin/sandlot"

    @property
    def state(self) -> str:
        return f"{self.root}/var/lib/sandlot"

    @property
    def run(self) -> str:
        return f"{self.root}/run/sandlot"

    @property
    def images(self) -> str:
        return f"{self.state}/images"

    @property
    def sandboxes(self) -> str:
        return f"{self.state}/sandboxes"

    @property
    def networks_file(self) -> str:
        return f"{self.state}/networks.json"

    @property
    def names_file(self) -> str:
        """Addresses behind the names of egress lists; there is none without names."""
        return f"{self.state}/names.json"

    @property
    def lock(self) -> str:
        return f"{self.state}/lock"

    @property
    def launcher_socket(self) -> str:
        return f"{self.run}/launcher.sock"

    @property
    def launcher_lock(self) -> str:
        return f"{self.run}/launcher.lock"

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs and has the units of this site; a moved root's are not its own."""
        return not self.root and os.path.isdir("/run/systemd/system")

    @property
    def journal(self) -> str:
        """Where journald takes streams of lines."""
        return f"{self.root}/run/systemd/journal/stdout"

    @property
    def watched(self) -> str:
        """State that the launcher watches, written by runs that change our rules."""
        # Sandboxes' directories lie beside it; their names never begin with a dot.
        return f"{self.run}/.watch.json"

    @property
    def subuid(self) -> str:
        return f"{self.root}/etc/subuid"

    @property
    def subgid(self) -> str:
        return f"{self.root}/etc/subgid"

    @property
    def cgroup(self) -> str:
        """Name of our cgroup below each controller's root."""
        return f"sandlot-{self.tag}" if self.tag else "sandlot"

    @property
    def nft_table(self) -> str:
        return f"sandlot_{self.tag}" if self.tag else "sandlot"

    def bridge(self, network: str) -> str:
        """Interface name of a network's bridge, at most 15 characters (IFNAMSIZ - 1)."""
        if network == "default":
            return f"sandlot{self.tag}" if self.tag else "sandlot0"
        return f"sl-{_short_hash(f'{self.root}:{network}', 10)}"

    def link(self, sandbox: str, ifname: str) -> str:
        """Interface name of the host end of a sandbox's veth pair."""
        return f"sb-{_short_hash(f'{self.root}:{sandbox}:{ifname}', 10)}"

    def shaper(self, sandbox: str, ifname: str) -> str:
        """Interface name of the link that queues the traffic from a sandbox."""
        return f"sr-{_short_hash(f'{self.root}:{sandbox}:{ifname}', 10)}"

    def sandbox(self, name: str) -> SandboxPaths:
        return SandboxPaths(self, name)

    def addressed(self, address: str) -> SandboxPaths:
        """The sandbox, or the slot of one, that a request to the launcher names."""
        name, _, slot = address.partition(_SLOT)
        return SandboxPaths(self, name, slot)


class SandboxPaths:
    """Files of one sandbox; ``name`` has been validated by the spec.

    During a rebuild, ``slot`` holds the version that is not in use: NEXT or OLD.
    """

    __slots__ = ("site", "name", "slot")

    def __init__(self, site: Site, name: str, slot: str = "") -> None:
        self.site = site
        self.name = name
        self.slot = slot

    def in_slot(self, slot: str) -> SandboxPaths:
        return SandboxPaths(self.site, self.name, slot)

    @property
    def address(self) -> str:
        """The name in requests to the launcher, and the place below state and run."""
        return f"{self.name}{_SLOT}{self.slot}" if self.slot else self.name

    @property
    def state(self) -> str:
        return f"{self.site.sandboxes}/{self.address}"

    @property
    def rebuild(self) -> str:
        """Holds the slots; exists from before a rebuild's first step to after its last."""
        return f"{self.state}/rebuild"

    @property
    def record(self) -> str:
        return f"{self.state}/record.json"

    @property
    def launch(self) -> str:
        return f"{self.state}/launch.json"

    @property
    def upper(self) -> str:
        return f"{self.state}/layer/upper"

    @property
    def work(self) -> str:
        return f"{self.state}/layer/work"

    @property
    def layer(self) -> str:
        return f"{self.state}/layer"

    @property
    def logs(self) -> tuple[str, str]:
        """The two files of the log ring."""
        return f"{self.state}/log.0", f"{self.state}/log.1"

    @property
    def oom(self) -> str:
        """Kills for memory, as the kernel counted them up to the last start or stop."""
        return f"{self.state}/oom.json"

    @property
    def run(self) -> str:
        return f"{self.site.run}/{self.address}"

    @property
    def pins(self) -> str:
        return f"{self.run}/ns"

    def pin(self, kind: str) -> str:
        return f"{self.pins}/{kind}"

    @property
    def namespaces(self) -> str:
        """Record of the pins: their digest and interfaces."""
        return f"{self.run}/namespaces.json"

    @property
    def etc(self) -> str:
        """Host-made hosts, hostname and resolv.conf, bind-mounted read-only into the sandbox."""
        return f"{self.run}/etc"

    @property
    def init(self) -> str:
        """Written by the launcher at start: pid, start time, boot id and launch digest of init."""
        return f"{self.run}/init.json"

    @property
    def status(self) -> str:
        """Written by init through a descriptor it was given: state of the workload."""
        return f"{self.run}/status"

    @property
    def health(self) -> str:
        """Written by init in the same way: the end of the output of the last healthcheck."""
        return f"{self.run}/health"

    @property
    def socket(self) -> str:
        """Init's socket: exec and control. Root only, on the host side."""
        return f"{self.run}/init.sock"
