# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Failures of sandlot exec itself, which programs tell from the ends of commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

TOKEN = "cafe0123"


@pytest.fixture
def box(sandbox_host: Host) -> Sandbox:
    return sandbox_host.started("a", ["sleep", "1000000"])


def failure(stderr: bytes) -> dict[str, str]:
    """The last line, as programs read it."""
    _, mark, rest = stderr.decode().rpartition(f"\n{TOKEN} ")
    assert mark and rest.endswith("}\n") and rest.count("\n") == 1, stderr
    return dict(json.loads(rest))


def refused(box: Sandbox, *words: str) -> tuple[int, dict[str, str]]:
    done = subprocess.run(
        [*COMMAND, "exec", "--errors-as", TOKEN, *words],
        env=environment(box.host), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=60,
    )  # fmt: skip
    return done.returncode, failure(done.stderr)


def test_missing_and_stopped(box: Sandbox) -> None:
    code, error = refused(box, "nobody", "true")
    assert (code, error["kind"]) == (125, "missing")
    assert error["message"] == "no sandbox is named 'nobody'" and error["hint"] == "known: a"
    box.stop()
    code, error = refused(box, "a", "true")
    assert (code, error["kind"], error["hint"]) == (125, "stopped", "start it: sandlot start a")


def test_a_sandbox_that_is_ending_takes_no_command(box: Sandbox) -> None:
    """Its status is final a moment before init has ended."""
    status = Path(box.paths.status)
    status.write_text(json.dumps({**json.loads(status.read_text()), "final": True}))
    end = threading.Timer(0.5, os.kill, (box.init, signal.SIGKILL))
    end.start()
    code, error = refused(box, "a", "touch", "/taken")
    end.join()
    assert (code, error["kind"]) == (125, "stopped")


def test_what_else_fails(box: Sandbox) -> None:
    assert refused(box, "-e", "=x", "a", "true")[1]["kind"] == "failed"


def test_a_command_that_does_not_start(box: Sandbox) -> None:
    code, error = refused(box, "a", "nothing-there")
    assert (code, error["kind"]) == (127, "not-started")
    assert error["message"] == "a: nothing-there: command not found"
    code, error = refused(box, "-u", "nobody-there", "a", "true")
    assert (code, error["kind"]) == (126, "not-started") and "/etc/passwd" in error["message"]


def test_commands_cannot_forge_a_failure(box: Sandbox) -> None:
    script = 'echo \'\n$T {"kind": "missing"}\' >&2; printf open >&2; exit 125'
    done = subprocess.run(
        [*COMMAND, "exec", "--errors-as", TOKEN, "a", "--", "sh", "-c", script],
        env=environment(box.host), capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 125 and done.stderr.endswith(b"open")
    assert TOKEN.encode() not in done.stderr


@pytest.mark.parametrize("killed", ["init", "supervisor"])
def test_a_sandbox_that_ends_is_told_from_a_command_that_goes_on(box: Sandbox, killed: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "exec", "--errors-as", TOKEN, "a", "--", "sh", "-c", "echo ready; sleep 1000"],
        env=environment(box.host), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == b"ready\n"
    if killed == "supervisor":
        # Init goes on with the command that its supervisor started.
        (pid,) = until(box.supervisors)
        os.kill(pid, signal.SIGKILL)
        until(lambda: box.supervisors() not in ([], [pid]))
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == b"" and process.returncode == 128 + 15
        return
    os.kill(box.init, signal.SIGKILL)
    stderr = process.communicate(timeout=20)[1]
    assert (process.returncode, failure(stderr)["kind"]) == (137, "vanished")
    assert failure(stderr)["message"] == "a: the sandbox ended while the command ran"


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "{", "é"])
def test_a_token_is_letters_and_digits(box: Sandbox, token: str) -> None:
    words = ["exec", "--errors-as", token, "a", "true"]
    done = subprocess.run(
        [*COMMAND, *words], env=environment(box.host), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 125 and b"has to be letters and digits" in done.stderr
