# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Jobs whose client, launcher or host ends, and hostile ones: all of them end, and go."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from converge_fixtures import Deployment, eventually, needs_root, wait_readable
from job_fixtures import SECONDS, begun, init_of, job, left, words
from sandlot import converge
from sandlot.launcher.client import Launcher
from sandlot.sandbox.job_slots import paths_of

pytestmark = needs_root
IGNORE = "trap '' TERM INT HUP; echo; while :; do sleep 1; done"


def test_a_killed_client_ends_its_job(host: Deployment) -> None:
    """Without another run: init notices by itself, whatever the job does about signals."""
    client = begun(host, "sh", "-c", f"setsid sleep 1000 & {IGNORE}")
    init = init_of(host)
    client.kill()
    wait_readable(init)
    os.close(init)
    client.communicate()
    assert left(host) != []
    # The next one removes it, as does a boot or a deploy.
    assert job(host, "true").returncode == 0
    assert left(host) == []


@pytest.mark.parametrize("run", [converge.up, converge.repair])
def test_runs_remove_what_a_killed_client_left(host: Deployment, run: object) -> None:
    client = begun(host, "sh", "-c", IGNORE)
    client.kill()
    client.communicate()
    assert callable(run)
    assert run(host.paths).failed == {}
    assert left(host) == [] and not list(Path(host.paths.run).glob(".job-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_client_is_the_commands(host: Deployment, number: int) -> None:
    script = "trap 'echo caught; exit 9' TERM INT HUP; echo; while :; do sleep 0.01; done"
    client = begun(host, "sh", "-c", script)
    client.send_signal(number)
    output, _ = client.communicate(timeout=SECONDS)
    assert (client.returncode, output) == (9, b"caught\n")
    assert left(host) == []


def test_a_killed_launcher_is_no_end_of_a_job(host: Deployment) -> None:
    client = begun(host, "sh", "-c", "echo; read x; echo end")
    answer = Launcher(host.paths).ping()
    assert answer is not None
    os.kill(int(answer["pid"]), signal.SIGKILL)
    output, _ = client.communicate(b"\n", timeout=SECONDS)
    assert (client.returncode, output) == (0, b"end\n")
    assert job(host, "echo", "again").stdout == "again\n"
    assert left(host) == []


def test_a_power_cut_leaves_files_alone(host: Deployment) -> None:
    """No job comes back after a boot; what it wrote goes with the next run."""
    upper = Path(paths_of(host.paths, 0).upper)
    upper.mkdir(parents=True)
    (upper / "x").write_text("x")
    os.chmod(upper, 0)
    assert converge.up(host.paths).failed == {}
    assert left(host) == []


def test_a_client_that_dies_while_its_job_starts(host: Deployment) -> None:
    """Killed at many moments: what is left goes with the next job, and no process runs on."""
    for delay in (0.02, 0.04, 0.05, 0.06, 0.08):
        client = subprocess.Popen(
            words(host, "sleep", "1000"), env={"SANDLOT_ROOT": host.paths.root}
        )
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(timeout=delay)
        client.kill()
        client.wait()
        assert job(host, "echo", "next").stdout == "next\n"
        assert left(host) == []


# -- hostile commands


def test_children_that_leave_their_session_end_with_the_command(host: Deployment) -> None:
    script = "setsid sh -c 'trap \"\" TERM; sleep 1000' & echo done"
    done = job(host, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert left(host) == []


def test_a_memory_bomb_ends_alone(host: Deployment) -> None:
    bomb = "head -c 200m /dev/zero | tail -c 200m | wc -c"
    done = job(host, "sh", "-c", bomb, options=("--memory", "32m", "--memory-swap", "32m"))
    assert done.stdout.strip() != str(200 << 20)
    # The control: with room, the same ends well.
    done = job(host, "sh", "-c", bomb, options=("--memory", "600m"))
    assert done.stdout.strip() == str(200 << 20) and left(host) == []


def _ends_with(host: Deployment, client: subprocess.Popen[bytes]) -> None:
    init = init_of(host)
    client.kill()
    wait_readable(init)
    os.close(init)
    client.communicate()
    assert job(host, "true").returncode == 0 and left(host) == []


def test_a_fork_bomb_ends_with_its_client(host: Deployment) -> None:
    bomb = "echo; bomb() { bomb | bomb & }; bomb; while :; do :; done"
    client = begun(host, "sh", "-c", bomb, options=("--pids-limit", "64", "--cpus", "0.5"))
    _ends_with(host, client)


def test_a_flood_ends_with_its_reader(host: Deployment) -> None:
    client = begun(host, "yes")
    assert client.stdout is not None
    client.stdout.close()
    assert client.wait(timeout=SECONDS) == 128 + signal.SIGPIPE
    eventually(lambda: left(host) == [])


def test_the_supervisor_is_no_way_out(host: Deployment) -> None:
    """A tenant may kill the process of init that serves its command; the job ends by that or not,
    but it does end with its client."""
    client = begun(host, "sh", "-c", "kill -9 -1; echo; while :; do sleep 1; done")
    _ends_with(host, client)


# -- limits of time and output


def test_a_job_that_ignores_signals_is_killed_after_its_time(host: Deployment) -> None:
    done = job(host, "sh", "-c", f"setsid sleep 1000 & {IGNORE}", options=("--timeout", "0.2"))
    assert done.returncode == 124 and "ran for more than 0.2 s" in done.stderr
    assert left(host) == []


def test_a_second_signal_to_the_client_kills_a_job_that_ignores_them(host: Deployment) -> None:
    client = begun(host, "sh", "-c", IGNORE)
    client.send_signal(signal.SIGTERM)
    client.send_signal(signal.SIGINT)
    assert client.wait(timeout=SECONDS) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    client.communicate()
    assert left(host) == []


def test_output_has_a_limit(host: Deployment) -> None:
    done = job(host, "yes", options=("--output-limit", "100k"))
    assert len(done.stdout) == 100 << 10 and "more than 102400 bytes" in done.stderr
    assert done.returncode == 125 and left(host) == []
