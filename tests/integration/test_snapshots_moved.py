# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots that move between hosts as archives, some of them hostile."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import plays
import pytest
from archives import entry, folder, link, pack
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from sandlot.converge import kept, transport
from sandlot.converge.kept_model import Kept, SnapshotRequest
from sandlot.errors import SandlotError
from sandlot.idmap import IdRange
from sandlot.kernel import trees
from sandlot.site import Site
from sandlot.snapshots import archive, create, store
from sandlot.snapshots.model import Snapshot

pytestmark = needs_root

PROGRAM = "echo precious > /kept; mkdir -p /d; rm -f /bin/vi; sleep 1000000"
MANIFEST = {"format": 1, "sandbox": "a", "id": "s", "created": 1.0, "volumes": []}


def ask(site: Site, state: str, **more: object) -> Kept:
    return kept.carry_out(site, SnapshotRequest("a", "s", state, **more))  # type: ignore[arg-type]


@pytest.fixture
def nothing_kept(host: Deployment) -> Iterator[None]:
    yield
    trees.remove_tree(host.paths.snapshots)


@pytest.fixture
def place() -> Iterator[Site]:
    """A host without a deployment; outside of /tmp, which may lack user attributes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as root:
        os.makedirs(f"{root}/var/lib/sandlot", mode=0o700)
        yield Site(root)


def test_a_sandbox_moves_to_a_second_host(
    host: Deployment, nothing_kept: None, tmp_path: Path
) -> None:
    host.converged(sandbox("a", command=["sh", "-c", PROGRAM], env={"PASSWORD": "hunter2"}))
    layer = Path(host.paths.sandbox("a").upper)
    eventually((layer / "d").exists)
    with open(layer / "sparse", "wb") as handle:
        handle.truncate(1 << 43)  # more than the disk
    os.setxattr(layer / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(layer / "kept", "user.note", b"\0binary\n")
    os.setxattr(os.fsencode(layer / "kept"), b"user.%3D=\xff", b"=")
    os.link(layer / "kept", layer / "other")
    (layer / ("n" * 90)).mkdir()
    (layer / ("n" * 90) / ("m" * 90)).symlink_to("x" * 150)
    ask(host.paths, "create")
    path = str(tmp_path / "a.tar")
    assert ask(host.paths, "export", path=path, check=True).actions and not os.path.exists(path)
    assert ask(host.paths, "export", path=path).actions
    assert ask(host.paths, "export", path=path).actions == []
    content = Path(path).read_bytes()
    assert b"hunter2" not in content and len(content) < 1 << 20
    with tarfile.open(path) as opened:  # other readers take it too
        assert opened.getnames()[0] == archive.MANIFEST
        assert all(member.uid < 65536 for member in opened.getmembers())
    with deployed() as second:
        assert ask(second.paths, "import", path=path, check=True).actions
        assert store.load_all(second.paths).good == []
        done = kept.carry_out(second.paths, SnapshotRequest(state="import", path=path))
        assert done.actions == ["a: import snapshot s"]
        assert ask(second.paths, "import", path=path).actions == []
        made = ask(second.paths, "clone", into="b")
        assert not made.more["failed"], made.more
        assert second.inside("b", "/kept") == "precious\n"
        upper = Path(second.paths.sandbox("b").upper)
        ids = second.info("b")["ids"]
        assert (upper / "kept").stat().st_uid == ids["uid"]
        assert os.getxattr(upper / "kept", "user.note") == b"\0binary\n"
        assert os.getxattr(os.fsencode(upper / "kept"), b"user.%3D=\xff") == b"="
        assert os.getxattr(upper / "d", "trusted.overlay.opaque") == b"y"
        assert stat.S_ISCHR((upper / "bin/vi").lstat().st_mode)
        assert (upper / "other").stat().st_nlink == 2
        assert (upper / "sparse").stat().st_size == 1 << 43
        assert (upper / "sparse").stat().st_blocks < 100
        assert os.readlink(upper / ("n" * 90) / ("m" * 90)) == "x" * 150
        spec = second.info("b")["spec"]
        assert spec["env"] == {} and spec["command"] == ["sh", "-c", PROGRAM]
        second.run(purge=True)
        trees.remove_tree(second.paths.snapshots)


def _archive(*entries: tuple[tarfile.TarInfo, bytes], about: object = MANIFEST) -> bytes:
    text = json.dumps(about).encode()
    return pack(entry(archive.MANIFEST, text), folder("layer"), *entries, form=tarfile.PAX_FORMAT)


def _receive(site: Site, content: bytes) -> Kept:
    with tempfile.TemporaryFile() as handle:
        handle.write(content)
        handle.seek(0)
        return transport.received(site, SnapshotRequest(state="import"), handle.fileno())


def _named(path: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry("layer/x", b"x", pax_headers={"path": path})


def _holes(size: int) -> tuple[tarfile.TarInfo, bytes]:
    """A sparse file that has no data."""
    sparse = {"major": "1", "minor": "0", "name": "layer/x", "realsize": str(size)}
    headers = {f"GNU.sparse.{key}": value for key, value in sparse.items()}
    return entry("layer/x", b"0\n".ljust(512, b"\0"), pax_headers=headers)


HOSTILE = {
    "dots": (_archive(entry("layer/../../x", b"x")), "leaves the image"),
    "absolute": (_archive(entry("/etc/x", b"x")), "leaves the image"),
    "elsewhere": (_archive(entry("etc/x", b"x")), "belongs to no snapshot"),
    "layer is a link": (_archive(link("volumes/v", "/etc")), "is not a directory"),
    "no manifest": (pack(folder("layer"), entry("layer/x", b"x")), "no archive of a snapshot"),
    "a second manifest": (_archive(entry(archive.MANIFEST, b"{}")), "belongs to no snapshot"),
    "manifest of words": (_archive(about=["x"]), "not an object"),
    "other format": (_archive(about={**MANIFEST, "format": 99}), "format 99"),
    "bad name": (_archive(about={**MANIFEST, "sandbox": "../../x"}), "is no name"),
    "bad spec": (
        _archive(about={**MANIFEST, "spec": {"stop_signal": []}, "image": {}}),
        "manifest",
    ),
    "bad times": (_archive(about={**MANIFEST, "created": float("inf")}), "no time"),
    "a later time": (_archive(about={**MANIFEST, "created": 10**400}), "no time"),
    "image of escapes": (
        _archive(about={**MANIFEST, "spec": {}, "image": {"name": "\x1b[2J", "digest": "d"}}),
        "not a valid image name",
    ),
    "digest of a path": (
        _archive(about={**MANIFEST, "spec": {}, "image": {"name": "b", "digest": "../x"}}),
        "is no digest",
    ),
    "through a link": (
        _archive(link("layer/up", ".."), entry("layer/up/up/x", b"x")),
        "through a link",
    ),
    "a link for volumes": (
        _archive(link("layer/up", "/"), link("layer/up/volumes", "/etc")),
        "through a link",
    ),
    "hard link through a link": (
        _archive(
            link("layer/up", "/"),
            link("layer/x", f"layer/up/{archive.MANIFEST}", tarfile.LNKTYPE),
        ),
        "through a link",
    ),
    "NUL in a name": (_archive(_named("layer/a\0b")), "has a NUL"),
    "huge file": (_archive(_holes(1 << 64)), "larger than any file"),
    "foreign owner": (_archive(entry("layer/x", b"", uid=70000)), "belongs to"),
    "truncated": (_archive(entry("layer/x", b"x" * 5000))[:4000], "truncated"),
    "no archive": (b"<html>", "HTML"),
    "empty": (b"", "not a tar archive|truncated|no archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(place: Site, name: str) -> None:
    content, problem = HOSTILE[name]
    with pytest.raises(SandlotError, match=problem):
        _receive(place, content)
    assert os.listdir(place.state) in ([], ["lock"])
    assert not os.path.exists("/etc/x")


def test_links_and_attributes_of_an_archive_have_no_power(place: Site) -> None:
    secret = Path(place.root) / "secret"
    secret.write_text("of the host")
    attributes = {
        "SCHILY.xattr.trusted.overlay.redirect": "/../../etc",
        "SCHILY.xattr.security.selinux": "x",
        "SCHILY.xattr.user.sandlot.opaque": "y",
        "SCHILY.xattr.trusted.md5sum": "x",
    }
    marked = tarfile.TarInfo("layer/marked")
    marked.type, marked.pax_headers = tarfile.DIRTYPE, attributes
    disk = tarfile.TarInfo("layer/disk")
    disk.type, disk.devmajor, disk.devminor = tarfile.BLKTYPE, 254, 0
    content = _archive(
        (marked, b""),
        (disk, b""),
        link("layer/out", str(secret)),
        entry("layer/out", b"own"),
    )
    _receive(place, content)
    layer = Path(place.snapshot("a", "s").upper)
    assert secret.read_text() == "of the host"
    assert (layer / "out").read_bytes() == b"own" and not (layer / "out").is_symlink()
    assert os.listxattr(layer / "marked") == []
    assert not (layer / "disk").exists()
    assert [entry.name for entry in os.scandir(place.snapshots)] == ["a"]


def test_a_path_too_long_to_be_imported_is_not_exported(place: Site) -> None:
    layer = Path(place.root) / "layer"
    layer.mkdir()
    top = os.open(layer, os.O_RDONLY)
    for dummy in range(20):
        os.mkdir("n" * 250, dir_fd=top)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    asked = Snapshot("a", "s", 1.0, "asked", IdRange(0))
    made = create.create(place, asked, {create.LAYER: str(layer)}, [])
    with open(os.devnull, "wb") as sink, pytest.raises(SandlotError, match="a path of more than"):
        archive.export(place, made, sink.fileno())


def test_rights_are_not_taken_from_an_archive(place: Site) -> None:
    spec = {
        "image": "busybox",
        "command": ["sleep", "1"],
        "env": {"X": "1"},
        "capabilities": ["SYS_ADMIN"],
        "seccomp_profile": "unconfined",
        "network_mode": "host",
        "volumes": ["/etc:/x", "data:/data"],
        "host_access": ["22/tcp"],
    }
    image = {"name": "busybox", "digest": "d"}
    _receive(place, _archive(about={**MANIFEST, "spec": spec, "image": image}))
    known = store.load(place, "a", "s").record
    assert known is not None
    assert known.spec.command == ("sleep", "1") and known.spec.env == ()
    assert known.spec.capabilities == () and known.spec.seccomp_profile == "default"
    assert known.spec.network_mode == "bridge" and known.spec.host_access in (None, ())
    assert [mount.source for mount in known.spec.volumes] == ["data"]


def test_a_killed_import_is_cleaned_up_by_the_next(place: Site) -> None:
    left = Path(place.snapshots) / ".import-1"
    left.mkdir(parents=True)
    (left / "layer").mkdir()
    _receive(place, _archive())
    assert os.listdir(place.snapshots) == ["a"]
    again = io.BytesIO(_archive())
    assert _receive(place, again.getvalue()).actions == []


def test_the_module_and_the_command_as_users_run_them(
    host: Deployment, nothing_kept: None, tmp_path: Path
) -> None:
    host.converged(sandbox("a"))
    (Path(host.paths.sandbox("a").upper) / "kept").write_text("precious")
    path = str(tmp_path / "a.tar")
    create = {"sandbox_snapshot": {"sandbox": "a", "name": "s"}}
    checked, made, written, refused = plays.play(
        host.paths,
        {**create, "check_mode": True, "diff": True},
        {**create, "diff": True},
        {"sandbox_snapshot": {"sandbox": "a", "name": "s", "state": "export", "path": path}},
        {"sandbox_snapshot": {"sandbox": "a", "name": "t", "state": "restore"}},
        fails=True,
    )
    assert checked["changed"] and checked["diff"] == made["diff"]
    assert made["changed"] and made["snapshot"]["id"] == "s"
    assert written["changed"] and os.stat(path).st_mode & 0o777 == 0o600
    assert "a has no snapshot 't'; its snapshots: s" in refused["msg"]
    command = [sys.executable, "-I", host.paths.command, "snapshots"]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    with subprocess.Popen(
        [*command, "export", "a", "s"], stdout=subprocess.PIPE, env=environment
    ) as out:
        done = subprocess.run(
            [*command, "import", "other", "t"], stdin=out.stdout, env=environment, check=True
        )
    assert (out.returncode, done.returncode) == (0, 0)
    words = [*command, "clone", "other", "t", "b"]
    subprocess.run(words, env=environment, check=True)
    assert host.inside("b", "/kept") == "precious"
    for words in (["rm", "other", "t"], ["rm", "other", "t"]):
        last = subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, check=False
        )
    assert last.returncode == 1 and "other has no snapshot 't'" in last.stderr
