# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Ordinary modules in a sandbox of 2 MB without Python, by that of its host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from connection_fixtures import Fleet, fleet_of
from converge_fixtures import needs_root, sandbox
from netmode_fixtures import run_inside
from sandlot.kernel import mountinfo

pytestmark = [needs_root, pytest.mark.slow]
HOST_PYTHON: dict[str, dict[str, Any]] = {
    f"web@{way}": {"ansible_sandbox_python": "host"} for way in ("here", "alpha")
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(sandbox("web", security_profile="daemon")) as made:
        yield made


def asserted(*conditions: str) -> dict[str, Any]:
    return {"assert": {"that": list(conditions)}}


def mounted(fleet: Fleet) -> list[str]:
    rows = mountinfo.by_id(fleet.host.pid("web")).values()
    return [row.point for row in rows if row.point.startswith("/dev/.python")]


TASKS: list[dict[str, Any]] = [
    {"ping": {}},
    {"setup": {}},
    asserted(
        "ansible_facts.hostname == 'web'",
        "ansible_facts.python.executable == '/dev/.python/bin/python3'",
        "ansible_facts.user_id == 'root'",
    ),
    {"file": {"path": "/srv/x", "state": "directory", "owner": "root", "mode": "0750"}},
    {"copy": {"content": "one\n", "dest": "/srv/x/y", "mode": "0600"}, "register": "copied"},
    {"lineinfile": {"path": "/srv/x/y", "line": "two"}, "register": "added"},
    {"lineinfile": {"path": "/srv/x/y", "line": "two"}, "register": "again"},
    {"command": {"argv": ["cat", "/srv/x/y"]}, "register": "shown"},
    {"shell": "env | sort", "register": "variables"},
    {"slurp": {"src": "/srv/x/y"}, "register": "content"},
    {"stat": {"path": "/srv/x"}, "register": "seen"},
    {"get_url": {"url": "file:///srv/x/y", "dest": "/srv/z"}},
    {"find": {"paths": "/srv", "recurse": True}, "register": "found"},
    asserted(
        "copied is changed and added is changed and again is not changed",
        "shown.stdout == 'one\ntwo'",
        "content.content | b64decode == 'one\ntwo\n'",
        "seen.stat.mode == '0750'",
        "found.matched == 2",
        "variables.stdout is not search('(LD_|PYTHON)')",
    ),
]


def test_modules(fleet: Fleet) -> None:
    fleet.play({"hosts": "web@here", "tasks": TASKS}, hosts=HOST_PYTHON)
    assert mounted(fleet) == []


def test_a_module_in_a_file(fleet: Fleet) -> None:
    tasks = [{"ping": {}}, {"copy": {"content": "x", "dest": "/srv/file"}}]
    variables = {"ansible_pipelining": False}
    fleet.play({"hosts": "web@here", "tasks": tasks, "vars": variables}, hosts=HOST_PYTHON)
    assert run_inside(fleet.host, "web", "cat", "/srv/file").stdout == "x"


def test_a_delegated_task(fleet: Fleet) -> None:
    task = {"command": "hostname", "delegate_to": "web@alpha", "register": "said"}
    tasks = [task, asserted("said.stdout == 'web'")]
    fleet.play({"hosts": "here", "tasks": tasks}, hosts=HOST_PYTHON)


def test_a_job_goes_on_after_its_task(fleet: Fleet) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.05; done; echo done"
    tasks = [
        {"command": {"argv": ["sh", "-c", script]}, "async": 60, "poll": 0, "register": "job"},
        {"raw": "touch /tmp/go"},
        {
            "async_status": {"jid": "{{ job.ansible_job_id }}"},
            "register": "result",
            "until": "result is finished",
            "retries": 100,
            "delay": 0.1,
        },
        asserted("result.stdout == 'done'"),
    ]
    fleet.play({"hosts": "web@alpha", "tasks": tasks}, hosts=HOST_PYTHON)
