# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Contents at rest and in memory; a directory stands for the file system in memory."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot import configuration
from sandlot.configuration import audit, copying, credentials, memory, rest, sealing
from sandlot.errors import StateError
from sandlot.idmap import IdRange
from sandlot.kernel import program
from sandlot.mask import Mask
from sandlot.sandbox import record as records
from sandlot.sandbox.record import PRESENT, STARTED, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

VALUES = {"db": "hunter2", "tls": "k3y", "PASSWORD": "correct horse"}
# What stands for systemd-creds: the encrypted form holds the name, as that of the real one does.
FAKE = """\
#!/bin/sh
[ -e "{key}" ] || echo new >"{key}"
name=${{2#--name=}}
case $1 in
encrypt) name=${{3#--name=}}; printf '%s\\n' "$name"; base64 ;;
decrypt) read -r known
  [ "$known" = "$name" ] || {{ echo "Embedded name does not match" >&2; exit 1; }}
  base64 -d ;;
esac
"""
Owners = dict[str, tuple[int, int]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(str(tmp_path))
    os.makedirs(site.run)
    monkeypatch.setattr(memory, "mount", lambda at: os.makedirs(at.secrets, 0o700, exist_ok=True))
    monkeypatch.setattr(memory, "device", lambda at: "0:1" if os.path.isdir(at.secrets) else "")
    monkeypatch.setattr(memory, "release", _remove_directory)
    return site


def _remove_directory(site: Site) -> None:
    if os.path.isdir(site.secrets):
        os.rmdir(site.secrets)


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> Owners:
    """Owners by path: a normal user can't change any."""
    given: Owners = {}

    def fchown(fd: int, uid: int, gid: int) -> None:
        given[os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))] = (uid, gid)

    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.update({path: (uid, gid)}))
    return given


@pytest.fixture
def encrypting(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    os.makedirs(os.path.dirname(site.credential_key))
    fake = directory / "systemd-creds"
    fake.write_text(FAKE.format(key=site.credential_key))
    fake.chmod(0o755)
    monkeypatch.setattr(program, "SYSTEM_PATH", f"{directory}:/usr/bin:/bin")
    return fake


def made(site: Site, name: str = "web", **options: Any) -> Record:
    given = {
        "files": [{"target": "/etc/app.conf", "content": "listen 80\n", "owner": "33"}],
        "secrets": [
            {"name": "db", "value": VALUES["db"]},
            {"name": "tls", "value": VALUES["tls"], "target": "/etc/tls.key", "mode": "0400"},
        ],
        "env": {"PLAIN": "x", "PASSWORD": {"value": VALUES["PASSWORD"], "secret": True}},
        **options,
    }
    raw = {"name": name, "image": "busybox", "command": ["x"], **given}
    spec = sealing.sealed(normalise(raw), Mask(site, keep=True))
    image = ImageRef("busybox", "sha256:0")
    owners = {"/etc/app.conf": (33, 33)}
    return Record(name, PRESENT, STARTED, spec, IdRange(200000), image, owners=owners)


def stored(entry: Record) -> Record:
    """The record as a later run reads it: without values."""
    return records.from_json(json.loads(json.dumps(entry.to_json())), entry.name, "record.json")


def tree(directory: str) -> dict[str, bytes]:
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def named(site: Site, name: str = "web") -> dict[str, bytes]:
    return tree(site.sandbox(name).named_secrets)


def test_what_is_kept_outlives_a_boot(site: Site) -> None:
    entry = made(site)
    known = stored(entry)
    assert configuration.missing(site, entry) == []
    lost = ["file /etc/app.conf", "secret db", "secret tls", "env PASSWORD"]
    assert configuration.missing(site, known) == lost
    assert configuration.missing(site, replace(known, spec=entry.spec)) == []
    configuration.keep(site, replace(known, spec=entry.spec))
    assert configuration.missing(site, known) == []
    assert not configuration.is_placed(site, known)
    configuration.place(site, known)
    assert configuration.is_placed(site, known)
    assert configuration.is_tidy(site, known)
    assert named(site) == {"db": b"hunter2"}
    found = tree(site.sandbox("web").memory)
    assert sorted(found.values()) == [b"correct horse", b"hunter2", b"hunter2", b"k3y"]


def test_owners_and_modes(site: Site, owners: Owners) -> None:
    entry = made(site)
    configuration.place(site, entry)
    sandbox, digest = site.sandbox("web"), entry.spec.files[0].content.digest
    (file,) = Path(sandbox.files).iterdir()
    assert file.name == f"{digest}-200033-200033-0644"
    assert owners[f".new-{file.name}"] == (200033, 200033)
    assert owners[sandbox.named_secrets] == (200000, 200000)
    modes = {path: stat.S_IMODE(os.stat(path).st_mode) for path in map(str, _below(sandbox.memory))}
    assert modes[sandbox.named_secrets] == 0o755
    assert modes[f"{sandbox.named_secrets}/db"] == 0o444
    assert modes[f"{sandbox.memory}/content"] == modes[f"{sandbox.memory}/env"] == 0o700
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in _below(sandbox.stored_secrets)} == {
        0o600
    }


def _below(directory: str) -> list[Path]:
    return list(Path(directory).rglob("*"))


def test_no_other_file_has_a_value(site: Site, encrypting: Path) -> None:
    entry = made(site)
    configuration.place(site, entry)
    records.save(site, entry)
    for path, content in tree(site.root).items():
        if not path.startswith("run/sandlot/.secrets/"):
            assert not [value for value in VALUES.values() if value.encode() in content], path


def test_a_changed_secret_is_another_file_under_its_name(site: Site) -> None:
    old = made(site)
    configuration.place(site, old)
    before = os.stat(f"{site.sandbox('web').named_secrets}/db").st_ino
    new = made(site, secrets=[{"name": "db", "value": "other"}])
    configuration.place(site, new)
    assert named(site) == {"db": b"other"}
    assert os.stat(f"{site.sandbox('web').named_secrets}/db").st_ino != before
    # Until it is settled, the way back is open.
    configuration.place(site, stored(old))
    assert named(site) == {"db": b"hunter2"}
    configuration.place(site, stored(new))
    assert not configuration.is_tidy(site, new)
    configuration.tidy(site, stored(new))
    assert configuration.is_tidy(site, new)
    assert configuration.is_placed(site, new)
    assert len(configuration.missing(site, stored(old))) == 2


def test_the_last_secret_takes_the_file_system_along(site: Site) -> None:
    configuration.place(site, made(site))
    plain = stored(made(site, files=[], secrets=[], env={}))
    assert not configuration.is_tidy(site, plain)
    configuration.tidy(site, plain)
    assert not os.path.exists(site.secrets)
    assert configuration.is_tidy(site, plain)
    assert _below(site.sandboxes) == [Path(site.sandboxes, "web")]


def test_removal_needs_no_record(site: Site) -> None:
    configuration.place(site, made(site))
    configuration.place(site, made(site, "other"))
    configuration.remove(site, "web")
    assert os.listdir(site.secrets) == ["other"]
    configuration.remove(site, "other")
    configuration.remove(site, "never")
    assert not os.path.exists(site.secrets)
    assert not [path for path in _below(site.sandboxes) if path.is_file()]


def test_a_file_with_another_owner_needs_no_new_content(site: Site) -> None:
    entry = made(site)
    configuration.keep(site, entry)
    moved = replace(stored(entry), ids=IdRange(300000))
    assert configuration.missing(site, moved) == []
    configuration.place(site, moved)
    assert sorted(tree(site.sandbox("web").files).values()) == [b"listen 80\n"] * 2
    configuration.tidy(site, moved)
    assert [name.split("-")[1] for name in tree(site.sandbox("web").files)] == ["300033"]


@pytest.mark.parametrize("what", ["secret tls", "env PASSWORD"])
def test_a_lost_value_is_named_with_its_remedy(site: Site, what: str) -> None:
    entry = stored(made(site))
    configuration.keep(site, replace(entry, spec=made(site).spec))
    for path in _below(site.sandbox("web").stored_secrets):
        if VALUES[what.split()[1]].encode() in path.read_bytes():
            path.unlink()
    with pytest.raises(StateError, match=f"web: this host does not have the {what}") as refused:
        configuration.place(site, entry)
    assert "deploy it again" in refused.value.hint


# -- systemd-creds


def test_values_at_rest_are_encrypted(site: Site, encrypting: Path) -> None:
    entry = made(site)
    configuration.keep(site, entry)
    kept = tree(site.sandbox("web").stored_secrets)
    assert all(name.endswith(".cred") for name in kept)
    configuration.place(site, stored(entry))
    assert named(site) == {"db": b"hunter2"}


def test_values_from_before_the_program_are_read_with_it(site: Site, tmp_path: Path) -> None:
    entry = made(site)
    configuration.keep(site, entry)
    assert not any(name.endswith(".cred") for name in tree(site.sandbox("web").stored_secrets))
    os.makedirs(os.path.dirname(site.credential_key))
    configuration.place(site, stored(entry))
    assert named(site) == {"db": b"hunter2"}


def test_a_program_that_fails_leaves_values_for_root_only(site: Site, encrypting: Path) -> None:
    encrypting.write_text("#!/bin/sh\ncat >/dev/null\necho no TPM >&2\nexit 1\n")
    entry = made(site)
    configuration.place(site, entry)
    assert named(site) == {"db": b"hunter2"}
    Path(site.credential_key).touch()
    assert credentials.state(site)[0] == "systemd-creds fails: no TPM"


@pytest.mark.parametrize("lost", ["program", "name"])
def test_an_encrypted_value_that_is_lost_comes_back_by_a_deploy(
    site: Site, encrypting: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = made(site)
    configuration.keep(site, entry)
    if lost == "program":
        monkeypatch.setattr(program, "SYSTEM_PATH", "/nowhere")
    else:
        for path in _below(site.sandbox("web").stored_secrets):
            path.write_text("other\n" + path.read_text().partition("\n")[2])
    with pytest.raises(StateError, match="web: secret db: (is encrypted|can't be)") as refused:
        configuration.place(site, stored(entry))
    assert "deploy the sandbox again" in refused.value.hint
    configuration.place(site, replace(stored(entry), spec=entry.spec))
    assert named(site) == {"db": b"hunter2"}
    configuration.remove(site, "other")
    memory.remove(site, site.sandbox("web"))
    configuration.place(site, stored(entry))


# -- the rest


def test_a_full_disk_leaves_no_half_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    entry = made(site)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            configuration.keep(site, entry)
    assert not tree(site.sandboxes)
    configuration.keep(site, entry)
    assert configuration.missing(site, stored(entry)) == []


class _Killed(Exception):
    pass


@pytest.mark.parametrize("call", ["rename", "link", "unlink", "open"])
def test_killed_anywhere_the_next_run_ends_at_the_same(
    site: Site, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed before each call in turn; names show the old values or the new, whole."""
    old = made(site)
    new = made(site, secrets=[{"name": "db", "value": "other"}, {"name": "more", "value": "m"}])
    whole = {(b"hunter2", None), (b"other", None), (b"other", b"m")}
    for turn in range(100):
        configuration.place(site, old)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _killing(getattr(os, call), turn))
            try:
                configuration.place(site, new)
                configuration.tidy(site, new)
                done = True
            except _Killed:
                done = False
        seen = named(site)
        assert (seen["db"], seen.get("more")) in whole
        configuration.place(site, new)
        configuration.tidy(site, new)
        assert configuration.is_tidy(site, new)
        assert named(site) == {"db": b"other", "more": b"m"}
        configuration.remove(site, "web")
        if done:
            assert turn > 1
            return
    pytest.fail("the run has no end")


def _killing(real: Callable[..., Any], turn: int) -> Callable[..., Any]:
    left = [turn]

    def call(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return real(*args, **options)

    return call


def test_a_clone_brings_contents_for_its_own_digests(site: Site) -> None:
    entry = made(site)
    configuration.keep(site, entry)
    spec = copying.filled(site, "web", replace(stored(entry).spec, name="clone"))
    clone = sealing.sealed(spec, Mask(site))
    assert [each.content.value for each in clone.secrets] == [b"hunter2", b"k3y"]
    digests = {each.digest for each in sealing.values(clone)}
    assert digests.isdisjoint(each.digest for each in sealing.values(entry.spec))


def test_a_clone_of_what_is_gone_says_so(site: Site) -> None:
    entry = made(site)
    with pytest.raises(StateError, match="web: this host does not have the file") as refused:
        copying.filled(site, "web", stored(entry).spec)
    assert refused.value.hint == "give it in the options of the clone"


def test_the_doctor_finds_what_is_lost_or_open(
    site: Site, monkeypatch: pytest.MonkeyPatch, owners: Owners
) -> None:
    entry = made(site)
    configuration.place(site, entry)
    monkeypatch.setattr(audit.runtime, "running", lambda sandbox: True)
    monkeypatch.setattr(audit, "_wrong", lambda expected: _modes(expected))
    assert audit.audit(site, [stored(entry)]) == audit.Audit(plain=3)
    (path,) = [each for each in _below(rest_of(site)) if each.read_bytes() == b"k3y"]
    path.chmod(0o644)
    assert audit.audit(site, [stored(entry)]).wrong == [str(path)]
    path.unlink()
    os.unlink(f"{site.sandbox('web').named_secrets}/db")
    found = audit.audit(site, [stored(entry)])
    assert (found.lost, found.without, found.plain) == (["web: secret tls"], ["web"], 2)


def _modes(expected: Any) -> list[str]:
    """Without owners, as a normal user can't give any."""
    return [
        path
        for path, _uid, _gid, mode in expected
        if os.path.exists(path) and stat.S_IMODE(os.stat(path).st_mode) != mode
    ]


def rest_of(site: Site) -> str:
    assert rest.names(site.sandbox("web").stored_secrets)
    return site.sandbox("web").stored_secrets
