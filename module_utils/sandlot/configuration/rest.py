# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Contents at rest, below the directory of the sandbox: files as they are, secrets encrypted.

Each has the name of its digest, so that a new one never takes the place of an old one.
"""

from __future__ import annotations

import os
from typing import Set, Tuple

from .. import store
from ..errors import StateError
from ..kernel import files as kernel_files
from ..kernel.files import write_all
from ..site import SandboxPaths, Site
from . import credentials
from .contents import Content

ENCRYPTED = ".cred"
_NEW = ".new"
_GONE = "deploy it again, with the content"


def names(directory: str) -> Set[str]:
    """The names in a directory of contents, without what a killed run left half written."""
    return {name for name in kernel_files.names(directory) if not name.startswith(_NEW)}


def make_directory(path: str) -> None:
    """Make a directory, and those above, for root only: os.makedirs gives them no mode."""
    if not os.path.isdir(path):
        make_directory(os.path.dirname(path))
        os.mkdir(path, 0o700)


def write(path: str, content: bytes, *, uid: int = 0, gid: int = 0, mode: int = 0o600) -> None:
    """Make a file as a whole, or not at all."""
    directory, name = os.path.split(path)
    make_directory(directory)
    temporary = f"{directory}/{_NEW}-{name}"
    store.unlink(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600)
        try:
            write_all(fd, content)
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        # An error of write(2) does not name the file.
        error.filename = error.filename or path
        store.unlink(temporary)
        raise
    store.sync_directory(directory)


# -- files


def file_path(sandbox: SandboxPaths, content: Content) -> str:
    return sandbox.file(content.digest, content.uid, content.gid, content.mode)


def has_file(sandbox: SandboxPaths, digest: str) -> bool:
    """Whether a file has the content, with any owner and mode."""
    return any(name.startswith(f"{digest}-") for name in names(sandbox.files))


def read_file(sandbox: SandboxPaths, what: str, digest: str) -> bytes:
    for name in sorted(names(sandbox.files)):
        if name.startswith(f"{digest}-"):
            return store.read_bytes(f"{sandbox.files}/{name}", hint=_GONE) or b""
    raise _missing(sandbox, what)


# -- secrets


def secret_paths(sandbox: SandboxPaths, digest: str) -> Tuple[str, str]:
    """The two paths that a value may have: as it is, and encrypted."""
    path = f"{sandbox.stored_secrets}/{digest}"
    return path, f"{path}{ENCRYPTED}"


def has_secret(sandbox: SandboxPaths, digest: str) -> bool:
    return any(map(os.path.lexists, secret_paths(sandbox, digest)))


def write_secret(site: Site, sandbox: SandboxPaths, digest: str, value: bytes) -> None:
    """Write a value, encrypted if the host can; `sandlot doctor` tells why it can't."""
    plain_path, encrypted_path = secret_paths(sandbox, digest)
    encrypted = b""
    if credentials.available(site):
        encrypted, dummy = credentials.encrypt(site, digest, value)
    if encrypted:
        write(encrypted_path, encrypted)
        store.unlink(plain_path)
    else:
        write(plain_path, value)
        store.unlink(encrypted_path)


def read_secret(site: Site, sandbox: SandboxPaths, what: str, digest: str) -> bytes:
    plain_path, encrypted_path = secret_paths(sandbox, digest)
    value = store.read_bytes(plain_path, hint=_GONE)
    if value is not None:
        return value
    encrypted = store.read_bytes(encrypted_path, hint=_GONE)
    if encrypted is None:
        raise _missing(sandbox, what)
    try:
        return credentials.decrypt(site, digest, encrypted)
    except StateError as error:
        error.name(f"{sandbox.name}: {what}")
        raise


def _missing(sandbox: SandboxPaths, what: str) -> StateError:
    return StateError(f"{sandbox.name}: this host does not have the {what}", hint=_GONE)
