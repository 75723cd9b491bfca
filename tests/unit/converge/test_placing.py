# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Owners and targets of files and secrets, looked up in the root of a sandbox."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandlot.converge import placing
from sandlot.converge.decide import Desired, Observed
from sandlot.errors import SpecError
from sandlot.idmap import IdRange
from sandlot.sandbox import mounts, record
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:44::/:/bin/sh\nfar:x:70000:1::/:\n"
GROUP = "root:x:0:\nwww:x:34:\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    etc = tmp_path / "image" / "etc"
    etc.mkdir(parents=True)
    (etc / "passwd").write_text(PASSWD + "# a long file\n" * 1000 + "last:x:9:9:::\n")
    (etc / "group").write_text(GROUP)
    (etc / "app").mkdir()
    (etc / "link").symlink_to("/etc/app")
    return tmp_path / "image"


def record_of(tree: Path | None, **options: Any) -> Record:
    spec = normalise({"name": "web", "image": "busybox", "command": ["true"], **options})
    layers = () if tree is None else (str(tree),)
    image = ImageRef("busybox", "0f" * 32 if layers else "", layers)
    return Record("web", PRESENT, "started", spec, IdRange(200000), image)


def resolved(
    site: Path, made: Record, old: Record | None = None, *, keep: bool = False, check: bool = False
) -> Record:
    desired = Desired("web", "started", made.spec, keep_image=keep)
    seen = Observed(record=old, layer=True)
    return placing.with_owners(Site(str(site)), desired, made, seen, may_be_made=check)


def file(target: str = "/etc/app/x", **fields: Any) -> dict[str, Any]:
    return {"target": target, "content": "x", **fields}


@pytest.mark.parametrize(
    ("owner", "group", "ids"),
    [
        ("0", None, (0, 0)),
        ("root", None, (0, 0)),
        ("www", None, (33, 44)),
        ("www", "www", (33, 34)),
        ("www", "7", (33, 7)),
        ("33", None, (33, 44)),
        ("34", None, (34, 0)),
        ("5", "6", (5, 6)),
        ("last", None, (9, 9)),
    ],
)
def test_owners_are_those_of_the_root(
    tmp_path: Path, tree: Path, owner: str, group: str | None, ids: tuple[int, int]
) -> None:
    made = record_of(tree, files=[file(owner=owner, group=group)])
    assert resolved(tmp_path, made).owners == {"/etc/app/x": ids}


def test_owners_are_kept_and_lead_to_ids_of_the_host(tmp_path: Path, tree: Path) -> None:
    secret = {"name": "key", "value": "x", "target": "/etc/key", "owner": "www", "mode": "0400"}
    made = resolved(tmp_path, record_of(tree, files=[file(owner="www")], secrets=[secret]))
    data = made.to_json()
    assert data["owners"] == {"/etc/app/x": [33, 44], "/etc/key": [33, 44]}
    digest = "0" * 32
    data["spec"]["files"][0]["digest"] = data["spec"]["secrets"][0]["digest"] = digest
    again = record.from_json(data, "web", "record.json")
    assert again.owners == made.owners
    site = Site("/moved")
    state, memory = "/moved/var/lib/sandlot/sandboxes/web", "/moved/run/sandlot/.secrets/web"
    assert mounts.of(site, again) == [
        {
            "type": "secret",
            "target": "/etc/key",
            "path": f"{memory}/content/{digest}-200033-200044-0400",
            "read_only": True,
            "no_exec": True,
        },
        {
            "type": "file",
            "target": "/etc/app/x",
            "path": f"{state}/files/{digest}-200033-200044-0644",
            "read_only": True,
        },
    ]
    assert "owners" not in resolved(tmp_path, record_of(tree)).to_json()


def test_secrets_share_a_directory() -> None:
    listed = [
        {"name": "a", "value": "x"},
        {"name": "b", "value": "x", "target": "/run/secrets/other"},
    ]
    (entry,) = mounts.of(Site("/moved"), record_of(None, secrets=listed))
    assert (entry["type"], entry["target"]) == ("secret", "/run/secrets")
    assert entry["path"] == "/moved/run/sandlot/.secrets/web/named"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"owner": "nobody2"}, "files: 'nobody2' (owner of /etc/app/x) is not in the sandbox's "
         "/etc/passwd; use a name from there, or an id"),
        ({"owner": "far"}, "'far' (owner of /etc/app/x) is not in the sandbox's /etc/passwd"),
        ({"group": "staff"}, "'staff' (group of /etc/app/x) is not in the sandbox's /etc/group"),
        ({"target": "/etc/app"}, "files: '/etc/app' is a directory in the sandbox; name a file"),
        ({"target": "/etc/link"}, "'/etc/link' is a directory in the sandbox"),
        ({"target": "/etc/passwd/x/y"}, "'/etc/passwd/x/y' is below /etc/passwd, which is a file"),
    ],
)  # fmt: skip
def test_what_can_not_be_there_is_refused(
    tmp_path: Path, tree: Path, fields: dict[str, Any], says: str
) -> None:
    made = record_of(tree, files=[file(**fields)])
    with pytest.raises(SpecError) as caught:
        resolved(tmp_path, made)
    assert says in str(caught.value)


def test_a_place_in_a_volume_of_the_image_is_refused(tmp_path: Path, tree: Path) -> None:
    made = replace(record_of(tree, files=[file("/data/a/x")]), volumes={"/data": "web-data"})
    with pytest.raises(SpecError, match="lies in /data, which is a volume of the image"):
        resolved(tmp_path, made)
    own = record_of(tree, files=[file("/data/a/x")], tmpfs=["/data"])
    resolved(tmp_path, replace(own, volumes={"/data": "web-data"}))


def test_a_tenant_can_not_hold_up_runs(tmp_path: Path, tree: Path) -> None:
    made = record_of(tree, files=[file(owner="www")])
    old = resolved(tmp_path, made)
    upper = Path(Site(str(tmp_path)).sandbox("web").upper)
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "passwd").write_text("www:x:35:36:::\n")
    assert resolved(tmp_path, made, old).owners == {"/etc/app/x": (35, 36)}
    # Another record that has the sandbox rebuilt starts without that layer.
    assert resolved(tmp_path, made).owners == {"/etc/app/x": (33, 44)}
    (upper / "etc" / "passwd").write_text("")
    assert resolved(tmp_path, made, old).owners == {"/etc/app/x": (33, 44)}
    with pytest.raises(SpecError, match="last"):
        resolved(tmp_path, record_of(tree, files=[file(owner="last")]), old)


def test_a_start_from_the_record_looks_nothing_up(tmp_path: Path, tree: Path) -> None:
    old = replace(record_of(tree, files=[file(owner="gone")]), owners={"/etc/app/x": (1, 2)})
    assert resolved(tmp_path, record_of(tree, files=[file(owner="gone")]), old, keep=True) == old


def test_a_check_tells_what_nobody_can_tell_yet(tmp_path: Path) -> None:
    listed = [file(owner="www"), file("/b", owner="33"), file("/c", owner="1", group="2")]
    made = resolved(tmp_path, record_of(None, files=listed), check=True)
    assert made.owners == {"/b": (33, 0), "/c": (1, 2), "/etc/app/x": (0, 0)}
    (line,) = placing.warnings(made)
    assert line.startswith("web: the image is not made yet") and "www, who is to own" in line
    missing = record_of(tmp_path / "gone", files=listed)
    with pytest.raises(SpecError, match="can't be looked up from the host; give it as an id"):
        resolved(tmp_path, missing)
