# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The veil over the host's root, when that is what a sandbox's root lies on.

The sandbox's root owns what the host's root owns there, so file modes protect nothing: what is not
shown on purpose is covered. The veil is a layer of overlayfs whiteouts and opaque directories
(Documentation/filesystems/overlayfs.rst) in memory, made anew at each start, over which the tenant
has no power, as it lies below its own layer.
"""

from __future__ import annotations

import os
import stat

from ..kernel import mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping

# Programs, libraries and their configuration. All else at the top is covered.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
# Made by people and installers, so that a file which others can't read there is a secret.
SCANNED = ("etc", "usr/local")
# Covered also when they come to be, or to be readable, later.
SECRETS = (
    *("etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/sudoers", "etc/sudoers.d"),
    *("etc/krb5.keytab", "etc/machine-id", "etc/ssl/private", "etc/letsencrypt", "etc/wireguard"),
    *("etc/security/opasswd", "etc/subuid", "etc/subgid", "etc/ppp", "etc/NetworkManager"),
    *(f"etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "dsa", "ecdsa", "ed25519")),
)
# What stands in for covered directories, and for those that programs expect.
EMPTY = {
    **{"dev": 0o755, "home": 0o755, "mnt": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755},
    **{"srv": 0o755, "sys": 0o755, "tmp": 0o1777, "var": 0o755, "var/cache": 0o755},
    **{"var/lib": 0o755, "var/log": 0o755, "var/tmp": 0o1777},
}
_OPAQUE = ("trusted.overlay.opaque", b"y")


def veil(ids: Mapping[str, int], choice: Mapping[str, List[str]], root: str = "/") -> int:
    """A detached mount; ``choice`` has paths to show and to hide beyond the usual."""
    options = {"mode": "755", "size": "16m", "nr_inodes": "50k"}
    fd = mounts.new_mount("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    _Veil(fd, root.rstrip("/"), ids).cover(choice)
    return fd


class _Veil:
    def __init__(self, fd: int, root: str, ids: Mapping[str, int]) -> None:
        self._fd = fd
        self._root = root
        self._ids = ids

    def cover(self, choice: Mapping[str, List[str]]) -> None:
        shown = [path.strip("/") for path in choice.get("show", [])]
        self._own(".", 0o755, 0, 0)
        for name in sorted({*os.listdir(self._root or "/"), *EMPTY}):
            if "/" not in name and name not in SHOWN:
                self._cover_top(name, [path for path in shown if _is_below(path, name)])
        for path, mode in EMPTY.items():
            if "/" in path:
                self._directory(path, mode, opaque=True)
        for top in SCANNED:
            self._scan(top, shown)
        for path in (*SECRETS, *(path.strip("/") for path in choice.get("hide", []))):
            if path not in shown:
                self._whiteout(path)

    def _cover_top(self, name: str, shown: List[str]) -> None:
        if name in shown:
            return
        mode = self._mode(name)
        if name not in EMPTY and not stat.S_ISDIR(mode):
            self._whiteout(name)
        elif not shown:
            self._directory(name, EMPTY.get(name, 0o755), opaque=True)
        else:
            self._open_way(name, shown)

    def _open_way(self, path: str, shown: List[str]) -> None:
        """Cover a directory's entries but for those that lead to what is shown."""
        self._copy_directory(path)
        for entry in os.listdir(f"{self._root}/{path}"):
            below = f"{path}/{entry}"
            ways = [wanted for wanted in shown if _is_below(wanted, below)]
            if not ways:
                self._whiteout(below)
            elif below not in ways:
                self._open_way(below, ways)

    def _scan(self, path: str, shown: List[str]) -> None:
        """Cover what others than its owner and group can't read."""
        for entry in _entries(f"{self._root}/{path}"):
            below = f"{path}/{entry.name}"
            status = entry.stat(follow_symlinks=False)
            if below in shown or stat.S_ISLNK(status.st_mode):
                continue
            needed = 0o005 if stat.S_ISDIR(status.st_mode) else 0o004
            if status.st_mode & needed != needed:
                self._whiteout(below)
            elif stat.S_ISDIR(status.st_mode):
                self._scan(below, shown)

    def _whiteout(self, path: str) -> None:
        parent = os.path.dirname(path)
        if parent and not self._ensure(parent):
            return
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=self._fd)
        except FileExistsError:
            pass  # covered before

    def _ensure(self, path: str) -> bool:
        """A directory of the veil that merges with the host's; False where the host has none."""
        try:
            return stat.S_ISDIR(os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            pass
        parent = os.path.dirname(path)
        if not stat.S_ISDIR(self._mode(path)) or (parent and not self._ensure(parent)):
            return False
        self._copy_directory(path)
        return True

    def _copy_directory(self, path: str) -> None:
        status = os.stat(f"{self._root}/{path}", follow_symlinks=False)
        os.mkdir(path, 0o700, dir_fd=self._fd)
        self._own(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def _directory(self, path: str, mode: int, *, opaque: bool) -> None:
        os.mkdir(path, 0o700, dir_fd=self._fd)
        self._own(path, mode, 0, 0)
        if opaque:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
            os.setxattr(fd, *_OPAQUE)
            os.close(fd)

    def _own(self, path: str, mode: int, uid: int, gid: int) -> None:
        """As an id-mapped mount shows it: an id beyond the range is nobody's."""
        last = self._ids["size"] - 1
        owner = (self._ids["uid"] + min(uid, last), self._ids["gid"] + min(gid, last))
        os.chown(path, *owner, dir_fd=self._fd)
        os.chmod(path, mode, dir_fd=self._fd)

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(f"{self._root}/{path}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _entries(path: str) -> List[Any]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except FileNotFoundError:
        return []
