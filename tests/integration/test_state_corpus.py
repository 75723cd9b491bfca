# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Every state file, damaged in every way: commands end with an answer or one clear error.

Each damage is done to a host with two sandboxes. Commands, a deploy and a removal end in bounded
time, they succeed or name the file and what to do; the other sandbox goes on. Doing that converges.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from sandboxes import pid_inside
from sandlot import cli
from sandlot.errors import SandlotError

pytestmark = needs_root

SECONDS = 30
SPECS = [sandbox("a", memory="64m"), sandbox("b")]


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        deployment.converged(*SPECS)
        yield deployment


@pytest.fixture(autouse=True)
def alarmed() -> Iterator[None]:
    def late(_number: int, _frame: object) -> None:
        raise AssertionError(f"a command did not end within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.signal(signal.SIGALRM, before)


# Of one sandbox; its removal works without them.
OWN = ("record.json", "launch.json", "init.json", "status", "namespaces.json")
SHARED = (
    *("networks.json", "names.json", "forwarding.json", "cgroups.json", "subids.json", "lock"),
    *("busybox.json", "about.json", ".watch.json", ".rules.json", ".rules.nft"),
)


def place(host: Deployment, file: str) -> Path:
    """Where a file of the table lies."""
    places = [host.paths.state, host.paths.run, host.paths.images]
    places += [host.paths.sandbox("a").state, host.paths.sandbox("a").run]
    places += [str(path.parent) for path in Path(host.paths.images).glob("trees/*/about.json")]
    found = [Path(each, file) for each in places if os.path.lexists(f"{each}/{file}")]
    return found[0] if found else Path(host.paths.state, file)


def spoiled(value: Any) -> Any:
    """Every value of another type; the schema stays."""
    if isinstance(value, dict):
        return {key: value[key] if key == "schema" else spoiled(value[key]) for key in value}
    return {"x": []} if isinstance(value, (str, list)) else "x"


def text(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bytes], None]:
    def write(path: Path, before: bytes) -> None:
        try:
            data = json.loads(before)
        except ValueError:
            data = {"schema": 1}
        path.write_text(json.dumps(change(data)))

    return write


def huge(path: Path, before: bytes) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def directory(path: Path, before: bytes) -> None:
    path.mkdir()
    (path / "kept").touch()


def symlink(path: Path, before: bytes) -> None:
    """To a file of somebody else's, with good content."""
    target = Path(path.parts[0], *path.parts[1:4], "victim")
    target.write_bytes(before)
    path.symlink_to(target)


DAMAGES: dict[str, Callable[[Path, bytes], Any]] = {
    "empty": lambda path, before: path.write_bytes(b""),
    "truncated": lambda path, before: path.write_bytes(before[: len(before) * 2 // 3]),
    "junk": lambda path, before: path.write_bytes(b"\x00\xff\xfe\x80" * 99),
    "nested": lambda path, before: path.write_bytes(b"[" * 200_000),
    "wrong types": text(spoiled),
    "a list": text(lambda data: [data]),
    "newer": text(lambda data: {**data, "schema": 99}),
    "other boot": text(lambda data: {**data, "boot_id": "0" * 36}),
    "huge": huge,
    "directory": directory,
    "symlink": symlink,
    "fifo": lambda path, before: os.mkfifo(path),
}

# Without these a teardown could not put the host back.
RESTORED = ("subids.json", "forwarding.json", "cgroups.json")
# One of each sort, for files whose readers are the same.
FEWER = ("truncated", "nested", "wrong types", "newer", "directory", "symlink", "fifo")
COMMANDS = (["list"], ["inspect", "a"], ["inspect", "b"], ["top"])
REMEDIES = ("remove", "restore", "upgrade", "replace")


def command(host: Deployment, *words: str) -> str:
    """What the command complains of, "" when it does not."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = cli.main(list(words))
    # The list says why a sandbox is down that is to run, as one is whose init.json is unreadable.
    down = "its workload is down, as its init was killed"
    assert code or all(down in line for line in err.getvalue().splitlines())
    return err.getvalue() if code else ""


def run(host: Deployment, *specs: dict[str, Any]) -> str:
    """What a deploy complains of."""
    try:
        result = host.run(*specs, purge=True)
    except SandlotError as error:
        return str(error)
    return "; ".join(result.failed.values())


def attempts(host: Deployment, file: str) -> Iterator[str]:
    for words in COMMANDS:
        yield command(host, *words)
    yield command(host, "exec", "a", "--", "true")
    yield command(host, "doctor", "--format=json") if file == "record.json" else ""
    yield run(host, *SPECS)
    if file in OWN:
        yield run(host, SPECS[1])


def explained(path: Path, kind: str, complaint: str) -> bool:
    if path.name == "init.json" and kind == "other boot":
        return "is not running" in complaint and "start it" in complaint
    return str(path) in complaint and any(word in complaint for word in REMEDIES)


def inits(host: Deployment, name: str) -> list[int]:
    """Processes of the sandbox that are the first of a pid namespace, known or not."""
    found = []
    for directory in Path("/sys/fs/cgroup").glob(f"*/{host.paths.cgroup}/{name}"):
        pids = [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
        found = [pid for pid in pids if pid_inside(pid) == 1] or found
    return found


def bounded(actions: Iterator[str]) -> Iterator[str]:
    while True:
        signal.alarm(SECONDS)
        try:
            yield next(actions)
        except StopIteration:
            return
        finally:
            signal.alarm(0)


def gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remedied(host: Deployment, path: Path, kind: str, original: bytes | None) -> None:
    """What the errors say is to be done."""
    restored = kind == "newer" or path.name in RESTORED
    if restored and os.path.lexists(path) and original is not None:
        gone(path)
        path.write_bytes(original)
    elif path.name == "record.json":
        assert run(host, SPECS[1]) == ""
    else:
        gone(path)
        host.furnish()


@pytest.mark.parametrize(
    ("file", "kind"),
    [(f, k) for f in OWN for k in DAMAGES] + [(f, k) for f in SHARED for k in FEWER],
)
def test_damaged(host: Deployment, file: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDLOT_ROOT", host.paths.root)
    path = place(host, file)
    original = path.read_bytes() if path.exists() else None
    before = original or b'{"schema": 1}'
    pid, victim = host.pid("b"), Path(host.paths.root, "victim")
    path.unlink(missing_ok=True)
    try:
        DAMAGES[kind](path, before)
        complaints = [each for each in bounded(attempts(host, file)) if each]
        for each in complaints:
            assert explained(path, kind, each), each
        assert not victim.exists() or victim.read_bytes() == before
    finally:
        victim.unlink(missing_ok=True)
        remedied(host, path, kind, original)
    assert run(host, *SPECS) == ""
    # Again, as somebody else's change of nftables makes the launcher cautious for a moment.
    eventually(lambda: host.run(*SPECS).actions == [])
    assert host.pid("b") == pid
    assert host.info("a")["state"] == "running"
    assert inits(host, "a") == [host.pid("a")]
