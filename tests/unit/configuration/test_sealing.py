# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Values of a spec become digests, and what follows from a change of one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sandlot import store
from sandlot.configuration import sealing
from sandlot.idmap import IdRange
from sandlot.mask import Mask
from sandlot.plan import Change
from sandlot.sandbox import launchfile
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import Spec, differences, normalise, stored

VALUE = "hunter2"
WHOLE: dict[str, Any] = {
    "files": [{"target": "/a", "content": VALUE}, {"target": "/b", "content": VALUE}],
    "secrets": [{"name": "a", "value": VALUE}, {"name": "b", "value": VALUE, "target": "/c"}],
    "env": {"A": {"value": VALUE, "secret": True}, "B": "plain"},
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(str(tmp_path))
    os.makedirs(made.state)
    return made


def spec(site: Site, name: str = "web", **options: Any) -> Spec:
    given = {"name": name, "image": "busybox", "command": ["true"], **options}
    return sealing.sealed(normalise(given), Mask(site, keep=True))


def test_each_value_has_a_digest_of_its_own(site: Site) -> None:
    made = spec(site, **WHOLE)
    digests = [content.digest for content in sealing.values(made)]
    assert (
        len({*digests, *(each.digest for each in sealing.values(spec(site, "db", **WHOLE)))}) == 10
    )
    assert all(content.value == VALUE.encode() for content in sealing.values(made))
    assert [each.digest for each in sealing.values(spec(site, **WHOLE))] == digests


def test_no_text_of_a_spec_has_a_value(site: Site) -> None:
    made = spec(site, **WHOLE)
    shown = (repr(made), str(made), str(stored.to_json(made)), str(differences(None, made)))
    assert VALUE not in "".join(shown)
    again = stored.from_json(stored.to_json(made))
    assert again == made
    assert {content.value for content in sealing.values(again)} == {None}
    assert sealing.sealed(again, Mask(site)) == made


def test_another_host_has_other_digests(site: Site, tmp_path: Path) -> None:
    other = Site(str(tmp_path / "other"))
    os.makedirs(other.state)
    assert spec(site, **WHOLE) != spec(other, **WHOLE)


def test_masks_of_a_process_agree_before_the_key_is_stored(site: Site) -> None:
    first = sealing.sealed(normalise({"name": "web", "image": "b", **WHOLE}), Mask(site))
    with mock.patch.object(store, "write", side_effect=OSError(errno.ENOSPC, "full")):
        Mask(site, keep=True).prepare()
        with pytest.raises(OSError):
            Mask(site, keep=True).prepare(needed=True)
    assert not os.path.exists(site.mask)
    Mask(site, keep=True).prepare(needed=True)
    assert sealing.sealed(normalise({"name": "web", "image": "b", **WHOLE}), Mask(site)) == first


def launch(made: Spec) -> dict[str, Any]:
    image = ImageRef("busybox", "0f" * 32, (), config={"env": {"A": "of the image", "C": "c"}})
    record = Record("web", PRESENT, "started", made, IdRange(200000), image)
    return launchfile.content(Site("/moved"), record, [])


def test_a_launch_file_names_secret_variables_by_paths(site: Site) -> None:
    made = spec(site, **WHOLE)
    data = launch(made)
    assert VALUE not in str(data)
    assert (data["env"]["B"], data["env"]["C"], "A" in data["env"]) == ("plain", "c", False)
    digest = dict(made.env)["A"].digest  # type: ignore[union-attr]
    assert data["secret_env"] == {"A": f"/moved/run/sandlot/.secrets/web/env/{digest}"}
    assert "secret_env" not in launch(spec(site, env={"B": "plain"}))


def test_only_a_changed_variable_needs_a_restart(site: Site) -> None:
    before = launch(spec(site, **WHOLE))["digest"]
    others = {
        "files": [{"target": "/a", "content": "other"}],
        "secrets": [{"name": "a", "value": "other"}],
    }
    assert launch(spec(site, **{**WHOLE, **others}))["digest"] == before
    env = {"A": {"value": "other"}, "B": "plain"}
    assert launch(spec(site, **{**WHOLE, "env": env}))["digest"] != before


@pytest.mark.parametrize(
    ("variables", "login"),
    [
        ({}, None),
        ({"HOME": "/root"}, ["LOGNAME", "SHELL", "USER"]),
        ({"USER": {"value": "x"}}, ["HOME", "LOGNAME", "SHELL"]),
        ({"HOME": {"value": "/x"}}, ["LOGNAME", "SHELL", "USER"]),
    ],
)
def test_login_does_not_replace_secret_variables(
    site: Site, variables: dict[str, Any], login: list[str] | None
) -> None:
    assert launch(spec(site, env=variables)).get("login") == login


def file(content: str = "x", target: str = "/a", **fields: Any) -> dict[str, Any]:
    return {"target": target, "content": content, **fields}


RESTART = {"on_change": "restart"}
RELOAD = {"on_change": "reload"}


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([], [file()], Change.LIVE),
        ([], [file(**RESTART)], Change.RESTART),
        ([file(**RESTART)], [], Change.RESTART),
        ([file()], [file("y")], Change.LIVE),
        ([file(**RELOAD)], [file("y", **RELOAD)], Change.LIVE),
        ([file(**RESTART)], [file("y", **RESTART)], Change.RESTART),
        ([file(**RESTART)], [file(mode="600", **RESTART)], Change.RESTART),
        ([file(**RESTART)], [file(owner="1", **RESTART)], Change.RESTART),
        ([file()], [file(**RESTART)], Change.LIVE),
        ([file(**RESTART)], [file(**RELOAD)], Change.LIVE),
        ([file(**RELOAD)], [file(**RELOAD, reload_signal="USR1")], Change.LIVE),
        ([file(**RESTART)], [file("y")], Change.LIVE),
        ([file()], [file("y", **RESTART)], Change.RESTART),
        ([file(**RESTART)], [file(**RESTART), file(target="/b")], Change.LIVE),
    ],
)
def test_the_cost_of_a_change_is_that_of_the_entries_that_differ(
    site: Site, before: list[Any], after: list[Any], change: Change
) -> None:
    (difference,) = differences(spec(site, files=before), spec(site, files=after))
    assert difference.change is change


def test_the_cost_of_secrets_is_told_by_name(site: Site) -> None:
    moved = [
        spec(site, secrets=[{"name": "a", "value": "x", "target": target, **RESTART}])
        for target in ("/a", "/b")
    ]
    (difference,) = differences(*moved)
    assert difference.change is Change.RESTART
    assert VALUE not in str(difference)


def test_limits_are_those_of_podman(site: Site) -> None:
    spec(site, secrets=[{"name": "a", "value": "x" * 512_000}], files=[file("x" * (1 << 20))])
    for option, given in (
        ("secrets", [{"name": "a", "value": "x" * 512_001}]),
        ("files", [file("\u00e9" * (1 << 19) + "x")]),
    ):
        with pytest.raises(Exception, match=r"\[0\].*: the value has .* are the most; shorten"):
            spec(site, **{option: given})
