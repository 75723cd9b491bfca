# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host mask: a layer that hides parts of the host's root from a sandbox that lies on it.

The sandbox's root owns every file that the host's root owns there, so file modes protect nothing:
the mask covers every path that is not on the list to show. It holds whiteouts and opaque
directories of overlayfs (Documentation/filesystems/overlayfs.rst) in memory. Each start makes its
own mask. A tenant can't remove the mask, as it is below the tenant's layer.
"""

from __future__ import annotations

import os
import stat

from ..kernel import mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping

# Shown: programs, libraries and their configuration. The mask covers all else at the top.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
# People and installers write here, so a file that others can't read is a secret.
SCANNED = ("etc", "usr/local")
# Covered even if they appear, or become readable, later.
SECRETS = (
    *("etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/sudoers", "etc/sudoers.d"),
    *("etc/krb5.keytab", "etc/machine-id", "etc/ssl/private", "etc/letsencrypt", "etc/wireguard"),
    *("etc/security/opasswd", "etc/subuid", "etc/subgid", "etc/ppp", "etc/NetworkManager"),
    *(f"etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "dsa", "ecdsa", "ed25519")),
)
# Empty directories in place of covered ones, and directories that programs expect.
EMPTY = {
    **{"dev": 0o755, "home": 0o755, "mnt": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755},
    **{"srv": 0o755, "sys": 0o755, "tmp": 0o1777, "var": 0o755, "var/cache": 0o755},
    **{"var/lib": 0o755, "var/log": 0o755, "var/tmp": 0o1777},
}
OPAQUE = "trusted.overlay.opaque"
FLAGS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
OPTIONS = {"mode": "755", "size": "16m", "nr_inodes": "50k"}


class Entry:
    """A directory of the mask, or a whiteout if ``mode`` is None."""

    def __init__(
        self, path: str, mode: int | None, owner: tuple[int, int], *, opaque: bool
    ) -> None:
        self.path = path
        self.mode = mode
        self.owner = owner
        self.opaque = opaque


def make(ids: Mapping[str, int], choice: Mapping[str, List[str]]) -> int:
    """Make the mask, a detached mount; ``choice`` adds paths to "show" and to "hide"."""
    fd = mounts.new_mount("tmpfs", OPTIONS, FLAGS)
    for entry in entries(ids, choice):
        if entry.mode is None:
            os.mknod(entry.path, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=fd)
            continue
        if entry.path != ".":
            os.mkdir(entry.path, 0o700, dir_fd=fd)
        os.chown(entry.path, *entry.owner, dir_fd=fd)
        os.chmod(entry.path, entry.mode, dir_fd=fd)
        if entry.opaque:
            directory = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.setxattr(directory, OPAQUE, b"y")
            os.close(directory)
    return fd


def entries(
    ids: Mapping[str, int], choice: Mapping[str, List[str]], root: str = "/"
) -> List[Entry]:
    """Entries that cover the host's root as it is now; parents come before their entries."""
    mask = _Mask(root.rstrip("/"), ids)
    mask.cover(choice)
    return list(mask.entries.values())


class _Mask:
    def __init__(self, root: str, ids: Mapping[str, int]) -> None:
        self._root = root
        self._ids = ids
        self.entries: Dict[str, Entry] = {}

    def cover(self, choice: Mapping[str, List[str]]) -> None:
        shown = [path.strip("/") for path in choice.get("show", [])]
        self._directory(".", 0o755)
        for name in sorted({*os.listdir(self._root or "/"), *EMPTY}):
            if "/" not in name and name not in SHOWN:
                self._cover_top(name, [path for path in shown if _is_below(path, name)])
        for path, mode in EMPTY.items():
            parent = self.entries.get(os.path.dirname(path))
            if parent and parent.opaque and path not in self.entries and path not in shown:
                self._directory(path, mode)
        for top in SCANNED:
            self._scan(top, shown)
        for path in (*SECRETS, *(path.strip("/") for path in choice.get("hide", []))):
            if path not in shown:
                self._whiteout(path)

    def _cover_top(self, name: str, shown: List[str]) -> None:
        if name in shown:
            return
        if name not in EMPTY and not stat.S_ISDIR(self._mode(name)):
            self._whiteout(name)
        elif shown and stat.S_ISDIR(self._mode(name)):
            self._open_way(name, shown)
        else:
            self._directory(name, EMPTY.get(name, 0o755), opaque=True)

    def _open_way(self, path: str, shown: List[str]) -> None:
        """Cover a directory's entries, except those that lead to a shown path."""
        self._copied(path)
        for entry in sorted(os.listdir(f"{self._root}/{path}")):
            below = f"{path}/{entry}"
            ways = [wanted for wanted in shown if _is_below(wanted, below)]
            if below in ways:
                continue
            if ways and stat.S_ISDIR(self._mode(below)):
                self._open_way(below, ways)
            else:
                self._whiteout(below)

    def _scan(self, path: str, shown: List[str]) -> None:
        """Cover entries that only their owner and group can read."""
        try:
            with os.scandir(f"{self._root}/{path}") as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            below = f"{path}/{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if below in shown or stat.S_ISLNK(mode):
                continue
            needed = 0o005 if stat.S_ISDIR(mode) else 0o004
            if mode & needed != needed:
                self._whiteout(below)
            elif stat.S_ISDIR(mode):
                self._scan(below, shown)

    def _whiteout(self, path: str) -> None:
        parent = os.path.dirname(path)
        if path not in self.entries and (not parent or self._merged(parent)):
            self.entries[path] = Entry(path, None, (0, 0), opaque=False)

    def _merged(self, path: str) -> bool:
        """Whether ``path`` shows the host's directory; such a directory is in the mask too."""
        if path in self.entries:
            return self.entries[path].mode is not None and not self.entries[path].opaque
        parent = os.path.dirname(path)
        if not stat.S_ISDIR(self._mode(path)) or (parent and not self._merged(parent)):
            return False
        self._copied(path)
        return True

    def _copied(self, path: str) -> None:
        status = os.stat(f"{self._root}/{path}", follow_symlinks=False)
        self._directory(path, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))

    def _directory(
        self, path: str, mode: int, owner: tuple[int, int] = (0, 0), *, opaque: bool = False
    ) -> None:
        """Add a directory; its owner as an id-mapped mount shows it, cut to the range of ids."""
        last = self._ids["size"] - 1
        mapped = (self._ids["uid"] + min(owner[0], last), self._ids["gid"] + min(owner[1], last))
        self.entries[path] = Entry(path, mode, mapped, opaque=opaque)

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(f"{self._root}/{path}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
