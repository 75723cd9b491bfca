# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox's root is stacked from, opened on the host as detached mounts."""

from __future__ import annotations

import os

from ..kernel import mounts
from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Mapping, Optional
_READ_ONLY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV


class Opened:
    """Detached mounts: the image's layers, topmost first, and the host's root with its veil."""

    def __init__(self, layers: List[int], host: Optional[int], veil: Optional[int]) -> None:
        self.layers = layers
        self.host = host
        self.veil = veil


def opened(launch: Mapping[str, Any], userns: int) -> Opened:
    """Shared trees, id-mapped to the sandbox's range instead of copied."""
    mapped = userns if launch["idmap"] else None
    layers = [_read_only(path, mapped) for path in paths(launch)]
    choice = launch.get("host_root")
    if not choice:
        return Opened(layers, None, None)
    # Only here, as the launcher's memory is every sandbox's; this process is a disposable one.
    from . import host_mask

    return Opened(layers, _read_only("/", mapped), host_mask.veil(launch["ids"], choice))


def paths(launch: Mapping[str, Any]) -> List[str]:
    """Files of the first version name one tree."""
    lower = launch["lower"]
    return [lower] if isinstance(lower, str) else list(lower)


def _read_only(path: str, userns: Optional[int]) -> int:
    fd = mounts.clone_tree(path)
    mounts.set_attributes(fd, _READ_ONLY, userns=userns)
    return fd


def layer(launch: Mapping[str, Any]) -> int:
    """The writable layer: the sandbox's own on disk, or a fresh one in memory for each start."""
    options = launch.get("tmpfs_root", "")
    if not options:
        return mounts.clone_tree(os.path.dirname(launch["upper"]))
    fd = mounts.new_mount("tmpfs", _words(options), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    os.mkdir("work", 0o700, dir_fd=fd)
    os.mkdir("upper", 0o700, dir_fd=fd)
    os.chown("upper", launch["ids"]["uid"], launch["ids"]["gid"], dir_fd=fd)
    # After chown, which clears set-id bits.
    os.chmod("upper", tmpfs_mode(options), dir_fd=fd)
    return fd


def tmpfs_mode(options: str) -> int:
    """The mode of the sandbox's root, which is a directory of the file system in memory."""
    return int(_words(options).get("mode", "755"), 8)


def _words(options: str) -> Mapping[str, str]:
    return dict(word.partition("=")[::2] for word in options.split(","))
