# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Removes the sandbox of a job on a network, which may have been killed at any moment."""

from __future__ import annotations

import os

from ..errors import LaunchError
from ..sandbox import job_slots
from ..site import Site


def clear(site: Site, number: int) -> None:
    """Remove the sandbox of a job of that number, if there is one."""
    paths = job_slots.networked(site, number)
    if not os.path.lexists(paths.state) and not os.path.lexists(paths.run):
        return
    # Not at the top: it takes longer to import than a job without a network to run.
    from .. import converge

    for problem in converge.remove(site, [paths.name]).failed.values():
        raise LaunchError(problem)
