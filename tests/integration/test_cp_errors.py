# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot cp that can't do what was asked: one error, with the path and the remedy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, exit_code
from sandlot import wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

RIGHTS = "hint: name a user with the right to it: -u USER;"


@pytest.fixture(scope="module")
def box(module_host: Host) -> Sandbox:
    """Its root is read-only, and holds no program that could copy anything."""
    box = module_host.started(
        "a", ["sleep", "1000000"], read_only=True, tmpfs={"/tmp": "size=16m", "/srv": "size=1m"}
    )
    script = (
        "mkdir /tmp/d; echo x > /tmp/f; echo x > /tmp/d/f; chmod 0 /tmp/f; cp /bin/busybox /tmp"
    )
    assert box.shell(script).code == 0
    return box


def errors(box: Sandbox, *words: str | Path, stdin: bytes = b"x") -> tuple[int, list[str]]:
    done = subprocess.run(
        [*COMMAND, "cp", *map(str, words)],
        env=environment(box.host), input=stdin, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode().splitlines()


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["-", "a:/etc/x"], "a:/etc/x: Read-only file system", "hint: copy to a volume or a tmpfs"),
        (["-", "a:/tmp/no/x"], "a:/tmp/no/x: No such file or directory", "hint: correct the path"),
        (["-", "a:/tmp/d"], "a:/tmp/d: Is a directory", "hint: name a file"),
        (["-", "a:/tmp/d/f/x"], "a:/tmp/d/f/x: Not a directory", "hint: correct the path"),
        (["-u", "web", "a:/tmp/f", "-"], "a: user: 'web' is not the user of this sandbox", ""),
        (["-u", "nobody", "a:/tmp/f", "-"], "a: user: 'nobody' is not in", ""),
        (["-a", "FILE", "a:/tmp/owner"], "a:/tmp/owner: Operation not permitted", RIGHTS),
        (["FILE", "a:/tmp/d/f/"], "a:/tmp/d/f/: Not a directory", "hint: correct the path"),
        (["FILE", "a:/tmp/no/"], "a:/tmp/no/: No such file or directory", "hint: correct the path"),
        (["DIR", "a:/tmp/d/f"], "a:/tmp/d/f: Not a directory", "hint: correct the path"),
        (["a:/tmp/no", "DIR"], "a:/tmp/no: No such file or directory", "hint: correct the path"),
        (["a:/tmp/d", "FILE"], "FILE: Not a directory", "hint: correct the path"),
        (["a:/tmp/d/f", "DIR/no/"], "DIR/no/: No such file or directory", "hint: make"),
        (["a:/tmp/d/f", "DIR/no/x"], "DIR/no: No such file or directory", "hint: correct the path"),
        (["NO", "a:/tmp/x"], "NO: No such file or directory", "hint: correct the path"),
        (["a:/tmp/f", "a:/tmp/g"], "cp: source and target are both in", "hint: use sandlot"),
        (["FILE", "x"], "cp: neither source nor target is in", "hint: give one"),
        (["a:", "x"], "cp: 'a:' names no path", "hint: give one"),
        (["--offset", "1", "FILE", "a:/tmp/x"], "cp: --offset and --length are", "hint: give -"),
        (["--length", "1", "-", "a:/tmp/x"], "cp: --length limits what is read", "hint: leave it"),
        (["-a", "-", "a:/tmp/x"], "cp: -a keeps owners of files, and - has none", "hint: use -u"),
    ],
)  # fmt: skip
def test_one_error(box: Sandbox, tmp_path: Path, words: list[str], message: str, hint: str) -> None:
    (tmp_path / "FILE").write_text("x")
    os.chown(tmp_path / "FILE", 33, 33)
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR" / "f").write_text("x")
    places = {name: str(tmp_path / name) for name in ("FILE", "DIR", "NO")}
    words = [next((w.replace(n, p) for n, p in places.items() if n in w), w) for w in words]
    message = next((message.replace(n, p) for n, p in places.items() if n in message), message)
    code, lines = errors(box, *words)
    assert code == 1 and len(lines) <= 2
    assert lines[0].startswith(f"sandlot: {message}")
    assert "".join(lines[1:]).startswith(hint)


def test_a_program_that_runs(box: Sandbox) -> None:
    with box.session(["/tmp/busybox", "sleep", "1000"], [0, 1, 2]) as connection:
        assert "pid" in (wire.receive(connection)[0] or {})
        code, lines = errors(box, "-", "a:/tmp/busybox")
        wire.send(connection, {"op": "signal", "signal": 9})
        exit_code(connection)
    assert (code, lines[0]) == (1, "sandlot: a:/tmp/busybox: Text file busy")


def test_closed_files_of_others(sandbox_host: Host, tmp_path: Path) -> None:
    rights = 1 << 6 | 1 << 7  # SETGID, SETUID
    box = sandbox_host.started("b", ["sleep", "1000000"], capabilities=rights)
    assert box.shell("mkdir -m 700 /root/p; echo x > /root/p/f").code == 0
    code, lines = errors(box, "-u", "web", "b:/root/p/f", "-")
    assert (code, lines[0]) == (1, "sandlot: b:/root/p/f: Permission denied")
    assert lines[1].startswith(RIGHTS)
    code, lines = errors(box, "-u", "web", "-", "b:/root/p/f")
    assert (code, lines[0]) == (1, "sandlot: b:/root/p/f: Permission denied")
    # A tree ends with the first of its files that can't be read, and names it.
    assert box.shell("chmod 755 /root /root/p; chmod 600 /root/p/f").code == 0
    code, lines = errors(box, "-u", "web", "b:/root/p", tmp_path)
    assert (code, lines[0]) == (1, "sandlot: b:/root/p/f: Permission denied")


def test_an_init_that_copies_no_files(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an older version, which knows no such operation."""
    from sandlot.errors import SandlotError
    from sandlot.reach import files

    send = wire.send
    monkeypatch.setattr(wire, "send", lambda s, m, f=(): send(s, {**m, "op": "later"}, f))
    with pytest.raises(SandlotError) as caught, files.opened(box.host.paths, "a"):
        pass
    assert caught.value.message == "a: this init is of an older sandlot, which can't copy files"
    assert caught.value.hint == "restart the sandbox: sandlot restart a"


def test_no_more_than_the_most_commands(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox serves so many copies and commands at a time."""
    code, lines = 0, [""]
    sessions = []
    try:
        while len(sessions) < 256:
            sessions.append(box.session(["sleep", "1000"], [0, 1, 2]))
            assert "pid" in (wire.receive(sessions[-1])[0] or {})
        code, lines = errors(box, "-", "a:/tmp/x")
    finally:
        for session in sessions:
            wire.send(session, {"op": "signal", "signal": 9})
            session.close()
    assert (code, lines) == (1, ["sandlot: a: 256 commands run in this sandbox already"])
