# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of storage: volumes and other mounts."""

from __future__ import annotations

from functools import partial
from typing import Any, Tuple

from ...plan import Change
from .. import mounts, quantities, text
from ..option import Option, Reach, read, strings
from ..values import Mount

MOUNT_FIELDS = (
    Option(
        "type",
        "str",
        partial(text.choice, choices=mounts.TYPES),
        ["V(volume), a path of the host (V(bind)), or a file system in memory (V(tmpfs))."],
        default=mounts.VOLUME,
        choices=mounts.TYPES,
    ),
    Option("target", "str", mounts.target, ["Absolute path in the sandbox."], required=True),
    Option("source", "str", text.line, ["Name of the volume, or path of the host."]),
    Option("read_only", "bool", text.flag, ["Whether nobody in the sandbox may write there."]),
    Option("no_exec", "bool", text.flag, ["Whether no program may be started from there."]),
    Option(
        "no_copy",
        "bool",
        text.flag,
        ["Whether an empty volume stays empty, and does not take the files of the image there."],
    ),
    Option("subpath", "str", mounts.subpath, ["Directory in the volume that is mounted."]),
    Option(
        "propagation",
        "str",
        partial(text.choice, choices=mounts.PROPAGATIONS),
        [
            "Whether mounts that the host makes below the source later appear in the sandbox, with "
            "the flags that they have on the host.",
            "With V(rslave) and V(slave) they do; with V(rprivate), the default, and V(private) "
            "they don't.",
        ],
        choices=tuple(mounts.PROPAGATIONS),
    ),
    Option(
        "idmap",
        "bool",
        text.flag,
        [
            "Whether a bind mount has the ids inside, as a volume: root of the sandbox is then "
            "root (0) in the files of the host.",
        ],
    ),
    Option(
        "tmpfs_size",
        "str",
        partial(quantities.size, minimum=4096),
        ["Size of the tmpfs, as V(64m)."],
        numeric=True,
    ),
    Option("tmpfs_mode", "str", text.line, ["Mode of the tmpfs in octal, as V('1777')."]),
    Option(
        "tmpfs_options",
        "list",
        text.lines,
        ["Further options of the tmpfs, as in O(tmpfs)."],
        elements="str",
    ),
)


def _mounts(option: str, value: Any) -> Tuple[Mount, ...]:
    items = enumerate(text.sequence(option, value))
    return mounts.ordered(option, (_mount(f"{option}[{index}]", item) for index, item in items))


def _mount(option: str, value: Any) -> Mount:
    fields = read(MOUNT_FIELDS, text.mapping(option, value), f"{option}.")
    return mounts.checked(option, fields)


OPTIONS = (
    Option(
        "volumes",
        "list",
        mounts.short,
        [
            "Volumes and paths of the host, each as V(SOURCE:TARGET) or V(SOURCE:TARGET:WORDS).",
            "A source with a leading slash is a path of the host, which is listed in C(relaxed); "
            "another one is the name of a volume, which is made if it does not exist.",
            "Words, separated by commas, are C(ro), C(rw), C(noexec), for volumes C(nocopy), for "
            "paths of the host C(idmap) and those of O(mounts[].propagation).",
        ],
        reaches={Reach.ROOT},
        key="mounts",
        change=Change.LIVE,
        default=[],
        dump=strings,
        elements="str",
        later=True,
        check=mounts.check_targets,
    ),
    Option(
        "mounts",
        "list",
        _mounts,
        [
            "Mounts beside those of O(volumes), in the notation of docker_container.",
            "All are mounted nosuid and nodev. Links of the image on the way to a target are "
            "followed inside the sandbox.",
        ],
        reaches={Reach.ROOT},
        change=Change.LIVE,
        default=[],
        dump=lambda listed: [mounts.dump(mount) for mount in listed],
        elements="dict",
        suboptions=MOUNT_FIELDS,
        later=True,
    ),
)
