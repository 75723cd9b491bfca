# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What plays cost the controller and the hosts, from one host to two hundred moved roots."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import playing
import processes
from ours import PLAYS, Ours, instances
from rows import Figures, Row, Values, middle, number, plain, seconds
from setting import Bench, say

SANDBOXES = 3
STEPS = {"deploy": "deploy", "again": "second run", "audit": "audit", "teardown": "teardown"}
# The figures are means of as many hosts.
_MANY = 10
# A shell counts the processor time of its children (POSIX, times).
_INTERPRETER = """\
#!/bin/sh
{python} "$@"
code=$?
times > "$0.times/$$"
exit $code
"""


def measure(bench: Bench) -> Figures:
    """Roots stay mounted for all turns of a size."""
    sizes = bench.sizes
    figures: Dict[str, Dict[str, List[float]]] = {}
    for hosts in sizes.fleet:
        series = figures[str(hosts)] = defaultdict(list)
        for turn in range(sizes.repetitions if hosts < _MANY else 1):
            say(f"{hosts} hosts, turn {turn + 1}")
            with ExitStack() as stack:
                roots = [stack.enter_context(bench.ours(subnet=_subnet(n))) for n in range(hosts)]
                _Fleet(roots).steps(series)
    return {"sizes": list(sizes.fleet), "series": figures}


def _subnet(number: int) -> str:
    """One of 256 beside each other; another bench that runs at the same time has other ones."""
    quarter, place = os.getpid() % 4 * 64, number * 64
    return f"10.213.{quarter + place // 256}.{place % 256}/26"


class _Fleet:
    def __init__(self, roots: List[Ours]) -> None:
        self.roots = roots
        directory = roots[0].root.parent
        self.report = directory / "audit.html"
        self.times = directory / "python.times"
        self.times.mkdir()
        interpreter = directory / "python"
        interpreter.write_text(_INTERPRETER.format(python=sys.executable))
        interpreter.chmod(0o755)
        self.runner = playing.Runner(self._inventory(directory, interpreter))

    def _inventory(self, directory: Path, interpreter: Path) -> Path:
        hosts = {f"host-{n:03}": root.variables for n, root in enumerate(self.roots)}
        shared: Dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": str(interpreter),
            "sandbox_audit_report": str(self.report),
            "sandbox_instances": instances(SANDBOXES),
        }
        path = directory / "fleet.json"
        path.write_text(json.dumps({"sandbox_hosts": {"hosts": hosts, "vars": shared}}))
        return path

    def steps(self, series: Dict[str, List[float]]) -> None:
        plays = {"deploy": "deploy", "again": "deploy", "audit": "audit", "teardown": "teardown"}
        for step, name in plays.items():
            done = self.runner.run(PLAYS / f"{name}_sandbox.yml")
            if step == "again" and done.changed:
                raise playing.PlayError(f"the second deploy changed {done.changed} tasks")
            hosts = self._modules_cpu()
            series[step].append(done.seconds)
            series[f"{step}_controller"].append(done.cpu - hosts)
            series[f"{step}_host"].append(hosts / len(self.roots))
            if step == "deploy":
                series["host_memory"].append(self._host_memory())
                series["controller_memory"].append(self._controller_memory())

    def _modules_cpu(self) -> float:
        """Seconds of all modules since the last call."""
        used = 0.0
        for path in self.times.iterdir():
            children = path.read_text().splitlines()[1].split()
            for word in children:
                minutes, _, rest = word.rstrip("s").partition("m")
                used += int(minutes) * 60 + float(rest)
            path.unlink()
        return used

    def _host_memory(self) -> float:
        """Bytes of a host's launcher and inits."""
        pids = [pid for root in self.roots for pid in (*root.outside(), *root.inits().values())]
        return sum(map(processes.pss, pids)) / len(self.roots)

    def _controller_memory(self) -> float:
        """Bytes of ansible-playbook and its forks, at most, in a play that is not timed."""
        most, ended = 0, threading.Event()

        def sample() -> None:
            nonlocal most
            while not ended.wait(0.3):
                most = max(most, sum(_forks(os.getpid())))

        watching = threading.Thread(target=sample)
        watching.start()
        try:
            self.runner.run(PLAYS / "deploy_sandbox.yml")
        finally:
            ended.set()
            watching.join()
        self._modules_cpu()
        return most


def _forks(pid: int) -> Iterator[int]:
    """Bytes of each ansible-playbook below a process; one that ends meanwhile has none."""
    try:
        below = processes.children(pid)
    except FileNotFoundError:
        return
    for child in below:
        try:
            if b"ansible-playbook" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield processes.pss(child)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue
        yield from _forks(child)


def rows(figures: Figures) -> list[Row]:
    *dummy, some, many = figures["sizes"]
    few, all_ = figures["series"][str(some)], figures["series"][str(many)]
    told = []
    for step, title in STEPS.items():
        for where, word in (("", "time"), ("_controller", "controller's processor")):
            more = (middle(all_[step + where]) - middle(few[step + where])) / (many - some)
            told.append(f"{title} {word} {number(more * 1000)} ms")
    return [Row(f"one more host, from {some} to {many}", "; ".join(told))]


def table(figures: Figures) -> list[list[str]]:
    """A row per step and place, a column per number of hosts."""
    lines: Dict[str, tuple[str, Callable[[Values], str]]] = {}
    for step, title in STEPS.items():
        lines[step] = (title, seconds)
        lines[f"{step}_controller"] = (f"{title}: processors of the controller", seconds)
        lines[f"{step}_host"] = (f"{title}: processors of each host", seconds)
    lines["controller_memory"] = ("memory of the controller", mb)
    lines["host_memory"] = ("memory of each host: launcher and inits", mb)
    sizes = figures["sizes"]
    body = [
        [title, *(told(figures["series"][str(size)][key]) for size in sizes)]
        for key, (title, told) in lines.items()
    ]
    return [["step", *(f"{size} hosts" for size in sizes)], *body]


def mb(values: Values) -> str:
    return plain([value / 1e6 for value in values], " MB")
