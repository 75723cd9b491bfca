# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The root of a launch file as a list: the builder runs it, `sandlot explain` prints it."""

from __future__ import annotations

import os

from ..kernel.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID
from . import rootfs
from .cgroupfs import Cgroups
from .lxcfs import Lxcfs
from .machine_id import MachineId
from .operations import (
    FLAGS,
    HOST,
    HOST_MASK,
    HOST_REST,
    HOST_WAYS,
    LAYER,
    LOWER,
    MERGED,
    PUBLIC_HOST,
    SAFE,
    SAFE_READ_ONLY,
    SHOWN_HOST,
    Directory,
    File,
    Filesystem,
    JoinedSysfs,
    Link,
    Mask,
    OwnFiles,
    ReadOnly,
    ReadOnlyRoot,
)
from .stacking import CopiedUp, HostMask, Layer, Overlay, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

    from .mounting import Mounted
    from .operations import RootOperation

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
INODES = 96  # 64 of them for what is made in /dev inside
DEV_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
# The kernel has 4096 ptys in all (kernel.pty.max), which a few sandboxes must not exhaust.
DEVPTS = {"newinstance": "", "ptmxmode": "0666", "mode": "0620", "gid": "5", "max": "256"}
COPY_UP = "tmpcopyup"
# File systems in memory that a sandbox has by default, and with a read-only root (as Podman's
# --read-only-tmpfs).
DEFAULT = {"/tmp": COPY_UP}
FOR_READ_ONLY = {"/run": f"mode=755,{COPY_UP}", "/var/tmp": COPY_UP}
TMPFS = {"size": "256m", "mode": "1777", "nr_inodes": "100k"}


def plan(
    launch: Mapping[str, Any], shown: Sequence[str] = (), lxcfs: str = ""
) -> List[RootOperation]:
    """List the operations for the root of a launch file, in the order in which they run.

    ``shown`` are the hierarchies of cgroups that it shows, ``lxcfs`` is where that is mounted.
    """
    devices = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    granted = launch.get("devices", ())
    netns = launch.get("netns")
    sysfs = JoinedSysfs(netns) if netns else Filesystem("sysfs", "/sys", SAFE_READ_ONLY)
    targets = {entry["target"] for entry in launch.get("mounts", ())}
    return [
        *stack(launch),
        MachineId(),
        Filesystem("proc", "/proc", SAFE),
        sysfs,
        OwnFiles(DEVICES, launch["ids"], INODES + 4 * len(granted)),
        *([Cgroups(shown)] if shown else []),
        *(Link(name, target) for name, target in DEV_LINKS.items()),
        Filesystem("devpts", "/dev/pts", devices, DEVPTS),
        Filesystem("tmpfs", "/dev/shm", SAFE, {"mode": "1777", "size": "64m"}),
        Filesystem("mqueue", "/dev/mqueue", SAFE),
        *(_host_devices(launch) if granted else []),
        *(ReadOnly(path) for path in launch["readonly"]),
        *(Mask(path) for path in launch["masked"]),
        *([Lxcfs(lxcfs)] if launch.get("lxcfs") else []),
        *(_log_files() if launch.get("log_files") else []),
        *_mounted(launch),
        *(File(path, source) for path, source in launch["files"].items() if path not in targets),
        *(Directory(path) for path in launch.get("directories", ()) if path not in targets),
        Directory(launch["cwd"]),
        *([ReadOnlyRoot(set_id=_allows_set_id(launch))] if launch["read_only"] else []),
    ]


def _host_devices(launch: Mapping[str, Any]) -> List[RootOperation]:
    from .host_devices import HostDevices

    return [HostDevices(launch["devices"], launch["ids"])]


def _log_files() -> List[RootOperation]:
    # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
    from .log_files import LogFiles

    return [LogFiles()]


def stack(launch: Mapping[str, Any]) -> List[RootOperation]:
    """List the operations up to the merged tree, which host root mounts."""
    operations, lowers = _trees(launch)
    merged = Overlay(
        MERGED, lowers, LAYER, user=launch["ids"]["uid"], set_id=_allows_set_id(launch)
    )
    return [*operations, _layer(launch), merged]


def view(launch: Mapping[str, Any]) -> List[RootOperation]:
    """List the operations up to a merged tree to read from, while the sandbox may be running."""
    if launch.get("tmpfs_root"):
        return stack(launch)
    operations, lowers = _trees(launch)
    # The layer is one more tree: its work directory has one user at most.
    return [*operations, _layer(launch), Overlay(MERGED, [f"{LAYER}/upper", *lowers])]


def _layer(launch: Mapping[str, Any]) -> RootOperation:
    options = _parsed(launch.get("tmpfs_root", ""))
    return Layer(os.path.dirname(launch["upper"]), options, launch["ids"])


def _trees(launch: Mapping[str, Any]) -> Tuple[List[RootOperation], List[str]]:
    """The operations for the trees of the image, and where each one is, topmost first."""
    ids, choice = launch["ids"], launch.get("host_root")
    mapped = ids if launch["idmap"] else None
    operations: List[RootOperation] = []
    lowers = []
    for number, path in enumerate(lower_paths(launch)):
        lowers.append(f"{LOWER}{number}")
        operations.append(Tree(path, lowers[-1], mapped))
    if choice:
        # Overlays of their own also because the kernel refuses a writable layer within a lower
        # layer (ovl_check_layer), and ours is within the host's root. It compares within one file
        # system only.
        operations += [
            *(Tree("/", HOST, mapped), HostMask(HOST_MASK, "mask", ids, choice)),
            HostMask(HOST_REST, "rest", ids, choice),
            Overlay(PUBLIC_HOST, [HOST_REST, HOST], unprivileged=True),
        ]
        lowers.append(HOST_MASK)
        if choice.get("show"):
            operations.append(HostMask(HOST_WAYS, "ways", ids, choice))
            operations.append(Overlay(SHOWN_HOST, [HOST_WAYS, HOST]))
            lowers.append(SHOWN_HOST)
        lowers.append(PUBLIC_HOST)
    return operations, lowers


def _allows_set_id(launch: Mapping[str, Any]) -> bool:
    return not launch.get("no_new_privileges", True)


def lower_paths(launch: Mapping[str, Any]) -> List[str]:
    """The trees of the image, topmost first; launch files of the first version have one root."""
    lower = launch["lower"]
    return [lower] if isinstance(lower, str) else list(lower)


def _mounted(launch: Mapping[str, Any]) -> Iterator[RootOperation]:
    """Yield the file systems in memory and other mounts, in an order in which none hides another.

    Those in memory that are there by default keep the image's files.
    """
    entries = {entry["target"]: entry for entry in launch.get("mounts", ())}
    default = {**DEFAULT, **(FOR_READ_ONLY if launch["read_only"] else {})}
    taken = {*launch["tmpfs"], *entries}
    default = {path: words for path, words in default.items() if path not in taken}
    words = {path: entry["options"] for path, entry in entries.items() if "options" in entry}
    memory = {**default, **launch["tmpfs"], **words}
    of_host = [entry for path, entry in entries.items() if path not in words]
    tops: Dict[str, Mounted] = {}
    if of_host:
        # Imported here, in a process that ends soon: sandboxes share the memory of the launcher.
        from .mounting import MemoryInside, Mounted, Stage

        yield Stage()
    for path in sorted({*memory, *entries}, key=lambda path: (path.count("/"), path)):
        around = [top for top in tops if path.startswith(f"{top}/")]
        below = tops[max(around, key=len)] if around else None
        if path in memory:
            made = tmpfs(path, memory[path], launch["ids"], asked=path not in default)
            yield MemoryInside(made, below) if below else made
            continue
        tops[path] = Mounted(entries[path], len(tops), launch["ids"], below)
        yield tops[path]


def tmpfs(path: str, words: str, ids: Mapping[str, int], *, asked: bool) -> Filesystem:
    options, flags = dict(TMPFS), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    for key, value in _parsed(words).items():
        if key in FLAGS:
            flags |= FLAGS[key]
        elif key == "exec":
            flags &= ~MOUNT_ATTR_NOEXEC
        elif key not in ("rw", COPY_UP):
            options[key] = value
    if COPY_UP not in _parsed(words):
        return Filesystem("tmpfs", path, flags, options)
    return CopiedUp(path, flags, options, ids, asked=asked)


def _parsed(words: str) -> Dict[str, str]:
    return dict(word.partition("=")[::2] for word in words.split(",") if word)


def apply(operations: Sequence[RootOperation], root: int) -> None:
    for operation in operations:
        if operation.first:
            operation.apply(root)
    # Not earlier: the kernel allows new proc and sysfs mounts only while complete ones are visible.
    # Not later: ".." of the new root leads into the old root, which is mounted over it.
    rootfs.detach_old_root(root)
    for operation in operations:
        if not operation.first:
            operation.apply(root)
