# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One guest per Debian release for a whole run, and what is deployed on it.

SANDLOT_VM_SUITES names the releases, SANDLOT_VM_KVM=1 asks for KVM.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import image  # noqa: E402
from guest import TREE, Guest, finish  # noqa: E402
from hosts import BEFORE, DEMO, DEPLOY, FINGERPRINT  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        suites = os.environ.get("SANDLOT_VM_SUITES", "bookworm trixie").split()
        metafunc.parametrize("suite", suites, scope="session")


@pytest.fixture(scope="session")
def guest(suite: str) -> Iterator[Guest]:
    """A running guest whose fingerprint was taken before anything was deployed."""
    kvm = os.environ.get("SANDLOT_VM_KVM") == "1"
    with tempfile.TemporaryDirectory(prefix=f"sandlot-{suite}-") as directory:
        yield from _running(Guest(image.cached(suite), Path(directory), kvm=kvm))


def _running(machine: Guest) -> Iterator[Guest]:
    try:
        machine.boot()
        machine.put(TREE / "tests/fingerprint.py", FINGERPRINT)
        machine.root(f"python3 {FINGERPRINT} > {BEFORE}")
        yield machine
    finally:
        machine.cut_power()


@pytest.fixture(scope="session")
def deployed(guest: Guest) -> str:
    """The output of the first deploy of the demo set."""
    return finish(guest.play(DEPLOY, DEMO))
