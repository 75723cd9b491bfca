# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Init's supervisor ends when there is nothing to do; PID 1 goes on when a tenant ends it."""

from __future__ import annotations

import os
import resource
import signal

import pytest
from sandboxes import SUPERVISOR, Host, exit_code, status_fields, switches, until, wait_dead
from sandlot.errors import LaunchError

SLEEP = ["sleep", "100000"]
# What the workload's user may do to each process of its sandbox, again and again.
HUNT = f"""
while :; do
  for comm in /proc/[0-9]*/comm; do
    read -r name < "$comm" && [ "$name" = {SUPERVISOR} ] || continue
    pid="${{comm#/proc/}}"; kill -%s "${{pid%%/comm}}" && echo hit
  done 2> /dev/null
done
"""
# Real-time signals queue up (signal(7)).
FLOOD = """
trap '' 40
ones=$(yes 1 | head -n 2000)
for _ in 1 2 3; do while :; do kill -40 $ones; done 2> /dev/null & done
exec sleep 100000
"""
SAME = (
    *("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
)


def test_a_sleeping_sandbox_is_woken_by_whatever_comes(sandbox_host: Host) -> None:
    script = "trap 'echo got' USR1; while :; do sleep 0.1; done"
    box = sandbox_host.started("a", ["sh", "-c", script]).asleep()
    before = switches(box.init)
    os.kill(box.init, signal.SIGUSR1)
    box.until(lambda: box.log() == ["got"])
    assert before != switches(box.init)
    assert box.asleep().exec(["echo", "hello"]).stdout == b"hello\n"
    os.kill(box.asleep().workload, signal.SIGKILL)
    assert box.until_final()["exit_code"] == 137


def test_a_restart_comes_in_time_to_a_sleeping_sandbox(sandbox_host: Host) -> None:
    restart = {"policy": "always", "retries": 0}
    box = sandbox_host.started("a", ["sh", "-c", "exit 3"], restart=restart)
    # The pause before the seventh start is longer than a supervisor waits for work.
    box.until(lambda: box.status()["restarts"] >= 6)
    box.asleep()
    assert box.status()["state"] in ("backoff", "crash-loop")
    box.until(lambda: box.status()["restarts"] >= 7)


def test_it_is_confined_as_init_and_unreadable(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    with box.session(SLEEP):
        # The command is a copy of it at first.
        until(lambda: len(box.supervisors()) == 1 and len(box.pids()) == 3)
        (pid,) = box.supervisors()
        init, ours = status_fields(box.init), status_fields(pid)
        assert [ours.get(key) for key in SAME] == [init.get(key) for key in SAME]
        # Of a process that refuses to be inspected, these are root's (proc(5)).
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0
        inside = ours["NSpid"].split()[-1]
        for process in ("1", inside):
            for command in ("cat %s/environ", "cat %s/maps", "head -c1 %s/mem", "ls %s/fd"):
                refused = box.shell(command % f"/proc/{process}")
                assert (refused.code, refused.stdout) == (1, b""), command
        for namespace in os.listdir("/proc/self/ns"):
            places = {os.readlink(f"/proc/{each}/ns/{namespace}") for each in (pid, box.init)}
            assert len(places) == 1


@pytest.mark.parametrize("number", ["KILL", "STOP"])
def test_a_tenant_that_hunts_it_wins_nothing(sandbox_host: Host, number: str) -> None:
    box = sandbox_host.started("a", ["sh", "-c", HUNT % number], stop={"signal": 15, "timeout": 1})
    init = box.init

    def hit() -> bool:
        # There is a supervisor only while there is something to do.
        try:
            with box.session(["true"]) as connection:
                assert exit_code(connection, seconds=3.0) == 0
        except (LaunchError, AssertionError, OSError):
            # The hunt met the one that served this command, or the copy that becomes it.
            assert box.init == init
        return "hit" in box.log()

    # Three times after the first hit.
    for _ in range(4):
        box.until(hit)
    box.stop()
    status = box.until_final()
    assert status["state"] == "stopped" and status["exit_code"] in (137, 143)


def test_signals_without_end_delay_no_stop(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", ["sh", "-c", FLOOD], stop={"signal": 15, "timeout": 20.0})
    until(lambda: status_fields(box.init)["SigQ"].split("/")[0] > "0")
    assert box.exec(["echo", "hello"]).stdout == b"hello\n"
    box.stop()
    assert box.until_final()["exit_code"] == 143


def test_without_a_process_pid_one_does_it_all(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, restart={"policy": "always", "retries": 0}).asleep()
    init = box.init
    box.limit(resource.RLIMIT_NPROC, 0)
    with pytest.raises(LaunchError, match="pids_limit"):
        box.exec(["true"])
    os.kill(box.workload, signal.SIGKILL)
    box.until(lambda: box.status().get("exit_code") == 126)
    box.limit(resource.RLIMIT_NPROC, 1000)
    box.until(lambda: box.status().get("state") == "running")
    assert box.exec(["echo", "hello"]).stdout == b"hello\n"
    box.asleep().limit(resource.RLIMIT_NPROC, 0)
    box.stop()
    assert box.until_final()["state"] == "stopped"
    wait_dead(init)


def test_the_last_process_is_for_the_command(sandbox_host: Host) -> None:
    """The supervisor gives its place to the command that it can't fork."""
    box = sandbox_host.started("a", SLEEP).asleep()
    # PID 1, the workload, and one more.
    box.limit(resource.RLIMIT_NPROC, 3)
    assert box.exec(["echo", "hello"]).stdout == b"hello\n"
    with box.session(SLEEP):
        assert box.supervisors() == []
