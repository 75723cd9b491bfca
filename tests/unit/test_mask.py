# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values that may be secrets: digests stand for them, and only a run keeps the key."""

from __future__ import annotations

import errno
import os
import stat
import traceback
from pathlib import Path

import pytest
from sandlot import mask, store
from sandlot.errors import StateError
from sandlot.mask import Mask
from sandlot.site import Site

SECRET = frozenset({"env"})
RULES = {"env": frozenset(), "files": frozenset({"target", "encoding"}), "password": frozenset()}


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


def test_a_marked_value_is_never_shown(site: Site) -> None:
    digest = "0123456789abcdef" * 2
    given = {
        "env": {"A": "plain", "B": {"digest": digest}},
        "files": [{"target": "/a", "digest": digest}],
    }
    options = {"env", "files"}
    clear = Mask(site).options("web", given, options, clear=True)
    assert clear["env"] == {"A": "plain", "B": "hidden (01234567)"}
    assert clear["files"] == [{"target": "/a", "digest": "hidden (01234567)"}]
    hidden = Mask(site).options("web", given, options)
    assert hidden["env"]["A"].startswith("hidden (")
    assert (hidden["env"]["B"], hidden["files"]) == (clear["env"]["B"], clear["files"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"env": {"A": "pw"}}, {"env": {"A": "hidden"}}),
        ({"env": "A=pw"}, {"env": "hidden"}),
        ({"env": ["A=pw"]}, {"env": "hidden"}),
        ({"env": {"A:pw": None, "A B": 1}}, {"env": {"A": "hidden"}}),
        ({"env": None}, {"env": None}),
        ({"sandboxes": [{"name": "a", "env": {"A": "pw"}}, "b"]}, None),
        ({"defaults": {"env": {"A": "pw"}}}, None),
        ({"images": [{"setup": [{"command": "x", "env": {"A": "pw"}}]}]}, None),
        ({"env": {"A": {"value": "pw", "secret": True}}}, {"env": {"A": "hidden"}}),
        ({"files": [{"target": "/a", "content": "pw"}, "pw"]}, None),
        ({"files": [{"target": ["pw"], "contnet": {"x": "pw"}}]}, None),
        ({"files": [{"content": {"pw": 1}}]}, {"files": [{"content": "hidden"}]}),
        ({"files": [{"target": {"pw": 1}}]}, {"files": [{"target": "hidden"}]}),
        ({"files": "pw"}, {"files": "hidden"}),
        ({"files": {"content": "pw"}}, {"files": {"content": "hidden"}}),
        ({"sandboxes": "[pw]"}, {"sandboxes": "hidden"}),
        ({"sandboxes": ["pw", {"name": "a"}]}, {"sandboxes": ["hidden", {"name": "a"}]}),
    ],
)
def test_arguments_however_wrong(given: object, expected: object) -> None:
    found = mask.without_values(given, RULES, holders={"sandboxes"})
    assert "pw" not in str(found)
    assert expected is None or found == expected


def test_the_place_of_a_file_is_shown() -> None:
    given = {"files": [{"target": "/a", "content": "pw"}, None]}
    expected = {"files": [{"target": "/a", "content": "hidden"}, None]}
    assert mask.without_values(given, RULES) == expected


GIVEN = {
    "sandboxes": [
        {"name": "web-name", "env": {"A": "hunter2", "B": {"value": "it's\nhunter4"}, "C": "ok"}},
        {"files": [{"target": "/target", "content": "aHVudGVyMw==", "encoding": "base64"}]},
    ],
    "password": "hunter5",
}


def test_what_is_hidden_of_the_arguments() -> None:
    hidden = set(mask.hidden_values(GIVEN, RULES))
    assert hidden == {"hunter2", "it's\nhunter4", "ok", "aHVudGVyMw==", "hunter3", "hunter5"}


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("invalid literal: 'hunter2'", "ValueError: invalid literal: 'hidden'"),
        ("it's\nhunter4", "ValueError: hidden"),
        (repr("it's\nhunter4"), 'ValueError: "hidden"'),
        (b"x hunter3 y", "ValueError: b'x hidden y'"),
    ],
)
def test_the_message_of_a_bug_has_no_value(message: object, cleaned: str) -> None:
    with pytest.raises(RuntimeError) as error, mask.Discretion(mask.hidden_values(GIVEN, RULES)):
        raise ValueError(message)
    text = "".join(traceback.format_exception(error.type, error.value, error.tb))
    assert str(error.value) == cleaned and "hunter" not in text
    assert "raise ValueError(message)" in text


def test_nor_has_its_cause() -> None:
    text = "".join(("hun", "ter2"))
    with pytest.raises(RuntimeError) as error, mask.Discretion([text]):
        try:
            int(text)
        except ValueError as cause:
            raise KeyError("x") from cause
    shown = "".join(traceback.format_exception(error.type, error.value, error.tb))
    assert str(error.value) == "KeyError: 'x'" and text not in shown


@pytest.mark.parametrize("kind", [SystemExit, KeyError, ValueError])
def test_other_errors_stay_as_they_are(kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="line of 22"), mask.Discretion(["hunter2", "22", ""]):
        raise kind("line of 22")
