# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The operations below a sandbox's merged root: trees, masks, the writable layer, overlays."""

from __future__ import annotations

import errno
import os

from ..kernel import confine, mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID
from . import rootfs
from .operations import (
    LAYER,
    MEMORY,
    MERGED,
    TREE,
    Filesystem,
    RootOperation,
    built,
    option_words,
    quote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional, Sequence

    from .operations import Points


class Tree(RootOperation):
    """A read-only tree of the host; its owners are mapped to the range ``ids``."""

    def __init__(self, source: str, target: str, ids: Optional[Mapping[str, int]]) -> None:
        self.source = source
        self.target = target
        self.ids = ids

    def open(self, pins: Mapping[str, int]) -> None:
        self.mount = mounts.clone_tree(self.source)
        mounts.set_attributes(self.mount, TREE, userns=pins["user"] if self.ids else None)

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, self.target)

    def outside(self) -> List[str]:
        target = built(self.target)
        bind = [f"mount --bind {quote(self.source)} {target}"]
        if self.ids:
            bind = mapped_bind(self.source, self.target, self.ids)
        return [f"mkdir {target}", *bind, f"mount -o remount,bind,{option_words(TREE)} {target}"]


def mapped_bind(path: str, to: str, ids: Mapping[str, int]) -> List[str]:
    """Commands that bind-mount a directory with its owners mapped to the range ``ids``."""
    source, target = quote(path), built(to)
    return [
        "version=$(mount --version | sed 's/.*linux \\([0-9.]*\\).*/\\1/')",
        "if printf '2.39\\n%s\\n' \"$version\" | sort --check=quiet --version-sort; then",
        f'  mount --bind -o X-mount.idmap="$scratch/ns/user" {source} {target}',
        "else",
        *(f"  {line}" for line in _bind_copy(path, to, ids)),
        "fi",
    ]


def _bind_copy(path: str, to: str, ids: Mapping[str, int]) -> List[str]:
    """Commands that copy a tree with shifted owners and overlayfs's marks for removed files.

    Host root runs them, as a user namespace can't make these marks. The directory is closed to
    others, as the copy holds setuid programs.
    """
    if path == "/":
        text = "the root of the host can be mapped from util-linux 2.39 on"
        return [f"echo '{text}' >&2", "exit 1"]
    text = "a file can be mapped from util-linux 2.39 on"
    source, copy = quote(path), f'"$scratch/images{to}"'
    xattrs = "--xattrs --xattrs-include='trusted.overlay.*'"
    lines = [f"[ -d {source} ] || {{ echo '{text}' >&2; exit 1; }}"]
    lines += ['[ -d "$scratch/images" ] || mkdir -m 700 "$scratch/images"', f"mkdir -p {copy}"]
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
        f"mount --bind {copy} {built(to)}",
    ]


class HostMask(RootOperation):
    """One of the masks of the host's root (``part``); ``choice`` has paths to show and to hide."""

    def __init__(
        self, target: str, part: str, ids: Mapping[str, int], choice: Mapping[str, List[str]]
    ) -> None:
        self.target = target
        self.part = part
        self.ids = ids
        self.choice = choice

    def open(self, pins: Mapping[str, int]) -> None:
        # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
        from . import host_mask

        self.mount = host_mask.make(host_mask.entries(self.part, self.ids, self.choice))

    def stack(self, pins: Mapping[str, int]) -> None:
        mounts.attach(self.mount, self.target)

    def outside(self) -> List[str]:
        from . import host_mask

        target = built(self.target)
        options = option_words(host_mask.FLAGS, host_mask.OPTIONS)
        lines = [f"mkdir {target}", f"mount -t tmpfs -o {options} none {target}"]
        for entry in host_mask.entries(self.part, self.ids, self.choice):
            path = f"{target}/{quote(entry.path)}"
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
        # Closed to others, as it may get setuid programs.
        lines = [f"mkdir -m 700 {layer}"]
        if self.tmpfs:
            lines.append(f"mount -t tmpfs -o {option_words(0, self.tmpfs)} none {layer}")
        return [
            *lines,
            f"mkdir {layer}/upper {layer}/work {built(LAYER)}",
            f"chown {self.ids['uid']}:{self.ids['gid']} {layer}/upper",
            f"chmod {self.mode:o} {layer}/upper",
            f"mount --bind {layer} {built(LAYER)}",
        ]


class Overlay(RootOperation):
    """Lower layers, topmost first, merged into one tree; read-only without a writable layer.

    ``unprivileged`` hides what unprivileged users of the host can't read: on each access, overlayfs
    also checks the rights of the process that mounted it, and that process has no more.

    ``user`` is the uid of that process, as overlayfs also writes with its rights: as root, a tenant
    would get the blocks that file systems keep for root (mke2fs(8), -m).

    With ``set_id``, set-user-id programs gain rights in the sandbox. The kernel ignores their bits
    in any other mount namespace (mnt_may_suid() in its fs/namespace.c).
    """

    def __init__(
        self,
        target: str,
        lowers: Sequence[str],
        layer: str = "",
        *,
        user: int = 0,
        unprivileged: bool = False,
        set_id: bool = False,
    ) -> None:
        self.target = target
        self.lowers = lowers
        self.layer = layer
        self.options = "index=off,metacopy=off" if layer else "index=off"
        self.user = user
        self.unprivileged = unprivileged
        self.set_id = set_id

    def stack(self, pins: Mapping[str, int]) -> None:
        # Host root mounts it, so overlayfs keeps its marks in trusted.*, out of a tenant's reach.
        flags = mounts.MS_NODEV | (0 if self.set_id else mounts.MS_NOSUID)
        flags |= 0 if self.layer else mounts.MS_RDONLY
        data = f"{self._layers()},{self.options}"
        effective, permitted, inheritable = confine.capabilities()
        # The tree is id-mapped: host root owns nothing in it, so capabilities are its rights.
        rights = 1 << confine.CAP_SYS_ADMIN if self.unprivileged else permitted
        # Whoever has it gets the blocks kept for root, and exceeds quotas (ignore_hardlimit() in
        # the kernel's fs/quota/dquot.c).
        rights &= ~(1 << confine.CAP_SYS_RESOURCE)
        try:
            confine.set_file_user(self.user)
            # Last, as a change of that user takes capabilities away (setfsuid(2)).
            confine.set_capabilities(rights, permitted, inheritable)
            mounts.mount("overlay", self.target, "overlay", flags, data)
        finally:
            confine.set_file_user(0)
            confine.set_capabilities(effective, permitted, inheritable)

    def outside(self) -> List[str]:
        options = f"{'' if self.set_id else 'nosuid,'}nodev,{self.options}"
        options = options if self.layer else f"ro,{options}"
        target = built(self.target)
        drop = "setpriv --bounding-set=-all,+sys_admin " if self.unprivileged else ""
        note = [f"# sandlot mounts it with fsuid {self.user}, for which there is no command"]
        return [
            *(note if self.user else []),
            f"mkdir {target}",
            f"{drop}mount -t overlay -o {options} \\",
            f'  -o "{self._layers("$scratch/root")}" overlay {target}',
        ]

    def points(self) -> Points:
        flags = MOUNT_ATTR_NODEV | (0 if self.set_id else MOUNT_ATTR_NOSUID)
        return {"/": flags} if self.target == MERGED else {}

    def _layers(self, top: str = "") -> str:
        layers = f"lowerdir={':'.join(f'{top}{lower}' for lower in self.lowers)}"
        if self.layer:
            layers += f",upperdir={top}{self.layer}/upper,workdir={top}{self.layer}/work"
        return layers


class CopiedUp(Filesystem):
    """A tmpfs that starts with the image's files in its place, as OCI's tmpcopyup.

    Nothing is copied: the tmpfs is the writable layer of an overlay over them. Without ``asked``, a
    place that can't have one more overlay gets an empty tmpfs.
    """

    def __init__(
        self,
        path: str,
        flags: int,
        options: Mapping[str, str],
        ids: Mapping[str, int],
        *,
        asked: bool,
    ) -> None:
        super().__init__("tmpfs", path, flags, options)
        self.ids = ids
        self.asked = asked

    def stack(self, pins: Mapping[str, int]) -> None:
        files = rootfs.files_of(MERGED, self.path)
        if files is None:
            return
        sizes = {key: self.options[key] for key in ("size", "nr_inodes") if key in self.options}
        mounts.attach(mounts.new_mount("tmpfs", {**sizes, "mode": "700"}), MEMORY)
        os.mkdir(f"{MEMORY}/work", 0o700)
        os.mkdir(f"{MEMORY}/upper", 0o700)
        owner = [self.ids[key] + int(self.options.get(key, 0)) for key in ("uid", "gid")]
        os.chown(f"{MEMORY}/upper", *owner)
        os.chmod(f"{MEMORY}/upper", int(self.options["mode"], 8))
        os.fchdir(files)
        layers = f"lowerdir=.,upperdir={MEMORY}/upper,workdir={MEMORY}/work,index=off,metacopy=off"
        try:
            mounts.mount("overlay", MEMORY, "overlay", self.flags, layers)
        except OSError as error:
            # The kernel stacks two overlays at most (FILESYSTEM_MAX_STACK_DEPTH).
            if error.errno != errno.EINVAL or self.asked:
                raise
            return
        finally:
            os.close(files)
        self.mount = mounts.clone_tree(MEMORY)

    def apply(self, root: int) -> None:
        if self.mount < 0:
            super().apply(root)
        else:
            rootfs.attach(root, self.path, self.mount, follow=True)

    def outside(self) -> List[str]:
        return []

    def command(self) -> List[str]:
        """Commands that copy: outside, a path to the image's files would follow its links."""
        directory, mount = super().command()
        path = quote("./" + self.path.strip("/"))
        copy = f'cp --archive "/proc/self/fd/$files/." {path}'
        mode = f"chmod {self.options['mode']} {path}"
        return [directory, f"exec {{files}}<{path}", mount, copy, mode, "exec {files}<&-"]
