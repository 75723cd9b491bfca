# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths, kernel names and rights of one installation; all derive from its root.

The root is "/" on a host. Tests move it (environment variable SANDLOT_ROOT). Then kernel names
(bridge, nftables table, cgroup) get a tag of the root, so a test never touches a deployment.
"""

from __future__ import annotations

import os

from .errors import HostError

PINNED = ("user", "net", "uts", "ipc", "time")
# Slots of a rebuild. A slash separates name and slot of an address, as no name has a slash.
NEXT, OLD = "next", "old"
# In the directory of a volume: a file with the file system that is mounted at "data".
VOLUME_IMAGE = "fs.img"
_SLOT = "/rebuild/"
# The names of jobs begin so, and none of a sandbox with a dot.
JOB = ".job-"


def _short_hash(text: str, length: int) -> str:
    # Not imported by the launcher, whose memory every sandbox shares.
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:length]


def content_id(digest: str, uid: int, gid: int, mode: int) -> str:
    return f"{digest}-{uid}-{gid}-{mode:04o}"


class Site:
    """One installation; ``root`` is absolute and without a trailing slash ("" is "/")."""

    __slots__ = ("root", "_tag")

    def __init__(self, root: str = "") -> None:
        self.root = root
        self._tag: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    @classmethod
    def from_environment(cls) -> Site:
        return cls(os.environ.get("SANDLOT_ROOT", "").rstrip("/"))

    def require_root(self, hint: str) -> None:
        """HostError unless this process has the right to manage sandboxes of the site."""
        if os.geteuid() != 0:
            raise HostError("only root can manage sandboxes", hint=hint)

    @property
    def tag(self) -> str:
        if self._tag is None:
            self._tag = _short_hash(self.root, 6) if self.root else ""
        return self._tag

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
    def python(self) -> str:
        """Trees of the host's Python, which sandboxes without one show for a command."""
        return f"{self.state}/python"

    @property
    def sandboxes(self) -> str:
        return f"{self.state}/sandboxes"

    @property
    def snapshots(self) -> str:
        return f"{self.state}/snapshots"

    @property
    def volumes(self) -> str:
        return f"{self.state}/volumes"

    @property
    def volumes_mark(self) -> str:
        """A file that is there as long as volumes are: earlier versions refuse its schema."""
        return f"{self.state}/volumes.json"

    def volume(self, name: str) -> VolumePaths:
        return VolumePaths(self, name)

    @property
    def networks_file(self) -> str:
        return f"{self.state}/networks.json"

    @property
    def projects(self) -> str:
        """Our numbers of project quotas; missing while no quota limits a size."""
        return f"{self.state}/projects.json"

    @property
    def names_file(self) -> str:
        """The file with the addresses of names in egress lists; missing without names."""
        return f"{self.state}/names.json"

    @property
    def mask(self) -> str:
        """The key of the digests that stand for hidden values; missing until the first one."""
        return f"{self.state}/mask.json"

    @property
    def credential_key(self) -> str:
        """The host's key of systemd-creds, which is not ours."""
        return f"{self.root}/var/lib/systemd/credential.secret"

    @property
    def secrets(self) -> str:
        """The mount point of the file system in memory that holds the values of secrets."""
        return f"{self.run}/.secrets"

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
        """Whether systemd runs and has the units of this site; it ignores those of a moved root."""
        return not self.root and os.path.isdir("/run/systemd/system")

    @property
    def lxcfs(self) -> str:
        """The mount point of lxcfs, which is not ours."""
        return f"{self.root}/var/lib/lxcfs"

    @property
    def journal(self) -> str:
        """The socket of journald for streams of lines."""
        return f"{self.root}/run/systemd/journal/stdout"

    @property
    def watched(self) -> str:
        """The file that the launcher watches; runs that change our rules write it."""
        # A dot, as the directories of sandboxes are here too and their names never begin with one.
        return f"{self.run}/.watch.json"

    @property
    def frozen(self) -> str:
        """The cgroups that a run has frozen; missing but for the moment that a copy takes."""
        return f"{self.run}/.frozen.json"

    @property
    def subuid(self) -> str:
        return f"{self.root}/etc/subuid"

    @property
    def subgid(self) -> str:
        return f"{self.root}/etc/subgid"

    @property
    def cgroup(self) -> str:
        """The name of our cgroup below each controller's root."""
        return f"sandlot-{self.tag}" if self.tag else "sandlot"

    @property
    def nft_table(self) -> str:
        return f"sandlot_{self.tag}" if self.tag else "sandlot"

    def bridge(self, network: str) -> str:
        """The interface name of a network's bridge, at most 15 characters (IFNAMSIZ - 1)."""
        if network == "default":
            return f"sandlot{self.tag}" if self.tag else "sandlot0"
        return f"sl-{_short_hash(f'{self.root}:{network}', 10)}"

    def link(self, sandbox: str, ifname: str) -> str:
        """The interface name of the host end of a sandbox's veth pair."""
        return f"sb-{_short_hash(f'{self.root}:{sandbox}:{ifname}', 10)}"

    def shaper(self, sandbox: str, ifname: str) -> str:
        """The interface name of the link that queues packets from a sandbox."""
        return f"sr-{_short_hash(f'{self.root}:{sandbox}:{ifname}', 10)}"

    def sandbox(self, name: str) -> SandboxPaths:
        return JobPaths(self, name) if name.startswith(JOB) else SandboxPaths(self, name)

    def snapshot(self, sandbox: str, identifier: str) -> SnapshotPaths:
        return SnapshotPaths(f"{self.snapshots}/{sandbox}", identifier)

    def addressed(self, address: str) -> SandboxPaths:
        """The paths of the sandbox, or of its slot, that a request to the launcher names."""
        name, dummy, slot = address.partition(_SLOT)
        return SandboxPaths(self, name, slot) if slot else self.sandbox(name)


class SandboxPaths:
    """The files of one sandbox; the spec has validated ``name``.

    During a rebuild, slot NEXT or OLD has the version that is not in use.
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
        """The directory of the slots; it exists from the first step of a rebuild to the last."""
        return f"{self.state}/rebuild"

    @property
    def record(self) -> str:
        return f"{self.state}/record.json"

    @property
    def spare(self) -> str:
        """The file that becomes the record when the disk is full."""
        return f"{self.state}/record.spare"

    @property
    def previous(self) -> str:
        """The record that a restart replaced, until the changed sandbox has started."""
        return f"{self.state}/previous.json"

    @property
    def clone(self) -> str:
        """The file that names the content of a clone, until it has that."""
        return f"{self.state}/clone.json"

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
    def layer_image(self) -> str:
        """The file system that is mounted at ``layer``, if that is what limits its size."""
        return f"{self.state}/layer.img"

    @property
    def logs(self) -> tuple[str, str]:
        """The two files of the log ring."""
        return f"{self.state}/log.0", f"{self.state}/log.1"

    @property
    def oom(self) -> str:
        """The file with the out-of-memory kills up to the last start or stop."""
        return f"{self.state}/oom.json"

    @property
    def files(self) -> str:
        """The directory of the contents of files; both versions of a rebuild share it."""
        return f"{self.site.sandboxes}/{self.name}/files"

    def file(self, digest: str, uid: int, gid: int, mode: int) -> str:
        """The content of a file, with its owner (ids of the host) and mode."""
        return f"{self.files}/{content_id(digest, uid, gid, mode)}"

    @property
    def stored_secrets(self) -> str:
        """The directory of the values of secrets at rest."""
        return f"{self.site.sandboxes}/{self.name}/secrets"

    @property
    def memory(self) -> str:
        """The directory of the values of secrets in memory."""
        return f"{self.site.secrets}/{self.name}"

    def secret(self, digest: str, uid: int, gid: int, mode: int) -> str:
        """The value of a secret in memory, with its owner (ids of the host) and mode."""
        return f"{self.memory}/content/{content_id(digest, uid, gid, mode)}"

    @property
    def named_secrets(self) -> str:
        """The directory in memory that the sandbox has at /run/secrets."""
        return f"{self.memory}/named"

    def secret_variable(self, digest: str) -> str:
        """The value of a variable of env in memory."""
        return f"{self.memory}/env/{digest}"

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
        """The namespace record: digest and interfaces of the pinned namespaces."""
        return f"{self.run}/namespaces.json"

    @property
    def etc(self) -> str:
        """Host-made hosts, hostname and resolv.conf, bind-mounted read-only into the sandbox."""
        return f"{self.run}/etc"

    @property
    def held(self) -> str:
        """A mark: init's next start waits for the command that is to be traced."""
        return f"{self.run}/held"

    @property
    def reload(self) -> str:
        """A mark: signals that are due to the workload, as a change has reached the sandbox."""
        return f"{self.run}/reload"

    @property
    def device_rules(self) -> str:
        """A mark: the cgroup of the sandbox restricts devices; a reboot removes both."""
        return f"{self.run}/device_rules"

    @property
    def init(self) -> str:
        """Pid, start time, boot id and launch digest of init; the launcher writes the file."""
        return f"{self.run}/init.json"

    @property
    def status(self) -> str:
        """The state of the workload; init writes it through a descriptor that it got."""
        return f"{self.run}/status"

    @property
    def health(self) -> str:
        """The end of the last healthcheck's output; init writes it through a descriptor."""
        return f"{self.run}/health"

    @property
    def mounts(self) -> str:
        """The mounts of volumes and host paths that the running sandbox has."""
        return f"{self.run}/mounts.json"

    @property
    def pending_mounts(self) -> str:
        """Mounts that a run is about to attach, until it has noted them."""
        return f"{self.run}/mounts.pending"

    @property
    def python(self) -> str:
        """The mount of the host's Python that it has; those who use that hold locks on the file."""
        return f"{self.run}/python.json"

    @property
    def socket(self) -> str:
        """The socket of init for exec and control; only host root reaches it."""
        return f"{self.run}/init.sock"


class JobPaths(SandboxPaths):
    """The files of one job; only its launch file stays, for the next job of that number."""

    __slots__ = ()

    @property
    def state(self) -> str:
        return f"{self.site.state}/jobs/{self.name}"

    @property
    def launch(self) -> str:
        return f"{self.run}/launch.json"

    @property
    def lock(self) -> str:
        return f"{self.run}/lock"


class SnapshotPaths:
    """The files of one snapshot; it is complete, or it does not have its name yet."""

    __slots__ = ("all", "name")

    def __init__(self, everything: str, name: str) -> None:
        self.all = everything
        self.name = name

    @property
    def directory(self) -> str:
        return f"{self.all}/{self.name}"

    @property
    def staged(self) -> SnapshotPaths:
        """The snapshot while it is made; a rename gives it its name."""
        # A dot: no identifier of a snapshot begins with one.
        return SnapshotPaths(self.all, f".new-{self.name}")

    @property
    def leaving(self) -> SnapshotPaths:
        """The snapshot while it is removed."""
        return SnapshotPaths(self.all, f".old-{self.name}")

    @property
    def file(self) -> str:
        return f"{self.directory}/snapshot.json"

    @property
    def layer(self) -> str:
        return f"{self.directory}/layer"

    @property
    def upper(self) -> str:
        return f"{self.layer}/upper"

    @property
    def work(self) -> str:
        """Overlayfs's directory, which a finished snapshot does not have."""
        return f"{self.layer}/work"

    @property
    def image(self) -> str:
        """The file in place of ``layer`` when the layer is a file system in a file."""
        return f"{self.directory}/layer.img"

    @property
    def volumes(self) -> str:
        """The directory of copies of volumes."""
        return f"{self.directory}/volumes"


class VolumePaths:
    """The files of one volume; the spec has validated ``name``."""

    __slots__ = ("name", "site")

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name

    @property
    def state(self) -> str:
        return f"{self.site.volumes}/{self.name}"

    @property
    def record(self) -> str:
        return f"{self.state}/volume.json"

    @property
    def data(self) -> str:
        """The files; owners are ids inside."""
        return f"{self.state}/data"

    @property
    def image(self) -> str:
        """The file of a file system that is mounted at ``data``; most volumes have none."""
        return f"{self.state}/{VOLUME_IMAGE}"
