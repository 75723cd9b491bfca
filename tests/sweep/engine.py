# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs with one fault each, and what has to hold afterwards.

A faulted run is a fork of this process, which spares it the imports. It ends as killed, as done, or
with an explained error. The next run converges, the one after has nothing to do, data in the layer
is still there, and a teardown leaves what was there before.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from converge_fixtures import Deployment, descriptors, sandbox, scrub
from sandlot import cgroups, idmap, lock, network, shell, store
from sandlot.errors import SandlotError
from sandlot.kernel import namespaces
from sandlot.launcher.client import Launcher
from sandlot.network.bridge.observe import is_ours, observe
from sandlot.plan import apply_all
from sandlot.sandbox import runtime
from sandlot.site import Site

from .faults import SIGNALS, Injection
from .tracer import Tracer

RUN, LAUNCHER = "run", "launcher"
TARGETS = (RUN, LAUNCHER)
SCENARIOS = ("deploy", "update", "rebuild", "teardown")
DEADLINE = 60.0
SETTLE = 5.0
# A repair that the launcher has begun takes seconds on a busy host, and another one may follow.
REST = 30.0
MESSAGE_SIZE = 1 << 16
KILLED, EXPLAINED, DONE, RAW, HUNG, MISSED = (
    "killed",
    "explained",
    "done",
    "raw",
    "hung",
    "missed",
)
Specs = list[dict[str, Any]]


class Step(NamedTuple):
    """One injection; ``problem`` is "" when all that has to hold did."""

    target: str
    scenario: str
    fault: str
    number: int
    family: str
    call: str
    outcome: str
    message: str = ""
    problem: str = ""


def alone(port: int) -> list[Specs]:
    """One sandbox as it is deployed, and what it is updated to."""
    web = sandbox("web", published_ports=[f"{port}:80"], memory="64m")
    plugged = {"name": "default", "mac_address": "02:00:00:00:00:77", "aliases": ["www"]}
    return [[web], [{**web, "hostname": "www", "memory": "96m", "networks": [plugged]}]]


def pair(port: int) -> list[Specs]:
    """The same with a second one in its network namespace."""
    side = sandbox("side", network_mode="container:web")
    return [[*specs, side] for specs in alone(port)]


class _Ended(Exception):
    """What a module would have printed, and exited."""


class _Module:
    """In the place of an AnsibleModule."""

    params: Mapping[str, Any] = {}
    check_mode = False

    def exit_json(self, **kwargs: Any) -> NoReturn:
        raise _Ended(DONE, "")

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn:
        raise _Ended(EXPLAINED, msg)

    def warn(self, warning: str) -> None:
        """Warnings end no run."""


def _outcome(action: Callable[[], dict[str, str]], paths: Site) -> tuple[str, str]:
    """How a module with this action ends; the action tells what each failed sandbox says."""

    def result(_module: object, _paths: Site) -> dict[str, Any]:
        failed = action()
        return {"failed": failed, "msg": "\n".join(failed.values())}

    try:
        shell.run(_Module(), result)
    except _Ended as ended:
        return str(ended.args[0]), str(ended.args[1])
    except BaseException:  # noqa: B902 - whatever it is, it is the finding
        return RAW, traceback.format_exc()


class Sweep:
    """Faults on one host; ``target`` is whose calls fail: the run's, or the launcher's."""

    def __init__(self, host: Deployment, target: str, variants: Sequence[Specs]) -> None:
        self.host = host
        self.target = target
        self.variants = variants
        self.current: Specs = []
        self.clean = self._baseline()

    def _baseline(self) -> list[str]:
        """What is there without sandboxes, once there have been some."""
        self.host.run(sandbox("first"), purge=True)
        teardown(self.host)
        clean: list[str] = []

        def at_rest() -> bool:
            """Of processes, the launcher and its zygote: workers and repairs end soon."""
            clean[:] = left_over(self.host)
            return sum(line.endswith(" descriptors") for line in clean) == 2

        assert settled(at_rest, REST), clean
        return clean

    # -- the actions

    def _action(self, scenario: str) -> tuple[Callable[[], dict[str, str]], Specs]:
        """What is done, and what there is to be afterwards."""
        if scenario == "deploy":
            return self._converging(self.variants[0]), self.variants[0]
        if scenario == "update":
            other = self.variants[self.variants[0] == self.current]
            return self._converging(other), other
        if scenario == "rebuild":
            return self._converging(self.current, recreate=True), self.current
        return lambda: teardown(self.host), []

    def _converging(self, specs: Specs, **options: Any) -> Callable[[], dict[str, str]]:
        def action() -> dict[str, str]:
            self.host.declare()
            return dict(self.host.run(*specs, purge=True, **options).failed)

        return action

    def _ready(self, scenario: str) -> None:
        """The state that the scenario starts from."""
        if scenario == "deploy" and self.current:
            self._follow_up([])
        elif scenario != "deploy" and not self.current:
            self._follow_up(self.variants[0])
        if self.current and not os.path.exists(self._marker()):
            with open(self._marker(), "w", encoding="ascii"):
                pass

    def _marker(self) -> str:
        return f"{self.host.paths.sandbox('web').upper}/kept"

    # -- one step

    def step(self, scenario: str, fault: str, number: int, only: Collection[str] = ()) -> Step:
        """Whatever it finds, the host is in a known state afterwards."""
        self._ready(scenario)
        action, after = self._action(scenario)
        injection = Injection(fault, number, only)
        outcome, message = self._faulted(action, injection)
        if not injection.call:
            outcome = MISSED if outcome == DONE else outcome
        step = Step(
            self.target,
            scenario,
            fault,
            number,
            injection.family,
            injection.call,
            outcome,
            message,
        )
        try:
            problem = self._problem(step, after)
        except (SandlotError, OSError, AssertionError) as error:
            problem = f"the next run failed: {type(error).__name__}: {error}"
        if problem:
            self.recover()
        return step._replace(problem=problem)

    def _faulted(
        self, action: Callable[[], dict[str, str]], injection: Injection
    ) -> tuple[str, str]:
        tracer = Tracer(injection, leave_programs=self.target == LAUNCHER)
        result = mmap.mmap(-1, MESSAGE_SIZE)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            outcome = json.dumps(_outcome(action, self.host.paths)).encode()[: MESSAGE_SIZE - 1]
            result[: len(outcome)] = outcome
            os._exit(0)
        os.close(reader)
        for pid in [child] if self.target == RUN else launcher_processes(self.host.paths):
            tracer.follow(pid)
        os.close(writer)
        try:
            status = tracer.wait_for(child, DEADLINE)
        except TimeoutError:
            where = stack(child)
            os.kill(child, signal.SIGKILL)
            tracer.wait_for(child, DEADLINE)
            return HUNG, where
        finally:
            tracer.leave()
        if os.WIFSIGNALED(status):
            return KILLED, ""
        outcome, message = json.loads(result[:].rstrip(b"\0"))
        return outcome, message

    def _problem(self, step: Step, after: Specs) -> str:
        if step.outcome == HUNG:
            return f"no end within {DEADLINE:.0f} seconds: {step.message}"
        told_done = step.outcome in (DONE, MISSED) and self._done_means_done(step)
        # A run without sandboxes would not show it: what else a teardown does is no run.
        todo = sorted(removal_due(self.host)) if told_done and not after else []
        todo += self._follow_up(after)
        if step.outcome == RAW:
            return f"not explained: {step.message.strip().splitlines()[-1]}"
        if told_done and todo:
            return f"told to be done, but the next run found: {'; '.join(todo)}"
        if step.scenario == "update" and not os.path.exists(self._marker()):
            return "what was in the layer is gone"
        return ""

    def _done_means_done(self, step: Step) -> bool:
        """What is killed after its answer makes work for the next run."""
        return not (self.target == LAUNCHER and step.fault in SIGNALS)

    def _follow_up(self, after: Specs) -> list[str]:
        """What the next run has to do; AssertionError unless it converges."""
        if not after:
            failed = teardown(self.host)
            assert not failed, failed
            self.current = []
            assert settled(lambda: left_over(self.host) == self.clean, REST), self._difference()
            return []
        self.host.declare()
        # Most of what a launcher closes is open again before the run looks.
        settled(lambda: _is_open(self.host.paths))
        result = self.host.run(*after, purge=True)
        assert not result.failed, result.failed
        self.current = after
        if result.actions:
            again = self.host.run(*after, purge=True)
            due = _of_ours(again.actions)
            assert due == [], f"the run after that has: {due}"
        for spec in after:
            running = runtime.running(self.host.paths.sandbox(spec["name"]))
            assert running is not None, f"{spec['name']} does not run"
        return [line for line in _of_ours(result.actions) if not self._of_launcher(line)]

    def _of_launcher(self, action: str) -> bool:
        """Whether it makes good what the launcher did meanwhile.

        One that has lost news of rules closes the bridges until its repair has looked.
        """
        closed = self.target == LAUNCHER and re.search(r": repair bridge .* \(down\)$", action)
        return action.startswith("launcher:") or bool(closed)

    def _difference(self) -> str:
        found, clean = set(left_over(self.host)), set(self.clean)
        return f"a teardown leaves {sorted(found - clean)}, lacks {sorted(clean - found)}"

    def recover(self) -> None:
        """Back to an empty host by force, so that one finding does not lead to the next."""
        paths = self.host.paths
        end(paths)
        scrub(paths)
        for path in (paths.sandboxes, paths.snapshots, paths.run):
            shutil.rmtree(path, ignore_errors=True)
        for name in os.listdir(paths.state):
            if name.endswith((".json", ".new")):
                os.unlink(f"{paths.state}/{name}")
        for path in (paths.subuid, paths.subgid):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self.current = []
        self.clean = self._baseline()

    # -- all steps

    def sweep(
        self,
        faults: Iterable[str],
        scenarios: Sequence[str] = SCENARIOS,
        *,
        first: int = 1,
        stride: int = 1,
        only: Collection[str] = (),
    ) -> Iterator[Step]:
        """Each fault at every ``stride``th call; ends each with a step that was missed.

        At calls of these names alone, if ``only`` has some.
        """
        for fault in faults:
            numbers = dict.fromkeys(scenarios, first)
            while numbers:
                for scenario in [name for name in SCENARIOS if name in numbers]:
                    step = self.step(scenario, fault, numbers[scenario], only)
                    yield step
                    numbers[scenario] += stride
                    if step.outcome == MISSED:
                        del numbers[scenario]


def _of_ours(actions: Iterable[str]) -> list[str]:
    """Tests beside us change the packet filter in the midst of ours, which closes our bridges."""
    shared = os.environ.get("SANDLOT_SHARED_HOST")
    return [line for line in actions if not (shared and "repair bridge" in line)]


def teardown(host: Deployment) -> dict[str, str]:
    """Back to a host without sandboxes, networks and cgroups: all but runtime and images."""
    result = host.run(purge=True, purge_snapshots=True)
    if result.failed:
        return dict(result.failed)
    with lock.exclusive(host.paths), network.session():
        apply_all(_teardown_operations(host.paths))
    # A killed run may leave it empty, until sandbox_host takes the state directory away.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(host.paths.snapshots)
    return {}


def _teardown_operations(paths: Site) -> list[Any]:
    return [
        *network.teardown_operations(paths, network.observe(paths)),
        *cgroups.teardown_operations(paths, cgroups.observe(paths, [])),
        *idmap.operations(paths, idmap.observe(paths), {}),
    ]


def end(paths: Site) -> None:
    """Kill whatever the launcher has, and itself last of all, so that it revives nothing."""
    for pid in launcher_processes(paths)[::-1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert settled(
        lambda: not any(runtime.running(paths.sandbox(name)) for name in runtime.names(paths))
    )


def removal_due(host: Deployment) -> list[str]:
    """What a teardown would do."""
    planned = host.run(purge=True, purge_snapshots=True, check=True).actions
    return planned + [operation.describe() for operation in _teardown_operations(host.paths)]


def left_over(host: Deployment) -> list[str]:
    """Names of everything of ours, but the runtime and the images."""
    paths, found = host.paths, []
    for top in (paths.state, paths.run, f"{paths.root}/etc"):
        for directory, names, files in os.walk(top):
            names[:] = [name for name in names if f"{directory}/{name}" != paths.images]
            found += [f"{directory}/{name}" for name in [*names, *files]]
    state = observe(paths)
    found += [name for name, link in state.links.items() if is_ours(paths, link)]
    found += [*state.tables.present, *cgroups.observe(paths, []).parents]
    return sorted([*found, *_processes(paths)])


def _processes(paths: Site) -> list[str]:
    """What the launcher has, and never more than that without sandboxes."""
    found = []
    for pid in launcher_processes(paths):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(f"{_name(pid)}: {descriptors(pid, looks=200)} descriptors")
    return found


def _is_open(paths: Site) -> bool:
    """Whether no bridge that exists is down."""
    record = store.read(paths.watched) or {"bridges": []}
    links = (f"/sys/class/net/{name}/flags" for name in record["bridges"])
    return all(int(Path(path).read_text(), 16) & 1 for path in links if os.path.exists(path))


def launcher_processes(paths: Site) -> list[int]:
    """The launcher and all below it that lives.

    A joiner that ended after the zygote was told to collect is a zombie until the next start.
    """
    answer = Launcher(paths).ping()
    if answer is None:
        Launcher(paths).ensure()
        answer = Launcher(paths).ping()
    assert answer
    everybody = _with_children(answer["pid"])
    return [pid for pid in everybody if namespaces.start_time(pid) is not None]


def _with_children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as handle:
            children = [int(word) for word in handle.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(deeper for child in children for deeper in _with_children(child))]


def _name(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        with open(f"/proc/{pid}/comm", encoding="ascii") as handle:
            return handle.read().strip()
    return "?"


def stack(pid: int) -> str:
    """Where in the kernel a process waits."""
    with open(f"/proc/{pid}/stack", encoding="ascii") as handle:
        return " ".join(line.split()[-1] for line in handle.read().splitlines()[:4])


def settled(condition: Callable[[], bool], seconds: float = SETTLE) -> bool:
    """Whether it holds soon: dead processes may take a moment to be collected."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
