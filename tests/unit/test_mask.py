# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values that may be secrets: digests stand for them, and only a run keeps the key."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from sandlot import mask, store
from sandlot.errors import StateError
from sandlot.mask import Mask
from sandlot.site import Site

SECRET = frozenset({"env"})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(str(tmp_path))
    os.makedirs(site.state)
    return site


def shown(site: Site, owner: str = "web", *, keep: bool = True, **env: str) -> dict[str, str]:
    given = {"env": env, "labels": {"env": "prod"}}
    found = Mask(site, keep=keep).options(owner, given, SECRET)
    assert found["labels"] == {"env": "prod"}
    masked: dict[str, str] = found["env"]
    return masked


def test_a_change_is_visible_and_no_value(site: Site) -> None:
    before = shown(site, A="hunter2", B="hunter2")
    after = shown(site, A="hunter3", B="hunter2")
    assert "hunter" not in str(before) + str(after)
    assert (before["A"] != after["A"], before["B"] == after["B"]) == (True, True)
    # Equal values can't be recognised in another variable or sandbox.
    assert len({before["A"], before["B"], shown(site, "db", A="hunter2")["A"]}) == 3


def test_the_key_is_roots_and_of_one_host(site: Site, tmp_path: Path) -> None:
    before = shown(site, A="hunter2")
    assert stat.S_IMODE(os.stat(site.mask).st_mode) == 0o600
    other = Site(str(tmp_path / "other"))
    os.makedirs(other.state)
    assert shown(other, A="hunter2") != before


def test_who_only_looks_keeps_no_key(site: Site) -> None:
    masked = shown(site, keep=False, A="x")
    assert masked["A"].startswith("hidden (")
    assert not os.path.exists(site.mask)
    kept = shown(site, A="x")
    assert shown(site, keep=False, A="x") == kept


def test_no_values_no_key(site: Site) -> None:
    assert shown(site) == {}
    assert not os.path.exists(site.mask)


def test_a_full_disk_fails_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: str, _data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    assert shown(site, A="x")["A"].startswith("hidden (")
    assert not os.path.exists(site.mask)


def test_a_damaged_key_is_explained(site: Site) -> None:
    Path(site.mask).write_text("{")
    with pytest.raises(StateError, match=r"mask\.json is not valid JSON: .*; remove "):
        shown(site, A="x")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"env": {"A": "pw"}}, {"env": {"A": "hidden"}}),
        ({"env": "A=pw"}, {"env": "hidden"}),
        ({"env": ["A=pw"]}, {"env": "hidden"}),
        ({"env": None}, {"env": None}),
        ({"sandboxes": [{"name": "a", "env": {"A": "pw"}}, "b"]}, None),
        ({"defaults": {"env": {"A": "pw"}}}, None),
        ({"images": [{"setup": [{"command": "x", "env": {"A": "pw"}}]}]}, None),
    ],
)
def test_arguments_however_wrong(given: object, expected: object) -> None:
    found = mask.without_values(given, SECRET)
    assert "pw" not in str(found)
    assert expected is None or found == expected
