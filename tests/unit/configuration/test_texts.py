# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Files in a diff: text before and after, or a digest where text is no help."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot import configuration
from sandlot.configuration import sealing, texts
from sandlot.idmap import IdRange
from sandlot.mask import Mask
from sandlot.sandbox.record import PRESENT, STARTED, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise, stored

SECRET = {"secrets": [{"name": "a", "value": "hunter2"}], "env": {"A": "hunter2"}}
BINARY = base64.b64encode(b"hunter2\0").decode()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    # A normal user can't change owners.
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: None)
    site = Site(str(tmp_path))
    os.makedirs(site.state)
    return site


def record(site: Site, **files: str | dict[str, Any]) -> Record:
    """A sandbox with files, each by its content or by more fields."""
    entries = [
        {"target": f"/etc/{name}", **(given if isinstance(given, dict) else {"content": given})}
        for name, given in files.items()
    ]
    spec = sealing.sealed(
        normalise({"name": "web", "image": "busybox", "files": entries, **SECRET}),
        Mask(site, keep=True),
    )
    ids = IdRange(200000, 65536)
    return Record("web", PRESENT, STARTED, spec, ids, ImageRef("busybox", "", ()))


def on_host(site: Site, **files: Any) -> Record:
    """The same as an earlier run has left it: the record has no content."""
    made = record(site, **files)
    configuration.keep(site, replace(made, spec=replace(made.spec, secrets=(), env=())))
    return replace(made, spec=stored.from_json(stored.to_json(made.spec)))


def sides(site: Site, before: Record | None, after: Record | None) -> dict[str, tuple[str, str]]:
    found = texts.changed(site, "web", before, after, Mask(site))
    assert "hunter2" not in str(found)
    for entry in found:
        assert entry["before_header"] == entry["after_header"]
    return {entry["after_header"]: (entry["before"], entry["after"]) for entry in found}


def test_files_that_change_are_shown_before_and_after(site: Site) -> None:
    before = on_host(site, same="x", other="old\n", gone="bye\n", moved="y")
    after = record(
        site, same="x", other="new\n", fresh="hi\n", moved={"content": "y", "mode": "0600"}
    )
    assert sides(site, before, after) == {
        "web:/etc/fresh": ("", "hi\n"),
        "web:/etc/gone": ("bye\n", ""),
        "web:/etc/other": ("old\n", "new\n"),
    }
    assert sides(site, None, before).keys() == sides(site, before, None).keys()
    assert sides(site, before, before) == {}


def test_a_digest_stands_for_what_is_binary_long_or_lost(site: Site) -> None:
    long = "hunter2" * 20000
    before = on_host(site, binary="a", lost="hunter2", long="a")
    after = record(site, binary={"content": BINARY, "encoding": "base64"}, lost="b", long=long)
    old = {entry.target: entry.content.digest for entry in before.spec.files}
    for path in Path(site.sandbox("web").files).glob(f"{old['/etc/lost']}-*"):
        path.unlink()
    found = sides(site, before, after)
    digests = {entry.target: entry.content.digest[:8] for entry in after.spec.files}
    assert found["web:/etc/binary"] == ("a", f"8 bytes, hidden ({digests['/etc/binary']})\n")
    assert found["web:/etc/long"] == ("a", f"140000 bytes, hidden ({digests['/etc/long']})\n")
    assert found["web:/etc/lost"] == (f"hidden ({old['/etc/lost'][:8]})\n", "b")
