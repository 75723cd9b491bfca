#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The whole sweep (`make sweep`), or a part of it. Steps are appended to a file as they are done.

run.py [--target run,launcher] [--fault SIGKILL,...] [--scenario deploy,...]
       [--stride N] [--jobs N] [--append FILE]
                                        sweeps; several targets and faults side by side, each
                                        with a root and a network namespace of its own
run.py --summary FILE                   writes bench/results/sweep.json and the tables of
                                        docs/faults.md from such a file
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
for directory in (TESTS, TESTS / "integration", TESTS.parent / "module_utils"):
    sys.path.insert(0, str(directory))

from converge_fixtures import Deployment, assert_gone, free_port, untouched_host  # noqa: E402

from sweep import report  # noqa: E402
from sweep.engine import MISSED, SCENARIOS, TARGETS, Sweep, alone  # noqa: E402
from sweep.faults import FAULTS  # noqa: E402
from sweep.tracer import supported  # noqa: E402

# A disk is no part of what is tried, and would take most of the time.
FAST = "/dev/shm"
SUMMARY = TESTS.parent / "bench/results/sweep.json"
PAGE = TESTS.parent / "docs/faults.md"


def main() -> int:
    options = _parser().parse_args()
    if options.summary:
        return _write_summary(options.summary)
    if not supported():
        sys.exit("the sweep knows the system calls of x86-64 only")
    shares = [(t, f) for f in options.fault.split(",") for t in options.target.split(",")]
    if len(shares) == 1:
        return _sweep(*shares[0], options)
    with ThreadPoolExecutor(options.jobs) as pool:
        return max(pool.map(_beside_others, shares))


def _beside_others(share: tuple[str, str]) -> int:
    # The last of two equal options counts.
    command = [sys.executable, *sys.argv, "--target", share[0], "--fault", share[1]]
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command],
        env={**os.environ, "SANDLOT_SHARED_HOST": "1"},
        check=False,
    ).returncode


def _write_summary(path: str) -> int:
    entries = report.summary(report.load(path))
    SUMMARY.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    report.replace_in(PAGE, report.document(entries))
    return 0


def _sweep(target: str, fault: str, options: argparse.Namespace) -> int:
    scenarios, problems = options.scenario.split(","), 0
    with _deployed() as host, open(options.append, "a", encoding="utf-8") as results:
        sweep = Sweep(host, target, alone(free_port()))
        for step in sweep.sweep([fault], scenarios, stride=options.stride):
            # In one write each, as other processes append too.
            results.write(json.dumps({**step._asdict(), "stride": options.stride}) + "\n")
            results.flush()
            problems += bool(step.problem)
            if step.problem or step.outcome == MISSED:
                print(step, flush=True)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="One fault at the Nth call of a run, for every N.")
    parser.add_argument("--target", default=",".join(TARGETS))
    parser.add_argument("--fault", default=",".join(FAULTS))
    parser.add_argument("--scenario", default=",".join(SCENARIOS))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--append", default="sweep.jsonl", metavar="FILE")
    parser.add_argument("--summary", metavar="FILE")
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
