# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images in a store of the test's own."""

from __future__ import annotations

import gzip
import hashlib
import io
import multiprocessing
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from sandlot import images, store
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site

BUSYBOX = {"name": "busybox", "source": "busybox"}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    return Site(str(tmp_path / "root"))


def converge(paths: Site, *raw: dict, purge: bool = False) -> list[str]:
    specs = images.normalise_all(list(raw))
    operations = images.operations(paths, specs, purge=purge)
    apply_all(operations)
    assert images.operations(paths, specs, purge=purge) == []
    return descriptions(operations)


def archive(directory: Path, files: dict[str, bytes], name: str = "a.tar.gz") -> dict:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    data = gzip.compress(buffer.getvalue())
    (directory / name).write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"name": "t", "source": "tarball", "path": str(directory / name), "checksum": digest}


def listing(paths: Site) -> list[str]:
    found = subprocess.run(
        ["find", paths.images, "-printf", "%P %m %U %G %s %l\n"], capture_output=True, text=True
    )
    return sorted(found.stdout.splitlines())


def sandbox(paths: Site, name: str, image: images.Image, start: int = 200000) -> None:
    os.makedirs(paths.sandbox(name).state)
    record = {
        "image": {"name": image.name, "digest": image.digest},
        "ids": {"uid": start, "gid": start, "size": 65536},
    }
    store.write(paths.sandbox(name).record, record)
