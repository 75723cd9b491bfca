# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""allow_changes: a run that would do more is refused before it does anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from check_fixtures import Json, Look, call
from converge_fixtures import Deployment, needs_root, sandbox
from image_fixtures import prepare
from killing import killed_after
from sandlot import images
from sandlot.errors import SpecError
from sandlot.sandbox import record, runtime

pytestmark = needs_root
ORDER = ["live", "restart", "rebuild"]
# Changes of a running sandbox by their class; "fresh" is another image without the layer.
FRESH = {"on_image_change": "fresh", "image": "two"}
CHANGES: dict[str, list[Json]] = {
    "live": [{"memory": "64m"}, {"labels": {"a": "b"}}, {"etc_hosts": {"a": "192.0.2.1"}}, {}],
    "restart": [{"env": {"A": "b"}}, {"hostname": "h"}, {"image": "two"}, {"restart": True},
                {"state": "stopped"}],
    "rebuild": [{"recreate": True}, FRESH, {"state": "absent"}],
}  # fmt: skip


@pytest.fixture
def two(host: Deployment, tmp_path: Path) -> str:
    """Another image."""
    shutil.copytree(images.lookup(host.paths, "busybox").root, tmp_path / "two", symlinks=True)
    (tmp_path / "two/etc/issue").write_text("two")
    prepare(host, {"name": "two", "source": "directory", "path": str(tmp_path / "two")})
    return "two"


def refused(host: Deployment, *specs: Json, **options: Any) -> SpecError:
    """The error of the check, which is that of the run; neither touches anything."""
    before, errors = Look(host), []
    for check in (True, False):
        with pytest.raises(SpecError) as caught:
            host.run(*specs, check=check, **options)
        errors.append(caught.value)
    assert before.touched() == [] and str(errors[0]) == str(errors[1])
    return errors[0]


@pytest.mark.parametrize("allowed", ORDER)
def test_each_class_of_change(host: Deployment, two: str, allowed: str) -> None:
    for name, changes in CHANGES.items():
        for change in changes:
            host.converged(sandbox("a"), sandbox("other"))
            wanted = sandbox("a", allow_changes=allowed, **change) | change
            if ORDER.index(name) <= ORDER.index(allowed):
                checked = host.run(wanted, check=True)
                assert host.run(wanted).actions == checked.actions
                continue
            error = refused(host, wanted, sandbox("other", labels={"a": "b"}))
            text = f"sandbox 'a': allow_changes: {allowed!r} forbids what this run would do: a: "
            assert str(error).startswith(text)
            assert error.hint.startswith(f"allow it by {name}, or ")
            assert error.option == "allow_changes"


def test_nothing_is_lost_where_nothing_runs(host: Deployment, two: str) -> None:
    """A new sandbox, the start of one that is down, and changes of one that is stopped."""
    host.converged(sandbox("a", allow_changes="live"))
    host.run(sandbox("a", state="stopped"))
    host.converged(sandbox("a", allow_changes="live", state="stopped", env={"A": "b"}, image=two))
    host.converged(sandbox("a", allow_changes="live", hostname="h", image=two))
    host.kill("a")
    host.converged(sandbox("a", allow_changes="live", image=two))
    host.run(sandbox("a", state="stopped", image=two))
    refused(host, sandbox("a", allow_changes="restart", state="stopped", image=two, recreate=True))


def test_one_of_many_is_enough(host: Deployment) -> None:
    """The remedy names it; all that are over are named."""
    host.converged(sandbox("a"), sandbox("b"), sandbox("c"))
    wanted = [sandbox(name, allow_changes="live", env={"A": "b"}) for name in "bc"]
    error = refused(host, sandbox("a", env={"A": "b"}), *wanted, sandbox("new"))
    assert "sandbox 'b': " in str(error) and "it forbids changes of c too" in str(error)
    wanted = [{**each, "allow_changes": "restart"} for each in wanted]
    assert not host.run(sandbox("a"), *wanted, sandbox("new")).failed


def test_no_image_is_built_for_a_run_that_is_refused(host: Deployment) -> None:
    """An update of the image is the change."""
    made = {"name": "made", "source": "busybox"}
    web = sandbox("web", image="made")
    call(host, "sandboxes", {"images": [made], "sandboxes": [web]})
    later = {**made, "setup": ["true > /a"]}
    given = {"images": [later], "sandboxes": [{**web, "allow_changes": "live"}]}
    before = Look(host)
    for check in (True, False):
        with pytest.raises(SpecError, match="web: image updated, .* keeps its layer"):
            call(host, "sandboxes", given, check=check)
        assert before.touched() == []
    given["sandboxes"][0]["allow_changes"] = "restart"
    assert call(host, "sandboxes", given)["changed"]


@pytest.mark.parametrize("module", ["sandbox", "sandboxes"])
def test_modules(host: Deployment, module: str) -> None:
    """Options of the module count as those of the sandbox."""
    host.converged(sandbox("a"))
    changed = sandbox("a", allow_changes="live", user="33")
    given = changed if module == "sandbox" else {"sandboxes": [changed]}
    with pytest.raises(SpecError, match="^sandbox 'a': allow_changes"):
        call(host, module, given)
    if module == "sandboxes":
        same = sandbox("a", allow_changes="live")
        for action in ("restart", "recreate"):
            with pytest.raises(SpecError, match="^sandbox 'a': allow_changes"):
                call(host, module, {"sandboxes": [same], action: True})


def test_a_default_of_the_host_holds_for_what_a_run_changes_unasked(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b", networks=[], network_mode="container:a"))
    given: Json = {"sandboxes": [sandbox("a")], "defaults": {"allow_changes": "restart"}}
    before = Look(host)
    with pytest.raises(SpecError, match="b: remove; it forbids changes of a too; allow it"):
        call(host, "sandboxes", {**given, "sandboxes": [], "purge": True})
    given["defaults"] = {"allow_changes": "live"}
    renamed = sandbox("a", hostname="h", allow_changes="restart")
    with pytest.raises(SpecError, match="^sandbox 'b': .* restart: namespaces of a made again"):
        call(host, "sandboxes", {**given, "sandboxes": [renamed]})
    with pytest.raises(SpecError, match="^defaults.allow_changes: 'none' is not a choice"):
        call(host, "sandboxes", {**given, "defaults": {"allow_changes": "none"}})
    assert before.touched() == []
    given["defaults"] = {"allow_changes": "restart"}
    host.converged(sandbox("a"), sandbox("b", networks=[], network_mode="container:a"))
    assert call(host, "sandboxes", {**given, "sandboxes": [renamed]})["changed"]
    gone = {"name": "b", "state": "absent"}
    with pytest.raises(SpecError, match="^sandbox 'b': allow_changes: 'restart' forbids"):
        call(host, "sandboxes", {**given, "sandboxes": [gone]})
    assert call(host, "sandboxes", {**given, "sandboxes": [{**gone, "allow_changes": "rebuild"}]})
    assert call(host, "sandboxes", {"sandboxes": [], "purge": True})["changed"]


@pytest.mark.parametrize("number", [4, 8])
def test_a_killed_rebuild_is_rolled_back_by_a_run_that_is_allowed(
    host: Deployment, number: int
) -> None:
    host.converged(sandbox("a"))
    assert killed_after(number, lambda: host.run(sandbox("a", recreate=True)))
    assert os.path.exists(host.paths.sandbox("a").rebuild)
    refused(host, sandbox("a", allow_changes="live", recreate=True))
    assert not host.run(sandbox("a", allow_changes="live")).failed
    assert not os.path.exists(host.paths.sandbox("a").rebuild)
    assert host.info("a")["state"] == "running"


def test_a_removal_that_was_begun_goes_on(host: Deployment) -> None:
    host.converged(sandbox("a"))
    found = record.load(host.paths, "a")
    assert found is not None
    record.save(host.paths, found.in_phase(record.REMOVING))
    given = {"sandboxes": [], "defaults": {"allow_changes": "live"}, "purge": True}
    assert call(host, "sandboxes", given)["changed"]
    assert runtime.running(host.paths.sandbox("a")) is None
