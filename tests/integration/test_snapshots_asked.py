# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots that users ask for: consistent under load, complete or not at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import deadly
import pytest
from converge_fixtures import IDLE, Deployment, eventually, free_port, needs_root, sandbox, tree
from sandlot import cgroups, converge, volumes
from sandlot.cgroups import freezing
from sandlot.cgroups.layout import Layout
from sandlot.converge import kept, restoring
from sandlot.converge.kept_model import Kept, SnapshotRequest
from sandlot.errors import SandlotError, SpecError
from sandlot.kernel import trees
from sandlot.sandbox import health, record
from sandlot.snapshots import create as copying
from sandlot.snapshots import store
from sandlot.spec import normalise_all

pytestmark = needs_root

# Keeps two files in step: the second has the number of the first, or the one before.
WRITER = """
cd /; mkdir -p z; n=0
head -c 4000000 /dev/zero > filler
while true; do
  n=$((n + 1))
  echo $n > first.new; mv first.new first
  echo $n > z/second.new; mv z/second.new z/second
done
"""


@pytest.fixture(autouse=True)
def nothing_kept(host: Deployment) -> Iterator[None]:
    yield
    trees.remove_tree(host.paths.snapshots)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that runs counts as good at once."""
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.1)
    monkeypatch.setattr(restoring, "WATCH", 0.0)


def ask(host: Deployment, name: str, state: str = "create", **more: object) -> Kept:
    request = SnapshotRequest("a", name, state, **more)  # type: ignore[arg-type]
    return kept.carry_out(host.paths, request)


def upper(host: Deployment, name: str) -> Path:
    return Path(host.paths.snapshot("a", name).upper)


def lead(host: Deployment, name: str) -> int:
    """How far the first file is ahead of the second in a snapshot."""
    first, second = (int((upper(host, name) / p).read_text()) for p in ("first", "z/second"))
    return first - second


def apart(host: Deployment, name: str) -> bool:
    """Whether a snapshot has two states of the files, or not even both of them."""
    whole = all((upper(host, name) / path).exists() for path in ("first", "z/second"))
    return not whole or lead(host, name) < 0


def write(host: Deployment) -> None:
    host.converged(sandbox("a", command=["sh", "-c", WRITER]))
    eventually((Path(host.paths.sandbox("a").upper) / "z/second").exists)


def test_a_copy_under_load_is_of_one_moment(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(host)
    pid = host.pid("a")
    for number in range(5):
        done = ask(host, f"n{number}")
        assert done.actions == [f"a: make snapshot n{number}"]
        assert lead(host, f"n{number}") in (0, 1)
    assert host.pid("a") == pid
    assert not os.path.exists(host.paths.frozen)
    # The same copy of what goes on meanwhile shows the second file ahead.
    monkeypatch.setattr(kept, "_writers", lambda *_arguments: [])
    assert any(ask(host, f"c{n}") and apart(host, f"c{n}") for n in range(100))


def test_a_snapshot_of_the_same_name_is_no_change(host: Deployment) -> None:
    host.converged(sandbox("a"))
    before = tree(host.paths.state)
    foreseen = ask(host, "s", check=True)
    assert tree(host.paths.state) == before
    made = ask(host, "s")
    assert foreseen.actions == made.actions == ["a: make snapshot s"]
    assert (made.before, made.after) == ([], ["s"])
    again = ask(host, "s")
    assert again.actions == [] and again.snapshot == made.snapshot
    (known,) = store.load_all(host.paths).good
    assert (known.id, known.automatic, known.reason) == ("s", False, "asked")
    assert ask(host, "s", "absent", check=True).actions == ["a: remove snapshot s"]
    assert ask(host, "s", "absent").actions == ["a: remove snapshot s"]
    assert ask(host, "s", "absent").actions == []
    assert not os.path.exists(host.paths.snapshots)


@pytest.mark.parametrize("name", ["", ".new-s", "a/b", "x" * 129])
def test_a_bad_name_is_refused(host: Deployment, name: str) -> None:
    with pytest.raises(SandlotError, match="is no name of a snapshot"):
        ask(host, name)


@pytest.mark.parametrize(
    "more",
    [
        {"into": "b"},
        {"options": {"labels": {}}},
        {"path": "/x"},
        {"path": "/nowhere/x", "state": "import"},
    ],
)
def test_an_option_of_another_state_is_refused(host: Deployment, more: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="has no meaning for state|can't be read"):
        ask(host, "s", **more)  # type: ignore[arg-type]


def test_a_sandbox_that_is_not_there_is_refused(host: Deployment) -> None:
    with pytest.raises(SandlotError, match="is no sandbox of this host"):
        ask(host, "s")


# -- frozen, and thawed again


def _versions() -> Sequence[Layout]:
    hierarchies = cgroups.detect().hierarchies
    able = [h for h in hierarchies if h.unified or "freezer" in h.controllers]
    return [Layout((hierarchy,)) for hierarchy in able]


def _stands_still(host: Deployment) -> bool:
    path = Path(host.paths.sandbox("a").upper) / "first"
    seen = {path.read_text() for dummy in range(2000)}
    return len(seen) == 1


@pytest.mark.parametrize("layout", _versions(), ids=lambda found: found.hierarchies[0].directory)
def test_each_freezer_freezes_and_thaws(host: Deployment, layout: Layout) -> None:
    write(host)
    with freezing.frozen(host.paths, ["a"], layout):
        assert _stands_still(host)
    eventually(lambda: not _stands_still(host))


def _frozen_and_killed(host: Deployment, *, guard: bool) -> None:
    """A run that is killed while it copies; without ``guard``, the guard is killed first."""
    child = os.fork()
    if child == 0:
        with freezing.frozen(host.paths, ["a"]):
            if not guard:
                text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
                for pid in text.split():
                    os.kill(int(pid), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_killed_run_leaves_nothing_frozen(host: Deployment) -> None:
    write(host)
    _frozen_and_killed(host, guard=True)
    eventually(lambda: not _stands_still(host))


def test_the_next_run_thaws_when_the_guard_was_killed_too(host: Deployment) -> None:
    write(host)
    _frozen_and_killed(host, guard=False)
    assert _stands_still(host)
    host.run(sandbox("a", command=["sh", "-c", WRITER]))
    assert not os.path.exists(host.paths.frozen)
    eventually(lambda: not _stands_still(host))


def test_a_bad_option_is_refused_before_anything_is_copied(host: Deployment) -> None:
    host.converged(sandbox("a"))
    before = tree(host.paths.state)
    with pytest.raises(SandlotError, match="did you mean memory"):
        ask(host, "", "clone", into="b", options={"memmory": "1g"})
    assert tree(host.paths.state) == before


def test_what_the_user_froze_stays_frozen(host: Deployment) -> None:
    write(host)
    with freezing.frozen(host.paths, ["a"]):
        with freezing.frozen(host.paths, ["a"]):
            pass
        assert _stands_still(host)


def test_a_copy_that_fails_leaves_nothing(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.converged(sandbox("a"))

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying, "copy_directory", fail)
    with pytest.raises(OSError):
        ask(host, "s")
    assert not os.path.exists(host.paths.snapshots)


# -- restores


def put(host: Deployment, path: str, text: str) -> None:
    (Path(host.paths.sandbox("a").upper) / path).write_text(text)


def test_a_restore_brings_back_a_dropped_file(host: Deployment, impatient: None) -> None:
    host.converged(sandbox("a", command=["sh", "-c", "echo precious > /kept; sleep 1000000"]))
    eventually((Path(host.paths.sandbox("a").upper) / "kept").exists)
    ids, pid = host.info("a")["ids"], host.pid("a")
    ask(host, "s")
    (Path(host.paths.sandbox("a").upper) / "kept").unlink()
    put(host, "later", "present")
    host.run(sandbox("a"))  # another command, which does not write the file
    before = tree(host.paths.state)
    foreseen = ask(host, "s", "restore", check=True)
    assert tree(host.paths.state) == before
    done = ask(host, "s", "restore")
    assert done.actions == foreseen.actions and "rebuild: restore snapshot s" in done.actions[0]
    assert "failed" not in done.more or not done.more["failed"]
    assert host.inside("a", "/kept") == "precious\n" and host.pid("a") != pid
    assert host.info("a")["ids"] == ids
    assert not (Path(host.paths.sandbox("a").upper) / "later").exists()
    kept_aside = [entry for entry in store.load_all(host.paths).good if entry.automatic]
    assert [(entry.reason, entry.sandbox) for entry in kept_aside] == [("restore", "a")]
    assert (upper(host, kept_aside[0].id) / "later").read_text() == "present"
    # The snapshot stays, so it can be restored again.
    ask(host, "s", "restore")
    assert host.inside("a", "/kept") == "precious\n"


# -- clones

IDENTITY = """
mkdir -p /etc/ssh; echo 0123456789abcdef0123456789abcdef > /etc/machine-id
echo secret > /etc/ssh/ssh_host_ed25519_key; echo precious > /kept; sleep 1000000
"""


def test_a_clone_runs_beside_the_original_as_another_machine(host: Deployment) -> None:
    address = f"{host.prefix}.0.77"
    networks = [{"name": "default", "ipv4_address": address}]
    original = sandbox("a", command=["sh", "-c", IDENTITY], networks=networks, env={"X": "1"})
    host.converged({**original, "published_ports": [f"{free_port()}:80"]})
    eventually((Path(host.paths.sandbox("a").upper) / "kept").exists)
    pid = host.pid("a")
    (Path(host.paths.sandbox("a").upper) / "only").write_text("of the original's time")
    options = {"command": IDLE}
    foreseen = ask(host, "", "clone", into="b", options=options, check=True)
    assert not os.path.exists(host.paths.sandbox("b").state)
    done = ask(host, "", "clone", into="b", options=options)
    assert not done.more["failed"], done.more
    assert [line for line in done.actions if line.startswith("b: clone from snapshot a/")]
    assert len(done.actions) == len(foreseen.actions)
    assert store.load_all(host.paths).good == []
    one, other = host.info("a"), host.info("b")
    assert host.pid("a") == pid and other["state"] == "running"
    assert host.inside("b", "/only") == "of the original's time"
    assert one["ids"] != other["ids"] and other["published_ports"] == []
    assert address in one["addresses"] and address not in other["addresses"]
    assert {i["mac"] for i in one["interfaces"]}.isdisjoint(i["mac"] for i in other["interfaces"])
    assert host.inside("b", "/etc/hostname") == "b\n"
    layer = Path(host.paths.sandbox("b").upper)
    assert not (layer / "etc/ssh/ssh_host_ed25519_key").exists()
    assert not (layer / "etc/machine-id").exists()
    assert (layer / "kept").stat().st_uid == other["ids"]["uid"]
    assert record.load(host.paths, "b").spec.env == (("X", "1"),)  # type: ignore[union-attr]
    assert ask(host, "", "clone", into="b", options=options).actions == []
    assert not os.path.exists(host.paths.sandbox("b").clone)


# -- volumes


def with_volume(name: str = "a", **more: object) -> dict[str, object]:
    return sandbox(name, volumes=["data:/data"], snapshot_before=["rebuild"], **more)


def data(host: Deployment, name: str = "data") -> Path:
    return Path(host.paths.volume(name).data)


def test_a_restore_brings_back_layer_and_volume(host: Deployment, impatient: None) -> None:
    host.converged(with_volume())
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    assert ask(host, "s").snapshot["volumes"] == ["data"]  # type: ignore[index]
    (data(host) / "row").write_text("2")
    put(host, "file", "2")
    before = tree(host.paths.state)
    ask(host, "s", "restore", check=True)
    assert tree(host.paths.state) == before
    ask(host, "s", "restore")
    assert host.inside("a", "/data/row") == "1" and host.inside("a", "/file") == "1"
    (kept_aside,) = [e for e in store.load_all(host.paths).good if e.automatic]
    assert kept_aside.volumes == ("data",)
    old = Path(host.paths.snapshot("a", kept_aside.id).volumes) / "data/row"
    assert old.read_text() == "2" and (upper(host, kept_aside.id) / "file").read_text() == "2"
    # What was set aside can be restored as well.
    ask(host, kept_aside.id, "restore")
    assert host.inside("a", "/data/row") == "2" and host.inside("a", "/file") == "2"
    (data(host) / "row").write_text("3")
    ask(host, "s", "restore", volumes=False)
    assert host.inside("a", "/data/row") == "3" and host.inside("a", "/file") == "1"


def test_a_volume_that_another_sandbox_runs_on_is_not_replaced(host: Deployment) -> None:
    host.converged(with_volume(), with_volume("b"))
    ask(host, "s")
    before = tree(host.paths.state)
    with pytest.raises(SandlotError, match="sandbox b runs on volume data"):
        ask(host, "s", "restore")
    assert tree(host.paths.state) == before


def test_a_clone_gets_its_own_volume(host: Deployment) -> None:
    size = volumes.normalise([{"name": "data", "size": "16m"}])
    host.converged(with_volume(), volumes=size)
    (data(host) / "row").write_text("1")
    done = ask(host, "", "clone", into="b")
    assert not done.more["failed"], done.more
    assert host.inside("b", "/data/row") == "1"
    made = volumes.load(host.paths, "b.data")
    assert made is not None and made.size == 16 << 20
    (data(host, "b.data") / "row").write_text("2")
    assert host.inside("b", "/data/row") == "2" and host.inside("a", "/data/row") == "1"


def test_volumes_are_copied_before_a_rebuild(host: Deployment, impatient: None) -> None:
    host.converged(with_volume())
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    done = host.run(with_volume(recreate=True))
    assert not done.failed and [line for line in done.actions if "copy volumes data" in line]
    (made,) = store.load_all(host.paths).good
    assert (made.reason, made.volumes) == ("recreate", ("data",))
    (data(host) / "row").write_text("2")
    ask(host, made.id, "restore")
    assert host.inside("a", "/data/row") == "1" and host.inside("a", "/file") == "1"


def test_the_copy_stays_when_the_rebuild_fails(host: Deployment) -> None:
    host.converged(with_volume())
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    spoil = ["sh", "-c", "echo spoilt > /data/row; exit 1"]
    done = host.run(with_volume(recreate=True, command=spoil))
    assert "rolled back" in done.failed["a"]
    assert host.inside("a", "/data/row") == "spoilt\n" and host.inside("a", "/file") == "1"
    (made,) = store.load_all(host.paths).good
    assert made.volumes == ("data",)
    ask(host, made.id, "restore")
    assert host.inside("a", "/data/row") == "1" and host.inside("a", "/file") == "1"


def test_a_restore_that_does_not_run_goes_back(host: Deployment) -> None:
    """The layer of the snapshot lacks the program that runs."""
    host.converged(with_volume(command=["/own"], entrypoint=["sh"]))
    put(host, "own", "sleep 1000000")
    ask(host, "s")
    (Path(host.paths.snapshot("a", "s").upper) / "own").write_text("exit 3")
    (Path(host.paths.snapshot("a", "s").volumes) / "data/row").write_text("1")
    (data(host) / "row").write_text("2")
    put(host, "file", "2")
    done = ask(host, "s", "restore")
    assert "rolled back" in done.more["failed"]["a"], done.more
    assert host.inside("a", "/data/row") == "2" and host.inside("a", "/file") == "2"
    assert [entry.id for entry in store.load_all(host.paths).good] == ["s"]


def _restore_and_die_at(host: Deployment, number: int) -> None:
    deadly.arm("rename", number)
    ask(host, "s", "restore")
    os._exit(0)


def test_a_killed_restore_goes_back_or_on_as_a_whole(host: Deployment) -> None:
    stopped = with_volume(state="stopped")
    host.run(with_volume())
    host.run(stopped)
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    ask(host, "s")
    states = []
    for number in range(1, 200, 3):
        (data(host) / "row").write_text("2")
        put(host, "file", "2")
        child = os.fork()
        if child == 0:
            _restore_and_die_at(host, number)
        status = os.waitpid(child, 0)[1]
        result = host.run(stopped)
        assert not result.failed, result.failed
        row = (data(host) / "row").read_text()
        assert row == (Path(host.paths.sandbox("a").upper) / "file").read_text(), number
        states.append(row)
        assert not os.path.exists(host.paths.sandbox("a").rebuild)
        if os.WIFEXITED(status):
            break
    assert os.WIFEXITED(status) and {"1", "2"} == set(states)


def _clone_and_die_at(host: Deployment, number: int) -> None:
    deadly.arm("rename", number)
    ask(host, "s", "clone", into="b")
    os._exit(0)


def test_a_killed_clone_is_completed_by_the_next_run(host: Deployment) -> None:
    host.run(with_volume())
    host.run(with_volume(state="stopped"))
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    ask(host, "s")
    for number in range(1, 200, 3):
        child = os.fork()
        if child == 0:
            _clone_and_die_at(host, number)
        status = os.waitpid(child, 0)[1]
        done = ask(host, "s", "clone", into="b")
        assert not done.more.get("failed"), (number, done.more)
        assert (data(host, "b.data") / "row").read_text() == "1"
        assert (Path(host.paths.sandbox("b").upper) / "file").read_text() == "1"
        assert not os.path.exists(host.paths.sandbox("b").clone)
        removed = converge.converge(
            host.paths,
            converge.request(
                normalise_all([{"name": "b", "state": "absent"}]),
                volumes={"b.data": volumes.VolumeSpec("b.data", "absent", force=True)},
            ),
        )
        assert not removed.failed
        if os.WIFEXITED(status):
            break
    assert os.WIFEXITED(status)


def test_a_row_of_failed_rebuilds_keeps_what_was_there_before_the_first(
    host: Deployment, impatient: None
) -> None:
    host.converged(with_volume())
    (data(host) / "row").write_text("1")
    put(host, "file", "1")
    spoils = ["sh", "-c", "echo spoilt > /data/row; exit 1"]
    for dummy in range(2):
        assert "a" in host.run(with_volume(command=spoils, recreate=True, snapshot_keep=1)).failed
        assert (data(host) / "row").read_text() == "spoilt\n"
        (made,) = store.load_all(host.paths).good
        assert (made.reason, made.volumes) == ("failed", ("data",))
    ask(host, made.id, "restore")
    assert host.inside("a", "/data/row") == "1" and host.inside("a", "/file") == "1"
