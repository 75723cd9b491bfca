#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Installs the built collection and runs the checks of ansible-test and Galaxy; none is ignored.

``make lint`` builds the collection and gives this script the path of the archive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal import python_requirements

BIN = Path(sys.executable).parent
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SANITY = ["ansible-test", "sanity", "--requirements", "--python", VERSION]
CHECKS = (
    ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", "."],
    ["antsibull-changelog", "lint"],
    [*SANITY, "--prime-venvs", "--test", "import"],
    SANITY,
)
# The check of imports imports each file with all that it imports, and forgets these again: most of
# its time it compiles what it has compiled before.
REMEMBER = "import builtins, functools\nbuiltins.compile = functools.cache(builtins.compile)\n"


def keep_bootstrap(home: Path) -> None:
    """Put pip's bootstrap where ansible-test looks before it asks a server of its own for it."""
    asked = python_requirements.get_venv_packages(SimpleNamespace(version=VERSION))
    cache = home / ".ansible/test/cache"
    cache.mkdir(parents=True)
    name = f"get_pip_{asked['pip'].replace('.', '_')}.py"
    (cache / name).write_text("import ensurepip\n\nensurepip.bootstrap()\n")


def compile_once(home: Path) -> None:
    """Python imports a module of this name when it starts, in environments that are there."""
    for packages in home.glob(".ansible/test/venv/*/*/*/lib/python*/site-packages"):
        (packages / "sitecustomize.py").write_text(REMEMBER)


def failures(archive: Path, top: Path) -> list[str]:
    """The commands that fail; their output goes to stderr."""
    environment = {
        **os.environ,
        "HOME": str(top / "home"),
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "ANSIBLE_COLLECTIONS_PATH": str(top),
    }
    collection = top / "ansible_collections/sandlot/sandlot"
    install = ["ansible-galaxy", "collection", "install", "-p", str(top), str(archive)]
    galaxy = [sys.executable, "-m", "galaxy_importer.main", str(archive)]
    failed = []
    for command in (install, galaxy, *CHECKS):
        done = subprocess.run(
            command,
            cwd=collection if command in CHECKS else top,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            sys.stderr.write(f"{done.stdout}\nfailed: {' '.join(command)}\n")
            failed.append(command[0])
        compile_once(top / "home")
        # Checks look at all files, and ansible-test leaves an environment here.
        shutil.rmtree(collection / "tests/output", ignore_errors=True)
    return failed


def main(archive: Path) -> int:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        keep_bootstrap(top / "home")
        return len(failures(archive, top))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
