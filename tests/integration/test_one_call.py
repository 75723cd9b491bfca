# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images, networks and sandboxes of a host by one call: one plan, one lock, one result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox, short_directory, untouched_host
from oci_images import Layout, busybox_layer
from sandlot import converge, images, lock, network
from sandlot.converge import Result
from sandlot.errors import SandlotError, SpecError
from sandlot.host import install
from sandlot.images import build
from sandlot.images.oci import skopeo
from sandlot.kernel.trees import remove_tree
from sandlot.spec import normalise_all
from store_fixtures import archive

pytestmark = needs_root
BUSYBOX = {"name": "busybox", "source": "busybox"}
Json = dict[str, Any]


class Host(Deployment):
    """Told of all kinds in one call; a kind that is not given is left alone."""

    def network(self, name: str, third: int, **options: Any) -> Json:
        return {"name": name, "ipv4_subnet": f"{self.prefix}.{third}.0/24", **options}

    def call(
        self,
        images_: list[Json] | None = None,
        networks: list[Json] | None = None,
        sandboxes: list[Json] | None = None,
        **options: Any,
    ) -> Result:
        request = converge.request(
            None if sandboxes is None else normalise_all(sandboxes),
            images=None if images_ is None else images.normalise_all(images_),
            networks=None if networks is None else network.normalise(self.paths, networks),
            **options,
        )
        return converge.converge(self.paths, request)

    def foreseen(self, *kinds: Any, **options: Any) -> Result:
        """A run that does what its check says, after which there is nothing to do."""
        checked = self.call(*kinds, check=True, **options)
        done = self.call(*kinds, **options)
        assert not done.failed, done.failed
        assert (checked.actions, checked.changed) == (done.actions, done.changed)
        assert checked.diff == done.diff
        again = self.call(*kinds, **options)
        assert (again.actions, again.changed) == ([], False)
        return done

    def state(self) -> tuple[set[str], set[str], set[str]]:
        names = {entry["name"] for entry in converge.info(self.paths)}
        return set(images.observe(self.paths)), set(network.load(self.paths)), names


@pytest.fixture
def host() -> Iterator[Host]:
    """The runtime, and nothing else."""
    with short_directory() as root, untouched_host(root):
        found = Host(root)
        install.present(found.paths, check=False)
        try:
            yield found
        finally:
            found.teardown()


def test_from_nothing_to_nothing(host: Host) -> None:
    networks = [host.network("default", 0), host.network("back", 4, internal=True)]
    plugged = [{"name": "back", "ipv4_address": f"{host.prefix}.4.9"}]
    sandboxes = [sandbox("a"), sandbox("b", networks=plugged, capabilities=["NET_RAW"])]
    done = host.foreseen([BUSYBOX], networks, sandboxes)
    assert done.actions[0].startswith("image busybox: make ")
    assert {"a: create from busybox", "a: start", "b: start"} <= set(done.actions)
    assert sum("nftables rules" in line for line in done.actions) == 1
    assert [(line["name"], line["verb"]) for line in done.images_made] == [("busybox", "made")]
    assert set(done.images or ()) == {"busybox"} and set(done.networks or ()) == {"back", "default"}
    assert done.sandboxes["b"]["addresses"] == [f"{host.prefix}.4.9"]
    assert done.relaxed == {"b": ["capabilities: NET_RAW"]}
    gone = host.foreseen([], [], [], purge=True)
    targets = {line.partition(":")[0] for line in gone.actions}
    assert {"a", "b", "network", "image busybox", "images"} <= targets
    assert host.state() == (set(), set(), set())
    assert (gone.images, gone.networks) == ({}, {})


def test_a_check_knows_the_config_of_a_tree_that_another_image_has(
    host: Host, tmp_path: Path
) -> None:
    """Nor does a bad value of an image that is replaced stop the check of its successor."""
    layout = Layout(tmp_path / "layout")
    settings = {"Cmd": ["sleep", "1000000"], "User": "0", "Labels": {"a": "b"}}
    layout.image("x", [busybox_layer()], settings)
    networks = [host.network("default", 0)]

    def image(name: str) -> Json:
        return {"name": name, "source": "oci", "reference": f"oci:{layout.path}:x"}

    host.foreseen([image("one")], networks, [{"name": "a", "image": "one"}])
    host.foreseen([image("two")], networks, [{"name": "b", "image": "two"}], purge=True)
    layout.image("x", [busybox_layer()], {**settings, "User": "no one", "Env": ["none"]})
    bad = [image("two")], networks, [{"name": "b", "image": "two"}]
    with pytest.raises(SpecError, match="user: 'two' has no usable default.*set user in the sand"):
        host.call(*bad)
    done = host.foreseen([image("two")], networks, [{"name": "b", "image": "two", "user": "33"}])
    assert done.images and "'no one'" in str(done.images["two"]["warnings"])
    layout.image("x", [busybox_layer()], {**settings, "Labels": {"c": "d"}})
    host.foreseen(*bad)


def test_a_setup_has_the_networks_of_the_call(host: Host, tmp_path: Path) -> None:
    """Its image can't be made before its network; the plan says what is done all the same."""
    layout = Layout(tmp_path / "layout")
    layout.image("x", [busybox_layer()], {"Cmd": ["sleep", "1000000"]})
    raw = [
        BUSYBOX,
        {**archive(tmp_path, {"f": b"1"}), "name": "archive"},
        {"name": "published", "source": "oci", "reference": f"oci:{layout.path}:x"},
        {
            "name": "made",
            "source": "busybox",
            "setup": ["ip addr show eth0 > /address"],
            "setup_network": "build",
        },
    ]
    specs = [
        sandbox("a", image="made"),
        {"name": "b", "image": "published"},
        sandbox("c", networks=[{"name": "build"}]),
    ]
    networks = [host.network("default", 0), host.network("build", 4)]
    done = host.foreseen(raw, networks, specs)
    assert f"{host.prefix}.4." in host.inside("a", "/address")
    assert [line["name"] for line in done.images_made] == [each["name"] for each in raw]
    assert host.info("b")["state"] == "running"


def test_changes_and_removals_in_one_run(host: Host, tmp_path: Path) -> None:
    """Old images and networks go once nothing needs them, in the same run."""
    old, new = (
        {**archive(tmp_path, {"f": content}, name), "name": "files"}
        for name, content in (("old", b"1"), ("new", b"2"))
    )
    before = [host.network("default", 0), host.network("first", 4)]
    after = [host.network("default", 0), host.network("second", 8)]
    stays = sandbox("stays")
    host.foreseen([BUSYBOX, old], before, [stays, sandbox("moves", networks=[{"name": "first"}])])
    pid, digest = host.pid("stays"), images.lookup(host.paths, "files").digest
    moved = sandbox("moves", networks=[{"name": "second"}])
    done = host.foreseen([BUSYBOX, new], after, [stays, moved], purge=True)
    assert any(line.startswith("network first: delete bridge") for line in done.actions)
    assert f"images: remove unused {digest[:12]}" in done.actions
    assert host.pid("stays") == pid
    assert host.state() == ({"busybox", "files"}, {"default", "second"}, {"stays", "moves"})


def test_networks_swap_their_ranges(host: Host) -> None:
    """The kernel keeps the route of a range for the bridge that had it first."""
    six = (f"fd0{number}:{host.paths.tag[:4]}::/64" for number in (0, 1))
    one, two = ({"ipv4_subnet": f"{host.prefix}.{third}.0/24"} for third in (0, 4))
    one, two = ({**each, "ipv6_subnet": subnet} for each, subnet in zip((one, two), six))
    specs = [sandbox("a"), sandbox("b", networks=[{"name": "back"}])]
    for first, second in ((one, two), (two, one)):
        networks = [{"name": "default", **first}, {"name": "back", **second}]
        host.foreseen([BUSYBOX], networks, specs)
        prefix = first["ipv4_subnet"].rpartition(".")[0]
        assert host.info("a")["addresses"][0].startswith(f"{prefix}.")


def test_kinds_that_are_not_given_are_left_alone(host: Host) -> None:
    extra = host.network("extra", 4)
    host.call([BUSYBOX], [host.network("default", 0), extra], [sandbox("a"), sandbox("b")])
    done = host.foreseen(None, None, [sandbox("a")], purge=True)
    assert done.images is None and done.networks is None
    assert host.state() == ({"busybox"}, {"default", "extra"}, {"a"})
    done = host.foreseen(None, [extra], None, purge=True)
    assert done.actions == [] and done.sandboxes == {}
    assert host.state() == ({"busybox"}, {"default", "extra"}, {"a"})
    host.foreseen(None, [host.network("default", 0)], None, purge=True)
    assert host.state() == ({"busybox"}, {"default"}, {"a"})
    host.foreseen([BUSYBOX, {**BUSYBOX, "name": "other"}], None, None, purge=True)
    assert host.state() == ({"busybox", "other"}, {"default"}, {"a"})


def test_what_is_in_use_is_not_removed(host: Host) -> None:
    back, plugged = host.network("back", 4), sandbox("a", networks=[{"name": "back"}])
    host.call([BUSYBOX], [back], [plugged])
    before = host.state()
    for check in (True, False):
        with pytest.raises(SpecError, match="images: 'busybox' is used by the sandboxes a;"):
            host.call([], [back], [plugged], purge=True, check=check)
        with pytest.raises(SpecError, match="networks: 'back' can't be removed: used by a;"):
            host.call([BUSYBOX], [], [plugged], purge=True, check=check)
    assert host.state() == before
    assert host.call([BUSYBOX], [back], [plugged]).actions == []


def test_an_image_that_fails_stops_the_run(host: Host, tmp_path: Path) -> None:
    broken = archive(tmp_path, {"f": b"1"})
    Path(broken["path"]).write_bytes(b"<html>")
    networks, sandboxes = [host.network("default", 0)], [sandbox("a")]
    with pytest.raises(SandlotError, match="image 't'.* has the checksum"):
        host.call([BUSYBOX, broken], networks, sandboxes)
    # Those before it need not be made again.
    assert host.state() == ({"busybox"}, set(), set())
    assert host.call([BUSYBOX], networks, sandboxes).actions[0] == "a: create from busybox"


def test_what_is_refused_is_refused_before_images_are_made(host: Host) -> None:
    two = [host.network("default", 0), host.network("other", 0)]
    refusals: list[tuple[list[Json], list[Json], str]] = [
        (two[:1], [sandbox("a", networks=[{"name": "none"}])], "is not a network of this host"),
        (two[:1], [sandbox("a", image="none")], "is not an image of this host"),
        ([{"name": "default", "ipv4_subnet": "127.0.0.0/8"}], [], "is not a range"),
    ]
    for networks, sandboxes, message in refusals:
        with pytest.raises(SpecError, match=message):
            host.call([BUSYBOX], networks, sandboxes)
    with pytest.raises(SpecError, match="overlaps"):
        host.call([BUSYBOX], two, [])
    assert host.state() == (set(), set(), set())


def test_a_sandbox_that_fails_keeps_what_it_may_go_back_to(host: Host) -> None:
    first, second = host.network("first", 4), host.network("second", 8)
    host.call([BUSYBOX], [first], [sandbox("a", networks=[{"name": "first"}])])
    address = host.info("a")["addresses"]
    worse = sandbox("a", networks=[{"name": "second"}], hostname="new", command=["/none"])
    failed = host.call([BUSYBOX], [second], [worse], purge=True, recreate=True).failed
    assert "rolled back" in failed["a"] and "the old one runs again" in failed["a"]
    assert host.info("a")["addresses"] == address
    assert host.state() == ({"busybox"}, {"first", "second"}, {"a"})


@pytest.mark.parametrize("making", [False, True])
def test_a_failed_run_tells_of_no_removal(host: Host, making: bool) -> None:
    """A failure keeps networks and images, so neither actions nor facts say that they went."""
    old, networks = {**BUSYBOX, "name": "old"}, [host.network("default", 0), host.network("x", 4)]
    host.call([BUSYBOX, old], networks, [sandbox("a")])
    listed = [BUSYBOX, {**BUSYBOX, "name": "new"}] if making else [BUSYBOX]
    specs = [sandbox("a"), sandbox("bad", command=["/none"])]
    failed = host.call(listed, networks[:1], specs, purge=True)
    assert set(failed.failed) == {"bad"} and "bad: start" in failed.actions
    assert not [line for line in failed.actions if "delete" in line or "image old" in line]
    assert isinstance(failed.diff, list)
    after = {each["after_header"]: each["after"] for each in failed.diff}
    assert "old" in after["images"] and '"x"' in after["networks"]
    present, there, _ = host.state()
    assert (set(failed.images or ()), set(failed.networks or ())) == (present, there)
    assert "old" in present and "x" in there
    gone = host.foreseen(listed, networks[:1], [sandbox("a")], purge=True)
    assert any(line.startswith("network x: delete bridge") for line in gone.actions)
    assert any(line.startswith("image old: remove") for line in gone.actions)


def test_a_tool_that_is_missing_is_the_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the command of the sandbox, which only the image could tell."""
    monkeypatch.setattr(skopeo, "find", lambda: None)
    image = {"name": "m", "source": "oci", "reference": "127.0.0.1:1/m:x"}
    kinds = ([image], [host.network("default", 0)], [{"name": "a", "image": "m"}])
    assert "a: start" in host.call(*kinds, check=True).actions
    with pytest.raises(SandlotError, match="skopeo"):
        host.call(*kinds)
    assert host.state() == (set(), set(), set())


def test_one_lock_and_images_without_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    exclusive, make = lock.exclusive, build.Making.make_trees

    @contextlib.contextmanager
    def spied(*arguments: Any, **options: Any) -> Iterator[None]:
        taken.append("lock")
        with exclusive(*arguments, **options):
            yield
        taken.append("free")

    def made(making: build.Making) -> None:
        taken.append("image")
        make(making)

    monkeypatch.setattr(lock, "exclusive", spied)
    monkeypatch.setattr(build.Making, "make_trees", made)
    kinds = ([BUSYBOX, {**BUSYBOX, "name": "other"}], [host.network("default", 0)], [sandbox("a")])
    host.call(*kinds)
    assert taken == ["image", "image", "lock", "free"]
    taken.clear()
    assert host.call(*kinds).actions == []
    assert taken == ["lock", "free"]
    taken.clear()
    host.call(*kinds, check=True)
    host.call([], [], [], purge=True, check=True)
    assert taken == []
    host.call([], [], [], purge=True)
    assert taken == ["lock", "free"]


def test_a_tree_that_goes_meanwhile_is_made_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, times = build.Making.make_trees, []

    def pruned(making: build.Making) -> None:
        make(making)
        times.append(making.name)
        if len(times) == 1:
            remove_tree(os.path.dirname(making.wanted.root))

    monkeypatch.setattr(build.Making, "make_trees", pruned)
    assert not host.call([BUSYBOX], [host.network("default", 0)], [sandbox("a")]).failed
    assert times == ["busybox", "busybox"] and host.info("a")["state"] == "running"
