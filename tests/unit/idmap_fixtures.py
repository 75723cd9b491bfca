# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A host with id files of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot import idmap
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "subuid").write_bytes(b"")
    (etc / "subgid").write_bytes(b"")
    return Site(str(tmp_path))


def plan(paths: Site, *names: str, absent: tuple[str, ...] = ()):
    files = idmap.observe(paths)
    return idmap.operations(paths, files, idmap.allocate(files, names), absent)


def converge(paths: Site, *names: str, absent: tuple[str, ...] = ()) -> list[str]:
    operations = plan(paths, *names, absent=absent)
    apply_all(operations)
    assert plan(paths, *names, absent=absent) == []
    return descriptions(operations)


def content(paths: Site) -> tuple[bytes, bytes]:
    return Path(paths.subuid).read_bytes(), Path(paths.subgid).read_bytes()


def listing(paths: Site) -> list[str]:
    return sorted(os.listdir(f"{paths.root}/etc"))
