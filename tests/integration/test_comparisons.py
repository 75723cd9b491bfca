# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""comparisons: what a sandbox keeps, and what it is given all the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from check_fixtures import Json, call, foreseen
from converge_fixtures import Deployment, free_port, needs_root, sandbox
from image_fixtures import prepare
from sandlot import images
from sandlot.errors import SpecError
from sandlot.sandbox import record
from sandlot.spec import stored

pytestmark = needs_root
IGNORE, MORE = "ignore", "allow_more_present"


def spec_of(host: Deployment) -> Json:
    found = record.load(host.paths, "a")
    assert found is not None
    known: Json = stored.to_json(found.spec)
    return known


def image_of(host: Deployment) -> str:
    found = record.load(host.paths, "a")
    return found.image.digest if found else ""


def run(host: Deployment, comparisons: Mapping[str, str], **options: Any) -> Json:
    """The actions of a run that does what its check says, after which there is nothing to do."""
    wanted = sandbox("a", comparisons=dict(comparisons), **options)
    return foreseen(host, "sandbox", wanted)


@pytest.fixture
def network(host: Deployment) -> str:
    """Another network."""
    subnets = {"default": f"{host.prefix}.0.0/22", "back": f"{host.prefix}.4.0/24"}
    listed = [{"name": name, "ipv4_subnet": subnet} for name, subnet in subnets.items()]
    assert call(host, "sandbox_network", {"networks": listed})["changed"]
    return "back"


# Of each option: what the sandbox has, and what it is asked for that differs.
IGNORED: dict[str, tuple[Any, Any]] = {
    "env": ({"A": "b"}, {"A": "c"}),
    "labels": ({"a": "b"}, {}),
    "volumes": (["data:/data"], ["more:/data"]),
    "networks": ([{"name": "default", "aliases": ["x"]}], []),
    "published_ports": (["18080:80"], []),
    "command": (["sleep", "1000001"], ["sleep", "1000002"]),
    "files": ([{"target": "/etc/app", "content": "x"}], []),
    "secrets": ([{"name": "key", "value": "x"}], [{"name": "key", "value": "y"}]),
    "memory": ("64m", None),
}


@pytest.mark.parametrize("wildcard", [False, True])
def test_what_is_ignored_stays(host: Deployment, wildcard: bool) -> None:
    """The control is the same run with nothing ignored."""
    host.converged({**sandbox("a"), **{name: had for name, (had, dummy) in IGNORED.items()}})
    before, pid = spec_of(host), host.pid("a")
    asked = {name: other for name, (dummy, other) in IGNORED.items()}
    ignored = {"*": IGNORE} if wildcard else dict.fromkeys(IGNORED, IGNORE)
    assert not run(host, ignored, **asked)["changed"]
    changed = run(host, {**ignored, "labels": "strict"}, **asked)
    assert changed["actions"] == ['a: labels {"a": "b"} -> {}']
    assert spec_of(host) == {**before, "labels": {}}
    # A restart for another option, and a rebuild, keep it too.
    after = run(host, {**ignored, "user": "strict"}, **asked, user="33")
    assert "a: restart: user changed (restart)" in after["actions"] and host.pid("a") != pid
    done = host.run(sandbox("a", comparisons=ignored, **asked, user="33", recreate=True))
    assert not done.failed and done.sandboxes["a"]["published_ports"] == ["18080:80/tcp"]
    assert done.sandboxes["a"]["volumes"] == {"/data": "data"}
    assert host.inside("a", "/etc/app") == host.inside("a", "/run/secrets/key") == "x"
    assert spec_of(host) == {**before, "labels": {}, "user": "33"}
    changed = run(host, {}, **asked)
    names = {line.split()[1] for line in changed["actions"]}
    assert {*IGNORED} - {"labels"} <= names


def test_an_update_of_the_image_is_ignored(host: Deployment, tmp_path: Path) -> None:
    """Another tree of the same name, another name, and a rebuild."""
    for name in ("one", "two"):
        shutil.copytree(images.lookup(host.paths, "busybox").root, tmp_path / name, symlinks=True)
    one, two = (
        {"name": "web", "source": "directory", "path": f"{tmp_path}/{x}"} for x in ("one", "two")
    )
    prepare(host, one)
    host.converged(sandbox("a", image="web"))
    pid, digest = host.pid("a"), image_of(host)
    prepare(host, two)
    ignored = {"image": IGNORE}
    for name in ("web", "busybox"):
        assert not run(host, ignored, image=name)["changed"]
    assert (host.pid("a"), image_of(host)) == (pid, digest)
    done = host.run(sandbox("a", image="web", comparisons=ignored, recreate=True))
    assert done.sandboxes["a"]["image"] == "web" and image_of(host) == digest
    done = run(host, {}, image="web")
    assert [x for x in done["actions"] if x.startswith("a: image updated")]


def test_lists_and_mappings_may_have_more(host: Deployment, network: str) -> None:
    ports = [f"{free_port()}:{inside}" for inside in (80, 81)]
    had = {
        "env": {"A": "b", "C": "d"},
        "labels": {"a": "b", "c": "d"},
        "volumes": ["data:/data", "more:/more"],
        "published_ports": ports,
        "networks": [{"name": "default", "aliases": ["x", "y"]}, {"name": network}],
    }
    host.converged(sandbox("a", **had))
    more = dict.fromkeys(had, MORE)
    less = {
        "env": {"A": "b"},
        "labels": {"c": "d"},
        "volumes": ["more:/more"],
        "published_ports": ports[1:],
        "networks": [{"name": "default", "aliases": ["y"]}],
    }
    assert not run(host, more, **less)["changed"]
    before = spec_of(host)
    # What lacks something becomes what is asked for; other networks stay.
    lacking = {**less, "labels": {"c": "e"}, "networks": [{"name": "default", "aliases": ["z"]}]}
    done = run(host, more, **lacking)
    assert {line.split()[1] for line in done["actions"] if "a: " in line} >= {"networks", "labels"}
    after = spec_of(host)
    assert after["labels"] == {"c": "e"}
    assert after["networks"] == [{"name": "default", "aliases": ["z"]}, {"name": network}]
    same = ("env", "volumes", "published_ports")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert run(host, {**more, "networks": "strict"}, **lacking)["changed"]
    assert spec_of(host)["networks"] == lacking["networks"]


def test_what_is_kept_is_checked_with_the_rest(host: Deployment) -> None:
    """An error tells what is kept: it is in no file of the user."""
    host.converged(sandbox("a", memory="64m"))
    wanted = sandbox("a", comparisons={"memory": IGNORE}, memory="16m", memory_swap="32m")
    for check in (True, False):
        with pytest.raises(SpecError, match="^sandbox 'a', which keeps memory by comparisons: "):
            call(host, "sandbox", wanted, check=check)


@pytest.mark.parametrize(
    ("comparisons", "problem"),
    [
        ({"pictures": IGNORE}, "comparisons: 'pictures' is not compared; use an option of"),
        ({"state": IGNORE}, "comparisons: 'state' is not compared"),
        ({"image": MORE}, "comparisons.image: 'allow_more_present' is for no such option"),
        ({"*": MORE}, "comparisons.[*]: 'allow_more_present' is for no such option"),
        ({"env": "keep"}, "comparisons.env: 'keep' is not a choice; use one of strict, ignore"),
    ],
)
def test_wrong_comparisons(host: Deployment, comparisons: Json, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        call(host, "sandbox", sandbox("a", comparisons=comparisons))


def test_a_new_sandbox_is_as_it_is_asked_for(host: Deployment) -> None:
    run(host, {"*": IGNORE}, labels={"a": "b"})
    assert spec_of(host)["labels"] == {"a": "b"}


def test_defaults_have_comparisons(host: Deployment) -> None:
    host.converged(sandbox("a", labels={"a": "b"}))
    given = {"sandboxes": [sandbox("a")], "defaults": {"comparisons": {"labels": IGNORE}}}
    assert not foreseen(host, "sandboxes", given)["changed"]
