# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Where the containers.podman collection is; the `ansible` package has it when no place does."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = ("ansible_collections", "containers", "podman")
# The last releases made for the ansible-core that requirements.txt pins.
PACKAGE = "ansible>=12,<13"
DOWNLOAD_SECONDS = 120
CACHE = Path(sys.prefix) / "share" / "sandlot-bench"


class NotAvailable(Exception):
    """Why there is nothing to compare with."""


def find() -> Path:
    """A directory to name in ANSIBLE_COLLECTIONS_PATH; NotAvailable when there can be none."""
    for candidate in _candidates():
        if candidate.joinpath(*PARTS, "MANIFEST.json").exists():
            return candidate
    _download()
    return CACHE


def _candidates() -> list[Path]:
    configured = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "")
    places = [*configured.split(":"), "~/.ansible/collections", "/usr/share/ansible/collections"]
    found = [Path(place).expanduser() for place in places if place]
    return [*found, *map(Path, site.getsitepackages()), CACHE]


def _download() -> None:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        try:
            subprocess.run([*command, "--dest", directory], check=True, timeout=DOWNLOAD_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise NotAvailable(f"containers.podman is not installed, and pip: {error}") from error
        for wheel in Path(directory).glob("*.whl"):
            _extract(wheel)


def _extract(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        prefix = "/".join(PARTS) + "/"
        archive.extractall(CACHE, [name for name in archive.namelist() if name.startswith(prefix)])
