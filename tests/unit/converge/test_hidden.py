# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Which sandboxes of a run are asked for files that hide a change, and what is compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot.converge.decide import Decision, Observed
from sandlot.converge.hidden import hidden_files, warning
from sandlot.idmap import IdRange
from sandlot.sandbox.hidden_files import Hidden
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(str(tmp_path))
    for number in ("1", "2"):
        for path in ("a", "data/b", "image/c", "memory/d"):
            place = tmp_path / f"tree{number}/root" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(number)
            own = Path(site.sandbox("web").upper, path)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text("mine")
    return site


def record(site: Site, number: str, **image: Any) -> Record:
    raw = {"name": "web", "image": "x", "command": ["x"], "volumes": ["v:/data"]}
    spec = normalise({**raw, "tmpfs": ["/memory"]})
    given = {"layers": (f"{site.root}/tree{number}/root",), **image}
    ref = ImageRef("x", f"sha-{number}", **given)
    return Record("web", PRESENT, "started", spec, IdRange(0), ref, volumes={"/image": "web.image"})


def paths(site: Site, old: Record, decision: Decision, **seen: Any) -> list[str] | None:
    known = {"record": old, "running": "x", **seen}
    found = hidden_files(site, {"web": decision}, {"web": Observed(**known)})
    return found["web"].paths if found else None


def test_who_is_asked(site: Site) -> None:
    old, new = record(site, "1"), record(site, "2")
    moved = Decision("web", new)
    assert paths(site, old, moved) == ["/a"]
    assert paths(site, old, replace(moved, rebuild="recreate")) is None
    assert paths(site, old, Decision("web", old)) is None
    # A killed run has written the new record.
    assert paths(site, new, moved, previous=old) == ["/a"]
    for special in ({"host": {"show": []}}, {"tmpfs": "size=1m"}):
        assert paths(site, old, Decision("web", record(site, "2", **special))) is None
    assert paths(site, record(site, "1", tmpfs="size=1m"), moved) == ["/a"]
    assert paths(site, old, Decision("web", record(site, "2", layers=("/gone",)))) is None


def test_copies_with_moved_owners_need_not_be_there_yet(site: Site) -> None:
    old, new = (
        record(site, number, layers=(f"{site.root}/tree{number}/shifted-200000",))
        for number in ("1", "2")
    )
    assert paths(site, old, Decision("web", new)) == ["/a"]


def test_warnings() -> None:
    one, many = Hidden(["/a"], 1), Hidden([f"/{number}" for number in range(9)], 12)
    assert warning("web", "x", one).startswith(
        "web: a file of its layer hides what image x changed: /a; "
    )
    assert ": /0, /1, /2, /3, /4 and 7 more; " in warning("web", "x", many)
