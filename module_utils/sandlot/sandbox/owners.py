# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks up users and groups of a sandbox by its own files, from the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

from ..errors import SpecError
from ..idmap import IdRange
from ..spec.names import MAX_ID
from ..spec.values import Placed
from .root_view import RootView

# As much as init reads of these files.
_MAX_FILE = 1 << 20
# Columns of passwd(5) and group(5).
_NAME, _ID, _GROUP = 0, 2, 3


@dataclass(frozen=True)
class Users:
    """The users and groups of a root; () for files that are not there."""

    passwd: Tuple[List[str], ...] = ()
    group: Tuple[List[str], ...] = ()

    @classmethod
    def of(cls, trees: List[str], ids: IdRange) -> Users:
        """Read the users of a sandbox from its trees; Unknown when they can't be told."""
        view = RootView(trees, ids, head=_MAX_FILE)
        return cls(_rows(view, "/etc/passwd"), _rows(view, "/etc/group"))

    def owner(self, option: str, entry: Placed) -> Tuple[int, int]:
        """User and group of an entry, as ids inside; SpecError for a name that is not there."""
        uid = _number(entry.owner)
        column = _ID if uid is not None else _NAME
        row = next((row for row in self.passwd if row[column] == entry.owner), None)
        if uid is None:
            uid = self._id(option, entry, "owner", entry.owner, row)
        if not entry.group:
            return uid, (_number(row[_GROUP]) if row else None) or 0
        gid = _number(entry.group)
        if gid is None:
            named = next((row for row in self.group if row[_NAME] == entry.group), None)
            gid = self._id(option, entry, "group", entry.group, named)
        return uid, gid

    def _id(self, option: str, entry: Placed, what: str, name: str, row: List[str] | None) -> int:
        number = _number(row[_ID]) if row else None
        if number is None:
            file = "/etc/passwd" if what == "owner" else "/etc/group"
            problem = f"({what} of {entry.target}) is not in the sandbox's {file}"
            raise SpecError(option, name, problem, hint="use a name from there, or an id")
        return number


def _rows(view: RootView, path: str) -> Tuple[List[str], ...]:
    entry = view.entry(path)
    if entry is None:
        return ()
    text = entry.head.decode("utf-8", "replace").replace("\0", "")
    rows = (line.strip().split(":") for line in text.split("\n"))
    return tuple(row for row in rows if len(row) > _GROUP)


def _number(text: str) -> int | None:
    """An id of a sandbox, None for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID))
    return int(text) if is_number and int(text) <= MAX_ID else None


def needs_lookup(entry: Placed) -> bool:
    """Whether only the files of the sandbox tell the ids; root's group is 0 everywhere."""
    return _number(entry.owner) is None or (
        _number(entry.group) is None and (entry.owner, entry.group) != ("0", "")
    )
