# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Jobs by the command of a deployment, and what is left of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from converge_fixtures import Deployment
from sandlot import cgroups
from sandlot.sandbox import runtime
from sandlot.sandbox.job_slots import paths_of

KEPT = {"etc", "known", "lock"}
SECONDS = 60


def words(host: Deployment, *command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [host.paths.command, "run", "--image", "busybox", *options, "--", *command]


def environment(host: Deployment) -> dict[str, str]:
    return {"SANDLOT_ROOT": host.paths.root, "PATH": os.environ["PATH"]}


def job(
    host: Deployment, *command: str, options: tuple[str, ...] = (), **settings: Any
) -> subprocess.CompletedProcess[Any]:
    settings = {"text": True, "timeout": SECONDS, "capture_output": True, **settings}
    argv = words(host, *command, options=options)
    return subprocess.run(argv, env=environment(host), **settings)


def begun(
    host: Deployment, *command: str, options: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A job with pipes; its command has written a line, which is read."""
    pipe = subprocess.PIPE
    argv = words(host, *command, options=("-i", *options))
    client = subprocess.Popen(
        argv, env=environment(host), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    )
    assert client.stdout is not None
    line = client.stdout.readline()
    assert line, client.communicate(timeout=SECONDS)
    return client


def init_of(host: Deployment, number: int = 0) -> int:
    """A pidfd of the init of a running job."""
    pidfd = runtime.open_init(paths_of(host.paths, number))
    assert pidfd is not None
    return pidfd


def left(host: Deployment) -> list[str]:
    """All that jobs have left on the host; [] is as it should be."""
    paths = [str(path) for path in Path(host.paths.state).glob("jobs*")]
    for directory in Path(host.paths.run).glob(".job-*"):
        paths += [str(path) for path in directory.iterdir() if path.name not in KEPT]
    for hierarchy in cgroups.detect().hierarchies:
        paths += [str(path) for path in Path(hierarchy.parent(host.paths)).glob(".job-*")]
    return paths
