# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot run."""

from __future__ import annotations

import argparse
from typing import Any, Dict, Optional

from ..errors import SpecError
from ..jobs.job import Job
from ..jobs.run import run as run_job
from ..sandbox.job_slots import Slot
from ..site import Site
from .execute import environment, size_in_bytes
from .job_options import OPTIONS


def run(site: Site, options: argparse.Namespace) -> int:
    given = {row.option: getattr(options, row.option) for row in OPTIONS}
    job = Job(options.image, {**given, **_network(options.network_mode)}, options.argv)
    try:
        done = run_job(
            site,
            job,
            prepare,
            stdin_fd=0 if options.interactive else None,
            stdout_fd=1,
            stderr_fd=2,
            env=environment(options),
            tty=options.tty,
            forward_signals=True,
            timeout=options.timeout,
            output_limit=size_in_bytes(options.output_limit),
        )
    except SpecError as error:
        error.rename(_flag(error.option))
        raise
    if done.problem:
        raise done.problem
    return done.code


def _flag(option: str) -> str:
    """The flag for an option of the sandbox; an item of a list is named by its value."""
    flags = {row.option: row.names[-1] for row in OPTIONS}
    flags.update(image="--image", networks="--network")
    return flags.get(option.partition("[")[0].partition(".")[0], option)


def _network(word: Optional[str]) -> Dict[str, Any]:
    """The options that --network stands for: a mode, or the name of a network."""
    if not word or word == "none" or ":" in word or word in ("host", "bridge"):
        return {"network_mode": word}
    return {"network_mode": None, "networks": [{"name": word}]}


def prepare(site: Site, job: Job, slot: Slot) -> Dict[str, Any]:
    # Not at the top: it takes as long as all the rest of a job.
    from ..jobs import launch

    return launch.prepare(site, job, slot)
