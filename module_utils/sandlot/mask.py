# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hides values that may be secrets, such as those of environment variables.

A keyed digest stands for each value: a change is visible, a guess can't be tried out.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from types import TracebackType
from typing import AbstractSet, Any, Dict, Iterable, Iterator, List, Mapping, Optional

from . import store
from .kernel.text import name_part
from .site import Site

HIDDEN = "hidden"
_SHORTEST = 4
# Keys that are not stored yet, by path: all masks of a process agree.
_NEW: Dict[str, bytes] = {}


class Mask:
    """The mask of one host; its key is readable by root only."""

    def __init__(self, site: Site, *, keep: bool = False, is_first: bool = False) -> None:
        """With ``keep``, a missing key is stored; else it serves this process only.

        The run that ``is_first`` to have a key shows no digests: its check had another key.
        """
        self._is_first = is_first
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

    def options(
        self,
        owner: str,
        given: Mapping[str, Any],
        secret: AbstractSet[str],
        *,
        clear: bool = False,
    ) -> Any:
        """A mapping of options as results show it; ``owner`` names what the options are of."""
        return {
            name: self.value(owner, value, clear=clear) if name in secret else value
            for name, value in given.items()
        }

    def value(self, owner: str, value: Any, *, clear: bool = False) -> Any:
        """The names of a mapping stay. One value has another digest for each owner and name.

        With ``clear``, values that are no more than perhaps a secret are shown.
        """
        if isinstance(value, Mapping):
            return {
                name: self.shown(item["digest"])
                if isinstance(item, Mapping)
                else (item if clear else self._digest(owner, name, item))
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [{**item, "digest": self.shown(item["digest"])} for item in value]
        return value

    def _digest(self, owner: str, name: str, value: str) -> str:
        text = "\0".join((owner, name, value)).encode()
        digest = hashlib.blake2b(text, key=self._read(), digest_size=4)
        return self.shown(digest.hexdigest())

    def shown(self, digest: str) -> str:
        """A digest that stands for a value, in a result."""
        return f"{HIDDEN} (new)" if self._is_first else shown(digest)

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


Secrets = Mapping[str, AbstractSet[str]]
"""Options with values to hide; of each, the suboptions that can be shown."""


def without_values(
    value: Any,
    secret: Secrets,
    known: Optional[AbstractSet[str]] = None,
    holders: AbstractSet[str] = frozenset(),
) -> Any:
    """The arguments of a module, which may be wrong, for Ansible's report of the invocation.

    With ``known``, values of all other options are hidden, as one may be a misspelled secret one.
    Values of ``holders`` are mappings: in another form, they may have secret options in their text.
    """
    if not isinstance(value, Mapping):
        if isinstance(value, (list, tuple)):
            return [without_values(item, secret, known, holders) for item in value]
        return value
    visible: Dict[str, Any] = {}
    for name, item in value.items():
        if name in secret or (known is not None and name not in known):
            visible[name] = _blank(item, secret.get(name, frozenset()))
        elif name in holders:
            mappings = _mappings(item)
            visible[name] = without_values(mappings, secret, known, holders)
        else:
            visible[name] = without_values(item, secret, known, holders)
    return visible


def _mappings(value: Any) -> Any:
    """A mapping or list of mappings; all else is hidden."""
    if isinstance(value, (list, tuple)):
        return [item if isinstance(item, Mapping) else _blank(item) for item in value]
    return value if isinstance(value, Mapping) else _blank(value)


def _blank(value: Any, visible: AbstractSet[str] = frozenset()) -> Any:
    if isinstance(value, (list, tuple)) and visible:
        return [
            {name: _shown(name, item, visible) for name, item in entry.items()}
            if isinstance(entry, Mapping)
            else _blank(entry)
            for entry in value
        ]
    if isinstance(value, Mapping):
        # A name that is wrong may have the value in it.
        return {name_part(str(name)) or HIDDEN: HIDDEN for name in value}
    return value if value is None else HIDDEN


def _shown(name: str, value: Any, visible: AbstractSet[str]) -> Any:
    plain = name in visible and not isinstance(value, (Mapping, list, tuple))
    return value if plain or value is None else HIDDEN


def hidden_values(value: Any, secret: Secrets) -> Iterator[str]:
    """The texts that ``without_values`` hides, encoded and decoded."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in secret:
                yield from _texts(item, secret[name])
            else:
                yield from hidden_values(item, secret)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from hidden_values(item, secret)


def _texts(value: Any, visible: AbstractSet[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        inner = [item for name, item in value.items() if name not in visible]
        for text in (text for item in inner for text in _texts(item, visible)):
            yield text
            if value.get("encoding") == "base64":
                with contextlib.suppress(ValueError):
                    yield base64.b64decode(text).decode()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item, visible)
    elif isinstance(value, str):
        yield value


class Discretion:
    """Takes values out of the message of an error that is a bug, and drops its causes."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = values

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if not isinstance(error, Exception):
            return
        texts = _chain(error)
        # A shorter one is part of other words, and tells nothing there.
        values = {value for value in self._values if len(value) >= _SHORTEST}
        forms = {form for value in values for form in (value, repr(value)[1:-1])}
        if any(form in text for text in texts for form in forms):
            message = texts[0]
            for form in sorted(forms, key=len, reverse=True):
                message = message.replace(form, HIDDEN)
            raise RuntimeError(message).with_traceback(trace) from None


def _chain(error: Optional[BaseException]) -> List[str]:
    """The messages that a traceback has, the last one first."""
    texts: List[str] = []
    while error is not None and len(texts) < 20:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return texts
