# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Digests of host files; a file is read again only when its size, times or inode change."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Dict, Iterable, List, Mapping

_CHUNK = 1 << 20
# Path -> size, times of change of content and inode, inode, digest.
Evidence = Dict[str, List[Any]]


def hashed(paths: Iterable[str], known: Mapping[str, Any]) -> Evidence:
    """SHA-256 of each file, with its size, times and inode for the next comparison."""
    evidence: Evidence = {}
    for path in paths:
        status = os.stat(path)
        signature = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        before = known.get(path) or []
        content = before[-1] if before[:-1] == signature else content_digest(path)
        evidence[path] = [*signature, content]
    return evidence


def content_digest(path: str) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb") as handle:
        for chunk in iter(lambda: handle.read(_CHUNK), b""):
            sha256.update(chunk)
    return sha256.hexdigest()
