# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A rebuild that sets 10 GB aside, and a snapshot of as much where files share their blocks."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any, Callable, Dict

from collection import NotAvailable
from ours import WORKLOAD, Ours
from rows import Figures, Row, middle, ms
from sandlot import converge
from sandlot.converge import kept
from sandlot.spec import normalise_all
from setting import Bench, file_system

# A hundred files, as of a database.
FILES = 100
LARGE, SMALL = "large", "small"
_EACH = f"i=0; while test $i -lt {FILES}; do %s /fill-$i; i=$((i+1)); done"
_WRITE = "head -c %d /dev/zero >"
# A rename does not look at what files hold.
_ALLOCATE = "fallocate -l %d"


def measure(bench: Bench) -> Figures:
    """Seconds on a file system of its own, whose files can share blocks."""
    figures: Figures = {"bytes": bench.sizes.kept}
    size = bench.sizes.kept // FILES
    turns = bench.sizes.repetitions
    if not shutil.which("mkfs.btrfs"):
        raise NotAvailable("btrfs-progs is not installed")
    image = bench.outside / "btrfs.img"
    with file_system("btrfs", image, 20 * bench.sizes.kept) as top, bench.ours(top) as ours:
        _deploy(ours)
        _inside(ours, LARGE, _EACH % (_WRITE % size))
        for turn in range(turns):
            _both(figures, "snapshot", partial(_snapshot, ours, f"turn-{turn}"))
        for turn in range(turns):
            if turn:
                _inside(ours, LARGE, _EACH % (_ALLOCATE % size))
            _both(figures, "rebuild", partial(_rebuild, ours))
    return figures


def _both(figures: Figures, step: str, action: Callable[[str], None]) -> None:
    for name in (LARGE, SMALL):
        started = time.monotonic()
        action(name)
        figures.setdefault(f"{step}_{name}", []).append(time.monotonic() - started)


def _deploy(ours: Ours) -> None:
    instances = [_instance(name) for name in (LARGE, SMALL)]
    ours.runner.run(ours.playbook, sandbox_instances=instances)
    for name in (LARGE, SMALL):
        _inside(ours, name, "echo kept > /note")


def _instance(name: str) -> Dict[str, Any]:
    # Nothing is removed while it is measured.
    return {"name": name, "image": "busybox", "command": WORKLOAD, "snapshot_keep": 1000}


def _inside(ours: Ours, name: str, script: str) -> None:
    ours.command("exec", name, "--", "sh", "-c", script)


def _snapshot(ours: Ours, identifier: str, name: str) -> None:
    kept.carry_out(ours.paths, kept.SnapshotRequest(sandbox=name, name=identifier))


def _rebuild(ours: Ours, name: str) -> None:
    specs = normalise_all([_instance(name)])
    result = converge.converge(ours.paths, converge.request(specs, recreate=True))
    if result.failed:
        raise OSError(str(result.failed))


def rows(figures: Figures) -> list[Row]:
    gigabytes = f"{figures['bytes'] / (1 << 30):.3g} GB"
    steps = {
        "rebuild": f"a rebuild that sets {gigabytes} aside",
        "snapshot": f"a snapshot of {gigabytes}",
    }
    return [_row(f"{what}: of nothing", figures, step) for step, what in steps.items()]


def _row(what: str, figures: Figures, step: str) -> Row:
    whole, nothing = figures[f"{step}_{LARGE}"], figures[f"{step}_{SMALL}"]
    more = [large - small for large, small in zip(whole, nothing)]
    return Row(what, f"{ms(more)} more, of {ms(whole)}", "under 1 s more", middle(more) < 1)
