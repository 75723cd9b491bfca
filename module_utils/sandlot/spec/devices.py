# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option devices, in docker's notation: path on the host, path inside, access."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .names import absolute_path
from .text import refusal, sequence, text, unique

MOST = 32
ALL = "rwm"
_ACCESS = re.compile(r"[rwm]{1,3}")
# Nodes and directories of every sandbox.
_OWN = re.compile(
    r"/dev/(?:null|zero|full|random|urandom|tty|ptmx|console|stdin|stdout|stderr"
    r"|(?:fd|pts|shm|mqueue)(?:/.*)?)"
)
# Links to what a process of ours has open.
_OF_PROCESSES = re.compile(r"/proc/.*|/dev/(?:fd/.*|stdin|stdout|stderr)")


@dataclass(frozen=True)
class Device:
    """A node of the host and its place below the sandbox's /dev; ``access`` is of r, w and m."""

    source: str
    path: str
    access: str = ALL

    def __str__(self) -> str:
        if self.access != ALL:
            return f"{self.source}:{self.path}:{self.access}"
        return self.source if self.path == self.source else f"{self.source}:{self.path}"


def devices(option: str, value: Any) -> tuple[Device, ...]:
    """Devices sorted by their path inside; a node can't be below another one."""
    items = sequence(option, value)
    parsed = [_device(f"{option}[{index}]", item) for index, item in enumerate(items)]
    if len(parsed) > MOST:
        raise refusal(option, len(parsed), f"devices are more than {MOST}", hint="list fewer")
    unique(option, (device.path for device in parsed), what="path inside")
    paths = {device.path for device in parsed}
    for device in parsed:
        parts = device.path.split("/")
        above = {"/".join(parts[:count]) for count in range(3, len(parts))} & paths
        if above:
            problem = f"is below {above.pop()}, another device"
            raise refusal(option, device.path, problem, hint="give one of them another path inside")
    return tuple(sorted(parsed, key=lambda device: device.path))


def _device(option: str, value: Any) -> Device:
    """Paths may have colons, as those of /dev/disk/by-path: a part is a path or the access."""
    whole, access = text(option, value), ALL
    head, colon, last = whole.rpartition(":")
    if colon and "/" not in last:
        if not _ACCESS.fullmatch(last):
            hint = "write HOST_PATH:PATH_INSIDE:MODE, with a mode of r, w and m such as rw"
            raise refusal(option, value, "has no valid mode", hint=hint)
        whole, access = head, "".join(letter for letter in ALL if letter in last)
    if access == "m":
        hint = "use r, w or both: nodes can't be made inside, so m alone gives nothing"
        raise refusal(option, value, "gives neither reading nor writing", hint=hint)
    source, colon, inside = whole.partition(":/")
    source = absolute_path(option, source, hint="write the node's path on the host, like /dev/fuse")
    if _OF_PROCESSES.fullmatch(source):
        problem = "is another file for each process"
        raise refusal(option, value, problem, hint="name the device node itself")
    path = absolute_path(option, f"/{inside}") if colon else source
    if not path.startswith("/dev/"):
        hint = "end it with :/dev/NAME, the path inside"
        raise refusal(option, value, "has a path inside that is not below /dev", hint=hint)
    if _OWN.fullmatch(path):
        hint = "leave it out, or give it another path inside"
        raise refusal(option, value, f"would replace {path} of the sandbox's own", hint=hint)
    return Device(source, path, access)
