# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Measures sandlot on this machine against its budgets: `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "module_utils"), str(HERE.parent / "tests")]

import clock  # noqa: E402
import report  # noqa: E402
from collection import NotAvailable  # noqa: E402
from rows import rounded  # noqa: E402
from sandlot.errors import SandlotError  # noqa: E402
from setting import SMALL, TEMPORARY, Bench, Sizes, file_system, say  # noqa: E402

# What each part has measured, as soon as it has.
RAW = HERE.parent / "build/bench.json"
_DISK = 64 << 30
FAULTS = (clock.Failed, SandlotError, OSError, subprocess.SubprocessError)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if options.check:
        outdated = report.outdated(report.latest())
        for page in outdated:
            print(f"{page} has other figures than bench/results")
        return 1 if outdated else 0
    if os.geteuid() != 0:
        print("the bench makes sandboxes: run it as root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    names = options.part or list(report.PARTS)
    result, problems = _measure(names, SMALL if options.small else Sizes(), options.podman)
    if result["parts"]:
        report.show(result)
    if options.save and not options.small:
        _save(result)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = [*report.PARTS, []]
    text = f"of {', '.join(report.PARTS)}; all of them when none is named"
    parser.add_argument("part", nargs="*", metavar="PART", choices=parts, help=text)
    parser.add_argument("--small", action="store_true", help="small numbers, to try the bench")
    parser.add_argument(
        "--podman", action=argparse.BooleanOptionalAction, default=True, help="measure podman, too"
    )
    parser.add_argument(
        "--save",
        action=argparse.BooleanOptionalAction,
        help="renew bench/results and the pages; the default when no part is named",
    )
    parser.add_argument("--check", action="store_true", help="compare the pages with the results")
    options = parser.parse_args(arguments)
    if options.save is None:
        options.save = not options.part
    return options


def _measure(names: Sequence[str], sizes: Sizes, podman: bool) -> tuple[Dict[str, Any], list[str]]:
    """Results, and what went wrong; each part begins on a machine that the last one left clean."""
    outside = Path(tempfile.mkdtemp(prefix="sandlot-bench-", dir=TEMPORARY))
    try:
        # Without a journal, ext4 searches for inodes that nobody has deleted for five minutes
        # (recently_deleted()), and gets slower with each teardown.
        with file_system("ext4", outside / "disk.img", _DISK, "noinit_itable") as directory:
            return _measured(names, Bench(directory, outside, sizes, podman=podman))
    finally:
        shutil.rmtree(outside)


def _measured(names: Sequence[str], bench: Bench) -> tuple[Dict[str, Any], list[str]]:
    result: Dict[str, Any] = {"machine": _machine(), "parts": {}, "not_measured": bench.reasons}
    failures = []
    try:
        for name in names:
            try:
                result["parts"][name] = _part(name, bench)
            except NotAvailable as error:
                bench.reasons[name] = str(error)
            except FAULTS as error:
                bench.reasons[name] = f"{type(error).__name__}, see the output"
                failures.append(f"{name}: {error}")
                print(failures[-1], file=sys.stderr, flush=True)
            bench.tidy()
            RAW.parent.mkdir(exist_ok=True)
            RAW.write_text(_json(result))
    finally:
        bench.close()
    return result, failures + [f"teardown left: {line}" for line in bench.remains]


def _part(name: str, bench: Bench) -> Dict[str, Any]:
    print(f"{name}: {report.PARTS[name].__doc__}", flush=True)
    load, started = os.getloadavg()[0], time.monotonic()
    figures = report.PARTS[name].measure(bench)
    seconds = time.monotonic() - started
    say(f"{seconds:.0f} s")
    date = time.strftime("%Y-%m-%d")
    return {
        "commit": _commit(), "date": date, "load": load, "seconds": seconds, "figures": figures
    }  # fmt: skip


def _commit() -> str:
    # Git takes no checkout of somebody else unless it is told to.
    command = ["git", "-c", f"safe.directory={HERE.parent}", "-C", str(HERE.parent)]
    return _output(*command, "describe", "--always", "--dirty", "--exclude=*")


def _machine() -> Dict[str, Any]:
    with open("/proc/meminfo", encoding="ascii") as handle:
        memory = int(handle.readline().split()[1]) * 1024
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    versions = {"Python": platform.python_version(), "ansible-core": version("ansible-core")}
    if shutil.which("podman"):
        versions["podman"] = _output("podman", "--version").split()[-1]
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "memory": memory,
        "cgroups": f"version {2 if unified else 1} of cgroups",
        "versions": versions,
    }


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _save(result: Dict[str, Any]) -> None:
    """Parts that were not measured keep the results that they have."""
    import plot

    measured = {**report.latest(), **result}
    measured["parts"] = {**report.latest()["parts"], **result["parts"]}
    missing = {name: "not run yet" for name in report.PARTS if name not in measured["parts"]}
    measured["not_measured"] = {**missing, **result["not_measured"]}
    measured["verdicts"] = [row.to_json() for row in report.rows(measured) if row.budget]
    report.LATEST.write_text(_json(measured))
    plot.draw(measured["parts"], report.LATEST.with_suffix(".png"))
    for page, text in report.pages(report.latest()).items():
        page.write_text(text)
    print(f"{report.LATEST}, {report.LATEST.stem}.png and {', '.join(report.PAGES)} are renewed")


def _json(result: Dict[str, Any]) -> str:
    return json.dumps(rounded(result), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
