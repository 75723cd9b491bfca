# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes as users declare them, and the plan of a run for them; nothing is mounted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sandlot import volumes
from sandlot.errors import SpecError
from sandlot.plan import apply_all, descriptions
from sandlot.site import Site
from sandlot.spec.table.volumes import OPTIONS
from sandlot.volumes import image_volume

# (before, after) of an option, and the actions of a run; sizes are in tests of their own.
CHANGES: dict[str, tuple[Any, Any, list[str]]] = {
    "labels": ({"a": "1"}, {"a": "2"}, ["volume data: change labels"]),
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "var/lib/sandlot").mkdir(parents=True)
    return Site(str(tmp_path))


def run(site: Site, *raw: dict[str, Any], **options: Any) -> list[str]:
    desired = volumes.Desired(listed=volumes.normalise(raw), **options)
    planned = volumes.plan(site, desired, volumes.load_all(site))
    operations = [*planned.steps, *planned.last]
    apply_all(operations)
    return descriptions(operations)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"name": ".hidden"}, "name: '.hidden' is no"),
        ({"name": "a" * 129}, "name: "),
        ({"name": "data", "size": "1m"}, "size: '1m' is below 16m; use 16m or more"),
        ({"name": "data", "force": True}, "force: True has no meaning for volume data; leave it"),
        ({"name": "data", "labels": {"a": 1}}, "labels['a']: 1 is an integer, not a string"),
        ({"name": "data", "driver": "local"}, "driver: 'driver' is not an option"),
        ({}, "name: no value given; "),
    ],
)
def test_refusals_name_the_option_and_the_remedy(raw: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        volumes.normalise_one(raw)
    assert problem in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("option", [row.name for row in OPTIONS if row.name in CHANGES])
def test_an_option_set_changed_and_removed(site: Site, option: str) -> None:
    before, after, actions = CHANGES[option]
    assert run(site, {"name": "data", option: before}) == ["volume data: make"]
    for value in (after, None):
        assert run(site, {"name": "data", option: value}) == actions
        assert run(site, {"name": "data", option: value}) == []


def test_who_may_remove_a_volume(site: Site) -> None:
    gone = {"name": "data", "state": "absent", "force": True}
    assert run(site, gone) == []
    run(site, {"name": "data"})
    (Path(site.volume("data").data) / "row").touch()
    for users in ({"users": {"data": ["db"]}}, {"unreadable": frozenset({"db"})}):
        with pytest.raises(SpecError, match="used by sandbox db"):
            run(site, gone, **users)
        assert run(site, purge=True, **users) == []
    with pytest.raises(SpecError, match="holds data"):
        run(site, {**gone, "force": False})
    assert run(site, gone) == ["volume data: remove"]
    assert not Path(site.volumes).exists() and not Path(site.volumes_mark).exists()


def test_a_killed_run_leaves_no_half_of_a_volume(site: Site) -> None:
    run(site, {"name": "data"})
    for name in (".new-b", ".gone-c"):
        (Path(site.volumes) / name / "data").mkdir(parents=True)
    assert run(site) == ["volumes: clean up after an interrupted run"]
    assert [path.name for path in Path(site.volumes).iterdir()] == ["data"]


def test_names_of_volumes_for_images_differ() -> None:
    pairs = [
        *(("a", "/b/c"), ("a", "/b-c"), ("a", "/b.c"), ("a.b", "/c"), ("a", "/b_c"), ("a", "/b c")),
        *(("a", "/" + "x" * 200), ("a", "/" + "x" * 201)),
    ]
    names = [image_volume(*pair) for pair in pairs]
    assert len(set(names)) == len(names)
    assert volumes.normalise([{"name": name} for name in names])
