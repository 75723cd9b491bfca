# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Whole specs: defaults, what options ask of each other, stored specs, hostile input."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from sandlot.errors import SpecError, StateError
from sandlot.spec import OPTIONS, TimeOffset, confinement, normalise, normalise_all, stored
from sandlot.spec.confinement import CAPABILITIES
from spec_cases import BASE, rows

MALFORMED = 3000


def refused(raw: Any, **keywords: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        normalise(raw, **keywords)
    assert caught.value.hint
    return caught.value


def test_unusual_values_of_nothing_given() -> None:
    spec = normalise(BASE)
    assert (spec.memory, spec.memory_swap, spec.cpus, spec.cpuset_cpus) == (None,) * 4
    assert (spec.cpu_shares, spec.pids_limit) == (None, 2048)
    assert [item.name for item in spec.networks] == ["default"]
    assert (spec.user, spec.working_dir, spec.command) == (None, None, ())
    assert (spec.restart_policy, spec.restart_retries) == ("unless-stopped", 0)
    assert (spec.stop_signal, spec.stop_timeout, spec.log_max_size) == (None, 10, 10 << 20)
    assert (spec.state, spec.restart, spec.recreate) == ("started", False, False)
    assert (spec.capabilities, spec.seccomp_profile, spec.time_offset) == ((), "default", None)


def test_none_is_not_given() -> None:
    assert normalise({**{option.name: None for option in OPTIONS}, **BASE}) == normalise(BASE)


def test_defaults_are_merged_under() -> None:
    defaults = {"memory": "64m", "env": {"A": "1"}, "user": "5", "state": "stopped"}
    spec = normalise({**BASE, "memory": None, "env": {"B": "2"}, "user": "0"}, defaults=defaults)
    assert spec.memory == 64 << 20
    assert spec.env == (("B", "2"),)
    assert spec.user == "0"
    assert spec.state == "stopped"


def test_wrong_defaults_are_refused() -> None:
    assert refused(BASE, defaults={"name": "x"}).option == "defaults.name"
    assert "memory" in refused(BASE, defaults={"memry": 1}).hint
    assert refused(BASE, defaults=["x"]).option == "defaults"


@pytest.mark.parametrize(
    "name, hostname",
    [("web", "web"), ("a_b", "a-b"), ("a.b", "a.b"), ("a-", "a"), ("a.", "a"), ("a._b", "a.b")],
)
def test_hostname_follows_the_name(name: str, hostname: str) -> None:
    assert normalise({**BASE, "name": name}).hostname == hostname


@pytest.mark.parametrize("key", ["disks", "secret", "Memory", "", "x" * 10000, "a\nb"])
def test_unknown_option_is_refused(key: str) -> None:
    assert "not an option" in str(refused({**BASE, key: 1}))


def test_unknown_option_names_the_nearest() -> None:
    assert refused({**BASE, "memory_limit": "1g"}).option == "memory_limit"
    assert refused({**BASE, "publish_ports": []}).hint == "did you mean published_ports?"


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",), b"name"])
def test_keys_are_strings(key: Any) -> None:
    for raw in ({**BASE, key: 1}, {**BASE, "env": {key: "x"}}, {**BASE, "networks": [{key: 1}]}):
        assert "string key" in str(refused(raw))


@pytest.mark.parametrize("raw", [None, [], "web", 5, True, [BASE]])
def test_a_sandbox_is_a_mapping(raw: Any) -> None:
    assert "not a mapping" in str(refused(raw))


@pytest.mark.parametrize(
    "extra, option",
    [
        ({"memory_swap": "64m"}, "memory_swap"),
        ({"memory": "64m", "memory_swap": "32m"}, "memory_swap"),
        ({"memory": "64m", "memory_reservation": "65m"}, "memory_reservation"),
        ({"restart_retries": 3}, "restart_retries"),
        ({"restart_retries": 3, "restart_policy": "always"}, "restart_retries"),
        ({"networks": [], "published_ports": ["80:80"]}, "published_ports"),
        ({"image": None}, "image"),
        ({"network_mode": "host"}, "network_mode"),
        ({"network_mode": "host", "allow_host_network": False}, "network_mode"),
        ({"network_mode": "none", "networks": [{"name": "default"}]}, "networks"),
        ({"network_mode": "container:db", "networks": [{"name": "default"}]}, "networks"),
        ({"network_mode": "container:db", "egress": ["dns"]}, "egress"),
        ({"network_mode": "none", "host_access": ["53/udp"]}, "host_access"),
        ({"network_mode": "container:db", "ingress_rate": "1mbit"}, "ingress_rate"),
        ({"network_mode": "none", "published_ports": ["80:80"]}, "published_ports"),
        ({"network_mode": "container:db", "published_ports": ["80:80"]}, "published_ports"),
        ({"network_mode": "ns:/run/netns/a", "published_ports": ["80:80"]}, "published_ports"),
        (
            {"network_mode": "host", "allow_host_network": True, "published_ports": ["80:80"]},
            "published_ports",
        ),
        ({"network_mode": "container:db", "sysctls": {"net.core.somaxconn": "9"}}, "sysctls"),
        ({"networks": [{"name": f"n{number}"} for number in range(17)]}, "networks"),
    ],
)
def test_options_that_contradict_each_other(extra: dict[str, Any], option: str) -> None:
    assert refused({**BASE, **extra}).option == option


def test_hints_lead_to_who_has_the_network() -> None:
    mode = {"network_mode": "container:db", "published_ports": ["80:80"]}
    assert "publish it at sandbox db" in refused({**BASE, **mode}).hint
    mode = {"network_mode": "host", "allow_host_network": True, "published_ports": ["80:80"]}
    assert "its ports are the host's" in refused({**BASE, **mode}).hint
    assert "allow_host_network: true" in refused({**BASE, "network_mode": "host"}).hint


@pytest.mark.parametrize("mode", ["none", "container:db", "ns:/run/netns/a"])
def test_modes_without_networks_do_not_take_the_default_ones(mode: str) -> None:
    defaults = {"networks": [{"name": "lab"}], "network_mode": "bridge"}
    for spec in (
        normalise({**BASE, "network_mode": mode}),
        normalise({**BASE, "network_mode": mode}, defaults=defaults),
        normalise(BASE, defaults={"network_mode": mode}),
    ):
        assert spec.networks == () and spec.network_mode == mode
        assert stored.from_json(stored.to_json(spec)) == spec
    assert normalise(BASE, defaults=defaults).networks[0].name == "lab"


def test_a_spec_stored_before_there_were_modes_has_a_bridge() -> None:
    data = stored.to_json(normalise(BASE))
    del data["network_mode"], data["allow_host_network"]
    assert stored.from_json(data) == normalise(BASE)


def test_absent_needs_a_name_only() -> None:
    assert normalise({"name": "web", "state": "absent"}).image == ""


def test_strings_fit_the_kernel() -> None:
    for option, value in (
        ("command", ["x" * 131072]),
        ("env", {"A": "x" * 131072}),
        ("labels", {"a": "\ud800"}),
        ("working_dir", "/" + "ab/" * 2000),
    ):
        assert len(str(refused({**BASE, option: value}))) < 500


def test_a_refused_environment_value_is_not_shown() -> None:
    for value in ("s3cret\0", "s3cret\ud800", ["s3cret"], {"s3cret": 1}):
        assert "s3cret" not in str(refused({**BASE, "env": {"TOKEN": value}}))
        assert "TOKEN" in str(refused({**BASE, "env": {"TOKEN": value}}))


def test_huge_numbers_and_deep_lists_are_explained() -> None:
    deep: list[Any] = []
    for _ in range(100000):
        deep = [deep]
    for value in (10**5000, -(10**5000), deep, {"a": 10**5000}, [10**5000]):
        for option in OPTIONS:
            assert len(str(refused({**BASE, option.name: value}))) < 500


def test_time_offset_in_the_kernels_notation() -> None:
    assert TimeOffset(-0.5, 1.25).clocks() == {
        "monotonic": (-1, 500_000_000),
        "boottime": (1, 250_000_000),
    }
    assert TimeOffset(-1.0, 0.9999999).clocks() == {"monotonic": (-1, 0), "boottime": (1, 0)}


def test_digest_is_stable() -> None:
    spec = normalise({**BASE, "env": {"A": "\u00e9"}, "cpus": 1})
    assert len(stored.digest(spec)) == 64
    assert stored.digest(spec) == stored.digest(
        normalise({"cpus": "1.0", "env": {"A": "\u00e9"}, **BASE})
    )
    assert stored.digest(dataclasses.replace(spec, state="stopped")) == stored.digest(spec)


def test_older_record_gets_defaults() -> None:
    spec = normalise(BASE)
    data = stored.to_json(spec)
    del data["pids_limit"], data["labels"]
    assert stored.from_json(data) == spec


@pytest.mark.parametrize("change", [{"memory": "x"}, {"future": 1}, {"name": None}, {"env": 5}])
def test_broken_record_is_a_state_error(change: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="stored spec"):
        stored.from_json({**stored.to_json(normalise(BASE)), **change})


def test_all_of_a_host() -> None:
    raws = [{"name": "b"}, {"name": "a", "image": "debian"}]
    specs = normalise_all(raws, defaults={"image": "busybox"})
    assert [(spec.name, spec.image) for spec in specs] == [("b", "busybox"), ("a", "debian")]
    assert normalise_all([]) == []


@pytest.mark.parametrize(
    "raws, says",
    [
        ([BASE, BASE], "'web' is the same name twice"),
        ([BASE, {**BASE, "name": "db", "memory": "x"}], "sandbox 'db': memory: 'x' is not a size"),
        ([BASE, {"image": "x"}], "sandboxes[1]: name: no value given"),
        ([BASE, "web"], "sandboxes[1]: sandbox: 'web' is a string, not a mapping"),
        ({"web": BASE}, "sandboxes: "),
        (None, "sandboxes: "),
    ],
)
def test_errors_say_which_sandbox(raws: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        normalise_all(raws)
    assert says in str(caught.value)


def test_long_names_stay_apart() -> None:
    names = ["x" * 62 + "a", "x" * 62 + "b"]
    assert [
        spec.name for spec in normalise_all([{**BASE, "name": name} for name in names])
    ] == names


def test_capabilities_are_those_the_kernel_is_given() -> None:
    assert confinement.mask(CAPABILITIES) == (1 << 41) - 1


ALPHABET = "ab09AZ/:.,-=_%+ \t\n\0\u0131\u00e9\u0661\u202e\ud800kmgtSIG[]{}'\"\\"


def malformed(source: random.Random, pool: list[Any], depth: int = 0) -> Any:
    """A value of any type: made up, or a known one damaged."""
    kind = source.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return source.choice([None, True, False, b"x", float("nan"), float("inf"), 1e308, {1}])
    if kind == 1:
        return source.choice([-1, 0, 1, 1 << 31, 1 << 63, 1 << 64, -(10**400), 10**5000])
    if kind == 2:
        return source.uniform(-1e6, 1e6)
    if kind == 3:
        return "".join(source.choice(ALPHABET) for _ in range(source.randrange(20)))
    if kind in (4, 5):
        return damaged(source, source.choice(pool))
    if kind == 6:
        return [malformed(source, pool, depth + 1) for _ in range(source.randrange(4))]
    keys = ["name", "ipv4_address", "mac_address", "monotonic", "boottime", "net.x", "", 5]
    chosen = source.sample(keys, source.randrange(4))
    return {key: malformed(source, pool, depth + 1) for key in chosen}


def damaged(source: random.Random, value: Any) -> Any:
    if isinstance(value, str) and value:
        place = source.randrange(len(value))
        return value[:place] + source.choice(ALPHABET) + value[place + source.randrange(2) :]
    if isinstance(value, list) and value:
        return [damaged(source, item) for item in value] * source.choice([1, 2])
    if isinstance(value, dict):
        return {key: damaged(source, item) for key, item in value.items()}
    return value


def test_malformed_values_give_a_spec_or_a_spec_error() -> None:
    source = random.Random(2)
    pool = [value for kind in ("good", "bad") for _, value, _ in rows(kind)]
    names = [option.name for option in OPTIONS]
    outcomes = {"spec": 0, "error": 0}
    for _ in range(MALFORMED):
        raw = {**BASE, source.choice(names): malformed(source, pool)}
        if source.random() < 0.2:
            raw[source.choice(names)] = malformed(source, pool)
        try:
            spec = normalise(raw)
        except SpecError as error:
            assert len(str(error)) < 1000
            outcomes["error"] += 1
        else:
            assert stored.from_json(stored.to_json(spec)) == spec
            outcomes["spec"] += 1
    assert min(outcomes.values()) > MALFORMED // 100
