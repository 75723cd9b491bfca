# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""How often the kernel killed in a sandbox for memory, over the lives of its cgroup.

The kernel counts from zero in each new cgroup, as after a boot. What it had counted is kept when a
sandbox starts and when it stops.
"""

from __future__ import annotations

from .. import store
from ..errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple

    from ..site import SandboxPaths

# Version 2 and version 1.
_FILES = ("memory.events", "memory.oom_control")


def note(sandbox: SandboxPaths, directories: Sequence[str]) -> None:
    """Keep what the cgroup in these directories has counted."""
    live = _live(directories)
    before, last = _kept(sandbox)
    if live is None or live == last:
        return
    if live < last:
        before += last
    store.write(sandbox.oom, {"before": before, "last": live}, durable=False)


def total(sandbox: SandboxPaths, live: Optional[int]) -> int:
    """With what the present cgroup has counted, None when there is no telling."""
    before, last = _kept(sandbox)
    if live is None:
        return before + last
    return before + (last if live < last else 0) + live


def _kept(sandbox: SandboxPaths) -> Tuple[int, int]:
    """Counts of cgroups that are gone, and of the present one when it was last looked at."""
    try:
        data = store.read(sandbox.oom) or {}
    except StateError:
        data = {}  # a count is not worth a start that is refused
    before, last = data.get("before"), data.get("last")
    return (before if isinstance(before, int) else 0), (last if isinstance(last, int) else 0)


def _live(directories: Sequence[str]) -> Optional[int]:
    for directory in directories:
        for name in _FILES:
            count = _field(f"{directory}/{name}")
            if count is not None:
                return count
    return None


def _field(path: str) -> Optional[int]:
    try:
        with open(path, encoding="ascii") as handle:
            words = [line.split() for line in handle]
    except FileNotFoundError:
        return None
    return next((int(word[1]) for word in words if word[:1] == ["oom_kill"]), None)
