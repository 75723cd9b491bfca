# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Counts a sandbox's out-of-memory kills over all cgroups that it had.

The kernel counts from zero in each new cgroup, so starts and stops keep its count.
"""

from __future__ import annotations

from .. import store
from ..errors import StateError
from ..kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence, Tuple

    from ..site import SandboxPaths

# Version 2 and version 1.
_FILES = ("memory.events", "memory.oom_control")


def note(sandbox: SandboxPaths, directories: Sequence[str]) -> None:
    """Keep the count of the cgroup in these directories; a full disk loses it with its cgroup."""
    paths = (f"{directory}/{name}" for directory in directories for name in _FILES)
    counts = (files.read_field(path, "oom_kill") for path in paths)
    live = next((count for count in counts if count is not None), None)
    before, last = _kept(sandbox)
    if live is None or live == last:
        return
    if live < last:
        before += last
    # A count is not worth a stop that fails.
    store.write(sandbox.oom, {"before": before, "last": live}, durable=False, needed=False)


def total(sandbox: SandboxPaths, live: Optional[int]) -> int:
    """The number of kills; ``live`` is the count of the present cgroup, None if unknown."""
    before, last = _kept(sandbox)
    if live is None:
        return before + last
    return before + (last if live < last else 0) + live


def recent(sandbox: SandboxPaths, live: Optional[int]) -> int:
    """The number of kills since the last start or stop."""
    dummy, last = _kept(sandbox)
    return 0 if live is None else live - (last if live >= last else 0)


def _kept(sandbox: SandboxPaths) -> Tuple[int, int]:
    """The stored counts of former cgroups, and of the present one at the last look."""
    try:
        data = store.read(sandbox.oom) or {}
    except StateError:
        data = {}  # a count is not worth a start that is refused
    before, last = data.get("before"), data.get("last")
    return (before if isinstance(before, int) else 0), (last if isinstance(last, int) else 0)
