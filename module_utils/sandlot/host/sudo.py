# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Lets sudo find the command, also where sudo's secure_path leaves out /usr/local, as in sid.

There a link in /usr/sbin leads to the command. Files of others with that name stay.
"""

from __future__ import annotations

import contextlib
import os
import re
from functools import partial

from ..kernel import files
from ..plan import Operation
from ..site import Site

_SECURE_PATH = re.compile(r'^\s*Defaults\s.*\bsecure_path\s*=\s*"?([^"\n]*)', re.MULTILINE)
_DESTINATION = "../local/bin/sandlot"


def link_operations(site: Site) -> list[Operation]:
    link = _link(site)
    if not _hides_command(site) or os.path.lexists(link):
        return []
    return [Operation("runtime", f"link {link}, as sudo looks there", partial(_make, link))]


def links(site: Site) -> list[str]:
    """The link, when it is there and is ours."""
    link = _link(site)
    return [link] if os.path.islink(link) and os.readlink(link) == _DESTINATION else []


def _link(site: Site) -> str:
    return f"{site.root}/usr/sbin/sandlot"


def _make(link: str) -> None:
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(_DESTINATION, link)


def _hides_command(site: Site) -> bool:
    """Whether the last secure_path, which is the one that counts, lacks the command's directory."""
    top = f"{site.root}/etc/sudoers"
    # sudo reads no file whose name has a dot, or "~" at its end.
    extra = [name for name in files.names(f"{top}.d") if not re.search(r"\.|~$", name)]
    paths: list[str] = []
    for path in (top, *(f"{top}.d/{name}" for name in extra)):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            with open(path, encoding="utf-8", errors="surrogateescape") as handle:
                paths += _SECURE_PATH.findall(handle.read())
    return bool(paths) and "/usr/local/bin" not in paths[-1].split(":")
