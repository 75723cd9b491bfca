# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which id files did not exist before us, so that the host can be left as it was found."""

from __future__ import annotations

import os

from .. import store
from ..site import Paths


def _state(paths: Paths) -> str:
    return f"{paths.state}/subids.json"


def _created(paths: Paths) -> list[str]:
    path = _state(paths)
    hint = f"restore {path} from a backup, or remove it: an empty file may then stay at teardown"
    state = store.read(path, hint=hint)
    return list(state.get("created", [])) if state else []


def recorded(paths: Paths, path: str) -> bool:
    return path in _created(paths)


def record(paths: Paths, path: str) -> None:
    os.makedirs(paths.state, mode=0o700, exist_ok=True)
    store.write(_state(paths), {"created": sorted({*_created(paths), path})})


def forget(paths: Paths, path: str) -> None:
    rest = [each for each in _created(paths) if each != path]
    if rest:
        store.write(_state(paths), {"created": rest})
    else:
        store.remove(_state(paths))
