# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A directory with a size, and the ways to bound it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

# The ways: a project quota of the file system, or a file system of its own in a sparse file.
PROJECT, FILE = "project", "file"
BLOCK = 4096
# The largest file of ext4 has a block less.
MAX_FILE = 16 << 40
_BYTES_PER_INODE = 16384
_LEAST_INODES = 4096


def whole_blocks(size: int) -> int:
    """The size as it is enforced: a file system consists of whole blocks."""
    return -(-size // BLOCK) * BLOCK


def inodes(size: int) -> int:
    """The most files: the ratio of mke2fs(8), so sizes that fit on a disk fit with their files."""
    return max(size // _BYTES_PER_INODE, _LEAST_INODES)


@dataclass(frozen=True)
class Place:
    """A directory that may have a size.

    ``image`` is the file with the file system that is mounted at ``directory``, if it is bounded in
    that way. ``trees`` are the directories in it that are bounded together, "" for itself.
    """

    directory: str
    image: str
    trees: Tuple[str, ...] = ("",)

    @property
    def replacement(self) -> Place:
        """The place of what is to replace this one."""
        return Place(f"{self.directory}.new", f"{self.image}.new", self.trees)

    @property
    def paths(self) -> list[str]:
        """The directories that carry the number of a project."""
        return [f"{self.directory}/{tree}".rstrip("/") for tree in self.trees]


# The needs of a change: none, or that nobody uses the directory.
LIVE, OFFLINE = "live", "offline"


@dataclass(frozen=True)
class Due:
    """A step towards a size: what it does, and what it needs."""

    summary: str
    needs: str = LIVE


def readable(size: int) -> str:
    """A size as users write it, rounded to two digits after the point."""
    for shift, unit in ((40, "t"), (30, "g"), (20, "m"), (10, "k")):
        if size >= 1 << shift:
            return f"{round(size / (1 << shift), 2):g}{unit}"
    return f"{size}b"
