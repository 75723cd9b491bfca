# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Subordinate ids beside the real useradd, under a moved root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from sandlot import idmap
from sandlot.plan import apply_all
from sandlot.site import Site

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="useradd needs root"),
    pytest.mark.skipif(not shutil.which("useradd"), reason="shadow is not installed"),
]
USERS = 8


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid"):
        (etc / name).touch()
    shutil.copy("/etc/login.defs", etc)
    return Site(str(tmp_path))


# It gives up with status 1 when others have held its lock for too long.
_ADD = 'until useradd --prefix "$0" --no-create-home "$1"; do [ $? -eq 1 ] || exit 2; done'


def _start(paths: Site, user: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["timeout", "120", "sh", "-c", _ADD, paths.root, user])


def test_no_line_is_lost_beside_useradd(paths: Site) -> None:
    processes = [_start(paths, f"user{number}") for number in range(USERS)]
    names: list[str] = []
    while any(process.poll() is None for process in processes) or len(names) < 20:
        names.append(f"box{len(names)}")
        files = idmap.observe(paths)
        apply_all(idmap.operations(paths, files, idmap.allocate(files, names)))
    assert {process.wait() for process in processes} == {0}
    users = {f"user{number}" for number in range(USERS)}
    for file in (paths.subuid, paths.subgid):
        owners = [line.split(":")[0] for line in Path(file).read_text().splitlines()]
        assert sorted(owners) == sorted(users | {f"sandlot.{name}" for name in names})
    idmap.allocate(idmap.observe(paths), names)


def test_useradd_never_picks_ids_of_ours(paths: Site) -> None:
    files = idmap.observe(paths)
    apply_all(idmap.operations(paths, files, idmap.allocate(files, ["web"])))
    assert _start(paths, "joe").wait() == 0
    assert list(idmap.allocate(idmap.observe(paths), ["web"])) == ["web"]


def test_owner_of_the_file_is_preserved(paths: Site) -> None:
    os.chown(paths.subuid, 1234, 4321)
    os.chmod(paths.subuid, 0o664)
    files = idmap.observe(paths)
    apply_all(idmap.operations(paths, files, idmap.allocate(files, ["web"])))
    status = os.stat(paths.subuid)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 4321, 0o664)
