# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a user does with images: list them, and run commands in sandboxes of them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from converge_fixtures import Deployment
from sandlot import converge, images

BUSYBOX = {"name": "busybox", "source": "busybox"}


def prepare(host: Deployment, *raw: dict[str, Any], purge: bool = False) -> list[str]:
    """A run of these images, after which there is nothing to do."""
    specs = images.normalise_all(list(raw))
    request = converge.request(None, images=specs, purge=purge)
    result = converge.converge(host.paths, request)
    assert converge.converge(host.paths, request).actions == []
    return result.actions


def run(host: Deployment, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command in a sandbox, by `sandlot exec`."""
    command = [host.paths.command, "exec", name, "--", *argv]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def output(host: Deployment, name: str, *argv: str) -> str:
    done = run(host, name, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout
