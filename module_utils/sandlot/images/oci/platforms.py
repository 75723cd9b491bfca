# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Platforms as images name them: OS/ARCHITECTURE[/VARIANT] in Go's spelling."""

from __future__ import annotations

import os
import re
from typing import Any, Mapping, NamedTuple, Sequence

from ...errors import SandlotError
from ...spec.text import line, refusal

Json = Mapping[str, Any]

_PLATFORM = re.compile(r"linux/([a-z0-9_]{1,32})(?:/([a-z0-9]{1,16}))?")
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armv6l": "arm/v6",
    "armv7l": "arm/v7",
    "armv8l": "arm/v7",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "loongarch64": "loong64",
}
# The variant that a missing one means; some variants mean the same as a missing one.
_DEFAULT_VARIANTS = {"arm": "v7"}
_IMPLIED_VARIANTS = {"arm64": "v8", "amd64": "v1"}
# A processor of one variant also runs programs for the variants after it.
_ARM = ("v8", "v7", "v6", "v5")


class Platform(NamedTuple):
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(("linux", *filter(None, self)))


def host() -> Platform:
    return _normal(os.uname().machine, "")


def _normal(architecture: str, variant: str) -> Platform:
    name, dummy, implied = _ARCHITECTURES.get(architecture, architecture).partition("/")
    given = variant or implied or _DEFAULT_VARIANTS.get(name, "")
    return Platform(name, "" if given == _IMPLIED_VARIANTS.get(name) else given)


def parse(option: str, value: Any) -> Platform:
    match = _PLATFORM.fullmatch(line(option, value).lower())
    if not match:
        hint = "write linux/ARCHITECTURE or linux/ARCHITECTURE/VARIANT, such as linux/arm64"
        raise refusal(option, value, "is not a platform", hint=hint)
    return _normal(match[1], match[2] or "")


def normalised(option: str, value: Any) -> str:
    return str(parse(option, value))


def wanted(given: str | None) -> Platform:
    return parse("platform", given) if given else host()


def described(data: Any) -> Platform | None:
    """The platform in a list entry or an image's config; None for a missing or other OS."""
    if not isinstance(data, Mapping) or data.get("os") != "linux":
        return None
    architecture, variant = data.get("architecture"), data.get("variant") or ""
    if not isinstance(architecture, str) or not isinstance(variant, str):
        return None
    return _normal(architecture.lower(), variant.lower())


def choose(entries: Sequence[Json], want: Platform, what: str) -> Json:
    """The entry of a manifest list for this platform."""
    offered = [(described(entry.get("platform")), entry) for entry in entries]
    for platform in acceptable(want):
        for offer, entry in offered:
            if offer == platform:
                return entry
    names = sorted({str(offer) for offer, dummy in offered if offer})
    raise SandlotError(
        f"{what} has nothing for {want}, but for {', '.join(names[:40]) or 'no platform of linux'}",
        hint="set platform to one of these if it is right, or take another image",
    )


def acceptable(want: Platform) -> Sequence[Platform]:
    if want.architecture == "arm" and want.variant in _ARM:
        return [Platform("arm", variant) for variant in _ARM[_ARM.index(want.variant) :]]
    return [want]
