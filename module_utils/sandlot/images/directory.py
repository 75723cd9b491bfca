# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "directory": an unpacked tree that the user keeps; sandlot only ever reads it."""

from __future__ import annotations

import hashlib
import os
import stat

from ..errors import SpecError
from ..host_paths import OURS
from ..spec.names import absolute_path
from ..spec.option import Option
from .model import Image, ImageSpec, Source
from .unpack import MOUNTPOINTS, is_mountpoint


def digest(spec: ImageSpec, known: Image | None = None) -> str:
    """A digest of names, types, modes, owners, sizes and ctimes; contents are not read."""
    path = spec.get("path")
    _check_tree(path)
    tree_digest = hashlib.sha256(f"directory 1\n{path}\n".encode("utf-8", "surrogateescape"))
    pending = [path]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat(follow_symlinks=False)
                size = status.st_size
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                    size = 0  # the file system's affair
                owner = f"{status.st_uid}:{status.st_gid}"
                shown = f"{status.st_mode:o} {owner} {size} {status.st_mtime_ns}"
                line = f"{entry.path[len(path) :]!r} {shown}\n"
                tree_digest.update(line.encode("utf-8", "surrogateescape"))
    return tree_digest.hexdigest()


def _check_tree(path: str) -> None:
    """Refuse a tree that the launcher would refuse at every start."""
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_directory = False
    if not is_directory:
        hint = "name a directory of the managed host that holds a root file system"
        raise SpecError("path", path, "is not a directory", hint=hint)
    for name in MOUNTPOINTS:
        inside = f"{path}/{name}"
        if os.path.lexists(inside) and not is_mountpoint(name, os.lstat(inside).st_mode):
            problem = f"has a {name} that is not a directory, and a sandbox mounts something there"
            raise SpecError("path", path, problem, hint="make it a directory")


def _check(option: str, spec: ImageSpec) -> None:
    path = spec.get("path")
    if path is None:
        raise SpecError(option, spec.name, "has no path", hint="name the directory")
    if path == "/":
        hint = "source host_overlay is for that, and hides the host's secrets"
        raise SpecError(f"{option}.path", path, "is the host's root", hint=hint)
    for own in OURS:
        if f"{path}/".startswith(f"{own}/") or own.startswith(f"{path}/"):
            hint = "keep the tree elsewhere"
            raise SpecError(f"{option}.path", path, f"is or holds {own}", hint=hint)


SOURCE = Source(
    description="an unpacked root file system on the host, never written to",
    digest=digest,
    layers=lambda spec: (spec.get("path"),),
    check=_check,
    options=(
        Option(
            "path",
            "path",
            absolute_path,
            [
                "Directory on the managed host. When something in it changes, the sandboxes that "
                "follow the image are restarted by the next run."
            ],
        ),
    ),
)
