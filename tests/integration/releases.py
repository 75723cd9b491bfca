# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Engines of earlier commits, from the history of this repository."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import static_busybox

REPOSITORY = Path(__file__).resolve().parents[2]
# The last commit before the modules of the engine were moved and renamed.
BEFORE_MOVES = "dd050e5a8f26763fe3218faeb94910279d602922"
# The module names are those of that commit.
DRIVER = Path(__file__).with_name("driver_dd050e5.txt")


class Release:
    """The engine of a commit: its calls run in processes of their own."""

    def __init__(self, directory: Path, commit: str = BEFORE_MOVES) -> None:
        self.directory = directory
        with tarfile.open(fileobj=io.BytesIO(archive(commit))) as members:
            members.extractall(directory)
        # Another program than the present one even where no file of the engine has changed.
        with (directory / "module_utils/sandlot/__init__.py").open("a") as handle:
            handle.write(f"# {commit}\n")

    def call(self, root: str, function: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a function of the driver; an error of the engine is {"error": text}."""
        done = self.attempt(root, function, **arguments)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def attempt(
        self, root: str, function: str, **arguments: Any
    ) -> subprocess.CompletedProcess[str]:
        engine = str(self.directory / "module_utils")
        driver = [sys.executable, "-I", "-c", DRIVER.read_text(), engine, root, function]
        return subprocess.run(
            [*driver, json.dumps(arguments), str(static_busybox.PROGRAM)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def archive(commit: str) -> bytes:
    """The engine's tree; an AssertionError with the remedy when the clone does not hold it."""
    # Root may run the tests in a clone that belongs to another user.
    git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]
    present = subprocess.run(
        [*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, text=True
    )
    assert present.returncode == 0, (
        f"commit {commit[:7]}, from which this test upgrades, is not in {REPOSITORY} "
        f"({present.stderr.strip()}); fetch the history: git fetch --unshallow"
    )
    command = [*git, "archive", "--format=tar", commit, "module_utils"]
    return subprocess.run(command, capture_output=True, check=True).stdout
