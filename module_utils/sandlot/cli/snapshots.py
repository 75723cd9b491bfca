# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot snapshots: all that is done with what is kept of sandboxes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, Dict, List

from ..converge import kept, transport
from ..converge.kept_model import Kept, SnapshotRequest
from ..errors import SandlotError, StateError
from ..site import Site
from ..snapshots import archive, store
from ..snapshots.model import Snapshot
from . import output
from .lifecycle import report

HEADS = ("SANDBOX", "SNAPSHOT", "REASON", "IMAGE", "SIZE", "FILES", "VOLUMES", "AGE")
_RIGHT = ("SIZE", "FILES", "AGE")


def run(site: Site, options: argparse.Namespace) -> int:
    return _ACTIONS[options.action](site, options)


def _list(site: Site, options: argparse.Namespace) -> int:
    loaded = store.load_all(site)
    chosen = [entry for entry in loaded.good if not options.name or entry.sandbox in options.name]
    broken = {
        name: error
        for name, error in loaded.broken.items()
        if not options.name or name.partition("/")[0] in options.name
    }
    if options.format == "json":
        failed = [_broken(name, error) for name, error in broken.items()]
        output.print_json([*(entry.facts() for entry in chosen), *failed])
        return 0
    sys.stdout.write(output.table(HEADS, [_row(entry) for entry in chosen], right=_RIGHT))
    for error in broken.values():
        output.complain(error)
    return 0


def _create(site: Site, options: argparse.Namespace) -> int:
    sandbox, name = _words(options, 2, "create SANDBOX NAME")
    asked = SnapshotRequest(sandbox, name, "create", volumes=not options.no_volumes)
    return _done(kept.carry_out(site, asked), options)


def _restore(site: Site, options: argparse.Namespace) -> int:
    sandbox, name = _words(options, 2, "restore SANDBOX NAME")
    request = SnapshotRequest(
        sandbox, name, "restore", volumes=not options.no_volumes, force=options.force
    )
    return _done(kept.carry_out(site, request), options)


def _clone(site: Site, options: argparse.Namespace) -> int:
    words = _words(options, 0, "clone SANDBOX [NAME] NEW")
    if len(words) > 3:
        raise SandlotError("clone takes three words", hint="write sandlot snapshots clone a s b")
    request = SnapshotRequest(
        words[0],
        words[1] if len(words) == 3 else "",
        "clone",
        volumes=not options.no_volumes,
        force=options.force,
        into=words[-1],
    )
    return _done(kept.carry_out(site, request), options)


def _export(site: Site, options: argparse.Namespace) -> int:
    sandbox, name = _words(options, 2, "export SANDBOX NAME >FILE")
    if os.isatty(sys.stdout.fileno()):
        raise SandlotError("the archive is not for a terminal", hint="write it to a file or a pipe")
    archive.export(site, store.load(site, sandbox, name), sys.stdout.fileno())
    return 0


def _import(site: Site, options: argparse.Namespace) -> int:
    words = [*options.name, "", ""]
    if len(options.name) > 2 or os.isatty(sys.stdin.fileno()):
        hint = "write sandlot snapshots import [SANDBOX [NAME]] <FILE"
        raise SandlotError("import reads an archive from standard input", hint=hint)
    request = SnapshotRequest(words[0], words[1], "import")
    return _done(transport.received(site, request, sys.stdin.fileno()), options)


def _remove(site: Site, options: argparse.Namespace) -> int:
    sandbox, *identifiers = _words(options, 0, "rm SANDBOX NAME...")
    for identifier in identifiers:
        # Checked here, as the module takes a missing one for done.
        if identifier not in store.identifiers(site, sandbox):
            store.load(site, sandbox, identifier)
        _done(kept.carry_out(site, SnapshotRequest(sandbox, identifier, "absent")), options)
    return 0


def _words(options: argparse.Namespace, count: int, usage: str) -> List[str]:
    words: List[str] = options.name
    if len(words) < 2 or (count and len(words) != count):
        problem = f"snapshots {options.action} takes other words"
        raise SandlotError(problem, hint=f"write sandlot snapshots {usage}")
    return words


def _done(done: Kept, options: argparse.Namespace) -> int:
    output.print_actions(done.actions, options.format, changed=bool(done.actions))
    for warning in done.more.get("warnings", ()):
        output.say(warning)
    return report(done.more.get("failed", {}))


def _broken(name: str, error: StateError) -> Dict[str, Any]:
    sandbox, dummy, identifier = name.partition("/")
    return {"sandbox": sandbox, "id": identifier, "error": str(error)}


def _row(entry: Snapshot) -> List[str]:
    least = ">" if entry.more else ""
    return [
        entry.sandbox,
        entry.id,
        entry.reason,
        entry.record.image.name if entry.record else output.NOTHING,
        f"{least}{output.size(entry.size)}",
        f"{least}{entry.files}",
        ",".join(entry.volumes) or output.NOTHING,
        output.span(max(time.time() - entry.created, 0)),
    ]


_ACTIONS = {
    "list": _list,
    "create": _create,
    "restore": _restore,
    "clone": _clone,
    "export": _export,
    "import": _import,
    "rm": _remove,
}
