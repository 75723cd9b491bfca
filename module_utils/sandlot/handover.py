# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs the engine installed on the host in place of a module's payload, if both are the same.

Python keeps no bytecode of modules that it imports from a zip, so every module execution would
compile the engine again (0.7 s). The runtime that sandbox_host installs is compiled already.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
import zlib

PACKAGE = "sandlot/"
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def refuse_python(minimum: tuple[int, int]) -> NoReturn:
    """Fail as ansible.module_utils.basic does: other files of the engine can't be imported."""
    least = ".".join(map(str, minimum))
    actual = ".".join(map(str, sys.version_info[:3]))
    message = (
        f"{sys.executable} is Python {actual}, sandlot needs {least} or later; "
        "name another with ansible_python_interpreter"
    )
    sys.stdout.write(json.dumps({"failed": True, "msg": message}))
    raise SystemExit(1)


def search_path(archive: str) -> list[str] | None:
    """The installed package; None when it is missing, not owned by root, or different."""
    root = os.environ.get("SANDLOT_ROOT", "").rstrip("/")
    package = os.path.realpath(f"{root}/usr/local/lib/sandlot/sandlot")
    with zipfile.ZipFile(archive) as payload:
        shipped = [entry for entry in payload.infolist() if f"/{PACKAGE}" in entry.filename]
    try:
        for entry in shipped:
            relative = entry.filename.partition(f"/{PACKAGE}")[2]
            with open(f"{package}/{relative}", "rb") as handle:
                state = os.fstat(handle.fileno())
                if state.st_uid != 0 or state.st_mode & 0o022 or state.st_size != entry.file_size:
                    return None
                if zlib.crc32(handle.read()) != entry.CRC:
                    return None
    except OSError:
        return None
    return [package] if shipped else None
