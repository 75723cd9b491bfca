# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cases of (files and secrets of two records, what a sandbox shows) -> lines, restart, signals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sandlot.configuration import sealing
from sandlot.converge import configured
from sandlot.converge.decide import Desired, Observed, Target, decide
from sandlot.idmap import IdRange
from sandlot.mask import Mask
from sandlot.sandbox import launchfile
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

HUP, USR1 = 1, 10
A = {"target": "/a", "content": "1"}
RELOADED = {**A, "on_change": "reload"}
RESTARTED = {**A, "on_change": "restart"}
SECRET = {"name": "s", "value": "1"}


@pytest.fixture
def site(tmp_path: Any) -> Site:
    (tmp_path / "var/lib/sandlot").mkdir(parents=True)
    return Site(str(tmp_path))


def record(site: Site, entries: list[dict[str, Any]], **options: Any) -> Record:
    files = [entry for entry in entries if "content" in entry]
    secrets = [entry for entry in entries if "value" in entry]
    given = {"name": "web", "image": "busybox", "command": ["true"], **options}
    spec = normalise({**given, "files": files, "secrets": secrets})
    spec = sealing.sealed(spec, Mask(site, keep=True))
    owners = {entry.target: (0, 0) for entry in (*spec.files, *spec.secrets)}
    image = ImageRef("busybox", "sha", ("/images/sha/root",))
    return Record("web", PRESENT, "started", spec, IdRange(200000), image, (), {}, owners)


def shown(entry: Record) -> dict[str, str]:
    return {target: piece.id for target, piece in configured.pieces(entry).items()}


@pytest.mark.parametrize(
    ("before", "after", "lines", "restart", "signals"),
    [
        ([], [], [], "", ()),
        ([A], [A], [], "", ()),
        ([], [A, SECRET], ["add /a", "add secret s"], "", ()),
        ([A, SECRET], [], ["withdraw /a", "withdraw secret s"], "", ()),
        ([A], [{**A, "content": "2"}], ["replace /a"], "", ()),
        ([A], [{**A, "mode": "0600"}], ["replace /a"], "", ()),
        ([A], [RELOADED], [], "", ()),
        ([A], [RESTARTED], [], "", ()),
        ([RESTARTED], [A], [], "", ()),
        ([RELOADED], [{**RELOADED, "content": "2"}], ["replace /a"], "", (HUP,)),
        ([RELOADED], [{**A, "content": "2"}], ["replace /a"], "", ()),
        ([RELOADED], [], ["withdraw /a"], "", (HUP,)),
        ([], [RESTARTED], ["add /a"], "files changed", ()),
        ([RESTARTED], [], ["withdraw /a"], "files changed", ()),
        ([RESTARTED], [{**A, "content": "2"}], ["replace /a"], "", ()),
        (
            [RELOADED, SECRET],
            [
                {**RELOADED, "content": "2"},
                {**SECRET, "value": "2", "on_change": "reload", "reload_signal": "USR1"},
            ],
            ["replace /a", "replace secret s"],
            "",
            (HUP, USR1),
        ),
        (
            [{**SECRET, "on_change": "restart"}],
            [{**SECRET, "value": "2", "on_change": "restart"}],
            ["replace secret s"],
            "secrets changed",
            (),
        ),
        ([SECRET], [{**SECRET, "target": "/s"}], ["add secret s", "withdraw secret s"], "", ()),
    ],
)
def test_changes(
    site: Site,
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    lines: list[str],
    restart: str,
    signals: tuple[int, ...],
) -> None:
    old, new = record(site, before), record(site, after)
    changed = configured.changes(shown(old), (None, old), new)
    assert [each.line for each in changed] == lines
    assert configured.restarting(changed) == restart
    assert configured.signals(changed) == signals
    # A killed run has written the new record, and kept the old one for a restart.
    again = configured.changes(shown(old), (old, new), new)
    assert (configured.restarting(again), [each.line for each in again]) == (restart, lines)
    assert configured.changes(shown(new), (old, new), new) == ()


def decided(site: Site, old: Record, new: Record, state: str = "started", **seen: Any) -> Any:
    launch = launchfile.content(site, new, [])
    before = launchfile.content(site, old, [])
    desired = Desired("web", state, new.spec)
    namespaces = launchfile.namespace_digest(launch, new)
    observed = Observed(
        record=old,
        layer=True,
        pins="whole",
        namespaces=namespaces,
        **{"running": before["digest"], "shows": shown(old), **seen},
    )
    return decide(Target(desired, new, launch, namespaces), observed)


def test_what_a_running_sandbox_gets(site: Site) -> None:
    old, new = record(site, [RELOADED]), record(site, [{**RELOADED, "content": "2"}])
    live = decided(site, old, new)
    assert (live.stop, live.start, live.signals) == (False, "", (HUP,))
    assert [each.line for each in live.configuration] == ["replace /a"]
    # What a killed run owes is sent without another change.
    owed = decided(site, new, new, reload=(USR1,))
    assert (owed.signals, owed.configuration, owed.write_record) == ((USR1,), (), False)
    # A stopped one gets all of it at its start.
    for state in ("started", "present"):
        stopped = decided(site, old, new, state, running=None, shows={}, reload=(USR1,))
        assert (stopped.signals, stopped.configuration) == ((), ())
    # A restart, whatever its reason, and a stop.
    again = record(site, [{**RELOADED, "content": "2"}], env={"A": "b"})
    for restarted in (decided(site, old, again), decided(site, old, new, "stopped")):
        assert restarted.stop and (restarted.signals, restarted.configuration) == ((), ())
    new = record(site, [{**RESTARTED, "content": "2"}])
    assert decided(site, old, new).start == "restart: files changed"


def test_a_mount_that_is_gone_is_made_again(site: Site) -> None:
    known = record(site, [A])
    assert [each.line for each in decided(site, known, known, shows={}).configuration] == ["add /a"]


def test_records_of_others_have_none(site: Site) -> None:
    known = record(site, [])
    assert configured.pieces(replace(known, owners={})) == {}
