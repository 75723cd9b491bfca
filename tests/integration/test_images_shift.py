# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies of images with their owners moved, for hosts that can't map ids on a mount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import deadly
import pytest
from sandlot import images
from sandlot.idmap import IdRange
from sandlot.images import busybox
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site
from store_fixtures import FORK, archive, converge, paths, sandbox

__all__ = ["paths"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(busybox.find() is None, reason="no busybox"),
]
IDS = IdRange(2000224256)


def _rich_image(paths: Site, tmp_path: Path) -> images.Image:
    """Odd owners, setuid, hard links, and links to files of the host."""
    raw = archive(tmp_path, {"f": b"x"})
    converge(paths, raw)
    root = Path(images.lookup(paths, "t").root)
    (tmp_path / "canary").touch()
    os.symlink(tmp_path / "canary", root / "link")
    os.symlink(tmp_path, root / "folder")
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "su").write_bytes(b"su" * 100_000)
    os.link(root / "d" / "su", root / "d" / "e" / "hard")
    os.chown(root / "d" / "su", 33, 65535)
    os.chmod(root / "d" / "su", 0o6711)
    os.chmod(root / "d", 0o3750)
    os.utime(root / "d", (1, 2))
    return images.lookup(paths, "t")


def test_a_shifted_copy(paths: Site, tmp_path: Path) -> None:
    image = _rich_image(paths, tmp_path)
    assert descriptions(images.shift_operations(paths, image, IDS)) == [
        "image t: copy with owners moved to 2000224256"
    ]
    apply_all(images.shift_operations(paths, image, IDS))
    assert images.shift_operations(paths, image, IDS) == []
    copy, root = Path(images.shifted(paths, image, IDS)), Path(image.root)
    for mine in [copy, *copy.rglob("*")]:
        theirs = root / mine.relative_to(copy)
        a, b = mine.lstat(), theirs.lstat()
        assert (a.st_uid, a.st_gid) == (b.st_uid + IDS.start, b.st_gid + IDS.start)
        assert (a.st_mode, a.st_mtime_ns, a.st_nlink) == (b.st_mode, b.st_mtime_ns, b.st_nlink)
        assert not mine.is_file() or mine.is_symlink() or mine.read_bytes() == theirs.read_bytes()
    assert len(list(copy.rglob("*"))) == len(list(root.rglob("*")))
    assert os.readlink(copy / "link") == str(tmp_path / "canary")
    assert (tmp_path / "canary").stat().st_uid == 0


def _shift_and_die_at(paths: Site, image: images.Image, call: str, number: int) -> None:
    deadly.arm(call, number)
    apply_all(images.shift_operations(paths, image, IDS))
    os._exit(0)


@pytest.mark.parametrize("call", ["chown", "fchown", "link", "mkdir", "rename"])
def test_a_killed_shift_is_done_again_from_the_start(
    paths: Site, tmp_path: Path, call: str
) -> None:
    image = _rich_image(paths, tmp_path)
    for number in range(1, 100):
        job = FORK.Process(target=_shift_and_die_at, args=(paths, image, call, number))
        job.start()
        job.join()
        apply_all(images.shift_operations(paths, image, IDS))
        copy = images.shifted(paths, image, IDS)
        wrong = ["find", copy, "(", "-uid", "-2000224256", "-o", "-uid", "+2000289791", ")"]
        assert subprocess.run(wrong, capture_output=True).stdout == b""
        assert (tmp_path / "canary").stat().st_uid == 0
        apply_all(images.prune_operations(paths))
        assert not os.path.exists(copy)
        if job.exitcode == 0:
            break
    assert number > 1 and job.exitcode == 0


def test_copies_of_gone_sandboxes_are_pruned(paths: Site, tmp_path: Path) -> None:
    image = _rich_image(paths, tmp_path)
    sandbox(paths, "web", image, IDS.start)
    for start in (IDS.start, IDS.start + 65536):
        apply_all(images.shift_operations(paths, image, IdRange(start)))
    operations = images.prune_operations(paths)
    assert descriptions(operations) == [
        f"images: remove unused {image.digest[:12]}/shifted-{IDS.start + 65536}"
    ]
    apply_all(operations)
    assert os.path.isdir(images.shifted(paths, image, IDS))
