# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "host_overlay": the host's own root, below a host mask, as the lowest layer."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Mapping, Tuple

from ..errors import SpecError
from ..host_paths import OURS
from ..spec.names import absolute_paths
from ..spec.option import Option
from .model import Image, ImageSpec, Source


def digest(spec: ImageSpec, known: Image | None = None) -> str:
    """A digest of the options: sandboxes see changes of the host at once, without a new image."""
    text = json.dumps([view(spec)], sort_keys=True)
    return hashlib.sha256(f"host overlay 1\n{text}".encode()).hexdigest()


def view(spec: ImageSpec) -> Mapping[str, Any]:
    return {"show": list(spec.get("show") or ()), "hide": list(spec.get("hide") or ())}


def _shown_paths(option: str, value: Any) -> Tuple[str, ...]:
    paths = absolute_paths(option, value)
    for path in paths:
        if path == "/":
            hint = "name the directories that the sandbox needs"
            raise SpecError(option, path, "is the whole host", hint=hint)
        for own in OURS:
            if f"{path}/".startswith(f"{own}/"):
                hint = "it holds what other sandboxes are made of"
                raise SpecError(option, path, "is never shown", hint=hint)
    return paths


_ROWS = (
    Option(
        "show",
        "list",
        _shown_paths,
        [
            "Paths of the host that are shown beside C(/usr), C(/etc), C(/bin), C(/sbin) and "
            "C(/lib*), with all that is in them.",
        ],
        elements="str",
    ),
    Option(
        "hide",
        "list",
        absolute_paths,
        [
            "Paths of the host that are hidden beside the usual: what is not shown, what only some "
            "users of the host can read, and well-known secrets.",
        ],
        elements="str",
    ),
)


SOURCE = Source(
    description="the host's own root, read-only and without its secrets",
    digest=digest,
    host=view,
    options=_ROWS,
)
