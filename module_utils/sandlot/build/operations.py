# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The operations that make a sandbox's root: each one runs, and prints itself as commands.

An operation has up to four steps, each run by the process that has the rights for it:

    open    host root, on the host: opens a directory or file of the host, as a detached mount
    stack   host root, in the build namespace: mounts the layers below the sandbox's root
    lock    root of the sandbox's user namespace, in its copy of the build namespace
    apply   root of the sandbox's user namespace: mounts below the new root

``outside`` prints the first two as commands, ``command`` the last one. In the commands, the build
namespace is the directory $scratch/root, and the new root is the working directory.
"""

from __future__ import annotations

import os
import stat

from ..errors import SandlotError
from ..kernel import mounts, netns
from ..kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)
from . import rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Sequence

    # Paths, and MOUNT_ATTR_*.
    Points = Dict[str, int]

# Mount points of the build namespace.
LOWER, LAYER, MERGED = "/lower", "/layer", "/merged"
HOST, HOST_MASK, HOST_REST, HOST_WAYS = "/host", "/host_mask", "/host_rest", "/host_ways"
PUBLIC_HOST, SHOWN_HOST, OWN, MEMORY = "/public_host", "/shown_host", "/own", "/memory"
EMPTY = f"{OWN}/empty"
DEVICE_NODES = "/device_nodes"
MOUNTS = "/mounts"
# The trees of an image: its source's tree, and the layers of its setup above.
MAX_LAYERS = 4
MOUNT_POINTS = (
    *(f"{LOWER}{number}" for number in range(MAX_LAYERS)),
    *(LAYER, MERGED, HOST, HOST_MASK, HOST_REST, HOST_WAYS, PUBLIC_HOST, SHOWN_HOST, OWN),
    *(MEMORY, DEVICE_NODES, MOUNTS),
)
SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
SAFE_READ_ONLY = SAFE | MOUNT_ATTR_RDONLY
TREE = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
# A link in the place of one of these would change what the kernel's own files are taken for.
KERNEL_TREES = ("/proc", "/sys", "/dev")
FLAGS = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
}


class RootOperation:
    """One step towards a root; ``mount`` is the detached mount that ``open`` made."""

    mount = -1
    # Descriptors that ``apply`` opens for init.
    for_init: Sequence[int] = ()

    @property
    def first(self) -> bool:
        """Whether to apply it before the old root is detached: a new proc or sysfs."""
        return False

    def open(self, pins: Mapping[str, int]) -> None:
        """Open on the host; ``pins`` are descriptors of the sandbox's namespaces."""

    def stack(self, pins: Mapping[str, int]) -> None:
        """Mount at paths of the build namespace; the working directory is the host's."""

    def lock(self) -> None:
        """Take what ``stack`` mounted, whose flags the kernel has locked for this namespace."""

    def apply(self, root: int) -> None:
        """Mount below ``root``, a descriptor: no path of the sandbox is resolved by string."""

    def outside(self) -> List[str]:
        return []

    def command(self) -> List[str]:
        return []

    def points(self) -> Points:
        """Mount points that it leaves in the root, with flags that each has at least."""
        return {}


class JoinedSysfs(RootOperation):
    """The sysfs of a joined network namespace, which only host root may mount."""

    def __init__(self, netns: Mapping[str, str]) -> None:
        self.netns = netns

    def stack(self, pins: Mapping[str, int]) -> None:
        self.mount = netns.sysfs(pins["net"], SAFE_READ_ONLY)

    def apply(self, root: int) -> None:
        rootfs.attach(root, "/sys", self.mount)

    def outside(self) -> List[str]:
        mount = f"mount -t sysfs -o {option_words(SAFE_READ_ONLY)} none {built('/sys')}"
        if self.netns["mode"] != "host":
            mount = f"nsenter --net={quote(self.netns['path'])} {mount}"
        return [f"mkdir {built('/sys')}", mount]

    def command(self) -> List[str]:
        return ["mkdir -p ./sys", "mount --bind ../sys ./sys"]

    def points(self) -> Points:
        return {"/sys": SAFE_READ_ONLY}


class Filesystem(RootOperation):
    """A new file system without a source: proc, sysfs, tmpfs, devpts, mqueue."""

    def __init__(
        self, kind: str, path: str, flags: int, options: Optional[Mapping[str, str]] = None
    ) -> None:
        self.kind = kind
        self.path = path
        self.flags = flags
        self.options = options or {}

    @property
    def first(self) -> bool:
        return self.kind in ("proc", "sysfs")

    def apply(self, root: int) -> None:
        mount = mounts.new_mount(self.kind, self.options, self.flags)
        rootfs.attach(root, self.path, mount, follow=self.path not in KERNEL_TREES)

    def command(self) -> List[str]:
        path, words = _below(self.path), quote(option_words(self.flags, self.options))
        return [f"mkdir -p {path}", f"mount -t {self.kind} -o {words} none {path}"]

    def points(self) -> Points:
        return {self.path: self.flags}


class OwnFiles(RootOperation):
    """The sandbox's /dev with its nodes, and an empty directory for masks, on one tmpfs.

    Each file system costs the kernel 6 kB, and 1 kB in each memory cgroup of the host for every
    64th (expand_shrinker_info() in its mm/shrinker.c). Host root makes this one. A node is mounted
    on itself, so that root of the sandbox, the owner of /dev, can't remove it.

    A node of the host is one inode for all sandboxes: a lock or a new time would show everywhere.
    """

    def __init__(
        self, devices: Mapping[str, tuple[int, int]], ids: Mapping[str, int], inodes: int
    ) -> None:
        self.devices = devices
        self.ids = ids
        self.options = {"mode": "755", "size": "64k", "nr_inodes": str(inodes)}

    def open(self, pins: Mapping[str, int]) -> None:
        fd = mounts.new_mount("tmpfs", self.options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        mask = os.umask(0)
        try:
            os.mkdir("empty", 0o555, dir_fd=fd)
            os.mkdir("dev", 0o755, dir_fd=fd)
            for name, number in self.devices.items():
                os.mknod(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*number), dir_fd=fd)
        finally:
            os.umask(mask)
        os.chown("dev", self.ids["uid"], self.ids["gid"], dir_fd=fd)
        self.mount = fd

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, OWN)
        for name in self.devices:
            mounts.attach(mounts.clone_tree(f"{OWN}/dev/{name}"), f"{OWN}/dev/{name}")
        self.dev = mounts.clone_tree(f"{OWN}/dev", recursive=True)
        mounts.set_attributes(self.dev, MOUNT_ATTR_NODEV)
        empty = mounts.clone_tree(EMPTY)
        mounts.set_attributes(empty, SAFE_READ_ONLY)
        mounts.attach(empty, EMPTY)

    def apply(self, root: int) -> None:
        rootfs.attach(root, "/dev", self.dev)

    def outside(self) -> List[str]:
        options = option_words(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, self.options)
        own, dev, empty = built(OWN), built(f"{OWN}/dev"), built(EMPTY)
        lines = [
            f"mkdir {own}",
            f"mount -t tmpfs -o {options} none {own}",
            f"mkdir {dev}",
            f"chown {self.ids['uid']}:{self.ids['gid']} {dev}",
            f"mkdir -m 555 {empty}",
            f"mount --bind {empty} {empty}",
            f"mount -o remount,bind,{option_words(SAFE_READ_ONLY)} {empty}",
        ]
        for name, (major, minor) in self.devices.items():
            node = built(f"{OWN}/dev/{name}")
            lines += [f"mknod -m 666 {node} c {major} {minor}", f"mount --bind {node} {node}"]
        return lines

    def command(self) -> List[str]:
        return [
            f"mkdir -p ./dev && mount --rbind ..{OWN}/dev ./dev",
            f"mount -o remount,bind,{option_words(SAFE)} ./dev",
        ]

    def points(self) -> Points:
        nodes = (f"/dev/{name}" for name in self.devices)
        return {"/dev": SAFE, **dict.fromkeys(nodes, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)}


class Link(RootOperation):
    """A symbolic link in /dev."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.target = target

    def apply(self, root: int) -> None:
        dev = mounts.openat2(root, "dev", os.O_PATH | os.O_DIRECTORY, rootfs.STRICT)
        os.symlink(self.target, self.name, dir_fd=dev)
        os.close(dev)

    def command(self) -> List[str]:
        return [f"ln -s {quote(self.target)} {_below(f'dev/{self.name}')}"]


class ReadOnly(RootOperation):
    """A path in proc or sysfs, made read-only together with the mounts below."""

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root: int) -> None:
        target = rootfs.existing(root, self.path)
        if target is None:
            return
        mount = mounts.clone_tree("", dir_fd=target, recursive=True)
        mounts.set_attributes(mount, SAFE_READ_ONLY)
        mounts.attach(mount, target_fd=target)
        os.close(mount)
        os.close(target)

    def command(self) -> List[str]:
        path = _below(self.path)
        remount = f"mount -o remount,bind,{option_words(SAFE_READ_ONLY)} {path}"
        return [f"[ ! -e {path} ] || {{ mount --rbind {path} {path}; {remount}; }}"]

    def points(self) -> Points:
        return {self.path: SAFE_READ_ONLY} if os.path.exists(self.path) else {}


class Mask(RootOperation):
    """An empty directory over a directory of proc or sysfs, the null device over a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def lock(self) -> None:
        self.mount = mounts.clone_tree(EMPTY)

    def apply(self, root: int) -> None:
        target = rootfs.existing(root, self.path)
        if target is None:
            return
        mount = self.mount
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            null = mounts.openat2(root, "dev/null", os.O_PATH, rootfs.STRICT)
            mount = mounts.clone_tree("", dir_fd=null)
            os.close(null)
        mounts.attach(mount, target_fd=target)
        os.close(mount)
        os.close(target)

    def command(self) -> List[str]:
        path, words = _below(self.path), option_words(SAFE_READ_ONLY)
        return [
            f"if [ -d {path} ]; then mount --bind ..{EMPTY} {path}",
            f"mount -o remount,bind,{words} {path}",
            f"elif [ -e {path} ]; then mount --bind ./dev/null {path}; fi",
        ]

    def points(self) -> Points:
        return {self.path: 0} if os.path.exists(self.path) else {}


class File(RootOperation):
    """A host-made file, mounted read-only over a file of the sandbox's layer."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.source = source

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = mounts.clone_tree(self.source)
        mounts.set_attributes(self.mount, SAFE_READ_ONLY)

    def apply(self, root: int) -> None:
        rootfs.attach_file(root, self.path, self.mount)

    def outside(self) -> List[str]:
        try:
            with open(self.source, encoding="utf-8") as handle:
                content = handle.read()
        except FileNotFoundError as error:
            raise SandlotError(
                f"{self.source} is missing", hint="deploy the sandbox again"
            ) from error
        copies = '"$scratch/root/files"'
        return [
            f"mkdir -p {copies}{quote(os.path.dirname(self.path))}",
            f"printf %s {quote(content)} >{copies}{quote(self.path)}",
        ]

    def command(self) -> List[str]:
        path = _below(self.path)
        return [
            f"mkdir -p {_below(os.path.dirname(self.path))}",
            f"rm -f {path} && touch {path}",
            f"mount --bind ../files{quote(self.path)} {path}",
            f"mount -o remount,bind,{option_words(SAFE_READ_ONLY)} {path}",
        ]

    def points(self) -> Points:
        return {self.path: SAFE_READ_ONLY}


class Directory(RootOperation):
    """The workload's working directory or one of the image's volumes; links are followed inside."""

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root: int) -> None:
        os.close(rootfs.directory(root, self.path, follow=True))

    def command(self) -> List[str]:
        return [f"mkdir -p {_below(self.path)}"]


class ReadOnlyRoot(RootOperation):
    """The root itself, made read-only after all mounts below it."""

    def __init__(self, *, set_id: bool) -> None:
        self.set_id = set_id

    def apply(self, root: int) -> None:
        mounts.set_attributes(root, MOUNT_ATTR_RDONLY)

    def command(self) -> List[str]:
        flags = TREE & ~MOUNT_ATTR_NOSUID if self.set_id else TREE
        return [f"mount -o remount,bind,{option_words(flags)} ."]

    def points(self) -> Points:
        return {"/": MOUNT_ATTR_RDONLY}


def option_words(flags: int, options: Optional[Mapping[str, str]] = None) -> str:
    """The argument of mount -o."""
    named = [name for name, flag in FLAGS.items() if flags & flag]
    pairs = (options or {}).items()
    return ",".join([*named, *(f"{key}={value}" if value else key for key, value in pairs)])


def quote(text: str) -> str:
    # Imported here: the launcher never prints, and its import budget has no room for shlex.
    from shlex import quote

    return quote(text)


def built(path: str) -> str:
    """A path of the build namespace as commands show it, below $scratch/root."""
    return f'"$scratch/root{path}"'


def _below(path: str) -> str:
    return quote("./" + path.strip("/"))
