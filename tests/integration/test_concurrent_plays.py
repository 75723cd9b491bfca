# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Eight runs at once, of the same and of different sets, beside one that installs the runtime."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Sequence
from typing import Any

from converge_fixtures import Deployment, free_port, needs_root, sandbox
from sandlot import idmap
from sandlot.host import install as runtime_of_host
from sandlot.launcher.client import Launcher

pytestmark = needs_root


def forked(action: Callable[[], object], gate: int) -> int:
    """Does it when the gate is opened for all."""
    pid = os.fork()
    if pid == 0:
        code = 1
        select.select([gate], [], [])
        with contextlib.suppress(BaseException):
            action()
            code = 0
        os._exit(code)
    return pid


def at_once(actions: Sequence[Callable[[], object]]) -> list[int]:
    """Exit codes."""
    reading, writing = os.pipe()
    pids = [forked(action, reading) for action in actions]
    os.write(writing, b"x")
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(reading)
    os.close(writing)
    return codes


def deploys(
    host: Deployment, specs: list[dict[str, Any]], *, purge: bool = False
) -> Callable[[], object]:
    def action() -> None:
        result = host.run(*specs, purge=purge)
        assert not result.failed, result.failed

    return action


def test_eight_plays(host: Deployment) -> None:
    port = free_port()
    shared = [sandbox("both", published_ports=[f"{port}:80"]), sandbox("with", memory="64m")]
    sets = [[sandbox(f"n{number}"), sandbox(f"m{number}"), *shared] for number in range(4)] * 2
    plays = [deploys(host, specs) for specs in sets]
    plays.append(lambda: runtime_of_host.present(host.paths, check=False))
    assert at_once(plays) == [0] * len(plays)
    everyone = {spec["name"]: spec for specs in sets for spec in specs}
    assert host.run(*everyone.values()).actions == []
    found = [host.info(name) for name in everyone]
    assert {each["state"] for each in found} == {"running"}
    for what in ("addresses", "ids"):
        values = [str(each[what]) for each in found]
        assert len(set(values)) == len(values), values
    lines = idmap.observe(host.paths)
    assert all(len(file.owned()[name]) == 1 for file in lines.both for name in everyone)
    answer = Launcher(host.paths).ping()
    assert answer is not None


def test_some_deploy_while_others_remove(host: Deployment) -> None:
    """Whoever comes last is obeyed, and whatever that is, a run converges."""
    kept = [sandbox("kept")]
    sets = [[*kept, sandbox("a"), sandbox("b")], kept] * 4
    plays = [deploys(host, specs, purge=specs is kept) for specs in sets]
    assert at_once(plays) == [0] * len(plays)
    pid = host.pid("kept")
    host.converged(*sets[0])
    host.converged(*kept, purge=True)
    assert host.pid("kept") == pid
