# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of the workload: its command, user, environment and files."""

from __future__ import annotations

from ...plan import Change
from .. import confinement, names, text
from ..option import Option, Reach, strings
from .configuration import ENV

OPTIONS = (
    Option(
        "command",
        "raw",
        names.command,
        [
            "Command to run, appended to O(entrypoint). Without both, those of the image are used; "
            "a sandbox needs one of them.",
            "A list of arguments, or a string that is split into words as a shell does; "
            "no shell runs and nothing is expanded.",
        ],
        reaches={Reach.INIT},
        key="argv",
        change=Change.RESTART,
        default=[],
        dump=list,
    ),
    Option(
        "entrypoint",
        "raw",
        names.command,
        [
            "Program and arguments put before O(command); a list or a string, as there.",
            "Without it, that of the image is used. With it, the image's command is not.",
        ],
        reaches={Reach.INIT},
        key="argv",
        change=Change.RESTART,
        default=[],
        dump=list,
    ),
    ENV,
    Option(
        "working_dir",
        "str",
        names.absolute_path,
        [
            "Directory the workload starts in, an absolute path in the sandbox.",
            "Without it, that of the image, else V(/).",
        ],
        reaches={Reach.INIT, Reach.ROOT},
        key="cwd",
        change=Change.RESTART,
    ),
    Option(
        "user",
        "str",
        names.user,
        [
            "User of the workload in the sandbox, as V(USER) or V(USER:GROUP).",
            "Each is a name from the image or an id from 0 to 65535; quote ids with a colon.",
            "A group that is given is the only one; without it, the user has all of its groups.",
            "Without this option, the user of the image, else V(0).",
        ],
        reaches={Reach.CONFINEMENT},
        change=Change.RESTART,
    ),
    Option(
        "hostname",
        "str",
        names.hostname,
        [
            "Host name inside the sandbox.",
            "Defaults to O(name), with V(-) for each character a host name can't have.",
        ],
        reaches={Reach.NAMESPACES, Reach.HOSTS},
        change=Change.RESTART,
    ),
    Option(
        "tmpfs",
        "list",
        confinement.tmpfs,
        [
            "Filesystems in memory, each as V(PATH) or V(PATH:OPTIONS).",
            "Options are C(size=), C(nr_inodes=), C(mode=), C(uid=), C(gid=), C(exec) and "
            "C(tmpcopyup), separated by commas. They are mounted nosuid, nodev and, without "
            "C(exec), noexec.",
            "Links of the image on the way are followed inside the sandbox.",
            "They start empty, with C(tmpcopyup) with the files that the image has there. "
            "Without an entry for it, C(/tmp) is V(/tmp:exec,tmpcopyup), also on a read-only root.",
        ],
        reaches={Reach.ROOT},
        change=Change.RESTART,
        default=[],
        dump=strings,
        elements="str",
    ),
    Option(
        "read_only",
        "bool",
        text.flag,
        [
            "Whether the root filesystem is mounted read-only.",
            "C(/tmp), C(/run) and C(/var/tmp) are then file systems in memory, with the files that "
            "the image has there, unless O(tmpfs), O(volumes) or O(mounts) has an entry for them.",
        ],
        reaches={Reach.ROOT},
        change=Change.RESTART,
        default=False,
    ),
)
