# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Changes between two records name the security profile in effect; images have a default of it."""

from __future__ import annotations

from typing import Any

import pytest
from sandlot import images, profiles
from sandlot.idmap import IdRange
from sandlot.plan import Change
from sandlot.sandbox import process
from sandlot.sandbox.record import PRESENT, ImageRef, Record
from sandlot.spec import confinement, normalise


def record(options: dict[str, Any], default: str) -> Record:
    spec = normalise({"name": "a", "image": "x", "command": ["server"], **options})
    config = {} if default == "strict" else {"security_profile": default}
    return Record("a", PRESENT, "started", spec, IdRange(200000), ImageRef("x", "0", config=config))


STRICT, DAEMON = {"security_profile": "strict"}, {"security_profile": "daemon"}
CASES: list[tuple[tuple[dict[str, Any], str], tuple[dict[str, Any], str], list[Any]]] = [
    (({}, "strict"), ({}, "strict"), []),
    (({}, "strict"), ({}, "daemon"), ["strict", "daemon", Change.RESTART]),
    (({}, "daemon"), (STRICT, "daemon"), ["daemon", "strict", Change.RESTART]),
    ((STRICT, "daemon"), ({}, "daemon"), ["strict", "daemon", Change.RESTART]),
    ((DAEMON, "strict"), ({}, "strict"), ["daemon", "strict", Change.RESTART]),
    ((DAEMON, "strict"), ({}, "daemon"), ["daemon", None, Change.LIVE]),
    (({}, "strict"), (STRICT, "daemon"), [None, "strict", Change.LIVE]),
    ((STRICT, "strict"), (STRICT, "daemon"), []),
]


@pytest.mark.parametrize(("before", "after", "expected"), CASES)
def test_changes(
    before: tuple[dict[str, Any], str], after: tuple[dict[str, Any], str], expected: list[Any]
) -> None:
    found = process.changes(record(*before), record(*after))
    shown = [[entry.before, entry.after, entry.change] for entry in found]
    assert shown == ([expected] if expected else [])


def test_capabilities_are_those_of_the_profile_and_the_granted_ones() -> None:
    granted = {"capabilities": ["NET_RAW", "CHOWN"]}
    assert process.capabilities(record(granted, "strict")) == ("CHOWN", "NET_RAW")
    daemon = profiles.CAPABILITIES["daemon"]
    assert process.capabilities(record(granted, "daemon")) == (*daemon, "NET_RAW")
    assert [name for name in confinement.CAPABILITIES if name in daemon] == list(daemon)


def test_the_profile_of_an_image_is_that_of_its_source_or_base() -> None:
    known = {
        name: images.Image(name, "0", source=source, parameters=parameters)
        for name, source, parameters in (
            ("registry", "oci", {"setup": ["true"]}),
            ("plain", "debootstrap", {}),
            ("brief", "tmpfs", {"base": "registry"}),
            ("brief plain", "tmpfs", {"base": "plain"}),
            ("lost", "tmpfs", {"base": "gone"}),
            ("earlier", "", {}),
        )
    }
    found = {name: images.profile(image, known) for name, image in known.items()}
    daemons = {name for name, profile in found.items() if profile == "daemon"}
    assert daemons == {"registry", "brief"} and set(found.values()) == {"strict", "daemon"}
    # A layer in memory has nothing to keep, and needs no rebuild.
    fresh = {name for name, image in known.items() if images.on_image_change(image) == "fresh"}
    assert fresh == {"registry"}
