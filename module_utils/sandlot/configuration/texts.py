# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files before and after a run as text, for a diff. Secrets have none."""

from __future__ import annotations

from typing import Any, Dict, List

from ..errors import StateError
from ..mask import Mask
from ..sandbox.record import Record
from ..site import Site
from ..spec.values import File
from . import rest

Json = Dict[str, Any]

LONGEST = 100_000


def changed(
    site: Site, name: str, before: Record | None, after: Record | None, mask: Mask
) -> List[Json]:
    """The files of one sandbox that change, in Ansible's notation of a diff."""
    sides = [_files(record) for record in (before, after)]
    entries = []
    for target in sorted({*sides[0], *sides[1]}):
        old, new = (side.get(target) for side in sides)
        if (old and old.content) == (new and new.content):
            continue
        title = f"{name}:{target}"
        entries.append(
            {
                "before_header": title,
                "after_header": title,
                "before": _text(site, name, old, mask) if old else "",
                "after": _text(site, name, new, mask) if new else "",
            }
        )
    return entries


def _files(record: Record | None) -> Dict[str, File]:
    return {entry.target: entry for entry in record.spec.files} if record else {}


def _text(site: Site, name: str, entry: File, mask: Mask) -> str:
    """The content; a digest stands for a long or binary one, or one that the host has lost."""
    content, digest = entry.content.value, mask.shown(entry.content.digest)
    if content is None:
        try:
            content = rest.read_file(site.sandbox(name), entry.target, entry.content.digest)
        except StateError:
            return f"{digest}\n"
    if len(content) <= LONGEST and b"\0" not in content:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return f"{len(content)} bytes, {digest}\n"
