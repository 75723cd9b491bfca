# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A rebuild that sets 10 GB aside, and a snapshot of as much where files share their blocks.

Run as a script it measures this alone: bench/keeping.py [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Sequence

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parent / "module_utils"), str(HERE.parent / "tests")]

from collection import NotAvailable
from ours import WORKLOAD, Ours
from sandlot import converge
from sandlot.converge import kept
from sandlot.spec import normalise_all

ROUNDS = 5
SIZE = 10 << 30
# A hundred files, as of a database.
FILES = 100
# Beside that of the other measurements.
SUBNET = "10.213.92.0/22"
LARGE, SMALL = "large", "small"
_EACH = f"i=0; while test $i -lt {FILES}; do %s /fill-$i; i=$((i+1)); done"
_WRITE = _EACH % f"head -c {SIZE // FILES} /dev/zero >"
# A rename does not look at what files hold.
_ALLOCATE = _EACH % f"fallocate -l {SIZE // FILES}"
Figures = Dict[str, Any]


def measure(directory: Path, rounds: int = ROUNDS) -> Figures:
    """Seconds on a file system of its own, whose files can share blocks."""
    print("  setting aside and copying 10 GB", flush=True)
    figures: Figures = {}
    with _btrfs(directory) as top, ExitStack() as stack:
        ours = Ours(top, SUBNET)
        remains: list[str] = []
        stack.callback(lambda: remains.extend(ours.clean_up()))
        _deploy(ours)
        _inside(ours, LARGE, _WRITE)
        for turn in range(rounds):
            _both(figures, "snapshot", partial(_snapshot, ours, f"turn-{turn}"))
        for turn in range(rounds):
            if turn:
                _inside(ours, LARGE, _ALLOCATE)
            _both(figures, "rebuild", partial(_rebuild, ours))
    return {**figures, "bytes": SIZE, "remains": remains}


def _both(figures: Figures, step: str, action: Callable[[str], None]) -> None:
    for name in (LARGE, SMALL):
        started = time.monotonic()
        action(name)
        figures.setdefault(f"{step}_{name}", []).append(time.monotonic() - started)


@contextmanager
def _btrfs(directory: Path) -> Iterator[Path]:
    """A file system in a sparse file."""
    if not shutil.which("mkfs.btrfs"):
        raise NotAvailable("btrfs-progs is not installed")
    image, top = directory / "btrfs.img", directory / "btrfs"
    with open(image, "wb") as handle:
        handle.truncate(20 * SIZE)
    top.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", str(image), str(top)], check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", str(top)], check=True)
        image.unlink()


def _deploy(ours: Ours) -> None:
    instances = [_instance(name) for name in (LARGE, SMALL)]
    ours.runner.run(ours.playbook, sandbox_instances=instances)
    for name in (LARGE, SMALL):
        _inside(ours, name, "echo kept > /note")


def _instance(name: str) -> Dict[str, Any]:
    # Nothing is removed while it is measured.
    return {"name": name, "image": "busybox", "command": WORKLOAD, "snapshot_keep": 1000}


def _inside(ours: Ours, name: str, script: str) -> None:
    command = [ours.paths.command, "exec", name, "--", "sh", "-c", script]
    subprocess.run(command, check=True, env={**os.environ, **ours.environment})


def _snapshot(ours: Ours, identifier: str, name: str) -> None:
    kept.carry_out(ours.paths, kept.SnapshotRequest(sandbox=name, name=identifier))


def _rebuild(ours: Ours, name: str) -> None:
    specs = normalise_all([_instance(name)])
    result = converge.converge(ours.paths, converge.request(specs, recreate=True))
    if result.failed:
        raise OSError(str(result.failed))


def more(figures: Figures, step: str) -> float:
    """Seconds that 10 GB take beyond what an empty layer does."""
    pairs = zip(figures[f"{step}_{LARGE}"], figures[f"{step}_{SMALL}"])
    return statistics.median(large - small for large, small in pairs)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="sandlot-bench-", dir="/var/tmp"))
    try:
        figures = measure(directory, options.rounds)
    finally:
        shutil.rmtree(directory)
    print(json.dumps(figures, indent=1))
    for step in ("snapshot", "rebuild"):
        print(f"{step}: {more(figures, step) * 1000:.0f} ms more for 10 GB")
    return 1 if figures["remains"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
