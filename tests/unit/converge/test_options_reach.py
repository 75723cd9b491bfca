# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Each option reaches the parts that its row names and no others, at the cost that it tells."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from option_values import BESIDE, OTHER
from sandlot.build import builder
from sandlot.cgroups import knobs
from sandlot.idmap import IdRange
from sandlot.network import Rates
from sandlot.plan import Change
from sandlot.sandbox import etcfiles, launchfile
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.site import Site
from sandlot.spec import OPTIONS, Spec, normalise, options
from sandlot.spec.option import LAUNCHED, Option, Reach
from sandlot.spec.options import reaching
from sandlot.spec.text import flag

ENGINE = Path(__file__).resolve().parents[3] / "module_utils/sandlot"
SITE = Site("/moved")
IMAGE = ImageRef("busybox", "0f" * 32, ("/var/lib/sandlot/images/trees/0f/root",))
HOST = knobs.Host(frozenset(range(4)), frozenset({0}))
BASE = {"name": "web", "image": "busybox", "command": ["true"], "allow_host_network": True}
# Launch digests and namespace digests as dd050e5 computes them, cut to twelve digits.
EARLIER: dict[str, list[Any]] = json.loads(
    (Path(__file__).parent / "digests_dd050e5.json").read_text()
)
LATER = {option.launch_key for option in OPTIONS if option.later}


def spec_of(option: str, **changed: Any) -> Spec:
    return normalise({**BASE, **BESIDE.get(option, {}), **changed})


def record_of(spec: Spec) -> Record:
    return Record(spec.name, PRESENT, "started", spec, IdRange(200000), IMAGE)


def launch(spec: Spec) -> dict[str, Any]:
    return launchfile.content(SITE, record_of(spec), [])


def keys(option: str) -> set[str]:
    """Keys of launch.json that differ when the option does."""
    before, after = launch(spec_of(option)), launch(spec_of(option, **{option: OTHER[option]}))
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def values(part: Reach, spec: Spec) -> Any:
    """All that one part makes of a spec."""
    if part is Reach.CGROUP:
        return [knob.wanted(spec, HOST) for knob in (*knobs.VERSION_1, *knobs.VERSION_2)]
    if part is Reach.HOSTS:
        record = record_of(spec)
        around = etcfiles.surroundings({}, {spec.name: record}, {spec.name: ()})
        aliases = [item.aliases for item in spec.networks]
        return etcfiles.contents(record, around), aliases
    if part is Reach.INTERFACES:
        rates = Rates(spec.ingress_rate, spec.egress_rate)
        return spec.networks, rates, spec.egress, spec.host_access
    return record_of(spec).policy, spec.published_ports, spec.network_mode


def test_every_option_reaches_somebody() -> None:
    assert [option.name for option in OPTIONS if not option.reaches] == []
    assert set(OTHER) == {option.name for option in OPTIONS}
    assert all(option.launch_key or not option.key for option in OPTIONS)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_reaches_the_launch_file_or_not(option: Option) -> None:
    if option.name == "name":
        return
    # hostname is a variable of the workload, network_mode decides on sysctls of its own.
    others = {"hostname": {"env"}, "network_mode": {"sysctls"}, "capabilities": {"seccomp"}}
    follow = {
        "security_profile": {"capabilities", "ambient", "seccomp"},
        "seccomp_profile": {"seccomp"},
        "seccomp_architectures": {"seccomp"},
        **others,
    }.get(option.name, set())
    if option.later and Reach.INIT in option.reaches:
        follow = {*follow, "init"}
    expected = {option.launch_key} | follow if option.reaches & LAUNCHED else set()
    assert keys(option.name) - {"digest"} == expected
    assert ("digest" in keys(option.name)) == (
        bool(expected) and (option.change is not Change.LIVE or option.name == "log_max_size")
    )


@pytest.mark.parametrize("part", [Reach.CGROUP, Reach.HOSTS, Reach.INTERFACES])
def test_a_part_acts_on_the_options_that_reach_it(part: Reach) -> None:
    acting = {
        name
        for name in OTHER
        if name != "name"
        and values(part, spec_of(name)) != values(part, spec_of(name, **{name: OTHER[name]}))
    }
    assert acting - {"network_mode"} == {row.name for row in reaching(part)} - {"network_mode"}


def test_the_network_acts_on_the_options_that_reach_it() -> None:
    for row in reaching(Reach.NETWORK, Reach.INTERFACES):
        before, after = (spec_of(row.name, **x) for x in ({}, {row.name: OTHER[row.name]}))
        both = [(values(Reach.NETWORK, x), values(Reach.INTERFACES, x)) for x in (before, after)]
        assert both[0] != both[1], row.name


# Keys that no option makes: facts of the host, the image and the ids.
FACTS = frozenset(
    """
    schema digest name ids image lower host_root tmpfs_root idmap upper work files init login
    ambient directories log_files secret_env
    """.split()
)


def test_every_key_of_a_launch_file_is_an_options_or_a_fact() -> None:
    spec = spec_of("network_mode", network_mode="host", healthcheck={"tcp": "80"})
    of_options = {option.launch_key for option in reaching(*LAUNCHED)}
    known = FACTS | launchfile.DERIVED | of_options
    assert set(launch(spec)) <= known
    assert of_options - LATER <= set(launch(spec))
    assert not of_options & LATER & set(launch(spec))
    assert not (FACTS | launchfile.DERIVED) & of_options


def test_a_healthcheck_that_is_turned_off_does_not_reach_init() -> None:
    assert "healthcheck" not in launch(spec_of("healthcheck", healthcheck={"test": ["NONE"]}))


def test_init_is_given_what_reaches_it() -> None:
    by_builder = {*builder.INIT_KEYS, "healthcheck"}
    of_init = {option.launch_key for option in reaching(Reach.INIT)}
    assert of_init - LATER == by_builder, "launch.json names later keys itself: leave INIT_KEYS"
    assert launchfile.LIVE - LATER == {"restart", "stop", "log_max_size", "healthcheck"}


def read_keys(*packages: str) -> set[str]:
    """Keys that code looks up: ``mapping["key"]`` and ``mapping.get("key")``."""
    files = [path for name in packages for path in (ENGINE / name).glob("*.py")]
    found = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        key: ast.AST | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            key = node.args[0] if node.func.attr == "get" and node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.add(key.value)
    return found


def test_whom_an_option_reaches_reads_it() -> None:
    by_init, by_all = read_keys("init"), read_keys("init", "build", "launcher")
    readers = [(by_init if Reach.INIT in row.reaches else by_all, row) for row in OPTIONS]
    keys = [(row.launch_key, read) for read, row in readers if row.launch_key]
    # They reach init as the capabilities and the program that the launch file has beside them.
    assert [key for key, read in keys if key not in read] == [
        "security_profile",
        "seccomp_profile",
        "seccomp_architectures",
    ]


def test_options_that_dd050e5_does_not_know_are_later_ones() -> None:
    assert {row.name for row in OPTIONS if not row.later} == set(EARLIER), "needs later=True"
    # Their place in launch.json is their name, but for what is mounted.
    assert [row.name for row in OPTIONS if row.later and row.key] == ["volumes", "files", "secrets"]


def test_a_controller_is_known_for_each_limit() -> None:
    assert {option.name for option in reaching(Reach.CGROUP)} == set(knobs.CONTROLLERS)


@pytest.mark.parametrize("table", [knobs.VERSION_1, knobs.VERSION_2], ids=["1", "2"])
def test_each_version_of_cgroups_acts_on_the_options_of_its_knobs(
    table: tuple[knobs.Knob, ...],
) -> None:
    """``cgroups.check`` refuses the others."""
    acting = set()
    for row in reaching(Reach.CGROUP):
        before, after = (spec_of(row.name, **x) for x in ({}, {row.name: OTHER[row.name]}))
        if [knob.wanted(before, HOST) for knob in table] != [x.wanted(after, HOST) for x in table]:
            acting.add(row.name)
    assert acting == {knob.option for knob in table} & set(knobs.CONTROLLERS)


@pytest.fixture(params=[Change.LIVE, Change.RESTART])
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Option]:
    """An option that the table does not have, in it."""
    facts = {"change": request.param, "default": False, "reaches": {Reach.INIT}, "later": True}
    row = Option("nap", "bool", flag, ["Naps."], **facts)
    with monkeypatch.context() as patched:
        patched.setattr(options, "OPTIONS", (*OPTIONS, row))
        patched.setattr(Spec, "nap", False, raising=False)
        yield importlib.reload(launchfile) and row
    importlib.reload(launchfile)


def test_a_new_option_of_init_is_one_row(row: Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """Init gets it when it is not at its default, and an upgrade changes no launch file."""
    before = launch(spec_of("nap"))
    assert "nap" not in before and "init" not in before
    monkeypatch.setattr(Spec, "nap", True)
    after = launch(spec_of("nap"))
    assert (after["nap"], after["init"]) == (True, ["nap"])
    assert builder._config(after)["nap"] is True and "nap" not in builder._config(before)
    assert (after["digest"] != before["digest"]) == (row.change is Change.RESTART)
    assert ("nap" in launchfile.LIVE) == (row.change is Change.LIVE)


@pytest.mark.parametrize("option", EARLIER)
def test_digests_are_those_of_dd050e5(option: str) -> None:
    """An upgrade restarts nothing."""
    for value, digest, namespaces in EARLIER[option]:
        context = json.loads(
            (Path(__file__).parents[1] / "spec" / "cases" / f"{option}.json").read_text()
        ).get("context", {})
        raw = {"name": "web", "image": "busybox", "command": ["true"], **context, option: value}
        record = record_of(normalise(raw))
        data = launchfile.content(SITE, record, ["/sys/fs/cgroup/sandlot/web"])
        assert data["digest"][:12] == digest, value
        assert launchfile.namespace_digest(data, record)[:12] == namespaces, value


def test_a_live_change_keeps_the_digest_that_init_was_started_with() -> None:
    old, new = (launch(spec_of("log_max_size", log_max_size=size)) for size in ("10m", "1m"))
    running = old["digest"]
    assert new["digest"] != running
    kept = launchfile.as_started(new, old, running)
    assert (kept["digest"], kept["log_max_size"]) == (running, 1 << 20)
    # The next run finds the file that this one wrote.
    assert launchfile.as_started(new, kept, running) == kept
    other = launch(spec_of("env", env={"A": "b"}, log_max_size="1m"))
    assert launchfile.as_started(other, old, running) == other
    assert launchfile.as_started(new, {}, running) == new
    assert launchfile.as_started(new, {**old, "digest": "another"}, running) == new
