# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The operations that make a sandbox's root: each one runs, and prints itself as commands.

An operation has up to three steps, each run by the process that has the rights for it:

    open    host root, on the host: opens a directory or file of the host, as a detached mount
    stack   host root, in the build namespace: mounts the layers below the sandbox's root
    apply   root of the sandbox's user namespace: mounts below the new root

``outside`` prints the first two as commands, ``command`` the last one. In the commands, the build
namespace is the directory $scratch/root, and the new root is the working directory.
"""

from __future__ import annotations

import os
import stat

from ..errors import LaunchError, SandlotError
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
    from typing import List, Mapping, Optional, Sequence

# Mount points of the build namespace.
LOWER, LAYER, MERGED = "/lower", "/layer", "/merged"
HOST, HOST_MASK, MASKED_HOST = "/host", "/host_mask", "/masked_host"
# The trees of an image: its source's tree, and the layers of its setup above.
MAX_LAYERS = 4
_MASK = {"size": "4k", "nr_inodes": "1", "mode": "555"}
SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
SAFE_READ_ONLY = SAFE | MOUNT_ATTR_RDONLY
_TREE = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
FLAGS = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
}


class RootOperation:
    """One step towards a root; ``mount`` is the detached mount that ``open`` made."""

    mount = -1
    # Whether to apply it after the old root is detached.
    last = False

    def open(self, pins: Mapping[str, int]) -> None:
        """Open on the host; ``pins`` are descriptors of the sandbox's namespaces."""

    def stack(self, pins: Mapping[str, int]) -> None:
        """Mount at paths of the build namespace; the working directory is the host's."""

    def apply(self, root: int) -> None:
        """Mount below ``root``, a descriptor: no path of the sandbox is resolved by string."""

    def outside(self) -> List[str]:
        return []

    def command(self) -> List[str]:
        return []


class Tree(RootOperation):
    """A read-only tree of the host; its owners are mapped to the range ``ids``."""

    def __init__(self, source: str, target: str, ids: Optional[Mapping[str, int]]) -> None:
        self.source = source
        self.target = target
        self.ids = ids

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = mounts.clone_tree(self.source)
        mounts.set_attributes(self.mount, _TREE, userns=pins["user"] if self.ids else None)

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, self.target)

    def outside(self) -> List[str]:
        source, target = _quote(self.source), _built(self.target)
        mapped = f'mount --bind -o X-mount.idmap="$scratch/ns/user" {source} {target}'
        bind = [f"mount --bind {source} {target}"]
        if self.ids:
            bind = [
                "version=$(mount --version | sed 's/.*linux \\([0-9.]*\\).*/\\1/')",
                "if printf '2.39\\n%s\\n' \"$version\" | sort --check=quiet --version-sort; then",
                f"  {mapped}",
                "else",
                *(f"  {line}" for line in self._bind_copy(self.ids)),
                "fi",
            ]
        return [f"mkdir {target}", *bind, f"mount -o remount,bind,{_words(_TREE)} {target}"]

    def _bind_copy(self, ids: Mapping[str, int]) -> List[str]:
        """Commands that copy a tree with shifted owners and overlayfs's marks for removed files.

        Host root runs them, as a user namespace can't make these marks. The directory is closed to
        others, as the copy holds setuid programs.
        """
        if self.source == "/":
            text = "the root of the host can be mapped from util-linux 2.39 on"
            return [f"echo '{text}' >&2", "exit 1"]
        source, copy = _quote(self.source), f'"$scratch/images{self.target}"'
        xattrs = "--xattrs --xattrs-include='trusted.overlay.*'"
        lines = ['[ -d "$scratch/images" ] || mkdir -m 700 "$scratch/images"', f"mkdir {copy}"]
        for file, letter, kind in (("owners", "U", "uid"), ("groups", "G", "gid")):
            lines += [
                f"find {source} -printf '+%{letter}\\n' | sort -u | while read -r id; do",
                f'  echo "$id shifted:$((id + {ids[kind]}))"',
                f'done >"$scratch/images/{file}"',
            ]
        return [
            *lines,
            f"tar --create --file=- --directory={source} --exclude='./dev/*' {xattrs} \\",
            '  --owner-map="$scratch/images/owners" --group-map="$scratch/images/groups" . |',
            f"  tar --extract --file=- --directory={copy} {xattrs} \\",
            "    --preserve-permissions --numeric-owner",
            f"mount --bind {copy} {_built(self.target)}",
        ]


class HostMask(RootOperation):
    """The layer that hides parts of the host's root; ``choice`` has paths to show and to hide."""

    def __init__(self, ids: Mapping[str, int], choice: Mapping[str, List[str]]) -> None:
        self.ids = ids
        self.choice = choice

    def open(self, pins: Mapping[str, int]) -> None:
        # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
        from . import host_mask

        self.mount = host_mask.make(self.ids, self.choice)

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, HOST_MASK)

    def outside(self) -> List[str]:
        from . import host_mask

        target = _built(HOST_MASK)
        words = _words(host_mask.FLAGS, host_mask.OPTIONS)
        lines = [f"mkdir {target}", f"mount -t tmpfs -o {words} none {target}"]
        for entry in host_mask.entries(self.ids, self.choice):
            path = f"{target}/{_quote(entry.path)}"
            if entry.mode is None:
                lines.append(f"mknod {path} c 0 0")
                continue
            if entry.path != ".":
                lines.append(f"mkdir {path}")
            uid, gid = entry.owner
            lines.append(f"chown {uid}:{gid} {path} && chmod {entry.mode:o} {path}")
            if entry.opaque:
                lines.append(f"setfattr --name={host_mask.OPAQUE} --value=y {path}")
        return lines


class Layer(RootOperation):
    """The writable layer: the sandbox's own on disk, or with ``tmpfs`` a fresh one in memory."""

    def __init__(self, directory: str, tmpfs: Mapping[str, str], ids: Mapping[str, int]) -> None:
        self.directory = directory
        self.tmpfs = tmpfs
        self.ids = ids
        self.mode = int(tmpfs.get("mode", "755"), 8)

    def open(self, pins: Mapping[str, int]) -> None:
        if not self.tmpfs:
            self.mount = mounts.clone_tree(self.directory)
            return
        fd = mounts.new_mount("tmpfs", self.tmpfs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        os.mkdir("work", 0o700, dir_fd=fd)
        os.mkdir("upper", 0o700, dir_fd=fd)
        os.chown("upper", self.ids["uid"], self.ids["gid"], dir_fd=fd)
        # After chown, which clears set-id bits.
        os.chmod("upper", self.mode, dir_fd=fd)
        self.mount = fd

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, LAYER)

    def outside(self) -> List[str]:
        layer = '"$scratch/layer"'
        lines = [f"mkdir {layer}"]
        if self.tmpfs:
            lines.append(f"mount -t tmpfs -o {_words(0, self.tmpfs)} none {layer}")
        return [
            *lines,
            f"mkdir {layer}/upper {layer}/work {_built(LAYER)}",
            f"chown {self.ids['uid']}:{self.ids['gid']} {layer}/upper",
            f"chmod {self.mode:o} {layer}/upper",
            f"mount --bind {layer} {_built(LAYER)}",
        ]


class Overlay(RootOperation):
    """Lower layers, topmost first, merged into one tree; read-only without a writable layer."""

    def __init__(self, target: str, lowers: Sequence[str], layer: str = "") -> None:
        self.target = target
        self.lowers = lowers
        self.layer = layer
        self.options = "index=off,metacopy=off" if layer else "index=off"

    def stack(self, pins: Mapping[str, int]) -> None:
        # Host root mounts it, so overlayfs keeps its marks in trusted.*, out of a tenant's reach.
        flags = mounts.MS_NODEV | mounts.MS_NOSUID | (0 if self.layer else mounts.MS_RDONLY)
        mounts.mount("overlay", self.target, "overlay", flags, f"{self._layers()},{self.options}")

    def outside(self) -> List[str]:
        words = f"nosuid,nodev,{self.options}" if self.layer else f"ro,nosuid,nodev,{self.options}"
        target = _built(self.target)
        return [
            f"mkdir {target}",
            f"mount -t overlay -o {words} \\",
            f'  -o "{self._layers("$scratch/root")}" overlay {target}',
        ]

    def _layers(self, top: str = "") -> str:
        layers = f"lowerdir={':'.join(f'{top}{lower}' for lower in self.lowers)}"
        if self.layer:
            layers += f",upperdir={top}{self.layer}/upper,workdir={top}{self.layer}/work"
        return layers


class JoinedSysfs(RootOperation):
    """The sysfs of a joined network namespace, which only host root may mount."""

    def __init__(self, netns: Mapping[str, str]) -> None:
        self.netns = netns

    def stack(self, pins: Mapping[str, int]) -> None:
        self.mount = netns.sysfs(pins["net"], SAFE_READ_ONLY)

    def apply(self, root: int) -> None:
        rootfs.attach(root, "/sys", self.mount)

    def outside(self) -> List[str]:
        mount = f"mount -t sysfs -o {_words(SAFE_READ_ONLY)} none {_built('/sys')}"
        if self.netns["mode"] != "host":
            mount = f"nsenter --net={_quote(self.netns['path'])} {mount}"
        return [f"mkdir {_built('/sys')}", mount]

    def command(self) -> List[str]:
        return ["mkdir -p ./sys", "mount --bind ../sys ./sys"]


class Filesystem(RootOperation):
    """A new file system without a source: proc, sysfs, tmpfs, devpts, mqueue."""

    def __init__(
        self, kind: str, path: str, flags: int, options: Optional[Mapping[str, str]] = None
    ) -> None:
        self.kind = kind
        self.path = path
        self.flags = flags
        self.options = options or {}

    def apply(self, root: int) -> None:
        rootfs.attach(root, self.path, mounts.new_mount(self.kind, self.options, self.flags))

    def command(self) -> List[str]:
        path, words = _below(self.path), _quote(_words(self.flags, self.options))
        return [f"mkdir -p {path}", f"mount -t {self.kind} -o {words} none {path}"]


class Device(RootOperation):
    """A device node of the host; its number is verified, so that no swapped node is passed on."""

    def __init__(self, name: str, number: tuple[int, int]) -> None:
        self.name = name
        self.number = number

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = mounts.clone_tree(f"/dev/{self.name}")
        if os.fstat(self.mount).st_rdev != os.makedev(*self.number):
            major, minor = self.number
            raise LaunchError(f"/dev/{self.name} on the host is not device {major}:{minor}")

    def apply(self, root: int) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        node = mounts.openat2(root, f"dev/{self.name}", flags, rootfs.STRICT, 0o666)
        mounts.attach(self.mount, target_fd=node)
        os.close(node)

    def command(self) -> List[str]:
        path = _below(f"dev/{self.name}")
        return [f"touch {path} && mount --bind /dev/{self.name} {path}"]


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
        return [f"ln -s {_quote(self.target)} {_below(f'dev/{self.name}')}"]


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
        remount = f"mount -o remount,bind,{_words(SAFE_READ_ONLY)} {path}"
        return [f"[ ! -e {path} ] || {{ mount --rbind {path} {path}; {remount}; }}"]


class Mask(RootOperation):
    """An empty tmpfs over a directory of proc or sysfs, the null device over a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root: int) -> None:
        target = rootfs.existing(root, self.path)
        if target is None:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            mount = mounts.new_mount("tmpfs", _MASK, SAFE_READ_ONLY)
        else:
            null = mounts.openat2(root, "dev/null", os.O_PATH, rootfs.STRICT)
            mount = mounts.clone_tree("", dir_fd=null)
            os.close(null)
        mounts.attach(mount, target_fd=target)
        os.close(mount)
        os.close(target)

    def command(self) -> List[str]:
        path, words = _below(self.path), _words(SAFE_READ_ONLY, _MASK)
        return [
            f"if [ -d {path} ]; then mount -t tmpfs -o {words} none {path}",
            f"elif [ -e {path} ]; then mount --bind ./dev/null {path}; fi",
        ]


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
            f"mkdir -p {copies}{_quote(os.path.dirname(self.path))}",
            f"printf %s {_quote(content)} >{copies}{_quote(self.path)}",
        ]

    def command(self) -> List[str]:
        path = _below(self.path)
        return [
            f"mkdir -p {_below(os.path.dirname(self.path))}",
            f"rm -f {path} && touch {path}",
            f"mount --bind ../files{_quote(self.path)} {path}",
            f"mount -o remount,bind,{_words(SAFE_READ_ONLY)} {path}",
        ]


class Directory(RootOperation):
    """The workload's working directory; links are followed inside the root."""

    last = True

    def __init__(self, path: str) -> None:
        self.path = path

    def apply(self, root: int) -> None:
        os.close(rootfs.directory(root, self.path, follow=True))

    def command(self) -> List[str]:
        return [f"mkdir -p {_below(self.path)}"]


class ReadOnlyRoot(RootOperation):
    """The root itself, made read-only after all mounts below it."""

    last = True

    def apply(self, root: int) -> None:
        mounts.set_attributes(root, MOUNT_ATTR_RDONLY)

    def command(self) -> List[str]:
        return [f"mount -o remount,bind,{_words(_TREE)} ."]


def _words(flags: int, options: Optional[Mapping[str, str]] = None) -> str:
    """The argument of mount -o."""
    named = [name for name, flag in FLAGS.items() if flags & flag]
    pairs = (options or {}).items()
    return ",".join([*named, *(f"{key}={value}" if value else key for key, value in pairs)])


def _quote(text: str) -> str:
    # Imported here: the launcher never prints, and its import budget has no room for shlex.
    from shlex import quote

    return quote(text)


def _built(path: str) -> str:
    """A path of the build namespace as commands show it, below $scratch/root."""
    return f'"$scratch/root{path}"'


def _below(path: str) -> str:
    return _quote("./" + path.strip("/"))
