# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Numbers of projects: a host may have others, so ours are recorded before they are used.

A number of ours that no file carries any more is free; its limit is withdrawn by the next sweep.
"""

from __future__ import annotations

import os
import secrets
from typing import Dict, Iterator

from .. import store
from ..errors import HostError
from ..kernel import quotas
from ..site import Site
from .model import inodes

# A range that neither tools that count from 1 nor those that use ids of users reach.
FIRST, COUNT = 0x534C0000, 1 << 20
_TRIES = 1000


def recorded(site: Site) -> Dict[int, str]:
    """Our numbers, with the directory whose file system each counts on."""
    data = store.read(site.projects) or {}
    return {int(number): str(directory) for number, directory in data.get("ids", {}).items()}


def allocate(site: Site, directory: str, size: int) -> int:
    """A number that nobody else uses on the file system of ``directory``, with its limit set."""
    ours = sweep(site)
    taken = {*ours, *_declared(), *quotas.known(directory)}
    for dummy in range(_TRIES):
        number = FIRST + secrets.randbelow(COUNT)
        if number not in taken:
            break
    else:
        raise HostError("no number of a project is free", hint=f"look at repquota -P {directory}")
    _save(site, {**ours, number: directory})
    quotas.set_limits(directory, number, size, inodes(size))
    return number


def sweep(site: Site) -> Dict[int, str]:
    """Give back the numbers that no file carries; the others."""
    ours = recorded(site)
    left = {number: path for number, path in ours.items() if not _is_free(number, path)}
    if left != ours:
        _save(site, left)
    return left


def release(site: Site) -> None:
    """Withdraw all our limits, before the host forgets them."""
    for number, directory in recorded(site).items():
        if os.path.isdir(directory) and quotas.enforced(directory):
            quotas.set_limits(directory, number, 0, 0)
    store.remove(site.projects)


def _is_free(number: int, directory: str) -> bool:
    if not os.path.isdir(directory):
        return True
    if not quotas.enforced(directory) or quotas.limits(directory, number).inodes_used:
        return False
    quotas.set_limits(directory, number, 0, 0)
    return True


def _save(site: Site, ours: Dict[int, str]) -> None:
    if ours:
        os.makedirs(site.state, mode=0o700, exist_ok=True)
        store.write(site.projects, {"ids": {str(number): ours[number] for number in sorted(ours)}})
    else:
        store.remove(site.projects)


def _declared() -> Iterator[int]:
    """The numbers in projid(5), NAME:NUMBER."""
    try:
        with open(quotas.PROJID, encoding="utf-8", errors="replace") as handle:
            fields = [line.strip().split(":")[1:2] for line in handle]
    except FileNotFoundError:
        return
    yield from (int(number) for row in fields for number in row if number.isdigit())
