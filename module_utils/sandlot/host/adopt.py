# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks that this version can adopt the state and the running inits of another version."""

from __future__ import annotations

import glob
import json
from typing import Any, Dict, Iterable

from .. import __version__, store
from ..errors import StateError
from ..sandbox import runtime
from ..site import Site
from ..spec.option import Option
from ..spec.options import STORED
from ..spec.table import networks

# Files below the state and runtime directories: networks, images, records, notes of all kinds.
_STATE = (
    *("*.json", "sandboxes/*/*.json", "images/*.json", "images/trees/*/about.json"),
    "volumes/*/volume.json",
)
_RUN = (".*.json", "*/*.json")
_HINT = (
    "go on with the installed version, or install one that knows it; to go back all the same, "
    "first remove everything with the installed version (sandbox_host with state: absent)"
)


def check(site: Site) -> None:
    """StateError, before the first change, when a newer version wrote the state of this host."""
    places = [f"{glob.escape(site.state)}/{pattern}" for pattern in _STATE]
    places += [f"{glob.escape(site.run)}/{pattern}" for pattern in _RUN]
    for path in (path for place in places for path in sorted(glob.glob(place))):
        if _schema(path) > store.NEWEST:
            known = f"version {__version__}, which was to be installed, knows {store.NEWEST}"
            raise StateError(f"{path} has schema {_schema(path)}, {known}", hint=_HINT)
    for path in glob.glob(f"{glob.escape(site.sandboxes)}/*/record.json"):
        _check_options(path, "the sandbox", _data(path).get("spec"), STORED)
    stored = _data(site.networks_file).get("networks")
    for network in stored if isinstance(stored, list) else ():
        _check_options(site.networks_file, "the networks", network, networks.OPTIONS)
    for name in runtime.names(site):
        try:
            running = runtime.running(site.sandbox(name))
        except StateError:
            continue
        if running is not None and running.protocol > runtime.PROTOCOL:
            raise StateError(
                f"init of {name} speaks protocol {running.protocol}, version {__version__}, which "
                f"was to be installed, knows {runtime.PROTOCOL}",
                hint=f"go on with the installed version, or stop {name} first",
            )


def _check_options(path: str, what: str, stored: Any, rows: Iterable[Option]) -> None:
    known = {row.name for row in rows}
    unknown = sorted(set(stored) - known) if isinstance(stored, dict) else []
    if unknown:
        hint = f"deploy {what} without them with the installed version first; or "
        raise StateError(
            f"{path} has options that version {__version__}, which was to be installed, does "
            f"not know: {', '.join(unknown)}",
            hint=hint + _HINT,
        )


def _schema(path: str) -> int:
    schema = _data(path).get("schema")
    return schema if isinstance(schema, int) else 0


def _data(path: str) -> Dict[str, Any]:
    """The content of a JSON file; {} if it is unreadable, which its own reader will report."""
    try:
        data = json.loads(store.read_bytes(path) or b"")
    except (StateError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
