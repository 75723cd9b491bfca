# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Owners of files and secrets by the users of the sandbox, whoever made these."""

from __future__ import annotations

import os
from pathlib import Path

from converge_fixtures import Deployment, needs_root, sandbox
from netmode_fixtures import run_inside

pytestmark = needs_root
TARGET, KEY = "/etc/app.conf", "/run/secrets/key"


def owner(host: Deployment, path: str) -> tuple[int, int]:
    """User and group inside."""
    status = os.stat(f"/proc/{host.pid('web')}/root{path}")
    start = int(host.info("web")["ids"]["uid"])
    return status.st_uid - start, status.st_gid - start


def test_names_are_those_of_the_sandbox(host: Deployment) -> None:
    def web(user: str, content: str = "one", **options: object) -> dict[str, object]:
        files = [{"target": TARGET, "content": content, "owner": user, "mode": "0640"}]
        secrets = [{"name": "key", "value": content, "owner": user, "mode": "0400"}]
        return sandbox("web", files=files, secrets=secrets, **options)

    host.converged(web("nobody"))
    pid = host.pid("web")
    assert owner(host, TARGET) == owner(host, KEY) == (65534, 65534)
    # A user that the tenant made, in its layer only.
    run_inside(host, "web", "sh", "-c", "echo app:x:41:42::/:/bin/sh >> /etc/passwd")
    result = host.converged(web("app"))
    assert owner(host, TARGET) == owner(host, KEY) == (41, 42)
    run_inside(host, "web", "sh", "-c", "rm /etc/passwd; mkdir /etc/passwd")
    host.converged(web("app", "three"))
    assert (owner(host, TARGET), host.pid("web")) == ((41, 42), pid)
    assert Path(f"/proc/{pid}/root{KEY}").read_text() == "three"
    assert not result.failed
    # From the record alone.
    host.kill("web")
    host.run(web("app", "three"))
    assert owner(host, TARGET) == owner(host, KEY) == (41, 42)
    # The layer of a rebuild has no such user.
    again = host.run(web("0", "three", recreate=True))
    assert not again.failed and owner(host, TARGET) == (0, 0)


def test_withdrawn_files_leave_no_place_at_a_restart(host: Deployment) -> None:
    own = "/etc/empty"
    paths = ["/etc/app.conf", "/etc/passwd", own]
    files = [{"target": path, "content": "x"} for path in paths]
    host.run(sandbox("web"))
    run_inside(host, "web", "touch", own)
    before = host.inside("web", "/etc/passwd")
    host.run(sandbox("web", files=files))
    host.run(sandbox("web", user="5"))
    root = Path(f"/proc/{host.pid('web')}/root")
    assert (root / own[1:]).exists() and not (root / "etc/app.conf").exists()
    assert (root / "etc/passwd").read_text() == before
    # While it is stopped, too.
    host.run(sandbox("web", user="5", files=files))
    host.run(sandbox("web", user="5", state="stopped"))
    host.run(sandbox("web", user="5"))
    assert not Path(f"/proc/{host.pid('web')}/root/etc/app.conf").exists()
