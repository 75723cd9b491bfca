# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A cgroup for each machine, in each hierarchy: the root of its cgroup namespace."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
# Where processes are: version 2 hands controllers on to children only where there are none.
_LEAF = "init.scope"
_SETTINGS = ("cpuset.mems", "cpuset.cpus")
_JOIN = """\
while [ "$1" != -- ]; do
  echo $$ > "$1/cgroup.procs"
  shift
done
shift
exec "$@"
"""


def _hierarchies() -> dict[str, tuple[str, str]]:
    """The type and options of what is mounted below the usual directory."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place, (kind, _, options) = before.split()[4], after.split(" ")[:3]
        if kind.startswith("cgroup") and place.startswith(str(TOP)):
            own = [option for option in options.split(",") if option not in ("rw", "ro")]
            found[place] = (kind, ",".join(own) if kind == "cgroup" else "")
    return found


def mounts() -> list[str]:
    """Lines of a shell that mount the same hierarchies, below the root that it is in."""
    found = _hierarchies()
    lines = [] if str(TOP) in found else [f"mount -t tmpfs -o mode=0755 tmpfs .{TOP}\n"]
    for place, (kind, options) in found.items():
        named = options.replace("name=", "none,name=")
        lines.append(f"mkdir -p .{place}\n")
        lines.append(f"mount -t {kind} {f'-o {named}' if named else ''} cgroup .{place}\n")
        if kind == "cgroup2":
            lines.append(f"echo 0 > .{place}/{_LEAF}/cgroup.procs\n")
    return lines


def _leaves(name: str) -> list[Path]:
    return [
        Path(place, name, _LEAF if kind == "cgroup2" else "")
        for place, (kind, _) in _hierarchies().items()
    ]


def founding(name: str, command: list[str]) -> list[str]:
    """The words that run a command whose cgroups a new namespace takes for its roots."""
    return _in([Path(place, name) for place in _hierarchies()], command)


def joining(name: str, command: list[str]) -> list[str]:
    """The words that run a command where the machine has its processes."""
    return _in(_leaves(name), command)


def _in(directories: list[Path], command: list[str]) -> list[str]:
    return ["sh", "-euc", _JOIN, "sh", *map(str, directories), "--", *command]


def settle(name: str, pid: int) -> None:
    for leaf in _leaves(name):
        (leaf / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def made(machine: str) -> Iterator[str]:
    name = f"sandlot-newcomer-{os.getpid()}-{machine}"
    tops = [Path(place, name) for place in _hierarchies()]
    with contextlib.ExitStack() as stack:
        for top in tops:
            stack.callback(_remove, top)
            top.mkdir()
            for setting in _SETTINGS:
                if (top / setting).exists() and not (top / "cgroup.controllers").exists():
                    (top / setting).write_text((top.parent / setting).read_text())
        for leaf in _leaves(name):
            leaf.mkdir(exist_ok=True)
        yield name


def _remove(top: Path) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        os.rmdir(directory)
