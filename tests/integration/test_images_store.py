# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The image store on a real file system: sources, replacement, kills, the module."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Callable

import deadly
import plays
import pytest
import session_trees
import static_busybox
from sandlot import images
from sandlot.errors import ForeignError, HostError, SandlotError, SpecError
from sandlot.images import busybox
from sandlot.images import program as builder
from sandlot.kernel import program
from sandlot.plan import Change, apply_all, descriptions
from sandlot.site import Site
from store_fixtures import BUSYBOX, FORK, archive, converge, listing, paths, sandbox

__all__ = ["paths"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(busybox.find() is None, reason="no busybox"),
]


# -- busybox --------------------------------------------------------------------------------------


def test_a_busybox_image_runs(paths: Site) -> None:
    found = busybox.find()
    assert found
    made = converge(paths, BUSYBOX)
    image = images.lookup(paths, "busybox")
    assert made == [f"image busybox: make {image.digest[:12]} from busybox"]
    for command in (
        ["/bin/busybox", "echo", "hello"],
        ["/bin/sh", "-c", "echo hello"],
        ["/usr/bin/env", "/sbin/../usr/sbin/chroot", "/", "echo", "hello"],
    ):
        done = subprocess.run(["chroot", image.root, *command], capture_output=True)
        assert done.stdout == b"hello\n"
    done = subprocess.run(["chroot", image.root, "/bin/httpd", "--help"], capture_output=True)
    assert b"httpd" in done.stderr


def test_the_tree_is_closed_and_owned_by_root(paths: Site) -> None:
    old = os.umask(0o000)
    try:
        converge(paths, BUSYBOX)
    finally:
        os.umask(old)
    image = images.lookup(paths, "busybox")
    for directory in (paths.images, os.path.dirname(image.root)):
        assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(image.root).st_mode & 0o7777 == 0o755
    assert os.stat(f"{image.root}/tmp").st_mode & 0o7777 == 0o1777
    writable = ["find", image.root, "-not", "-type", "l", "-perm", "/022", "-not", "-name", "tmp"]
    assert subprocess.run(writable, capture_output=True).stdout == b""
    assert (
        subprocess.run(["find", image.root, "-not", "-uid", "0"], capture_output=True).stdout == b""
    )


def test_what_builders_make_is_for_all_users(paths: Site) -> None:
    lines: list[str] = []
    old = os.umask(0o077)
    try:
        assert program.run(["sh", "-c", "umask"]).stdout == "0077\n", "the control"
        builder.run(
            ["sh", "-c", "umask"], what="it", env=builder.environment(), on_line=lines.append
        )
    finally:
        os.umask(old)
    assert lines == ["0022"]


def test_all_links_are_relative_and_lead_to_busybox(paths: Site) -> None:
    converge(paths, BUSYBOX)
    root = Path(images.lookup(paths, "busybox").root)
    for path in root.rglob("*"):
        if path.is_symlink():
            assert not os.readlink(path).startswith("/")
            assert path.resolve().is_relative_to(root) and path.exists()
    for name in ("sh", "httpd", "ip", "wget", "sleep"):
        for directory in ("bin", "sbin", "usr/bin"):
            assert (root / directory / name).resolve() == root / "bin/busybox"


def test_another_binary_is_another_image(
    paths: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge(paths, BUSYBOX)
    old = images.lookup(paths, "busybox")
    sandbox(paths, "web", old)
    other = tmp_path / "busybox"
    shutil.copy(static_busybox.PROGRAM, other)
    with open(other, "ab") as handle:
        handle.write(b"newer")
    monkeypatch.setattr(busybox, "CANDIDATES", (str(other),))
    planned = images.operations(paths, images.normalise_all([BUSYBOX]))
    assert [each.change for each in planned] == [Change.RESTART]
    assert len(converge(paths, BUSYBOX)) == 1
    assert images.lookup(paths, "busybox").digest != old.digest and os.path.isdir(old.root)
    shutil.rmtree(paths.sandbox("web").state)
    assert converge(paths, BUSYBOX, purge=True) == [f"images: remove unused {old.digest[:12]}"]
    assert not os.path.exists(old.root)


def test_an_image_outlives_the_package(paths: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    converge(paths, BUSYBOX)
    monkeypatch.setattr(busybox, "find", lambda: None)
    assert converge(paths, BUSYBOX) == []
    new = images.normalise_all([{**BUSYBOX, "name": "other"}])
    operations = images.operations(paths, new)
    assert descriptions(operations) == ["image other: make from busybox"]
    before = listing(paths)
    with pytest.raises(HostError, match="this host has no busybox; install"):
        apply_all(operations)
    assert listing(paths) == before


# -- tarball --------------------------------------------------------------------------------------


def test_a_tarball_from_a_path(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"bin/tool": b"tool"})
    converge(paths, raw)
    image = images.lookup(paths, "t")
    assert image.digest == raw["checksum"].partition(":")[2]
    assert Path(image.root, "bin/tool").read_bytes() == b"tool"
    assert images.facts(paths, image)["warnings"] == []


def test_an_unchanged_image_needs_no_archive(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"f": b"1"})
    converge(paths, raw)
    os.unlink(raw["path"])
    assert converge(paths, raw) == []
    assert converge(paths, {**raw, "path": "/elsewhere"}) == [
        f"image t: record {raw['checksum'][7:19]} from tarball"
    ]


def test_two_names_share_a_tree(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"f": b"1"})
    other = {**raw, "name": "registry/other:1"}
    converge(paths, raw, other)
    found = images.observe(paths)
    assert found["t"].root == found["registry/other:1"].root
    assert len(converge(paths, raw, {"name": other["name"], "state": "absent"})) == 1
    assert os.path.isdir(found["t"].root)


def test_a_sha512_checksum(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"f": b"1"})
    data = Path(raw["path"]).read_bytes()
    converge(paths, {**raw, "checksum": f"sha512:{hashlib.sha512(data).hexdigest()}"})


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    "wrong checksum": (lambda good: good + b"x", False, "has the checksum sha256:.*, not sha256"),
    "HTML page": (lambda good: b"<html>404</html>", False, "an HTML page.*has the checksum"),
    "HTML page, checksum of it": (lambda good: b"<html></html>", True, "HTML page"),
    "empty": (lambda good: b"", True, "no members"),
    "truncated": (lambda good: good[:100], True, "truncated"),
    "corrupt": (lambda good: good[:60] + b"\xff" * 60 + good[120:], True, "corrupt|checksum"),
    "wrong format": (lambda good: b"\x7fELF" + os.urandom(999), True, "not a tar archive"),
}


@pytest.mark.parametrize("change, matching, message", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_archive_changes_nothing(
    paths: Site, tmp_path: Path, change: Callable[[bytes], bytes], matching: bool, message: str
) -> None:
    converge(paths, archive(tmp_path, {"f": b"old"}))
    before = listing(paths)
    raw = archive(tmp_path, {"f": b"new", "g": os.urandom(1000)}, "new")
    data = change(Path(raw["path"]).read_bytes())
    Path(raw["path"]).write_bytes(data)
    if matching:
        raw["checksum"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with pytest.raises(SandlotError, match=f"(?s)image 't'.*{message}"):
        converge(paths, raw)
    assert listing(paths) == before
    assert Path(images.lookup(paths, "t").root, "f").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_a_path_that_is_no_file(paths: Site, tmp_path: Path, kind: str) -> None:
    raw = archive(tmp_path, {"f": b"1"})
    os.unlink(raw["path"])
    if kind != "missing":
        (os.mkfifo if kind == "fifo" else os.mkdir)(raw["path"])
    with pytest.raises(SpecError, match="path: "):
        converge(paths, raw)
    assert not [each for each in os.listdir(paths.images) if each.startswith(".tmp")]


def test_an_archive_larger_than_its_bound(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"f": os.urandom(5000)})
    with pytest.raises(SandlotError, match="larger than 2048 bytes"):
        converge(paths, {**raw, "max_size": 2048})
    zeros = archive(tmp_path, {"f": bytes(100_000)}, "zeros")
    with pytest.raises(SandlotError, match="unpacks to more than 2048 bytes"):
        converge(paths, {**zeros, "max_size": 2048})


def test_what_was_verified_is_what_is_extracted(
    paths: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is rewritten in place between verification and extraction."""
    raw = archive(tmp_path, {"f": b"good"})
    evil = Path(archive(tmp_path, {"f": b"evil"}, "evil")["path"]).read_bytes()
    from sandlot.images import tarball

    real = tarball.extract

    def swapped(*arguments):
        Path(raw["path"]).write_bytes(evil)
        return real(*arguments)

    monkeypatch.setattr(tarball, "extract", swapped)
    apply_all(images.operations(paths, images.normalise_all([raw])))
    assert Path(images.lookup(paths, "t").root, "f").read_bytes() == b"good"


def test_left_out_members_are_kept_as_warnings(paths: Site, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as writer:
        member = tarfile.TarInfo("dev/null")
        member.type = tarfile.CHRTYPE
        writer.addfile(member)
    digest = hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    raw = {"name": "t", "source": "tarball", "path": str(tmp_path / "x")}
    converge(paths, {**raw, "checksum": f"sha256:{digest}"})
    facts = images.facts(paths, images.lookup(paths, "t"))
    assert facts["warnings"] == ["left out 'dev/null': a device or FIFO"]


# -- removal --------------------------------------------------------------------------------------


def test_an_image_in_use_stays(paths: Site) -> None:
    converge(paths, BUSYBOX)
    image = images.lookup(paths, "busybox")
    sandbox(paths, "web", image)
    sandbox(paths, "worker", image)
    gone = images.normalise_all([{"name": "busybox", "state": "absent"}])
    for specs, purge in ((gone, False), ([], True)):
        with pytest.raises(SpecError, match="'busybox' is used by the sandboxes web, worker"):
            images.operations(paths, specs, purge=purge)
    assert images.lookup(paths, "busybox") == image


def test_an_image_that_came_into_use_after_planning_stays(paths: Site) -> None:
    converge(paths, BUSYBOX)
    planned = images.operations(paths, [], purge=True)
    sandbox(paths, "web", images.lookup(paths, "busybox"))
    with pytest.raises(SpecError, match="is used by"):
        apply_all(planned)
    apply_all(planned[1:])
    assert os.path.isdir(images.lookup(paths, "busybox").root)


def test_purge_removes_all(paths: Site, tmp_path: Path) -> None:
    converge(paths, BUSYBOX, archive(tmp_path, {"f": b"1"}))
    assert len(converge(paths, purge=True)) == 3
    assert os.listdir(paths.images) == ["trees"] and os.listdir(f"{paths.images}/trees") == []


def test_removal_does_not_follow_links(paths: Site, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").touch()
    converge(paths, BUSYBOX)
    os.symlink(canary, f"{images.lookup(paths, 'busybox').root}/link")
    converge(paths, purge=True)
    assert (canary / "file").exists()


@pytest.mark.parametrize("kind", ["link", "owner"])
def test_a_planted_store_is_refused(paths: Site, tmp_path: Path, kind: str) -> None:
    os.makedirs(paths.state)
    if kind == "link":
        os.symlink(tmp_path, paths.images)
    else:
        os.mkdir(paths.images)
        os.chown(paths.images, 65534, 65534)
    with pytest.raises(ForeignError, match="images is not a directory of user 0"):
        converge(paths, BUSYBOX)


# -- interrupted runs -----------------------------------------------------------------------------


def _die_at(paths: Site, raw: list, call: str, number: int) -> None:
    operations = images.operations(paths, images.normalise_all(raw), purge=True)
    deadly.arm(call, number)
    apply_all(operations)
    os._exit(0)


@pytest.mark.parametrize(
    "call", ["mkdir", "symlink", "chmod", "rename", "fsync", "unlink", "rmdir"]
)
def test_killed_anywhere_it_converges(paths: Site, tmp_path: Path, call: str) -> None:
    """Replace one image and remove another, killed at every (of links: every 40th) call."""
    old, new = archive(tmp_path, {"f": b"1"}), archive(tmp_path, {"f": b"2"}, "new")
    gone = archive(tmp_path, {"d/e/f": b"3"}, "gone")
    step = 40 if call in ("symlink", "unlink") else 1
    converge(paths, BUSYBOX, new, purge=True)
    names = [line.split()[0] for line in listing(paths)]
    for number in range(1, 2000, step):
        converge(paths, old, {**gone, "name": "gone"}, purge=True)
        job = FORK.Process(target=_die_at, args=(paths, [BUSYBOX, new], call, number))
        job.start()
        job.join()
        converge(paths, BUSYBOX, new, purge=True)
        assert [line.split()[0] for line in listing(paths)] == names
        converge(paths, purge=True)
        assert listing(paths)[1:] == [line for line in listing(paths) if line.startswith("trees ")]
        if job.exitcode == 0:
            break
    assert number > 1 and job.exitcode == 0


def test_the_extractor_dies_with_the_run(paths: Site, tmp_path: Path) -> None:
    raw = archive(tmp_path, {"f": bytes(300 << 20)})
    job = FORK.Process(target=converge, args=(paths, raw))
    job.start()
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    while not (found := children.read_text().split()):
        assert job.is_alive()
    extractor = os.pidfd_open(int(found[0]))
    assert job.pid
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    assert select.select([extractor], [], [], 30)[0]
    os.close(extractor)
    assert [each for each in os.listdir(paths.images) if each.startswith(".tmp-")]
    assert converge(paths, raw)[0] == "images: clean up after an interrupted run"
    assert not [each for each in os.listdir(paths.images) if each.startswith(".tmp-")]


def test_a_full_disk_is_explained(
    paths: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge(paths, archive(tmp_path, {"f": b"1"}))
    before = listing(paths)

    rename = os.rename

    def full(source: str, target: str, **directories: int) -> None:
        if not directories:  # that of a removal
            raise OSError(28, "No space left on device")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(SandlotError, match="image 't' can't be made: .*No space left"):
        converge(paths, archive(tmp_path, {"f": b"2"}, "new"))
    assert listing(paths) == before


# -- the modules ----------------------------------------------------------------------------------


def test_sandbox_rootfs(paths: Site) -> None:
    session_trees.release(paths)
    before = os.listdir(paths.root)
    task = {"sandbox_rootfs": {"images": [BUSYBOX]}}
    (checked,) = plays.play(paths, {**task, "check_mode": True})
    assert checked["changed"] and os.listdir(paths.root) == before
    wrong = {"sandbox_rootfs": {"images": [{"name": "x", "source": "tarball"}]}}
    made, again, failed = plays.play(paths, task, task, wrong, fails=True)
    assert made["actions"] == checked["actions"]
    assert made["images"]["busybox"]["digest"] == images.lookup(paths, "busybox").digest
    assert (again["changed"], again["actions"]) == (False, [])
    assert "images[0]: 'x' has neither path, url nor src; give one of them" in failed["msg"]


def test_sandbox_subid(paths: Site) -> None:
    session_trees.release(paths)
    os.makedirs(f"{paths.root}/etc")
    task, gone = (
        {"sandbox_subid": {"name": ["web"], **more}} for more in ({}, {"state": "absent"})
    )
    (checked,) = plays.play(paths, {**task, "check_mode": True})
    assert checked["changed"] and not os.listdir(f"{paths.root}/etc")
    made, again = plays.play(paths, task, task)
    assert made["ranges"] == checked["ranges"] == {"web": {"start": 2000224256, "size": 65536}}
    assert not again["changed"]
    sandbox(paths, "web", images.Image("x", "0", ""))
    (failed,) = plays.play(paths, gone, fails=True)
    assert "names: 'web' is a sandbox" in failed["msg"]
    shutil.rmtree(paths.sandboxes)
    (removed,) = plays.play(paths, gone)
    assert removed["changed"]
    assert not os.listdir(f"{paths.root}/etc")
