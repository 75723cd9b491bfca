# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Brings the contents of one sandbox of a host to another one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Callable, Tuple, TypeVar

from ..errors import StateError
from ..site import Site
from ..spec import Spec
from ..spec.values import Placed, Sealed
from . import rest

Entry = TypeVar("Entry", bound=Placed)


def filled(site: Site, source: str, spec: Spec) -> Spec:
    """The spec with the contents that sandbox ``source`` has, in place of its digests.

    The spec is then one of a run that brings them: it gets digests of its own.
    """
    copy = _Copy(site, source)
    return replace(
        spec,
        files=copy.entries(spec.files, "file"),
        secrets=copy.entries(spec.secrets, "secret"),
        env=tuple(
            (name, copy.secret(f"env {name}", item) if isinstance(item, Sealed) else item)
            for name, item in spec.env
        ),
    )


class _Copy:
    def __init__(self, site: Site, source: str) -> None:
        self.site = site
        self.sandbox = site.sandbox(source)

    def entries(self, entries: Tuple[Entry, ...], kind: str) -> Tuple[Entry, ...]:
        read = self.file if kind == "file" else self.secret
        return tuple(
            replace(entry, content=read(f"{kind} {entry.key}", entry.content)) for entry in entries
        )

    def file(self, what: str, content: Sealed) -> Sealed:
        return self._value(content, partial(rest.read_file, self.sandbox, what, content.digest))

    def secret(self, what: str, content: Sealed) -> Sealed:
        read = partial(rest.read_secret, self.site, self.sandbox, what, content.digest)
        return self._value(content, read)

    @staticmethod
    def _value(content: Sealed, read: Callable[[], bytes]) -> Sealed:
        if content.value is not None:
            return content
        try:
            return Sealed(value=read())
        except StateError as error:
            # A snapshot knows the contents of its time, and the host has those of now.
            error.hint = "give it in the options of the clone"
            raise
