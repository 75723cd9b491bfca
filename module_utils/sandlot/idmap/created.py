# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Records the id files that sandlot made, so that teardown removes them."""

from __future__ import annotations

import os

from .. import store
from ..site import Site


def _state(site: Site) -> str:
    return f"{site.state}/subids.json"


def _created(site: Site) -> list[str]:
    path = _state(site)
    hint = f"restore {path} from a backup, or remove it: an empty file may then stay at teardown"
    state = store.read(path, hint=hint)
    return list(state.get("created", [])) if state else []


def recorded(site: Site, path: str) -> bool:
    return path in _created(site)


def record(site: Site, path: str) -> None:
    os.makedirs(site.state, mode=0o700, exist_ok=True)
    store.write(_state(site), {"created": sorted({*_created(site), path})})


def forget(site: Site, path: str) -> None:
    others = [created for created in _created(site) if created != path]
    if others:
        store.write(_state(site), {"created": others})
    else:
        store.remove(_state(site))
