# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The options of `sandlot run` that are options of its sandbox, by the names of podman run.

The table of those options takes too long to import for a command line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Tuple

_MANY: Mapping[str, Any] = {"action": "append"}
_FLAG: Mapping[str, Any] = {"action": "store_true", "default": None}


class Row:
    """``option`` is one of a sandbox, whose value is the text as it is given."""

    __slots__ = ("option", "names", "text", "settings")

    def __init__(
        self, option: str, *names: str, text: str, metavar: str = "", **settings: Any
    ) -> None:
        self.option = option
        self.names = names
        self.text = text
        self.settings = {**settings, **({"metavar": metavar} if metavar else {})}


OPTIONS: Tuple[Row, ...] = (
    Row("entrypoint", "--entrypoint", text="in place of the image's", metavar="COMMAND"),
    Row("working_dir", "-w", "--workdir", text="working directory inside", metavar="DIR"),
    Row("user", "-u", "--user", text="USER[:GROUP], names or numbers"),
    Row("hostname", "--hostname", text="host name inside", metavar="NAME"),
    Row(
        "network_mode",
        "--network",
        text="a network, none, container:NAME of a sandbox, or ns:PATH; none if not given",
        metavar="NETWORK",
    ),
    Row("memory", "-m", "--memory", text="memory, as 64m", metavar="SIZE"),
    Row("memory_swap", "--memory-swap", text="memory and swap together", metavar="SIZE"),
    Row("cpus", "--cpus", text="processors, as 0.5", metavar="NUMBER"),
    Row("cpu_shares", "--cpu-shares", text="weight among others, 1024 by default", metavar="N"),
    Row("cpuset_cpus", "--cpuset-cpus", text="processors to run on, as 0-3", metavar="CPUS"),
    Row("pids_limit", "--pids-limit", text="the most processes", metavar="N"),
    Row("ulimits", "--ulimit", text="NAME=SOFT:HARD", metavar="LIMIT", **_MANY),
    Row("disk_size", "--disk-size", text="the most that it can write to disk", metavar="SIZE"),
    Row("read_only", "--read-only", text="mount its root read-only", **_FLAG),
    Row("tmpfs", "--tmpfs", text="PATH[:OPTIONS], a file system in memory", **_MANY),
    Row("volumes", "-v", "--volume", text="SOURCE:TARGET[:ro]", metavar="VOLUME", **_MANY),
    Row("devices", "--device", text="a device of the host", metavar="DEVICE", **_MANY),
    Row("capabilities", "--cap-add", text="a capability", metavar="NAME", **_MANY),
    Row("security_profile", "--security-profile", text="strict or daemon", metavar="NAME"),
    Row("seccomp_profile", "--seccomp-profile", text="as of sandboxes", metavar="NAME"),
)
