# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hides values that may be secrets, such as those of environment variables.

A keyed digest stands for each value: a change is visible, a guess can't be tried out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import AbstractSet, Any, Dict, Mapping, Optional

from . import store
from .site import Site

HIDDEN = "hidden"
# Keys that are not stored yet, by path: all masks of a process agree.
_NEW: Dict[str, bytes] = {}


class Mask:
    """The mask of one host; its key is readable by root only."""

    def __init__(self, site: Site, *, keep: bool = False) -> None:
        """With ``keep``, a missing key is stored; else it serves this process only."""
        self._path = site.mask
        self._keep = keep
        self._key = b""

    def prepare(self, *, needed: bool = False) -> None:
        """Have a key, so that a later check shows the digests that its run will show.

        One that is ``needed`` is stored, or an OSError tells why not.
        """
        self._read()
        if needed and self._path in _NEW:
            self._store()

    def digest(self, *parts: bytes) -> str:
        """The keyed digest that a record has in place of a value, the last one of the parts."""
        content = b"\0".join(parts)
        return hashlib.blake2b(content, key=self._read(), digest_size=16).hexdigest()

    def options(self, owner: str, given: Mapping[str, Any], secret: AbstractSet[str]) -> Any:
        """A mapping of options as results show it; ``owner`` names what the options are of."""
        return {
            name: self.value(owner, value) if name in secret else value
            for name, value in given.items()
        }

    def value(self, owner: str, value: Any) -> Any:
        """The names of a mapping stay. One value has another digest for each owner and name."""
        if isinstance(value, Mapping):
            return {
                name: shown(item["digest"])
                if isinstance(item, Mapping)
                else self._digest(owner, name, item)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [{**item, "digest": shown(item["digest"])} for item in value]
        return value

    def _digest(self, owner: str, name: str, value: str) -> str:
        text = "\0".join((owner, name, value)).encode()
        digest = hashlib.blake2b(text, key=self._read(), digest_size=4)
        return shown(digest.hexdigest())

    def _read(self) -> bytes:
        if not self._key:
            known = store.read(self._path, hint=f"remove {self._path}; the next run makes it again")
            if known:
                _NEW.pop(self._path, None)
            self._key = bytes.fromhex(known["key"]) if known else self._made()
            if self._keep and not known:
                # A removal has to succeed on a full disk; a later run keeps a key.
                with contextlib.suppress(OSError):
                    self._store()
        return self._key

    def _made(self) -> bytes:
        return _NEW.setdefault(self._path, os.urandom(32))

    def _store(self) -> None:
        store.write(self._path, {"key": self._key.hex()})
        _NEW.pop(self._path, None)


def shown(digest: str) -> str:
    """A digest that stands for a value, in a result."""
    return f"{HIDDEN} ({digest[:8]})"


def without_values(
    value: Any, secret: AbstractSet[str], known: Optional[AbstractSet[str]] = None
) -> Any:
    """The arguments of a module, which may be wrong, for Ansible's report of the invocation.

    With ``known``, values of all other options are hidden, as one may be a misspelled secret one.
    """
    if isinstance(value, Mapping):
        return {
            name: _blank(item)
            if name in secret or (known is not None and name not in known)
            else without_values(item, secret, known)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_values(item, secret, known) for item in value]
    return value


def _blank(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A name that is wrong may have the value in it.
        return {str(name).partition("=")[0]: HIDDEN for name in value}
    return value if value is None else HIDDEN
