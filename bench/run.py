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
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "module_utils"), str(HERE.parent / "tests")]

import databases  # noqa: E402
import imagery  # noqa: E402
import keeping  # noqa: E402
import measure  # noqa: E402
import noisy  # noqa: E402
import verdicts  # noqa: E402
from collection import NotAvailable  # noqa: E402
from measure import Sizes  # noqa: E402
from ours import Ours  # noqa: E402
from peer import Peer  # noqa: E402

RESULTS = HERE / "results"
# Not /tmp, which may be memory: sandboxes and containers live on disks.
TEMPORARY = "/var/tmp"

Result = Dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if os.geteuid() != 0:
        print("the bench makes sandboxes: run it as root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    sizes = Sizes(repetitions=options.repetitions)
    result, remains = measure_all(sizes, with_peer=not options.no_podman)
    result["verdicts"] = [verdict.to_json() for verdict in verdicts.judge(result)]
    report(result)
    if not options.dry_run:
        write(result)
    for line in remains:
        print(f"teardown left: {line}", file=sys.stderr)
    return 1 if remains else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=Sizes.repetitions)
    parser.add_argument("--no-podman", action="store_true", help="measure sandlot only")
    parser.add_argument("--dry-run", action="store_true", help="leave bench/results as it is")
    return parser.parse_args(arguments)


def measure_all(sizes: Sizes, *, with_peer: bool) -> tuple[Result, list[str]]:
    """Everything, and what our own teardown left behind."""
    started = time.monotonic()
    remains: list[str] = []
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="sandlot-bench-", dir=TEMPORARY))
        stack.callback(shutil.rmtree, directory)
        machine = describe_machine()
        peer, reason = _peer(directory, stack) if with_peer else (None, "--no-podman was given")
        ours = Ours(directory)
        stack.callback(lambda: remains.extend(ours.clean_up()))
        reasons = {"podman": reason} if reason else {}
        result = _measured(ours, peer, sizes, directory, reasons)
    remains.extend((result["keeping"] or {}).get("remains", ()))
    result["machine"] = machine
    result["not_measured"] = reasons
    result["seconds"] = time.monotonic() - started
    return result, remains


def _peer(directory: Path, stack: ExitStack) -> tuple[Peer | None, str]:
    try:
        peer = Peer(directory)
    except NotAvailable as error:
        print(f"  podman: not measured: {error}", flush=True)
        return None, str(error)
    stack.callback(peer.close)
    return peer, ""


def _measured(
    ours: Ours, peer: Peer | None, sizes: Sizes, directory: Path, reasons: dict[str, str]
) -> Result:
    theirs = None
    if peer is not None:
        theirs = {**measure.podman(peer, sizes), **measure.podman_commands(peer, sizes)}
    figures = measure.deployments(ours, sizes, directory)
    figures |= measure.idle(ours, sizes)
    figures |= measure.commands(ours, sizes)
    network = measure.throughput(ours, peer, sizes)
    figures |= imagery.measure(ours, directory)
    measure.say("noisy neighbours")
    figures["noisy"] = noisy.measure(ours)
    return {
        "sizes": asdict(sizes),
        "sandlot": figures,
        "podman": theirs,
        "network": network,
        "databases": _if_possible("databases", lambda: databases.measure(ours), reasons),
        "keeping": _if_possible("keeping", lambda: keeping.measure(directory), reasons),
    }


def _if_possible(what: str, measured: Callable[[], Any], reasons: dict[str, str]) -> Any:
    """None where a program is missing, and the reason."""
    try:
        return measured()
    except NotAvailable as error:
        print(f"  {what}: not measured: {error}", flush=True)
        reasons[what] = str(error)
        return None


def describe_machine() -> dict[str, Any]:
    with open("/proc/meminfo", encoding="ascii") as handle:
        memory = int(handle.readline().split()[1]) * 1024
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "memory": memory,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "ansible_core": version("ansible-core"),
        "podman": _podman_version(),
    }


def _podman_version() -> str | None:
    if shutil.which("podman") is None:
        return None
    done = subprocess.run(["podman", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def report(result: Result) -> None:
    machine = result["machine"]
    print(
        f"\n{machine['cpus']} CPUs, kernel {machine['kernel']}, load {machine['load']:.2f}"
        f" at the start, {result['seconds']:.0f} s; medians\n"
    )
    judged = verdicts.judge(result)
    rows = [(each.what, each.figure, each.budget, each.word) for each in judged]
    print_table([("what", "figure", "budget", ""), *rows])
    print()
    print_table(verdicts.others(result))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def write(result: Result) -> None:
    import plot

    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(_rounded(result), indent=1, sort_keys=True)
    (RESULTS / "latest.json").write_text(text + "\n")
    plot.draw(result, RESULTS / "latest.png")
    print(f"\n{RESULTS}/latest.json, latest.png")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
