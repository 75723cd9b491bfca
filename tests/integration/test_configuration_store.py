# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Where values of secrets are: in memory while sandboxes run, at rest, and nowhere else."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import searching
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from killing import killed_after
from netmode_fixtures import output, workload
from sandlot import converge
from sandlot.configuration import memory
from sandlot.converge import kept, upkeep
from sandlot.converge.kept_model import Kept, SnapshotRequest
from sandlot.host import doctor, facts
from sandlot.kernel import mountinfo, mounts, trees
from sandlot.sandbox import record, runtime
from sandlot.site import Site

pytestmark = needs_root

FILE, KEY, VARIABLE = "first-content", "k3y-of-tls", "correct-horse-battery"
PASSWORD = "hunter2-and-more"
CONTENTS: dict[str, Any] = {
    "files": [{"target": "/etc/app.conf", "content": FILE, "owner": "5", "mode": "0640"}],
    "secrets": [
        {"name": "db", "value": PASSWORD},
        {"name": "tls", "value": KEY, "target": "/etc/tls/key", "owner": "7", "mode": "0400"},
    ],
    "env": {"TOKEN": {"value": VARIABLE, "secret": True}, "PLAIN": "plain"},
}
SECRETS = (PASSWORD, KEY, VARIABLE)


def with_contents(name: str = "a", **options: Any) -> dict[str, Any]:
    return sandbox(name, **{**CONTENTS, **options})


def kind_of(site: Site) -> str:
    kinds = {number: kind for number, kind, _ in mountinfo.seen_by("self")}
    return kinds.get(memory.device(site), "")


def environment(host: Deployment, name: str = "a") -> dict[str, str]:
    pid, _ = workload(host, name)
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if word)


def seen(host: Deployment, name: str = "a") -> list[str]:
    """Each content as programs inside find it."""
    paths = ("/etc/app.conf", "/run/secrets/db", "/etc/tls/key")
    return [*(host.inside(name, path) for path in paths), environment(host, name)["TOKEN"]]


ALL = [FILE, PASSWORD, KEY, VARIABLE]


def holders(pid: int) -> set[str]:
    """The secrets in the memory of a process and in its files of memory; root may look."""
    contents = searching.held_by(pid)
    return {secret for found in contents for secret in SECRETS if secret.encode() in found}


def files_with_values(directory: str) -> list[str]:
    """Files below a directory that have a value in them, except those in memory."""
    found = []
    for path in Path(directory).rglob("*"):
        # A namespace can't be read.
        of_kernel = {".secrets", "ns"}.intersection(path.parts)
        if path.is_file() and not path.is_symlink() and not of_kernel:
            content = path.read_bytes()
            if any(secret.encode() in content for secret in SECRETS):
                found.append(str(path.relative_to(directory)))
    return found


def test_values_inside_and_in_memory(host: Deployment) -> None:
    """One sandbox with all kinds of contents, through all that ends it and brings it back."""
    host.converged(with_contents(), sandbox("other"))
    site = host.paths
    assert seen(host) == ALL
    listed = output(host, "a", "stat", "-c", "%u %g %a", "/etc/app.conf", "/etc/tls/key")
    assert listed.splitlines() == ["5 0 640", "7 0 400"]
    assert output(host, "a", "stat", "-L", "-c", "%u %a", "/run/secrets/db") == "0 444\n"
    assert output(host, "a", "sh", "-c", "echo $TOKEN $PLAIN") == f"{VARIABLE} plain\n"
    assert kind_of(site) == "ramfs"
    mounted = [row for row in mountinfo.seen_by(host.pid("a")) if row[1] == "ramfs"]
    assert [row[0] for row in mounted] == [memory.device(site)] * 2
    # Nobody who needs them not holds any; the look would find them.
    children = Path(f"/proc/{_launcher(host)}/task/{_launcher(host)}/children").read_text()
    others = {_launcher(host), *map(int, children.split())} - {host.pid("a")}
    assert host.pid("other") in others
    assert [pid for pid in others if holders(pid)] == []
    assert holders(host.pid("a")) == {VARIABLE}
    # Files about a process that is not dumpable belong to root (proc(5)).
    pids = {"init": host.pid("a"), "launcher": _launcher(host), "workload": workload(host, "a")[0]}
    owners = {what: os.stat(f"/proc/{pid}/environ").st_uid for what, pid in pids.items()}
    assert owners == {"init": 0, "launcher": 0, "workload": host.info("a")["ids"]["uid"]}
    # A crash of init, by the launcher alone.
    before = host.pid("a")
    host.kill("a")
    eventually(lambda: _runs_anew(host, before))
    eventually(lambda: runtime.status(site.sandbox("a")).get("state") == "running")
    assert seen(host) == ALL
    upkeep.lifecycle(site, ["a"], "stop")
    assert kind_of(site) == "ramfs"
    upkeep.lifecycle(site, ["a"], "start")
    assert seen(host) == ALL
    mounts.umount(site.secrets)
    assert findings(host)["secrets in memory"] == "warning"
    assert upkeep.lifecycle(site, ["a"], "restart").failed == {}
    assert seen(host) == ALL
    assert findings(host)["secrets in memory"] == "ok"
    host.reboot()
    assert upkeep.up(site).failed == {}
    assert seen(host) == ALL
    kept_at = {os.path.dirname(name) for name in files_with_values(site.root)}
    assert kept_at == {os.path.relpath(_at_rest(host), site.root)}
    host.converged(sandbox("a"), sandbox("other"))
    assert not os.path.exists(site.secrets) and not os.path.exists(_at_rest(host))
    assert not files_with_values(site.root)


def _launcher(host: Deployment) -> int:
    from sandlot.launcher.client import Launcher

    answer = Launcher(host.paths).ping()
    assert answer is not None
    return int(answer["pid"])


def _runs_anew(host: Deployment, before: int) -> bool:
    running = runtime.running(host.paths.sandbox("a"))
    return running is not None and running.pid != before


def _at_rest(host: Deployment) -> str:
    return host.paths.sandbox("a").stored_secrets


def findings(host: Deployment) -> dict[str, str]:
    examined = doctor.examine(host.paths, facts.gather(host.paths))
    return {finding.name: finding.status for finding in examined}


@pytest.fixture
def credentials(host: Deployment) -> Iterator[Path]:
    """The directory of the key of systemd-creds, of this root."""
    if not shutil.which("systemd-creds"):
        pytest.skip("systemd-creds is not installed")
    key = Path(host.paths.credential_key)
    key.parent.mkdir(parents=True)
    yield key
    shutil.rmtree(key.parent)


def test_values_at_rest_are_encrypted_by_systemd(host: Deployment, credentials: Path) -> None:
    host.converged(with_contents())
    assert {Path(name).suffix for name in os.listdir(_at_rest(host))} == {".cred"}
    assert not files_with_values(host.paths.root)
    host.reboot()
    assert upkeep.up(host.paths).failed == {}
    assert seen(host) == ALL
    # Another key: a boot can't start it, a deploy with its values can.
    host.reboot()
    credentials.unlink()
    failed = upkeep.up(host.paths).failed
    assert re.search(r"secret db: can't be decrypted: .*; deploy the sandbox again", failed["a"])
    result = host.run(with_contents())
    assert not result.failed and seen(host) == ALL
    host.reboot()
    assert upkeep.up(host.paths).failed == {}
    assert not os.path.exists("/var/lib/systemd/credential.secret") or not credentials.samefile(
        "/var/lib/systemd/credential.secret"
    )


def test_what_is_lost_is_named(host: Deployment) -> None:
    host.converged(with_contents())
    host.reboot()
    shutil.rmtree(_at_rest(host))
    assert findings(host)["contents of files and secrets"] == "failure"
    failed = upkeep.up(host.paths).failed
    assert "a: this host does not have the secret" in failed["a"]
    assert "deploy it again, with the content" in failed["a"]
    host.converged(with_contents())
    assert seen(host) == ALL


@pytest.mark.parametrize("state", ["started", "stopped"])
def test_what_is_lost_at_rest_comes_back_by_a_deploy(host: Deployment, state: str) -> None:
    spec = with_contents(state=state)
    host.converged(spec)
    box = host.paths.sandbox("a")
    for directory in (box.stored_secrets, box.files):
        shutil.rmtree(directory)
    result = host.converged(spec)
    assert "a: keep values again" in map(str, result.actions)
    assert (len(os.listdir(box.stored_secrets)), len(os.listdir(box.files))) == (3, 1)


def test_removal_leaves_nothing(host: Deployment) -> None:
    """A removal is killed after each step; the next one ends it, also without a record."""
    site = host.paths
    for number in range(2, 100, 6):
        host.run(with_contents())
        ended = not killed_after(number, lambda: host.run(purge=True))
        result = host.run(purge=True)
        assert not result.failed
        assert not os.path.exists(site.secrets) and not files_with_values(site.root)
        if ended:
            break
    assert number > 5
    # A directory that a lost record has left.
    host.run(with_contents())
    kept_in_memory = f"{site.secrets}/lost"
    os.mkdir(kept_in_memory, 0o700)
    Path(kept_in_memory, "value").write_text(PASSWORD)
    assert "lost" in converge.observe.observe(site, []).known
    host.run(with_contents(), purge=True)
    assert os.listdir(site.secrets) == ["a"]


def ask(site: Site, state: str, **more: Any) -> Kept:
    return kept.carry_out(site, SnapshotRequest("a", more.pop("name", "s"), state, **more))


def test_clones_bring_values_and_archives_do_not(host: Deployment, tmp_path: Path) -> None:
    site = host.paths
    host.converged(with_contents())
    ask(site, "create")
    try:
        done = ask(site, "clone", into="b")
        assert not done.more["failed"], done.more
        assert seen(host, "b") == ALL
        entries = {name: record.load(site, name) for name in ("a", "b")}
        digests = [
            {each.content.digest for each in (*entry.spec.files, *entry.spec.secrets)}
            for entry in entries.values()
            if entry
        ]
        assert len(digests[0] | digests[1]) == 6
        stored = Path(site.snapshot("a", "s").file).read_text()
        assert not [secret for secret in (*SECRETS, FILE) if secret in stored]
        archive = tmp_path / "a.tar"
        ask(site, "export", path=str(archive))
        content = archive.read_bytes()
        assert not [secret for secret in (*SECRETS, FILE) if secret.encode() in content]
        with tarfile.open(archive) as opened:
            manifest = opened.extractfile(opened.getmembers()[0])
            assert manifest is not None
            left_out = json.load(manifest)["to_bring"]
        assert left_out == {"files": ["/etc/app.conf"], "secrets": ["db", "tls"], "env": ["TOKEN"]}
        arrived = kept.carry_out(
            site, SnapshotRequest("elsewhere", "s", "import", path=str(archive))
        )
        (warning,) = arrived.more["warnings"]
        assert "files '/etc/app.conf'; secrets 'db', 'tls'; env 'TOKEN'" in warning
        # The values of a snapshot go with those of its sandbox.
        host.run(with_contents(secrets=[{"name": "db", "value": "rotated"}]), with_contents("b"))
        with pytest.raises(Exception, match="does not have the secret db") as refused:
            ask(site, "clone", into="c")
        assert "give it in the options" in str(refused.value)
        given = {"secrets": [{"name": "db", "value": "of the clone"}]}
        done = ask(site, "clone", into="c", options=given)
        assert not done.more["failed"] and host.inside("c", "/run/secrets/db") == "of the clone"
    finally:
        trees.remove_tree(site.snapshots)


def test_without_room_nothing_changes(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    host.converged(with_contents())

    def full(fd: int) -> None:
        if "/secrets/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = record.load(host.paths, "a")
    changed = with_contents(secrets=[{"name": "db", "value": "other"}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            failed = dict(host.run(changed).failed)
        except Exception as error:
            failed = {"a": str(error)}
    assert "No space left on device" in failed["a"]
    assert record.load(host.paths, "a") == before and seen(host) == ALL
    host.converged(changed)
    assert host.inside("a", "/run/secrets/db") == "other"


def test_no_core_dump_of_ours(host: Deployment, tmp_path: Path) -> None:
    """The command's process has no core dump; the same process that is dumpable has one."""
    code = (
        "import os, resource, sys\n"
        "sys.path.insert(0, os.environ['LIB'])\n"
        "from sandlot.cli import verbs, main\n"
        "secret = b'-'.join([b'hunter2', b'and', b'more'])\n"
        "def crash(site, options):\n"
        "    if os.environ['WHAT'] == 'control':\n"
        "        import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "    os.abort()\n"
        "import sandlot.cli.listing as listing\n"
        "listing.run = listing.listed = crash\n"
        "import importlib\n"
        "importlib.import_module = lambda *_: type('M', (), {'__getattr__': lambda *_: crash})()\n"
        "sys.argv = ['sandlot', 'list']\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\n"
        "main()\n"
    )
    cores = {}
    for what in ("ours", "control"):
        directory = tmp_path / what
        directory.mkdir()
        env = {**os.environ, "LIB": host.paths.lib, "WHAT": what, "SANDLOT_ROOT": host.paths.root}
        done = subprocess.run(["python3", "-c", code], cwd=directory, env=env, check=False)
        assert done.returncode == -6, done
        cores[what] = [path.read_bytes() for path in directory.iterdir()]
    assert cores["ours"] == []
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("core"):
        assert any(PASSWORD.encode() in core for core in cores["control"])
