# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Each Python that modules run on, by Ansible, as a distribution has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))

from debian_mirror import mirror  # noqa: E402
from python_hosts import PACKAGES, run_modules  # noqa: E402

DEBIAN = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie", "3.14": "sid"}
# The tool has the address of its archive.
UBUNTU = {"3.10": "jammy", "3.12": "noble"}
KEYS = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"


@pytest.mark.parametrize("version", sorted({**DEBIAN, **UBUNTU}, key=lambda name: int(name[2:])))
def test_modules_run(version: str, tmp_path: Path) -> None:
    tree = tmp_path / "root"
    options = [f"--include={','.join(PACKAGES)}", "--aptopt=Acquire::Check-Valid-Until false"]
    if version in DEBIAN:
        source = [DEBIAN[version], str(tree), mirror()]
    elif not os.path.exists(KEYS):
        pytest.skip(f"{KEYS} is missing: install ubuntu-archive-keyring (Debian 13 has it)")
    else:
        options += ["--components=main,universe", f"--keyring={KEYS}"]
        source = [UBUNTU[version], str(tree)]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", *options, *source]
    subprocess.run(command, check=True)
    run_modules(tree, version)
