# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs the setup of an image in a throw-away sandbox, and keeps the files that it wrote.

A throw-away sandbox has a record, ids, a network and confinement like any other. Each setup step
runs as its workload, so that no process of a step survives it. Its name tells the image that is
built, and the lock of that build (images.workspace) tells whether the builder still lives.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any, Callable, List, Mapping, Sequence

from .. import images, spec
from ..build import layerfile
from ..errors import SandlotError
from ..images import setup, tarball
from ..images.harvest import harvest
from ..images.model import Built, Job
from ..images.program import proxies
from ..images.unpack import Bounds
from ..kernel.namespaces import pidfd_ends
from ..launcher.client import Launcher
from ..plan import Operation
from ..sandbox import last_words, logs, names, record, runtime, surroundings
from ..sandbox.record import STARTED, STOPPED
from ..site import Site
from .decide import ABSENT, Desired
from .report import Result
from .resolve import Request

# Package managers need these as root of a sandbox; docs/images.md has the reasons.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID")
_SHOWN_LINES = 15
_LOG_TAIL = 1 << 15


Converge = Callable[[Request], Result]


def runner(site: Site, converge: Converge) -> setup.Runner:
    return partial(run, site, converge)


def run(site: Site, converge: Converge, job: Job, below: images.Image) -> Built:
    sandbox = _Throwaway(site, converge, job, below)
    # A sandbox that a killed run left may have run some of the steps.
    sandbox.remove()
    try:
        sandbox.make()
        steps = job.spec.setup
        for number, step in enumerate(steps, 1):
            job.report(f"setup step {number} of {len(steps)}", 0, 0)
            line = " ".join(setup.described(step).split())
            shown = line if len(line) <= 200 else f"{line[:200]}..."
            sandbox.do(step, f"setup step {number} of {len(steps)} ({shown})")
        job.report("keep what was written", 0, 0)
        return sandbox.harvest()
    finally:
        sandbox.remove()


def leftovers(site: Site, converge: Converge) -> List[Operation]:
    """Operations that remove throw-away sandboxes whose builders were killed."""
    known = [name for name in sorted(names.known(site)) if setup.SANDBOX.fullmatch(name)]
    summary = "remove what an interrupted setup or job left"
    return [
        Operation(name, summary, partial(_remove, site, converge, name))
        for name in known
        if not setup.is_running(site, name)
    ]


def _remove(site: Site, converge: Converge, name: str) -> None:
    if name in names.known(site):
        result = converge(Request((Desired(name, ABSENT),)))
        if result.failed:
            raise SandlotError("; ".join(result.failed.values()))


class _Throwaway:
    def __init__(self, site: Site, converge: Converge, job: Job, below: images.Image) -> None:
        self._run = converge
        self._paths = site
        self._job = job
        self._name = setup.sandbox_name(job.digest)
        self._image = replace(below, name=self._name)
        network = job.spec.get(setup.NETWORK.name)
        options = {
            "name": self._name,
            "image": self._name,
            "hostname": "setup",
            "working_dir": "/",
            "user": "0",
            "networks": [] if network == setup.NO_NETWORK else [{"name": network}],
            "capabilities": list(CAPABILITIES),
            "tmpfs": ["/tmp:size=1g,mode=1777,exec"],
            "restart_policy": "no",
        }
        self._spec = spec.normalise(options)
        # The sizes of the log when the present step began: earlier lines are not its own.
        self._begun: Mapping[str, int] = {}

    def remove(self) -> None:
        _remove(self._paths, self._run, self._name)

    def make(self) -> None:
        # Nothing runs yet, but a spec needs a command.
        self._converge(self._spec_for(["true"]), STOPPED)

    def do(self, step: Mapping[str, Any], what: str) -> None:
        what = f"image {self._job.spec.name!r}: {what}"
        if "dest" in step:
            layerfile.write(self._paths, self._name, self._job.scratch, step, what)
            return
        self._begun = logs.sizes(self._paths.sandbox(self._name))
        asked = self._spec_for(setup.argv(step), step)
        self._converge(asked, STARTED, what)
        self._await(what)

    def _spec_for(self, argv: Sequence[str], step: Mapping[str, Any] | None = None) -> spec.Spec:
        """Set the entry point, not the command: the image's entry point must not run."""
        step = step or {}
        given = {"DEBIAN_FRONTEND": "noninteractive", **proxies(), **step.get("env", {})}
        env = tuple(sorted(given.items()))
        user = step.get("user", "0")
        return replace(self._spec, entrypoint=tuple(argv), env=env, user=user)

    def _converge(self, asked: spec.Spec, state: str, what: str = "") -> None:
        desired = Desired(self._name, state, asked)
        result = self._run(Request((desired,), unrecorded={self._name: self._image}))
        if self._name in result.failed:
            where = what or f"image {self._job.spec.name!r}: setup"
            raise SandlotError(f"{where} can't be run: {result.failed[self._name]}")

    def _await(self, what: str) -> None:
        limit = self._job.spec.get(setup.TIMEOUT.name)
        pidfd = runtime.open_init(self._paths.sandbox(self._name))
        if pidfd is not None:
            try:
                if not pidfd_ends(pidfd, limit):
                    hint = "raise setup_timeout if it may take that long"
                    text = f"{what} took more than {limit} seconds{self._log_end()}"
                    raise SandlotError(text, hint=hint)
            finally:
                os.close(pidfd)
        status = runtime.status(self._paths.sandbox(self._name))
        if not status.get("final"):
            raise SandlotError(f"{what} was killed, and its sandbox with it{self._log_end()}")
        if status.get("exit_code"):
            text = f"{what} ended with status {status['exit_code']}{self._log_end()}"
            raise SandlotError(text, hint=surroundings.space(self._paths))

    def _log_end(self) -> str:
        last = logs.tail(self._paths.sandbox(self._name), _LOG_TAIL, self._begun)[-_SHOWN_LINES:]
        lines = [last_words.shown(line.text) for line in last]
        return ":\n" + "\n".join(lines) if lines else " and said nothing"

    def harvest(self) -> Built:
        options, known = self._job.spec, record.load(self._paths, self._name)
        if known is None:
            raise SandlotError(f"the record of {self._name} is gone", hint="run again")
        # A process of the sandbox must not write to files while they are copied.
        Launcher(self._paths).stop([self._name])
        # A source without its own bounds gets the default ones.
        bounds = Bounds(*(row.value(options.get(row.name)) for row in tarball.BOUNDS))
        upper = self._paths.sandbox(self._name).upper
        given = {step["dest"].lstrip("/") for step in self._job.spec.setup if "dest" in step}
        return harvest(upper, self._job.root, known.ids, bounds, given)
