# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a user does with images of registries; a registry per module, or of a test's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import entry, folder, pack
from oci_images import ARCHITECTURE, REGISTRY, Layout, Registry, registry
from sandlot import images
from sandlot.images.oci import skopeo as client
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site

needs_registry = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not REGISTRY, reason="no docker-registry"),
]
OTHER = "arm64" if ARCHITECTURE == "amd64" else "amd64"
BASE = pack(folder("a"), entry("a/1", b"one"), entry("a/2", b"two"))
SECOND = pack(entry("a/.wh.1"), entry("b", b"b"))


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    return Site(str(tmp_path / "root"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Registry]:
    """A registry of the test's own, for those that stop it or read its log."""
    with registry(tmp_path / "registry") as found:
        yield found


def wish(reference: str, **options: Any) -> dict[str, Any]:
    insecure = (
        {} if reference.partition(":")[0].startswith(("oci", "docker")) else {"tls_verify": False}
    )
    return {"name": "x", "source": "oci", "reference": reference, **insecure, **options}


def plan(paths: Site, *raw: dict[str, Any]) -> list[str]:
    return descriptions(images.operations(paths, images.normalise_all(list(raw))))


def converge(paths: Site, *raw: dict[str, Any]) -> images.Image:
    """The first one as it is then; a second run has nothing to do."""
    apply_all(images.operations(paths, images.normalise_all(list(raw))))
    assert plan(paths, *raw) == []
    return images.lookup(paths, raw[0]["name"])


def content(image: images.Image) -> dict[str, str]:
    root = Path(image.root)
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def everything(paths: Site) -> list[str]:
    if not os.path.isdir(paths.images):
        return []
    return sorted(str(path) for path in Path(paths.images).rglob("*"))


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """skopeo with something done before or after it, as a shell script; returns its directory,
    which the user that it runs as can reach and write to."""
    directory = Path(tempfile.mkdtemp(prefix="sl", dir="/var/tmp"))
    directory.chmod(0o777)

    def make(script: str) -> Path:
        program = directory / "skopeo"
        program.write_text(
            f"#!/bin/sh\nreal={shutil.which('skopeo')}\nhere={directory}\n{script}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(client, "PATH", str(directory))
        return directory

    yield make
    shutil.rmtree(directory)
