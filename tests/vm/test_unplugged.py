# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Power cuts in the middle of runs: the old state or the new one, readable, and a run repairs it.

Each run goes on where the one before it was cut off, and is cut off later.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

import pytest
from guest import PLAY_SECONDS, Guest, finish
from hosts import (
    BEFORE,
    DEMO,
    DEPLOY,
    FINGERPRINT,
    NAMES,
    TEARDOWN,
    changed,
    demo,
    fetch,
    inspect,
)

STATE = "/var/lib/sandlot"
NEW_COMMAND = ["sh", "-c", "mkdir -p /srv; echo new > /srv/index.html; exec httpd -f -p 80 -h /srv"]
# What is on the host, or is not any more, when the power goes: from the first side effect on.
DEPLOYS = {
    "runtime": "+/usr/local/lib/sandlot/upgrade-pending",
    "image": f"+{STATE}/images/*",
    "networks": f"+{STATE}/networks.json",
    "records": f"+{STATE}/sandboxes/*/record.json",
    "start": "+/run/sandlot/*/init.json",
}
_WATCH = """\
import glob, sys, time
wanted, pattern, mark = sys.argv[1][0] == "+", sys.argv[1][1:], sys.argv[2]
while bool(glob.glob(pattern)) is not wanted:
    time.sleep(0.01)
open("/dev/ttyS0", "w").write(mark)
"""


def unplugged(guest: Guest, playbook: str, variables: dict[str, Any], moment: str) -> None:
    """Cut the power once the guest says that the moment has come, and boot again."""
    mark = f"cut-{time.monotonic_ns()}"
    guest.root(shlex.join(["systemd-run", "-q", "python3", "-c", _WATCH, moment, mark]))
    play = guest.play(playbook, variables)
    deadline = time.monotonic() + PLAY_SECONDS
    try:
        while mark not in guest.console():
            assert play.poll() is None, play.communicate()[0]
            assert time.monotonic() < deadline, f"{moment} did not come"
            time.sleep(0.01)
        guest.cut_power()
    finally:
        play.kill()
        play.communicate()
    guest.boot()


def readable(guest: Guest) -> list[dict[str, Any]]:
    """Everything there is of sandlot can be read, and no unit has failed at boot."""
    assert "sandlot" not in guest.output("systemctl --failed --plain --no-legend")
    listed: list[dict[str, Any]] = guest.json(
        "test ! -x /usr/local/bin/sandlot && echo [] || sandlot list --format json"
    )
    for entry in listed:
        assert inspect(guest, entry["name"])["spec"]["name"] == entry["name"]
    return listed


@pytest.mark.parametrize("phase", DEPLOYS)
def test_during_the_first_deploy(guest: Guest, phase: str) -> None:
    unplugged(guest, DEPLOY, DEMO, DEPLOYS[phase])
    assert {entry["name"] for entry in readable(guest)} <= set(NAMES)


def test_one_more_run_converges(guest: Guest) -> None:
    finish(guest.play(DEPLOY, DEMO))
    assert fetch(guest) == "hello"
    assert changed(finish(guest.play(DEPLOY, DEMO))) == 0


def test_during_an_update(guest: Guest) -> None:
    updated = demo({"web": {"command": NEW_COMMAND}})
    updated["sandbox_instances"].append({"name": "extra", "command": ["sleep", "1000000"]})
    old = inspect(guest, "web")
    unplugged(guest, DEPLOY, updated, f"+{STATE}/sandboxes/extra/record.json")
    assert {entry["name"] for entry in readable(guest)} <= {*NAMES, "extra"}
    now = inspect(guest, "web")
    assert now["spec"]["command"] in (old["spec"]["command"], NEW_COMMAND)
    assert (now["addresses"], now["ids"]) == (old["addresses"], old["ids"])
    finish(guest.play(DEPLOY, updated))
    assert fetch(guest) == "new"
    assert changed(finish(guest.play(DEPLOY, updated))) == 0


def test_during_a_teardown(guest: Guest) -> None:
    unplugged(guest, TEARDOWN, {}, f"-{STATE}/sandboxes/web/record.json")
    readable(guest)
    finish(guest.play(TEARDOWN, {}))
    done = guest.ssh(f"sudo python3 {FINGERPRINT} --compare {BEFORE}", check=False)
    assert done.returncode == 0, done.stdout
