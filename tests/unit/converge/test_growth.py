# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

"""Work for each sandbox of a host does not grow with their number. Lines are counted, not time."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from sandlot import cgroups, idmap, network
from sandlot.cgroups.knobs import Host
from sandlot.cgroups.layout import Layout
from sandlot.cgroups.state import Observed as CgroupObserved
from sandlot.converge import dependencies, removal, report
from sandlot.converge.decide import ALL_PINS, Desired, Observed
from sandlot.converge.observe import Observation, Stored
from sandlot.converge.planner import plan
from sandlot.converge.resolve import Request, resolve
from sandlot.idmap import IdRange
from sandlot.images import Image
from sandlot.kernel import mountinfo
from sandlot.network.backends import BACKENDS
from sandlot.network.bridge import nft
from sandlot.network.bridge.forwarding import Forwarding
from sandlot.network.bridge.observe import BridgeState
from sandlot.network.common import declare, publications
from sandlot.plan import apply_each
from sandlot.sandbox.record import PRESENT, ImageRef, Record, Records
from sandlot.site import Site
from sandlot.spec import normalise
from sandlot.volumes import Volumes

FEW, MORE, MANY = 25, 50, 100
# One line for each pair of sandboxes makes it 1.013.
LINEAR = 1.003


def lines(work: Callable[[], object]) -> int:
    """The lines that the work runs; a comprehension has one for each of its items."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


class Fleet:
    """A host with running sandboxes that all publish a port."""

    def __init__(self, root: str, number: int) -> None:
        self.site = Site(root)
        names = [f"n{index}" for index in range(number)]
        options = {
            "image": "busybox",
            "command": ["httpd"],
            "networks": [{"name": "default"}],
            "pids_limit": -1,
        }
        specs = {
            name: normalise({**options, "name": name, "published_ports": [f"{9000 + index}:80"]})
            for index, name in enumerate(names)
        }
        self.networks = declare.normalise(self.site, [{"name": "default"}])
        attached = {name: spec.networks for name, spec in specs.items()}
        interfaces = network.allocate(self.site, self.networks, attached, {})
        image = ImageRef("busybox", "sha256:1", ("/image",))
        self.records = {
            name: Record(
                name,
                PRESENT,
                "started",
                specs[name],
                IdRange(idmap.FIRST + index * idmap.SIZE),
                image,
                tuple(interfaces[name]),
            )
            for index, name in enumerate(names)
        }
        os.makedirs(f"{root}/etc", exist_ok=True)
        for file in (self.site.subuid, self.site.subgid):
            with open(file, "w") as handle:
                for name, entry in self.records.items():
                    handle.write(f"sandlot.{name}:{entry.ids.start}:{entry.ids.size}\n")
        desired = tuple(Desired(name, "started", spec) for name, spec in specs.items())
        self.desired = desired
        self.request = Request(desired, networks=self.networks, purge=True, check=True)

    def observed(self) -> Observation:
        """The host as a second run finds it, but for its links and rules."""
        images = {"busybox": Image("busybox", "sha256:1", ("/image",))}
        off = Forwarding(enabled=True, prior=None)
        bridge = BridgeState(self.site, {}, {}, (), {}, off, nft.Tables(installed=True))
        cgroup = CgroupObserved((), (), {})
        limits = cgroups.CgroupState(
            layout=Layout(()),
            host=Host(frozenset({0}), frozenset()),
            swap=True,
            sockets=True,
            sandboxes=dict.fromkeys(self.records, cgroup),
            parents=(),
        )
        blank = Observation(
            records=Records(self.records),
            ids=idmap.observe(self.site),
            images=images,
            networks=self.networks,
            network=network.State({kind: None for kind in BACKENDS} | {"bridge": bridge}),
            cgroups=limits,
            maps_ids=lambda path: True,
            launcher=True,
            known=frozenset(self.records),
            sandboxes=dict.fromkeys(self.records, Observed()),
            namespaces={},
            before=Stored(images, self.networks),
            volumes=Volumes(),
        )
        targets = resolve(self.site, self.request, blank).targets
        sandboxes = {
            name: Observed(
                record=entry,
                layer=True,
                pins=ALL_PINS,
                namespaces=targets[name].namespaces,
                running=str(targets[name].launch["digest"]),
            )
            for name, entry in self.records.items()
        }
        return replace(blank, sandboxes=sandboxes)


@pytest.fixture
def grows(tmp_path, monkeypatch) -> Callable[[Callable[[Fleet], Callable[[], object]]], float]:
    """The growth of work from MORE to MANY sandboxes, against that from FEW to MORE."""
    monkeypatch.setattr(nft, "check_version", lambda: None)
    # The processes of the machine come and go.
    monkeypatch.setattr(publications, "_held_sockets", lambda programs=(): iter(()))

    def ratio(work: Callable[[Fleet], Callable[[], object]]) -> float:
        fleets = [Fleet(f"{tmp_path}/{number}", number) for number in (FEW, MORE, MANY)]
        lines(work(fleets[0]))  # fills what is kept for the whole process
        few, more, many = (lines(work(fleet)) for fleet in fleets)
        return (many - more) / (more - few) / ((MANY - MORE) / (MORE - FEW))

    return ratio


def test_a_plan_and_its_result_are_linear(grows) -> None:
    def work(fleet: Fleet) -> Callable[[], object]:
        observed = fleet.observed()
        return lambda: report.result(plan(fleet.site, fleet.request, observed), {})

    assert grows(work) < LINEAR


def test_new_sandboxes_are_linear(grows) -> None:
    def work(fleet: Fleet) -> Callable[[], object]:
        observed = fleet.observed()
        fresh = replace(
            observed,
            records=Records(),
            sandboxes=dict.fromkeys(fleet.records, Observed()),
            known=frozenset(),
        )
        return lambda: plan(fleet.site, fleet.request, fresh)

    assert grows(work) < LINEAR


def test_new_lines_of_ids_are_linear(grows) -> None:
    def work(fleet: Fleet) -> Callable[[], object]:
        fresh = {
            f"m{index}": IdRange(idmap.FIRST + (MANY + index) * idmap.SIZE)
            for index in range(len(fleet.records))
        }

        def edit(*wanted: Any) -> None:
            apply_each(idmap.operations(fleet.site, idmap.observe(fleet.site), *wanted))

        edit({}, fresh)
        return lambda: edit(fresh)

    assert grows(work) < LINEAR


def test_the_levels_of_a_chain_are_linear(grows) -> None:
    def work(fleet: Fleet) -> Callable[[], object]:
        names = list(fleet.records)
        chain = {name: [needed] for name, needed in zip(names[1:], names)}
        return lambda: dependencies.levels({names[0]: [], **chain})

    assert grows(work) < LINEAR


def test_the_count_notices_a_square(grows) -> None:
    """One line for each pair of sandboxes is noticed."""

    def work(fleet: Fleet) -> Callable[[], object]:
        observed = fleet.observed()

        def plan_and_compare() -> None:
            plan(fleet.site, fleet.request, observed)
            for name in fleet.records:
                [other for other in fleet.records if other == name]

        return plan_and_compare

    assert grows(work) > LINEAR


@pytest.mark.parametrize("state", ["booted", "stopped", "rebuilt", "purged"])
def test_a_plan_for_all_sandboxes_is_linear(grows, state: str) -> None:
    """After a boot, for a stop, for another image of all, for the removal of all."""

    def work(fleet: Fleet) -> Callable[[], object]:
        observed, request = fleet.observed(), fleet.request
        if state == "booted":
            down = {n: replace(o, running=None, pins=()) for n, o in observed.sandboxes.items()}
            observed = replace(observed, sandboxes=down, launcher=False)
        elif state == "stopped":
            stopped = tuple(replace(item, state="stopped") for item in fleet.desired)
            request = replace(request, sandboxes=stopped)
        elif state == "rebuilt":
            images = {"busybox": Image("busybox", "sha256:2", ("/image2",))}
            observed = replace(observed, images=images)
        else:
            request = replace(request, sandboxes=())
        return lambda: report.result(plan(fleet.site, request, observed), {})

    assert grows(work) < LINEAR


def test_a_removal_is_linear(grows, monkeypatch) -> None:
    """It reads the table of mounts, which has lines for each sandbox, a few times in all."""

    def work(fleet: Fleet) -> Callable[[], object]:
        table = f"{fleet.site.root}/mountinfo"
        with open(table, "w") as handle:
            for name in fleet.records:
                sandbox = fleet.site.sandbox(name)
                os.makedirs(sandbox.upper, exist_ok=True)
                os.makedirs(sandbox.work, exist_ok=True)
                os.makedirs(sandbox.run, exist_ok=True)
                handle.write(f"9 1 0:9 / /run/ns/{name} rw - nsfs nsfs rw\n")
        monkeypatch.setattr(mountinfo, "PATH", table)
        context: Any = SimpleNamespace(
            site=fleet.site,
            observed=fleet.observed(),
            resolved=SimpleNamespace(removed=tuple(fleet.records)),
            drops={},
        )

        def remove() -> None:
            assert apply_each(removal.clean(context)) == {}

        return remove

    assert grows(work) < LINEAR
