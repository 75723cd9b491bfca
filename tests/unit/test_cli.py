# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The parts of the command that need no sandbox."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sandlot import converge, store
from sandlot.cli import listing, logs, output, service
from sandlot.cli.main import main, parse
from sandlot.errors import SandlotError
from sandlot.reach.relay import CHUNK, Loop, Pump, waiting
from sandlot.sandbox import names
from sandlot.site import Site

ENGINE = Path(__file__).resolve().parents[2] / "module_utils"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (10239, "10K"),
        (1 << 20, "1.0M"),
        (1023 << 10, "1.0M"),
        (999 << 10, "999K"),
        (64 << 20, "64M"),
        (1536 << 20, "1.5G"),
        (1 << 62, "4096P"),
    ],
)
def test_sizes(count: int | None, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (3661, "1h1m"),
        (86400 * 3 + 3600 * 4 + 5, "3d4h"),
        (86400 * 400 + 59, "400d"),
    ],
)
def test_spans(seconds: float | None, shown: str) -> None:
    assert output.span(seconds) == shown


def test_tables_are_aligned_and_without_trailing_blanks() -> None:
    table = output.table(("NAME", "N"), [["a", "1"], ["long", "10"]], right=("N",))
    assert table == "NAME   N\na      1\nlong  10\n"
    assert output.table(("NAME", "STATE"), []) == "NAME  STATE\n"


@pytest.mark.parametrize(
    ("port", "shown"),
    [
        ("0.0.0.0:8080:80/tcp", "8080:80"),
        ("0.0.0.0:53:53/udp", "53:53/udp"),
        ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80"),
    ],
)
def test_ports(port: str, shown: str) -> None:
    row = {"name": "a", "state": "running", "image": "i", "addresses": ["10.0.0.2"]}
    rest = {"published_ports": [port], "uptime": 1, "memory": 1, "restarts": 0, "exit_code": None}
    rest["oom_kills"] = 0
    assert listing._row({**row, **rest, "network_mode": "bridge", "health": None})[4] == shown


@pytest.mark.parametrize(
    ("words", "name", "argv", "flags"),
    [
        (["web", "--", "ls", "-l"], "web", ["ls", "-l"], ""),
        (["web", "ls", "-l"], "web", ["ls", "-l"], ""),
        (["-it", "web", "--", "sh"], "web", ["sh"], "it"),
        (["-i", "web", "sh", "-c", "x", "--", "y"], "web", ["sh", "-c", "x", "--", "y"], "i"),
        (["web", "--", "--", "x"], "web", ["--", "x"], ""),
        (["-e", "A=1", "-u", "0", "web", "--", "-i"], "web", ["-i"], ""),
    ],
)
def test_exec_takes_the_command_as_it_is(
    words: list[str], name: str, argv: list[str], flags: str
) -> None:
    options = parse(["exec", *words])
    assert (options.name, options.argv) == (name, argv)
    assert (options.interactive, options.tty) == ("i" in flags, "t" in flags)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["inspect"],
        ["start"],
        ["list", "--", "x"],
        ["list", "--format", "yaml"],
        ["logs", "--tail", "-1", "web"],
        ["logs", "--tail", "x", "exec"],
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["exec"], "required: name"),
        (["exec", "web"], "give it a command"),
        (["exec", "web", "--"], "give it a command"),
        (["exec", "--nonsense", "web", "--", "id"], "--nonsense"),
        (["run", "--", "id"], "--image"),
        (
            ["run", "--image", "base", "--timeout", "soon", "--", "id"],
            "--timeout: 'soon' is no number",
        ),
    ],
)
def test_wrong_usage_is_not_taken_for_the_status_of_a_command(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 125
    assert told in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    words = "list inspect exec logs start stop restart top explain up down launcher"
    assert all(f"\n    {word} " in shown for word in words.split())


@pytest.mark.parametrize(("state", "ended"), [("running", 0), ("stopping", 1)])
def test_down_at_a_shutdown_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, ended: int
) -> None:
    """The launcher's unit is stopped at restarts as well, and those leave sandboxes alone."""
    calls: list[Site] = []
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {state}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(converge, "down", lambda paths: calls.append(paths) or {})
    assert service.down(Site(""), parse(["down", "--at-shutdown"])) == 0
    assert len(calls) == ended


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000"),
        ("2026-01-31T12:00:00.5+01:00", "2026-01-31T11:00:00.500000"),
        ("1000000000", "2001-09-09T01:46:40.000000"),
    ],
)
def test_moments(text: str, shown: str) -> None:
    assert logs._moment(text) == shown


def test_ages_count_back_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.time, "time", lambda: 1_000_000_000.0)
    assert logs._moment("90s") == "2001-09-09T01:45:10.000000"
    assert logs._moment("1d") == "2001-09-08T01:46:40.000000"


@pytest.mark.parametrize("text", ["", "x", "10", "1e400", "9" * 30, "10y"][:2] + ["9" * 30, "10y"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(SandlotError, match="is no time"):
        logs._moment(text)


def test_a_log_can_not_command_the_terminal() -> None:
    shown = logs._visible(b"\x1b]0;title\x07 \tok \x1b[31mred \xc2\x9b2J \xc3\xa9")
    assert shown == b"\\x1b]0;title\\x07 \tok \x1b[31mred \\xc2\\x9b2J \xc3\xa9\x1b[0m"
    assert logs._visible(b"plain") == b"plain"


# -- records


def write_record(paths: Site, name: str, **changes: Any) -> None:
    os.makedirs(paths.sandbox(name).state)
    record = {
        "name": name,
        "phase": "present",
        "wanted": "started",
        "image": {"name": "busybox", "digest": "d", "root": "/r"},
        "interfaces": [{"ipv4": "10.77.0.2/22"}],
        "spec": {"published_ports": ["0.0.0.0:8080:80/tcp"], "capabilities": []},
    }
    store.write(paths.sandbox(name).record, {**record, **changes})


def test_a_host_without_sandboxes(tmp_path: Path) -> None:
    assert listing.all_sandboxes(Site(str(tmp_path))) == []


def test_a_broken_record_hides_nothing(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    for name in ("good", "truncated", "newer", "partial"):
        write_record(paths, name)
    record = Path(paths.sandbox("truncated").record)
    record.write_bytes(record.read_bytes()[:40])
    Path(paths.sandbox("newer").record).write_text(json.dumps({"schema": 99}))
    Path(paths.sandbox("partial").record).write_text(json.dumps({"schema": 1, "name": "partial"}))
    os.makedirs(paths.sandbox("begun").state)
    found = {each["name"]: each for each in listing.all_sandboxes(paths)}
    assert sorted(found) == ["good", "newer", "partial", "truncated"]
    assert found["good"]["state"] == "down"
    assert all(found[name]["state"] == "broken" for name in ("newer", "partial", "truncated"))
    assert "schema 99" in found["newer"]["error"]
    assert listing.warn(list(found.values())) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\nb", "-x", "missing", "é"])
def test_names_are_checked_before_paths_are_made(tmp_path: Path, name: str) -> None:
    paths = Site(str(tmp_path))
    write_record(paths, "good")
    with pytest.raises(SandlotError, match="no sandbox is named"):
        names.check(paths, name)
    assert names.check(paths, "good") == "good"


def test_list_imports_no_engine() -> None:
    """Its start is half of what it costs: neither netlink, nor the option table, nor ctypes."""
    code = (
        f"import sys; sys.path.insert(0, {str(ENGINE)!r}); from sandlot.cli import listing, main; "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    loaded = done.stdout.decode().split()
    heavy = ("pyroute2", "subprocess", "sandlot.converge", "sandlot.network", "sandlot.spec")
    assert [name for name in loaded if name in heavy] == []


# -- relay


def test_pump_copies_exactly_and_tells_the_end() -> None:
    source, feed = os.pipe()
    drain, target = os.pipe()
    for fd in (source, target):
        os.set_blocking(fd, False)
    pump = Pump(source, target, owns_source=True, owns_target=True)
    loop = Loop()
    loop.pumps.append(pump)
    data = os.urandom(3_000_000)
    child = os.fork()
    if child == 0:
        os.close(drain)
        view = memoryview(data)
        while view:
            view = view[os.write(feed, view) :]
        os._exit(0)
    os.close(feed)
    received: list[bytes] = []
    loop.handlers[drain] = lambda: received.append(os.read(drain, 5000))
    while not pump.done or (received and received[-1]):
        loop.turn()
    os.waitpid(child, 0)
    os.close(drain)
    assert b"".join(received) == data


def test_pump_ends_its_source_when_nobody_reads() -> None:
    source, feed = os.pipe()
    drain, target = os.pipe()
    os.close(drain)
    pump = Pump(source, target, owns_source=True)
    os.write(feed, b"x")
    pump.step()
    assert pump.done
    with pytest.raises(BrokenPipeError):
        os.write(feed, b"x")
    os.close(feed)
    os.close(target)


def test_rest_of_the_output_ends_when_nobody_reads() -> None:
    source, feed = os.pipe()
    drain, target = os.pipe()
    os.set_blocking(target, False)
    pump = Pump(source, target)
    data = bytes(CHUNK)
    while not pump.unwritten:
        os.write(feed, data)
        pump.step()
    os.close(drain)
    Loop().drain(pump, 0)
    assert pump.done and pump.error and pump.error.errno == errno.EPIPE
    for fd in (source, feed, target):
        os.close(fd)


def test_rest_of_the_output_ends_although_others_go_on_to_write() -> None:
    source, feed = os.pipe()
    for fd in (source, feed):
        os.set_blocking(fd, False)
    written: list[int] = []

    def write(dummy: int, data: bytes) -> int:
        written.append(len(data))
        assert sum(written) < 10 * CHUNK
        os.write(feed, bytes(CHUNK))
        return len(data)

    os.write(feed, bytes(1000))
    pump = Pump(source, feed, write=write)
    Loop().drain(pump, waiting(source))
    assert written == [1000] and waiting(source) == CHUNK
    for fd in (source, feed):
        os.close(fd)


def test_pump_says_farewell() -> None:
    source, feed = os.pipe()
    drain, target = os.pipe()
    os.set_blocking(source, False)
    pump = Pump(source, target, farewell=b"\x04")
    os.write(feed, b"x")
    os.close(feed)
    Loop().drain(pump, 2)
    assert pump.done and os.read(drain, 10) == b"x\x04"
    for fd in (source, drain, target):
        os.close(fd)


@pytest.mark.parametrize(
    ("state", "kills", "expected"),
    [
        ("running", 0, "running(healthy)"),
        ("running", 1, "running(healthy, 1 OOM kill)"),
        ("restarting", 12, "restarting(137, healthy, 12 OOM kills)"),
        ("crash-loop", 0, "crash-loop(137)"),
        ("stopped", 0, "stopped(by the host)"),
    ],
)
def test_state_of_a_listing(state: str, kills: int, expected: str) -> None:
    rest = {"exit_code": 137, "health": "healthy", "wanted": "started", "oom_kills": kills}
    assert listing._state({"state": state, **rest}) == expected
