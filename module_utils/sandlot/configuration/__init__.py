# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Contents of files, secrets and secret variables on the host: at rest, and in memory.

A run keeps new contents before it writes the record that names them, and places them before a start
or a live change. Both only add. The rest is tidied up once the run has settled.
"""

from __future__ import annotations

import os
from typing import List

from .. import store
from ..errors import StateError
from ..kernel import files as kernel_files
from ..kernel.trees import remove_tree
from ..sandbox.record import Record
from ..site import Site
from . import contents, memory, rest
from .contents import has_contents, has_secrets

__all__ = [
    "has_contents",
    "has_secrets",
    "is_kept",
    "is_placed",
    "is_tidy",
    "keep",
    "missing",
    "place",
    "remove",
    "tidy",
]


def missing(site: Site, record: Record) -> List[str]:
    """Contents that neither the record brings nor the host has, in words for messages.

    A run that has no values itself, such as a boot, can start no sandbox that misses any.
    """
    sandbox, values = site.sandbox(record.name), contents.given(record.spec)
    secrets = {entry.what: entry.digest for entry in contents.secrets(record)}
    secrets.update(contents.variables(record))
    return [
        *(
            entry.what
            for entry in contents.files(record)
            if entry.digest not in values and not rest.has_file(sandbox, entry.digest)
        ),
        *(
            what
            for what, digest in secrets.items()
            if digest not in values and not rest.has_secret(sandbox, digest)
        ),
    ]


def keep(site: Site, record: Record) -> None:
    """Write the contents that the record brings to where they outlive a boot."""
    sandbox, values = site.sandbox(record.name), contents.given(record.spec)
    for entry in contents.files(record):
        path = rest.file_path(sandbox, entry)
        if not os.path.lexists(path):
            content = values.get(entry.digest)
            content = (
                rest.read_file(sandbox, entry.what, entry.digest) if content is None else content
            )
            rest.write(path, content, uid=entry.uid, gid=entry.gid, mode=entry.mode)
    for digest in _secret_digests(record):
        if digest in values and not rest.has_secret(sandbox, digest):
            rest.write_secret(site, sandbox, digest, values[digest])


def is_kept(site: Site, record: Record) -> bool:
    """Whether all contents that this run brings are where they outlive a boot."""
    sandbox, values = site.sandbox(record.name), contents.given(record.spec)
    return all(
        os.path.lexists(rest.file_path(sandbox, entry))
        for entry in contents.files(record)
        if entry.digest in values
    ) and all(
        rest.has_secret(sandbox, digest) for digest in _secret_digests(record) if digest in values
    )


def is_placed(site: Site, record: Record) -> bool:
    """Whether the host has all that a start needs, in its place."""
    sandbox = site.sandbox(record.name)
    if not all(os.path.exists(rest.file_path(sandbox, each)) for each in contents.files(record)):
        return False
    if not has_secrets(record):
        return True
    secrets, variables = contents.secrets(record), contents.variables(record)
    return memory.is_placed(site, sandbox, secrets, variables)


def place(site: Site, record: Record) -> None:
    """Fill memory with the values of a record; StateError for one that can't be had.

    A value that the record brings replaces one at rest that can't be read any more.
    """
    keep(site, record)
    if not has_secrets(record):
        return
    sandbox, values = site.sandbox(record.name), contents.given(record.spec)
    memory.mount(site)
    secrets = contents.secrets(record)

    def value(what: str, digest: str) -> bytes:
        try:
            return rest.read_secret(site, sandbox, what, digest)
        except StateError:
            if digest not in values:
                raise
            rest.write_secret(site, sandbox, digest, values[digest])
            return values[digest]

    for entry in secrets:
        if not os.path.exists(memory.content_path(sandbox, entry)):
            memory.put(sandbox, entry, value(entry.what, entry.digest))
    for what, digest in contents.variables(record).items():
        if not os.path.exists(sandbox.secret_variable(digest)):
            memory.put_variable(sandbox, digest, value(what, digest))
    memory.share(sandbox, secrets, record.ids.start)


def is_tidy(site: Site, record: Record) -> bool:
    """Whether nothing is left that the record does not name."""
    idle = not has_secrets(record) and os.path.isdir(site.sandbox(record.name).memory)
    return not idle and not _surplus(site, record)


def tidy(site: Site, record: Record) -> None:
    """Remove what the record does not name; the caller knows that nothing goes back to it."""
    sandbox = site.sandbox(record.name)
    for path in _surplus(site, record):
        store.unlink(path)
    for directory, due in (
        (sandbox.files, bool(record.spec.files)),
        (sandbox.stored_secrets, has_secrets(record)),
    ):
        if not due and os.path.isdir(directory):
            os.rmdir(directory)
    if not has_secrets(record) and os.path.isdir(sandbox.memory):
        memory.remove(site, sandbox)


def _surplus(site: Site, record: Record) -> List[str]:
    """Files that the record does not name; few sandboxes have or had any."""
    sandbox = site.sandbox(record.name)
    tops = (sandbox.files, sandbox.stored_secrets, sandbox.memory)
    if not any(map(os.path.isdir, tops)):
        return []
    places = [sandbox.files, sandbox.stored_secrets, *memory.directories(sandbox)]
    present = [f"{place}/{name}" for place in places for name in kernel_files.names(place)]
    wanted = {rest.file_path(sandbox, entry) for entry in contents.files(record)}
    wanted |= {memory.content_path(sandbox, entry) for entry in contents.secrets(record)}
    wanted |= {sandbox.secret_variable(each) for each in contents.variables(record).values()}
    for digest in _secret_digests(record):
        wanted.update(rest.secret_paths(sandbox, digest))
    return [path for path in [*present, *memory.unfinished(sandbox)] if path not in wanted]


def remove(site: Site, name: str) -> None:
    """Remove all contents of a sandbox, also of one without a record."""
    sandbox = site.sandbox(name)
    memory.remove(site, sandbox)
    remove_tree(sandbox.files)
    remove_tree(sandbox.stored_secrets)


def _secret_digests(record: Record) -> List[str]:
    secrets = (entry.digest for entry in contents.secrets(record))
    return [*secrets, *contents.variables(record).values()]
