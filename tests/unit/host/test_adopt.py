# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What another version has written is looked at before this one is installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot.errors import StateError
from sandlot.host import adopt
from sandlot.idmap import IdRange
from sandlot.network.common import declare
from sandlot.sandbox import record
from sandlot.sandbox.record import ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

RECORD = "var/lib/sandlot/sandboxes/a/record.json"


def written(root: Path, path: str, data: dict[str, Any]) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(data))


def entry(**options: Any) -> Record:
    spec = normalise({"name": "a", "image": "busybox", **options})
    return Record("a", "present", "started", spec, IdRange(1 << 20, 1 << 16), ImageRef("b", "c"))


def test_nothing_there(tmp_path: Path) -> None:
    adopt.check(Site(str(tmp_path)))


@pytest.mark.parametrize(
    "path",
    [
        RECORD,
        "var/lib/sandlot/networks.json",
        "var/lib/sandlot/images/x.json",
        "var/lib/sandlot/images/trees/y/about.json",
        "var/lib/sandlot/volumes/data/volume.json",
        "run/sandlot/.rules.json",
        "run/sandlot/a/namespaces.json",
    ],
)
def test_a_newer_schema(tmp_path: Path, path: str) -> None:
    written(tmp_path, path, {"schema": 1})
    adopt.check(Site(str(tmp_path)))
    written(tmp_path, path, {"schema": 3})
    with pytest.raises(StateError, match="has schema 3, version .* knows 2; go on with"):
        adopt.check(Site(str(tmp_path)))


def test_versions_without_volumes_refuse_records_with_them() -> None:
    """They would start the sandbox without its data."""
    plain = entry()
    assert "schema" not in plain.to_json()
    assert replace(plain, volumes={"/data": "a.data"}).to_json()["schema"] > 1


def test_options_that_are_not_known(tmp_path: Path) -> None:
    written(tmp_path, RECORD, {**entry().to_json(), "schema": 1})
    adopt.check(Site(str(tmp_path)))
    data = entry().to_json()
    written(tmp_path, RECORD, {**data, "schema": 1, "spec": {**data["spec"], "future": 1}})
    with pytest.raises(StateError, match="record.json has options .* not know: future; deploy"):
        adopt.check(Site(str(tmp_path)))


def test_options_of_networks_that_are_not_known(tmp_path: Path) -> None:
    file = "var/lib/sandlot/networks.json"
    network = declare.default(Site()).to_json()
    written(tmp_path, file, {"schema": 1, "networks": [network]})
    adopt.check(Site(str(tmp_path)))
    written(tmp_path, file, {"schema": 1, "networks": [network, {**network, "future": 1}]})
    with pytest.raises(StateError, match="networks.json has options .* not know: future; deploy"):
        adopt.check(Site(str(tmp_path)))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": "x", "spec": []}', "[" * 99999])
def test_damaged_files_are_another_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).parent.mkdir(parents=True)
    (tmp_path / RECORD).write_text(text)
    adopt.check(Site(str(tmp_path)))


def test_options_of_later_versions_are_written_when_they_are_set(tmp_path: Path) -> None:
    """The first version reads the records of sandboxes that don't use them."""
    assert not set(entry().to_json()["spec"]) & set(record.LATER)
    assert entry(depends_on=["b"]).to_json()["spec"]["depends_on"]
    paths = Site(str(tmp_path))
    record.save(paths, entry())
    assert record.load(paths, "a") == entry()
