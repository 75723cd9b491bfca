# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The file system in memory that holds the values of secrets: a ramfs, which is never swapped.

The host has one. It is mounted when the first secret is there, and goes with the last one. Running
sandboxes have parts of it mounted, which outlive it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Dict, List, Mapping, Sequence

from .. import store
from ..errors import ForeignError
from ..kernel import files, mountinfo, mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MS_PRIVATE
from ..kernel.trees import remove_entry, remove_tree
from ..site import SandboxPaths, Site
from .contents import Content
from .rest import make_directory

KIND = "ramfs"
_FLAGS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_NEW = ".new"


def device(site: Site) -> str:
    """The number of the file system as mountinfo has it, "" while it is not mounted.

    A sandbox whose mounts have another one got them from a file system that is gone.
    """
    try:
        number, outside = os.stat(site.secrets).st_dev, os.stat(site.run).st_dev
    except FileNotFoundError:
        return ""
    return "" if number == outside else f"{os.major(number)}:{os.minor(number)}"


def mount(site: Site) -> None:
    """Mount the file system, unless it is mounted."""
    number = device(site)
    if number:
        kinds = {seen: kind for seen, kind, dummy in mountinfo.seen_by("self")}
        if kinds.get(number) != KIND:
            hint = f"unmount it (umount {site.secrets}), and run again"
            raise ForeignError(f"{site.secrets} is a mount that is not sandlot's", hint=hint)
        return
    make_directory(site.secrets)
    fd = mounts.new_mount(KIND, {"mode": "0700"}, _FLAGS)
    try:
        mounts.attach(fd, site.secrets)
    finally:
        os.close(fd)
    # Shared with other namespaces of the host, as /run is under systemd, it would take over mounts.
    mounts.mount("none", site.secrets, flags=MS_PRIVATE)


def release(site: Site) -> None:
    """Empty the file system, which other namespaces may have too, and unmount it."""
    while device(site):
        for name in files.names(site.secrets):
            remove_entry(f"{site.secrets}/{name}")
        mounts.umount(site.secrets)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(site.secrets)


def release_empty(site: Site) -> None:
    """Unmount the file system once no sandbox has values in it."""
    if not files.names(site.secrets):
        release(site)


# -- one sandbox


def directories(sandbox: SandboxPaths) -> List[str]:
    """The directories of values, which a new value is added to."""
    return [f"{sandbox.memory}/content", f"{sandbox.memory}/env"]


def unfinished(sandbox: SandboxPaths) -> List[str]:
    """The file that a killed run was about to make or to share."""
    path = f"{sandbox.memory}/{_NEW}"
    return [path] if os.path.lexists(path) else []


def content_path(sandbox: SandboxPaths, content: Content) -> str:
    return sandbox.secret(content.digest, content.uid, content.gid, content.mode)


def put(sandbox: SandboxPaths, content: Content, value: bytes) -> None:
    path = content_path(sandbox, content)
    _write(sandbox, path, value, content.uid, content.gid, content.mode)


def put_variable(sandbox: SandboxPaths, digest: str, value: bytes) -> None:
    _write(sandbox, sandbox.secret_variable(digest), value, 0, 0, 0o600)


def _write(sandbox: SandboxPaths, path: str, value: bytes, uid: int, gid: int, mode: int) -> None:
    """Make a file as a whole; sandboxes see none that is half written."""
    make_directory(os.path.dirname(path))
    temporary = f"{sandbox.memory}/{_NEW}"
    store.unlink(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        files.write_all(fd, value)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    os.rename(temporary, path)


def share(sandbox: SandboxPaths, contents: Sequence[Content], root: int) -> None:
    """Make the directory that the sandbox has at /run/secrets; ``root`` owns it.

    Each name changes at once from the old value to the new one, also in running sandboxes.
    """
    wanted = {content.shared_name: content for content in contents if content.shared_name}
    if not wanted and not os.path.isdir(sandbox.named_secrets):
        return
    make_directory(sandbox.named_secrets)
    os.chmod(sandbox.named_secrets, 0o755)
    os.chown(sandbox.named_secrets, root, root)
    for name, content in wanted.items():
        if not _is_shared(sandbox, content):
            temporary = f"{sandbox.memory}/{_NEW}"
            store.unlink(temporary)
            os.link(content_path(sandbox, content), temporary)
            os.rename(temporary, f"{sandbox.named_secrets}/{name}")
    for name in set(files.names(sandbox.named_secrets)) - set(wanted):
        os.unlink(f"{sandbox.named_secrets}/{name}")


def _is_shared(sandbox: SandboxPaths, content: Content) -> bool:
    path = f"{sandbox.named_secrets}/{content.shared_name}"
    return os.path.exists(path) and os.path.samefile(path, content_path(sandbox, content))


def shared(sandbox: SandboxPaths) -> Dict[str, str]:
    """The secrets that the sandbox has at /run/secrets: the id of each name's content."""
    content = f"{sandbox.memory}/content"
    known = {os.stat(f"{content}/{name}").st_ino: name for name in files.names(content)}
    places = (
        (name, f"{sandbox.named_secrets}/{name}") for name in files.names(sandbox.named_secrets)
    )
    return {name: known.get(os.stat(path).st_ino, "") for name, path in places}


def is_placed(
    site: Site, sandbox: SandboxPaths, contents: Sequence[Content], variables: Mapping[str, str]
) -> bool:
    """Whether memory has all values, by their names."""
    if not device(site):
        return False
    wanted = {content.shared_name for content in contents if content.shared_name}
    return (
        all(os.path.exists(content_path(sandbox, content)) for content in contents)
        and all(os.path.exists(sandbox.secret_variable(each)) for each in variables.values())
        and set(files.names(sandbox.named_secrets)) == wanted
        and all(_is_shared(sandbox, content) for content in contents if content.shared_name)
    )


def remove(site: Site, sandbox: SandboxPaths) -> None:
    remove_tree(sandbox.memory)
    release_empty(site)
