#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The whole sweep, or a part: `make sweep`. Steps are appended to a file as they are done.

run.py [--target run,launcher] [--fault SIGKILL,...] [--scenario deploy,...] [--stride N]
       [--append FILE]                  sweeps
run.py --table FILE                     prints the table of docs/reliability.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
for directory in (TESTS, TESTS / "integration", TESTS.parent / "module_utils"):
    sys.path.insert(0, str(directory))

from converge_fixtures import Deployment, assert_gone, free_port, untouched_host  # noqa: E402

from sweep import report  # noqa: E402
from sweep.engine import MISSED, SCENARIOS, TARGETS, Sweep  # noqa: E402
from sweep.faults import FAULTS  # noqa: E402

# A disk is no part of what is tried, and would take most of the time.
FAST = "/dev/shm"


def main() -> int:
    options = _parser().parse_args()
    if options.table:
        print(report.table(report.load(options.table)))
        return 0
    problems = 0
    with _deployed() as host, open(options.append, "a", encoding="utf-8") as results:
        for target in options.target.split(","):
            sweep = Sweep(host, target, free_port())
            for step in sweep.sweep(
                options.fault.split(","), options.scenario.split(","), options.stride
            ):
                print(json.dumps(step._asdict()), file=results, flush=True)
                problems += bool(step.problem)
                if step.problem or step.outcome == MISSED:
                    print(step, flush=True)
    print(report.table(report.load(options.append)))
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="One fault at the Nth call of a run, for every N.")
    parser.add_argument("--target", default=",".join(TARGETS))
    parser.add_argument("--fault", default=",".join(FAULTS))
    parser.add_argument("--scenario", default=",".join(SCENARIOS))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--append", default="sweep.jsonl", metavar="FILE")
    parser.add_argument("--table", metavar="FILE")
    return parser


@contextlib.contextmanager
def _deployed() -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="sl", dir=FAST) as root, untouched_host(root):
        host = Deployment(root)
        try:
            host.prepare()
            yield host
        finally:
            host.teardown()
        assert_gone(host.paths)


if __name__ == "__main__":
    sys.exit(main())
