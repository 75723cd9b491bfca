# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Encrypts values at rest by systemd-creds(1), with the key of the host.

The key is a file of root, outside of our state. A TPM is left out, which the default of
systemd-creds includes: an update of the firmware would lose all values, and each start would wait
for the TPM.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Dict, List, Tuple

from ..errors import StateError
from ..kernel import program
from ..site import Site

PROGRAM = "systemd-creds"
_LOST = "deploy the sandbox again, with the value"


def available(site: Site) -> bool:
    """Whether the host has the program (since systemd 250) and the directory of its key."""
    return bool(_program()) and os.path.isdir(os.path.dirname(site.credential_key))


def _program() -> str:
    return shutil.which(PROGRAM, path=program.SYSTEM_PATH) or ""


def encrypt(site: Site, name: str, value: bytes) -> Tuple[bytes, str]:
    """The encrypted value, or b"" and the complaint of the program.

    Its first use makes the key, as any use of it on the host does.
    """
    return _run(site, ["encrypt", "--with-key=host", f"--name={name}", "-", "-"], value)


def decrypt(site: Site, name: str, data: bytes) -> bytes:
    """The value of a credential of that name."""
    if not _program():
        problem = f"is encrypted, and {PROGRAM} is missing"
        raise StateError(problem, hint=f"install it (Debian: systemd), or {_LOST}")
    value, complaint = _run(site, ["decrypt", f"--name={name}", "-", "-"], data)
    if complaint:
        raise StateError(f"can't be decrypted: {complaint}", hint=_LOST)
    return value


def state(site: Site) -> Tuple[str, str]:
    """Whether the host can encrypt, in words, and the remedy if it should but can't."""
    if not _program():
        return f"this host has no {PROGRAM}", ""
    if not available(site):
        return f"{PROGRAM} lacks {os.path.dirname(site.credential_key)}, for its key", ""
    if not os.path.exists(site.credential_key):
        # A look must not make it.
        return f"{PROGRAM} has no key yet", ""
    dummy, complaint = encrypt(site, "probe", b"probe")
    if complaint:
        return f"{PROGRAM} fails: {complaint}", f"remove the cause ({PROGRAM} setup shows it)"
    return f"{PROGRAM} works", ""


def _run(site: Site, words: List[str], data: bytes) -> Tuple[bytes, str]:
    done = program.start(
        [_program(), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**_environment(site), "LC_ALL": "C", "PATH": program.SYSTEM_PATH},
    )
    output, errors = done.communicate(data)
    if done.returncode == 0:
        return output, ""
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return b"", lines[-1] if lines else f"it ended with status {done.returncode}"


def _environment(site: Site) -> Dict[str, str]:
    """Settings for a moved root, whose key must not be the machine's."""
    return {"SYSTEMD_CREDENTIAL_SECRET": site.credential_key} if site.root else {}
