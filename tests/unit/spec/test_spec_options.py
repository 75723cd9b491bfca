# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Every option of the table: good and bad values, and that each change of it is noticed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from sandlot.errors import SpecError
from sandlot.plan import Change
from sandlot.spec import (
    OPTIONS,
    Spec,
    differences,
    names,
    normalise,
    render,
    render_differences,
    stored,
)
from spec_cases import BASE, CASES, label, load, raw, rows, spec

BY_NAME = {option.name: option for option in OPTIONS}
ACTIONS = {"env_file", "state", "restart", "recreate", "healthy_wait_timeout", "fail_on_crash"}
ACTIONS |= {"allow_changes", "comparisons"}
STORED = [option.name for option in OPTIONS if option.change is not None]


def dumped(made: Spec, option: str) -> Any:
    return BY_NAME[option].dump(getattr(made, option))


def test_table_cases_and_spec_name_the_same_options() -> None:
    names = {option.name for option in OPTIONS}
    assert {file.stem for file in CASES.glob("*.json")} == names
    assert {item.name for item in fields(Spec)} == names


@pytest.mark.parametrize("option, value, expected", rows("good"), ids=label)
def test_good_value(option: str, value: Any, expected: Any) -> None:
    made = spec(raw(option, value))
    assert dumped(made, option) == expected
    hash(made)


@pytest.mark.parametrize("option, value, says", rows("bad"), ids=label)
def test_bad_value(option: str, value: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        normalise(raw(option, value))
    error = caught.value
    assert error.option.startswith(option)
    assert says in str(error)
    assert error.hint
    assert len(str(error)) < 500


@pytest.mark.parametrize("option, value, expected", rows("good"), ids=label)
def test_stored_spec_is_read_back(option: str, value: Any, expected: Any) -> None:
    made = spec(raw(option, value))
    again = stored.from_json(stored.to_json(made))
    assert again == made
    assert stored.digest(again) == stored.digest(made)


def two_values(option: str) -> tuple[Any, Any]:
    """Two inputs that differ from each other and from the default, where an option has as many."""
    context = load(option).get("context", {})
    seen = [dumped(spec({**BASE, **context}), option)]
    found: list[Any] = []
    for value, expected in load(option)["good"]:
        if expected not in seen:
            seen.append(expected)
            found.append(value)
    row = BY_NAME[option]
    wanted = 1 if row.type == "bool" or 0 < len(row.choices) <= 2 else 2
    assert len(found) >= wanted, "the cases need more good values that are not the default"
    return found[0], found[-1]


@pytest.mark.parametrize("option", [name for name in STORED if name not in BASE])
def test_set_changed_and_removed_are_noticed(option: str) -> None:
    context = load(option).get("context", {})
    first, second = two_values(option)
    unset = spec({**BASE, **context})
    values = [first] if first == second else [first, second]
    specs = [unset, *(spec(raw(option, value)) for value in values), unset]
    for before, after in zip(specs, specs[1:]):
        (found,) = differences(before, after)
        assert found.option == option
        assert found.before == dumped(before, option)
        assert found.after == dumped(after, option)
        assert found.change is BY_NAME[option].change
        assert stored.digest(before) != stored.digest(after)
    assert option in render(specs[1])
    assert option not in render(unset) or option in context


@pytest.mark.parametrize("option", sorted(BASE))
def test_identity_is_noticed(option: str) -> None:
    before = normalise({**BASE, "hostname": "h"})
    after = normalise({**BASE, "hostname": "h", option: "other"})
    (found,) = differences(before, after)
    assert (found.option, found.change) == (option, Change.REBUILD)


@pytest.mark.parametrize("option", sorted(ACTIONS))
def test_actions_are_no_difference(option: str) -> None:
    before = normalise(BASE)
    for value, _ in load(option)["good"]:
        after = normalise(raw(option, value))
        assert differences(before, after) == []
        assert (before, stored.digest(before)) == (after, stored.digest(after))
        assert getattr(after, option) == value
    assert not ACTIONS & set(stored.to_json(before))


def test_new_sandbox_differs_by_what_is_not_usual() -> None:
    found = differences(None, normalise({**BASE, "memory": "64m", "pids_limit": 2048}))
    assert [(item.option, item.before, item.after) for item in found] == [
        ("name", None, "web"),
        ("image", None, "busybox"),
        ("memory", None, 67108864),
    ]


def test_diff_shows_each_option_with_its_class() -> None:
    before = normalise({**BASE, "memory": "64m", "published_ports": ["8080:80"]})
    after = normalise({**BASE, "user": "1000", "published_ports": ["8080:80"]})
    found = differences(before, after)
    assert render_differences(found) == {
        "before": {"user (restart)": None, "memory (live)": 67108864},
        "after": {"user (restart)": "1000", "memory (live)": None},
    }


def test_order_and_notation_are_no_difference() -> None:
    one = {
        "env": {"A": "1", "B": "2"},
        "published_ports": ["8001:8001", "8000:8000"],
        "capabilities": ["cap_chown", "NET_RAW"],
        "memory": "1g",
        "tmpfs": ["/b", "/a/:mode=1777,size=1m"],
        "command": "httpd -f",
        "stop_signal": "term",
    }
    other = {
        "env": {"B": "2", "A": "1"},
        "published_ports": ["8000-8001:8000-8001/tcp"],
        "capabilities": ["NET_RAW", "CHOWN"],
        "memory": 1 << 30,
        "tmpfs": ["/a:size=1024k,mode=1777", "/b:nosuid"],
        "command": ["httpd", "-f"],
        "stop_signal": "15",
    }
    specs = [normalise({**BASE, **raw_spec}) for raw_spec in (one, other)]
    assert differences(*specs) == []
    assert stored.digest(specs[0]) == stored.digest(specs[1])


@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "LocalHost4", "localhost.localdomain", "ip6-localhost", "ip6-anything"),
        *("all", "ALL", "ungrouped", "groups", "group_names", "hostvars", "vars", "omit"),
        *("inventory_hostname", "10.0.0.1", "1.2"),
    ],
)
def test_a_new_sandbox_shadows_nothing(name: str) -> None:
    with pytest.raises(SpecError, match="^name: .*; choose another name$"):
        names.check_new(name)


@pytest.mark.parametrize(
    "name", ["allowed", "group", "web1", "7", "host", "local", "v1.2.x", "ip6"]
)
def test_names_that_only_look_alike_are_fine(name: str) -> None:
    names.check_new(name)
