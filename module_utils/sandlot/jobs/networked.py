# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A job on networks of the host: a sandbox with a record, which a run makes and another removes.

Its neighbours' rules and hosts files have it meanwhile, so it takes as long as a deploy of one
sandbox. Its name has the number of the job, whose lock tells whether it is still needed.
"""

from __future__ import annotations

from typing import Any, Dict

from .. import converge, spec, store
from ..converge.decide import Desired
from ..converge.resolve import Request
from ..errors import LaunchError
from ..sandbox import job_slots, runtime
from ..sandbox.record import STARTED
from ..site import Site
from . import launch, leftovers
from .job import UNUSED, Job, Running, words

Json = Dict[str, Any]


class Networked(Running):
    def __init__(self, site: Site, job: Job) -> None:
        self.slot = job_slots.take(site)
        self._site, self._job = site, job
        self.paths = job_slots.networked(site, self.slot.number)
        self.label = f"job-{self.slot.number}"
        self._pidfd = self.init = None

    def start(self) -> None:
        name = self.paths.name
        leftovers.clear(self._site, self.slot.number)
        # Its messages name the options alone, not a sandbox that the user never named.
        launch.check(self._site, self._job)
        options = {"hostname": self.label, **self._job.options, "restart_policy": "no"}
        given = {"command": list(UNUSED)} if self._job.argv else {}
        raw = {**options, **given, "name": name, "image": self._job.image}
        desired = Desired(name, STARTED, spec.normalise(raw))
        done = converge.converge(self._site, Request((desired,)))
        if name in done.failed:
            raise LaunchError(done.failed[name])
        self.launch = store.read(self.paths.launch) or {}
        own = self.launch["argv"]
        self.argv = words(self._job, own[: -len(UNUSED)] if given else own, ())
        self.init, self._pidfd = runtime.running(self.paths), runtime.open_init(self.paths)

    def remove(self) -> None:
        try:
            leftovers.clear(self._site, self.slot.number)
        finally:
            self.slot.release()
