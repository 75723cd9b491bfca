# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Masks of the host's root: layers that hide parts of it from a sandbox that lies on it.

They hold whiteouts and opaque directories of overlayfs (Documentation/filesystems/overlayfs.rst) in
memory. Each start makes its own. A tenant can't remove them, as they are below the tenant's layer.
From top to bottom:

    mask   covers what is not on the list to show, and well-known secrets
    ways   covers everything but the paths of ``show``; below is the host's root, secrets included
    rest   covers these paths; below is the host's root as its unprivileged users can read it
"""

from __future__ import annotations

import os
import stat

from ..host_paths import SECRETS
from ..kernel import mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Mapping

MASK, WAYS, REST = "mask", "ways", "rest"
# Shown: programs, libraries and their configuration. The mask covers all else at the top.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
# Even the name of a file that others can't read may be a secret here. A scan of more would make
# each start slower; elsewhere, overlayfs refuses to read such a file.
SCANNED = ("etc",)
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


def make(mask: Iterable[Entry]) -> int:
    """Make a mask, a detached mount."""
    fd = mounts.new_mount("tmpfs", OPTIONS, FLAGS)
    for entry in mask:
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
    part: str, ids: Mapping[str, int], choice: Mapping[str, List[str]], root: str = "/"
) -> List[Entry]:
    """The entries of a mask for the host's root as it is now; parents come before their entries.

    ``choice`` has paths to "show" and to "hide".
    """
    mask = _Mask(root.rstrip("/"), ids)
    shown = [path.strip("/") for path in choice.get("show", [])]
    if part == MASK:
        mask.cover(shown, [path.strip("/") for path in choice.get("hide", [])])
    elif part == WAYS:
        mask.open_way("", shown)
    else:
        mask.rest(shown)
    return list(mask.entries.values())


class _Mask:
    def __init__(self, root: str, ids: Mapping[str, int]) -> None:
        self._root = root
        self._ids = ids
        self.entries: Dict[str, Entry] = {}

    def cover(self, shown: List[str], hidden: List[str]) -> None:
        self._directory(".", 0o755)
        for name in sorted({*self._names(""), *EMPTY}):
            if "/" not in name and name not in SHOWN:
                self._cover_top(name, [path for path in shown if _is_below(path, name)])
        for path, mode in EMPTY.items():
            parent = self.entries.get(os.path.dirname(path))
            if parent and parent.opaque and path not in self.entries and path not in shown:
                self._directory(path, mode)
        for top in SCANNED:
            self._scan(top, shown)
        # Secrets even if they appear, or become readable, later.
        for path in (*SECRETS, *hidden):
            if path not in shown:
                self._whiteout(path)

    def rest(self, shown: List[str]) -> None:
        self._directory(".", 0o755)
        for name in self._names(""):
            if name not in SHOWN:
                self._whiteout(name)
        for path in shown:
            parts = path.split("/")
            ways = ["/".join(parts[:count]) for count in range(1, len(parts))]
            # No entry of a directory that others can't read is ever looked up in the host's root.
            closed = (way for way in ways if _is_closed(self._mode(way)))
            self._whiteout(next(closed, path))

    def open_way(self, path: str, shown: List[str]) -> None:
        """Cover a directory's entries, except those that lead to a shown path."""
        self._copied(path or ".")
        for entry in self._names(path):
            below = f"{path}/{entry}".lstrip("/")
            ways = [wanted for wanted in shown if _is_below(wanted, below)]
            if below in ways:
                continue
            if ways and stat.S_ISDIR(self._mode(below)):
                self.open_way(below, ways)
            else:
                self._whiteout(below)

    def _cover_top(self, name: str, shown: List[str]) -> None:
        if name in shown:
            return
        if name not in EMPTY and not stat.S_ISDIR(self._mode(name)):
            self._whiteout(name)
        elif shown and stat.S_ISDIR(self._mode(name)):
            self.open_way(name, shown)
        else:
            self._directory(name, EMPTY.get(name, 0o755), opaque=True)

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
            if not _is_closed(mode):
                if stat.S_ISDIR(mode):
                    self._scan(below, shown)
            elif any(_is_below(path, below) for path in shown) and self._merged(below):
                self.open_way(below, shown)
            else:
                self._whiteout(below)

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

    def _names(self, path: str) -> List[str]:
        return sorted(os.listdir(f"{self._root}/{path}"))

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(f"{self._root}/{path}").st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0


def _is_closed(mode: int) -> bool:
    """Whether only owner and group can read an entry of this mode."""
    needed = 0o005 if stat.S_ISDIR(mode) else 0o004
    return mode & needed != needed


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
