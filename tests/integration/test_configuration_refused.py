# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Bad files and secrets, by the modules: one error each, and nothing of the host has changed."""

from __future__ import annotations

from typing import Any

from converge_fixtures import Deployment, needs_root, sandbox, tree
from plays import play

pytestmark = needs_root
SECRET = "a-value-that-no-message-has"
# What an entry of a running sandbox would be, and what the message says.
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"files": [{"target": "/etc/../../x", "content": "x"}]}, "files[0].target"),
    ({"files": [{"target": "/usr", "content": "x"}]}, "/usr"),
    (
        {"files": [{"target": "/data/conf", "content": "x"}], "volumes": ["data:/data"]},
        "lies in /data, which volumes mounts",
    ),
    ({"files": [{"target": "/x", "content": "x", "owner": "nobody-at-all"}]}, "nobody-at-all"),
    ({"secrets": [{"name": "s", "value": SECRET * 40000}]}, "512000"),
    ({"secrets": [{"name": "s", "value": SECRET, "src": "x"}]}, "has value and src"),
    ({"files": [{"target": "/x", "src": "/no/such/file"}]}, "/no/such/file"),
)


def test_refusals_change_nothing(host: Deployment) -> None:
    host.converged(sandbox("web", files=[{"target": "/etc/app.conf", "content": "kept"}]))
    before, pid = tree(host.paths.root), host.pid("web")
    tasks = [{"sandbox": sandbox("web", **options)} for options, _ in REFUSED]
    results = play(host.paths, *tasks, fails=True)
    for result, (options, words) in zip(results, REFUSED):
        assert result["failed"], options
        assert words in result["msg"] and SECRET not in str(result), result["msg"]
    assert (tree(host.paths.root), host.pid("web")) == (before, pid)
    assert host.inside("web", "/etc/app.conf") == "kept"
