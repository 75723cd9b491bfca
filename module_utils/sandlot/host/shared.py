# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Puts shell completion and the manual page where shells and man look for them.

The files are part of the installed engine, which writes them when it is installed. Links lead
there; files of others with their names stay. Directories that are made for a link are noted, and go
with it once they are empty.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial

from .. import store
from ..errors import HostError
from ..handover import PACKAGE
from ..kernel import program
from ..plan import Operation
from ..site import Site

# Beside the modules of the engine.
DIRECTORY = "share"
_LINKS = {
    "bash": "usr/local/share/bash-completion/completions/sandlot",
    "sandlot.8": "usr/local/share/man/man8/sandlot.8",
    "zsh": "usr/local/share/zsh/site-functions/_sandlot",
    # Outside of a desktop's session, fish looks into no directory of /usr/local.
    "fish": "etc/fish/completions/sandlot.fish",
}
# Links that are made only where this directory is: others would be the first ones in /etc.
_NEEDED = {"fish": "etc/fish"}
_CODE = """\
import sys
sys.path.insert(0, sys.argv[1])
from sandlot.cli import completion
completion.write_files(sys.argv[2])
"""


def write(python: str, release: str) -> None:
    """Let the engine in a directory write its files, as only the rows of its verbs have them."""
    directory = f"{release}/{PACKAGE}/{DIRECTORY}"
    done = program.run([python, "-I", "-c", _CODE, release, directory])
    if done.returncode:
        problem = program.complaint(done).splitlines()[-1]
        hint = "remove the cause (df, df -i), then run again"
        raise HostError(f"{directory} can't be written: {problem}", hint=hint)


def link_operations(site: Site) -> list[Operation]:
    wanted = [name for name in _LINKS if os.path.isdir(f"{site.root}/{_NEEDED.get(name, '')}")]
    missing = [name for name in wanted if not os.path.lexists(_path(site, name))]
    if not missing:
        return []
    paths = ", ".join(_path(site, name) for name in missing)
    return [Operation("runtime", f"link {paths}", partial(_make, site, missing))]


def links(site: Site) -> list[str]:
    """The links that are there and ours."""
    return [path for name in _LINKS if _is_ours(site, path := _path(site, name), name)]


def directories(site: Site) -> list[str]:
    """The directories that were made for links, deepest first."""
    noted = store.read_bytes(_noted(site), hint=f"remove {_noted(site)}") or b""
    made = [path for path in noted.decode().splitlines() if os.path.isdir(path)]
    return sorted(made, key=len, reverse=True)


def remove_directory(path: str) -> None:
    with contextlib.suppress(OSError):  # another program keeps files there
        os.rmdir(path)


def _noted(site: Site) -> str:
    return f"{site.lib}/share.directories"


def _path(site: Site, name: str) -> str:
    return f"{site.root}/{_LINKS[name]}"


def _is_ours(site: Site, path: str, name: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == _destination(site, name)


def _destination(site: Site, name: str) -> str:
    directory = os.path.dirname(_path(site, name))
    return os.path.relpath(f"{site.lib}/{PACKAGE}/{DIRECTORY}/{name}", directory)


def _make(site: Site, missing: list[str]) -> None:
    for name in missing:
        path = _path(site, name)
        _make_directories(site, os.path.dirname(path))
        os.symlink(_destination(site, name), path)


def _make_directories(site: Site, path: str) -> None:
    """Make what is missing of a path, and note it before, as a killed run is gone on with."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    if missing:
        lines = "".join(f"{made}\n" for made in sorted({*directories(site), *missing}))
        store.replace(_noted(site), lines.encode(), mode=0o644)
        os.makedirs(missing[0], exist_ok=True)
