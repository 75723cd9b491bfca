# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads and writes state files: JSON with a schema version, replaced atomically, for root only.

A file with a spare is also replaced on a full disk: the spare holds an inode and blocks, takes the
new content and changes places with the file. Nobody else can take that room in between, as a
tenant could if we removed a file to make some.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from .errors import StateError
from .kernel import libc
from .kernel.files import NO_ROOM, pwrite_all, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping

    Json = Dict[str, Any]

# The second one is that of files about volumes for images: a version without them would start
# sandboxes without their data, and remove volumes with all else.
SCHEMA = 1
NEWEST = 2
# State files are much smaller; a larger file is refused.
MAX_SIZE = 1 << 26
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# No process lives longer than a boot.
_boot_id: list[str] = []
_BLOCK = 4096
_SECTOR = 512  # the unit of st_blocks (inode(7))
_RENAME_EXCHANGE = 2


def boot_id() -> str:
    if not _boot_id:
        with open(BOOT_ID, encoding="ascii") as handle:
            _boot_id.append(handle.read().strip())
    return _boot_id[0]


def read(path: str, *, hint: str = "") -> Json | None:
    """The object stored at ``path``, None without a file; StateError when it is unusable.

    ``hint`` is the hint of that error.
    """
    content = read_bytes(path, hint=hint)
    if content is None:
        return None
    try:
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        problem = f"{path} is not valid JSON: {error}"
        raise StateError(problem, hint=hint or _remedy(path)) from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise StateError(f"{path} is not a sandlot state file", hint=hint or _remedy(path))
    if data["schema"] > NEWEST:
        raise StateError(
            f"{path} has schema {data['schema']}, this sandlot knows {NEWEST}",
            hint="upgrade sandlot on this host to the version that wrote it",
        )
    return data


def read_bytes(path: str, *, hint: str = "", limit: int = MAX_SIZE) -> bytes | None:
    """The content of a regular file, None when it is missing; StateError for any other type.

    Opening a FIFO in its place would block, and a link could lead anywhere.
    """
    hint = hint or _remedy(path)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise
        raise StateError(f"{path} is not a regular file", hint=hint) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"{path} is not a regular file", hint=hint)
        if status.st_size > limit:
            raise StateError(f"{path} has {status.st_size} bytes, over {limit}", hint=hint)
        return _content(fd, status.st_size)
    except OSError as error:
        # An error of read(2) does not name the file.
        error.filename = error.filename or path
        raise
    finally:
        os.close(fd)


def _content(fd: int, size: int) -> bytes:
    chunks = []
    while size > 0:
        chunk = os.read(fd, size)
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _remedy(path: str) -> str:
    return f"restore {path} from a backup, or remove the object it describes and deploy again"


def write(
    path: str,
    data: Mapping[str, Any],
    *,
    durable: bool = True,
    spare: str = "",
    needed: bool = True,
) -> None:
    """Replace ``path`` atomically (write, fsync, rename, fsync of the directory), mode 0600.

    ``spare`` is the path of the file's spare, which is made as well. Without ``needed``, a full
    disk is no error, and the file stays as it was.
    """
    content = json_bytes(data)
    try:
        replace(path, content, durable=durable)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        if not (spare and _exchange(path, spare, content)) and needed:
            raise
        return
    if spare:
        keep_spare(spare, len(content))


def json_bytes(data: Mapping[str, Any]) -> bytes:
    return json.dumps({"schema": SCHEMA, **data}, sort_keys=True).encode() + b"\n"


def replace(
    path: str,
    content: bytes,
    *,
    mode: int = 0o600,
    durable: bool = True,
    suffix: str = ".new",
) -> None:
    """Replace a file atomically; on failure the old file stays, and no partial file is left.

    Writers that no lock keeps apart need a suffix of their own.
    """
    temporary = f"{path}{suffix}"
    try:
        _write_file(temporary, content, mode=mode, durable=durable)
        os.rename(temporary, path)
    except IsADirectoryError as error:
        unlink(temporary)
        raise _directory(path) from error
    except OSError as error:
        # An error of write(2) does not name the file.
        error.filename = error.filename or path
        unlink(temporary)
        raise
    if durable:
        sync_directory(os.path.dirname(path))


def _write_file(path: str, content: bytes, *, mode: int, durable: bool) -> None:
    unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        write_all(fd, content)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def keep_spare(path: str, size: int) -> None:
    """Make a spare for a file of ``size`` bytes, unless there is one or the disk is full."""
    size = -(-size // _BLOCK) * _BLOCK
    try:
        if os.stat(path, follow_symlinks=False).st_blocks * _SECTOR >= size:
            return
    except FileNotFoundError:
        pass
    try:
        _write_file(path, b" " * size, mode=0o600, durable=False)
    except OSError as error:
        unlink(path)
        if error.errno not in NO_ROOM:
            raise


def _exchange(path: str, spare: str, content: bytes) -> bool:
    """Write the spare in place, and let it and the file change places; False if it is too small."""
    try:
        fd = os.open(spare, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        status = os.fstat(fd)
        if status.st_blocks * _SECTOR < len(content):
            return False
        # Blanks after JSON mean nothing, and the file keeps its blocks.
        pwrite_all(fd, content.ljust(status.st_size), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    libc.renameat2(spare, path, _RENAME_EXCHANGE)
    sync_directory(os.path.dirname(path))
    return True


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    unlink(path)
    unlink(f"{path}.new")


def unlink(path: str) -> None:
    """Remove a file if it exists."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise _directory(path) from error


def _directory(path: str) -> StateError:
    return StateError(f"{path} is a directory", hint="remove it, and run again")
