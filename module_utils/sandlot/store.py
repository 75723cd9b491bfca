# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""State files: JSON with a schema version, replaced atomically, written for root only."""

from __future__ import annotations

import json
import os

from .errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping

    Json = Dict[str, Any]

SCHEMA = 1
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    with open(BOOT_ID, encoding="ascii") as handle:
        return handle.read().strip()


def read(path: str) -> Json | None:
    """The object stored at ``path``, None when there is no file; StateError when it is unusable."""
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        # Reading names no file.
        error.filename = error.filename or path
        raise
    except (ValueError, UnicodeDecodeError) as error:
        raise StateError(f"{path} is not valid JSON: {error}", hint=_remedy(path)) from error
    return _checked(path, data)


def _checked(path: str, data: object) -> Json:
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise StateError(f"{path} is not a sandlot state file", hint=_remedy(path))
    if data["schema"] > SCHEMA:
        raise StateError(
            f"{path} has schema {data['schema']}, this sandlot knows {SCHEMA}",
            hint="upgrade sandlot on this host to the version that wrote it",
        )
    return data


def _remedy(path: str) -> str:
    return f"restore {path} from a backup, or remove the object it describes and deploy again"


def write(path: str, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace ``path`` atomically (write, fsync, rename, fsync of the directory), mode 0600."""
    replace(path, json_bytes(data), durable=durable)


def json_bytes(data: Mapping[str, Any]) -> bytes:
    return json.dumps({"schema": SCHEMA, **data}, sort_keys=True).encode() + b"\n"


def replace(path: str, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a whole file atomically; on failure the old file stays and no partial one is left."""
    temporary = f"{path}.new"
    try:
        _write_file(temporary, content, mode=mode, durable=durable)
        os.rename(temporary, path)
    except OSError as error:
        # What is written through a descriptor names no file.
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
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


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
    """Remove a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
