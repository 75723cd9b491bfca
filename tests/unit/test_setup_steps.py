# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Steps of a setup and options of debootstrap, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest
from sandlot import images
from sandlot.errors import SpecError
from sandlot.images import debootstrap, setup

DEBIAN = {"name": "d", "source": "debootstrap", "suite": "bookworm"}


def steps(*given: Any) -> tuple[dict[str, Any], ...]:
    return images.normalise({"name": "x", "source": "busybox", "setup": list(given)}).setup


STEPS = {
    "a line": ("echo a", {"command": ["sh", "-c", "echo a"]}),
    "lines": ("a\nb\n", {"command": ["sh", "-c", "a\nb\n"]}),
    "words": ({"command": "ls -l 'a b'"}, {"command": ["ls", "-l", "a b"]}),
    "variables": (
        {"command": ["x"], "env": {"B": "2", "A": "1"}, "user": "www-data"},
        {"command": ["x"], "env": {"A": "1", "B": "2"}, "user": "www-data"},
    ),
    "null": ({"command": ["x"], "env": None}, {"command": ["x"]}),
    "packages": ({"packages": ["g++", "nginx=1.2"]}, {"packages": ["g++", "nginx=1.2"]}),
    "file": (
        {"dest": "/a//b", "content": "", "mode": "644", "owner": "33"},
        {"dest": "/a/b", "content": "", "mode": "0644", "owner": "33"},
    ),
}


@pytest.mark.parametrize("given, expected", STEPS.values(), ids=STEPS)
def test_steps(given: Any, expected: dict[str, Any]) -> None:
    assert steps(given) == (expected,)
    # What is stored is valid input, and means the same.
    assert steps(expected) == (expected,)


BAD_STEPS: dict[str, tuple[Any, str]] = {
    "number": (1, "is an integer, not a mapping"),
    "empty": ({}, "is no step"),
    "unknown": ({"run": "x"}, "is no step"),
    "too much": ({"command": ["x"], "packages": ["y"]}, "takes command, env, user"),
    "nothing": ({"command": []}, "names nothing to run"),
    "no content": ({"dest": "/x"}, "takes dest, content, mode, owner"),
    "relative": ({"dest": "x", "content": ""}, "is not an absolute path"),
    "outside": ({"dest": "/../x", "content": ""}, "is not an absolute path"),
    "root": ({"dest": "/", "content": ""}, "lies where sandboxes have a mount"),
    "in memory": ({"dest": "/tmp/x", "content": ""}, "lies where sandboxes have a mount"),
    "ours": ({"dest": "/etc/hosts", "content": ""}, "is written by sandlot"),
    "number as mode": ({"dest": "/x", "content": "", "mode": 420}, "is not a mode"),
    "mode": ({"dest": "/x", "content": "", "mode": "0888"}, "is not a mode"),
    "owner": ({"dest": "/x", "content": "", "owner": "root"}, "is not UID or UID:GID"),
    "far owner": ({"dest": "/x", "content": "", "owner": "70000"}, "out of range"),
    "option": ({"packages": ["--purge"]}, "is not the name of a package"),
    "no packages": ({"packages": []}, "names no package"),
    "variable": ({"command": ["x"], "env": {"A=B": "1"}}, "can't name a variable"),
}


@pytest.mark.parametrize("given, message", BAD_STEPS.values(), ids=BAD_STEPS)
def test_bad_steps_are_named(given: Any, message: str) -> None:
    with pytest.raises(SpecError, match=r"image\.setup\[1\]") as caught:
        steps("true", given)
    assert message in str(caught.value)


def test_the_digest_is_that_of_what_lies_below_and_of_the_steps() -> None:
    one, two = steps("a"), steps("b")
    assert setup.digest("0", one) == setup.digest("0", steps("a"))
    assert len({setup.digest("0", one), setup.digest("0", two), setup.digest("1", one)}) == 3


def test_network_and_time_are_no_part_of_what_is_made() -> None:
    given = {"name": "x", "source": "busybox", "setup": ["a"]}
    plain = images.normalise(given)
    other = images.normalise({**given, "setup_network": "none", "setup_timeout": 5})
    source = images.SOURCES["busybox"]
    assert source.parameters(plain) == source.parameters(other)


# -- debootstrap


def test_what_the_tools_are_told() -> None:
    spec = images.normalise(
        {
            **DEBIAN,
            "mirror": "http://mirror.example/debian",
            "components": ["main", "contrib"],
            "packages": ["curl", "g++"],
            "keyring": "/keys.gpg",
            "check_valid_until": False,
        }
    )
    common = [
        "--variant=minbase",
        "--components=main,contrib",
        "--include=curl,g++",
        "--keyring=/keys.gpg",
    ]
    last = ["bookworm", "/tree", "http://mirror.example/debian"]
    assert debootstrap.arguments(spec, "debootstrap", "/tree") == [*common, *last]
    assert debootstrap.arguments(spec, "mmdebstrap", "/tree") == [
        "--mode=root",
        "--format=directory",
        *common,
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *last,
    ]


def test_the_variant_without_a_name() -> None:
    spec = images.normalise({**DEBIAN, "variant": "important"})
    words = debootstrap.arguments(spec, "debootstrap", "/tree")
    assert words == ["--components=main", "bookworm", "/tree"]
    assert "--variant=important" in debootstrap.arguments(spec, "mmdebstrap", "/tree")


CHANGES: dict[str, Any] = {
    "suite": "sid",
    "mirror": "https://m.example/",
    "variant": "buildd",
    "components": ["main", "non-free-firmware"],
    "packages": ["curl"],
    "keyring": "/k",
    "revision": "2",
    "check_valid_until": False,
}


@pytest.mark.parametrize("option", CHANGES)
def test_each_option_changes_the_digest(option: str) -> None:
    plain = images.normalise(DEBIAN)
    changed = images.normalise({**DEBIAN, option: CHANGES[option]})
    assert debootstrap.digest(plain) != debootstrap.digest(changed)


def test_bounds_and_names_do_not() -> None:
    plain = images.normalise(DEBIAN)
    other = images.normalise({**DEBIAN, "name": "e", "max_size": "1g", "max_files": 7})
    assert debootstrap.digest(plain) == debootstrap.digest(other)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no suite": ({"suite": None}, "has no suite"),
    "an option as suite": ({"suite": "--help"}, "is not the name of a suite"),
    "a path as suite": ({"suite": "/etc"}, "is not the name of a suite"),
    "a file as mirror": ({"mirror": "file:///srv"}, "write http"),
    "a password": ({"mirror": "http://u:secret@m.example/"}, "without user and password"),
    "a shell": ({"mirror": "http://m.example/$(id)"}, "write http"),
    "components": ({"components": ["main universe"]}, "is not a component"),
    "no components": ({"components": []}, "has no components"),
    "twice": ({"components": ["main", "main"]}, "twice"),
    "an option as package": ({"packages": ["-x"]}, "is not the name of a package"),
    "a comma": ({"packages": ["a,b"]}, "is not the name of a package"),
    "variant": ({"variant": "fakechroot"}, "is not a choice"),
    "keyring": ({"keyring": "k"}, "is not an absolute path"),
    "revision": ({"revision": "a\nb"}, "control character"),
}


@pytest.mark.parametrize("change, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        images.normalise({**DEBIAN, **change})
    assert message in str(caught.value) and "secret" not in str(caught.value)
