# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Restarts are transactions: when the changed sandbox does not start, the old one runs again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from image_fixtures import output, prepare
from killing import killed_after
from sandlot import images
from sandlot.errors import HostError
from sandlot.launcher.client import Launcher
from sandlot.sandbox import record

pytestmark = needs_root
OLD = ["sh", "-c", "echo old says; exec sleep 1000000"]


def old(name: str = "a", **options: Any) -> dict[str, Any]:
    return sandbox(name, **{"command": OLD, **options})


def assert_old(host: Deployment, *specs: dict[str, Any]) -> None:
    """All run, with their old options, and there is nothing to do."""
    for spec in specs:
        host.pid(spec["name"])
    assert host.run(*specs).actions == []


@pytest.fixture
def image(host: Deployment, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    tree = tmp_path / "tree"
    shutil.copytree(images.lookup(host.paths, "busybox").root, tree, symlinks=True)
    spec = {"name": "app", "source": "directory", "path": str(tree)}
    prepare(host, spec)
    return spec, tree


@pytest.mark.parametrize("own", [True, False], ids=["fails", "control"])
def test_an_image_update_that_does_not_start_goes_back(
    host: Deployment, image: tuple[dict[str, Any], Path], own: bool
) -> None:
    """The layer has an /etc/passwd of its own, the user is only in the new image's."""
    spec, tree = image
    host.converged(old(image="app"))
    if own:
        output(host, "a", "sh", "-c", "echo mine:x:7:7::/: >> /etc/passwd")
    with (tree / "etc/passwd").open("a") as passwd:
        passwd.write("redis:x:999:999::/:/bin/sh\n")
    prepare(host, spec)
    pid = host.pid("a")
    result = host.run(old(image="app", user="redis"))
    assert host.pid("a") != pid
    if not own:
        assert not result.failed and output(host, "a", "id", "-u") == "999\n"
        return
    assert "'redis' is not in the sandbox's /etc/passwd" in result.failed["a"]
    assert "restart failed and was rolled back" in result.failed["a"]
    assert "the old one runs again; its log ended with:\n    old says" in result.failed["a"]
    assert "redis" not in output(host, "a", "cat", "/etc/passwd")
    assert "mine" in output(host, "a", "cat", "/etc/passwd")
    known = record.load(host.paths, "a")
    assert known is not None and not known.spec.user


def test_an_updated_image_that_ends_at_once_goes_back(
    host: Deployment, image: tuple[dict[str, Any], Path]
) -> None:
    spec, tree = image
    (tree / "run.sh").write_text("#!/bin/sh\necho works\nexec sleep 1000000\n")
    (tree / "run.sh").chmod(0o755)
    prepare(host, spec)
    host.converged(old(image="app", command=["/run.sh"]))
    (tree / "run.sh").write_text("#!/bin/sh\necho new says\nexit 7\n")
    prepare(host, spec)
    result = host.run(old(image="app", command=["/run.sh"]))
    assert "its workload ended with exit code 7" in result.failed["a"]
    assert "the new one's log ends with:\n    new says" in result.failed["a"]


@pytest.mark.parametrize(
    "change, cause",
    [
        ({"user": "nobody-knows"}, "nobody-knows"),
        ({"command": ["/does/not/exist"], "memory": "64m"}, "command not found"),
        ({"hostname": "new", "sysctls": {"net.ipv4.no_such_thing": "1"}}, "no_such_thing"),
        ({"networks": [], "network_mode": "none", "user": "no-one"}, "no-one"),
        ({"hostname": "new"}, ""),
    ],
    ids=["user", "command", "namespaces", "network", "control"],
)
def test_a_changed_option_that_does_not_start_goes_back(
    host: Deployment, change: dict[str, Any], cause: str
) -> None:
    host.converged(old(), old("b"))
    output(host, "a", "touch", "/mine")
    pids, address = {name: host.pid(name) for name in ("a", "b")}, host.info("a")["addresses"]
    result = host.run(old(**change), old("b"))
    assert host.pid("a") != pids["a"] and host.pid("b") == pids["b"]
    assert output(host, "a", "ls", "/mine") == "/mine\n"
    if not cause:
        assert not result.failed
        return
    assert cause in result.failed["a"] and "the old one runs again" in result.failed["a"]
    assert host.info("a")["addresses"] == address
    assert_old(host, old(), old("b"))


def test_a_dependency_that_fails_keeps_nothing_down(host: Deployment) -> None:
    """The one that depends on an unhealthy one was stopped already; the next starts as changed."""
    check = {"test": "test -e /tmp/well", "interval": "100ms", "retries": 1, "timeout": "1s"}
    sick = old("sick", healthcheck=check)
    host.converged(sick, old(), old("z", depends_on=["a"]))
    needy = {"depends_on": [{"name": "sick", "condition": "healthy"}], "hostname": "new"}
    result = host.run(sick, old(**needy), old("z", depends_on=["a"], hostname="new"))
    assert set(result.failed) == {"a"} and "sick" in result.failed["a"]
    assert_old(host, sick, old(), old("z", depends_on=["a"], hostname="new"))
    # One more: its dependency goes back, so it starts as changed.
    result = host.run(old(user="nobody-knows"), old("z", depends_on=["a"], hostname="third"))
    assert set(result.failed) == {"a"}
    assert_old(host, sick, old(), old("z", depends_on=["a"], hostname="third"))


def test_a_run_that_fails_as_a_whole_leaves_nothing_down(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.converged(old(), old("b"))
    start, calls = Launcher.start, []

    def failing(self: Launcher, names: list[str]) -> Any:
        calls.append(names)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return start(self, names)

    monkeypatch.setattr(Launcher, "start", failing)
    with pytest.raises(HostError, match="No space left.*; a was rolled back"):
        host.run(old(hostname="new"), {**old("b"), "restart": True})
    assert_old(host, old(), old("b"))


def test_a_killed_run_leaves_the_way_back(host: Deployment) -> None:
    host.converged(old())
    previous = Path(host.paths.sandbox("a").previous)
    bad, number, kept = old(user="nobody-knows"), 0, []
    while killed_after(number := number + 2, lambda: host.run(bad)):
        kept += [number] if previous.exists() else []
        result = host.run(bad)
        assert "the old one runs again" in result.failed["a"]
        assert_old(host, old())
        assert not previous.exists()
    # Killed before a start that works: the next run goes on, and needs no way back.
    assert killed_after(kept[0], lambda: host.run(old(hostname="new"))) and previous.exists()
    host.converged(old(hostname="new"))
    assert not previous.exists()
