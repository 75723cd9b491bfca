# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Turns a user's options into a Spec; a SpecError says what to write instead."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ..errors import SpecError
from . import comparisons, netmode
from .model import Spec
from .option import Reach, check, check_known
from .options import NAMES, OPTIONS, reaching
from .stored import from_table
from .text import brief, mapping, refusal, sequence, unique

_DEFAULT_NAMES = tuple(name for name in NAMES if name != "name")


def normalise(raw: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> Spec:
    """The spec of one sandbox; an option that is absent or None comes from ``defaults``.

    A default is replaced as a whole: mappings and lists are not merged with the sandbox's own.
    """
    own = _given("sandbox", raw)
    check_known(NAMES, own)
    shared = _shared(defaults)
    if own.get("network_mode", netmode.BRIDGE) != netmode.BRIDGE:
        # A mode without networks takes none from the defaults either.
        shared = {key: value for key, value in shared.items() if key not in _OF_NETWORKS}
    spec = from_table({**shared, **own})
    if spec.network_mode != netmode.BRIDGE:
        for option in _OF_NETWORKS:
            # Another check refuses networks.
            if option != "networks" and getattr(spec, option) is not None:
                problem = f"has no effect with network_mode {spec.network_mode}"
                hint = "leave it out, or set network_mode: bridge"
                raise refusal(option, getattr(spec, option), problem, hint=hint)
    check(OPTIONS, spec)
    comparisons.check(spec.comparisons)
    return spec


# Options of interfaces that the sandbox has of its own.
_OF_NETWORKS = tuple(option.name for option in reaching(Reach.INTERFACES))


def normalise_all(
    raws: Sequence[Mapping[str, Any]], *, defaults: Mapping[str, Any] | None = None
) -> list[Spec]:
    """Specs of one host in the given order; errors name their sandbox."""
    specs = []
    for index, raw in enumerate(sequence("sandboxes", raws)):
        try:
            specs.append(normalise(raw, defaults=defaults))
        except SpecError as error:
            name = raw.get("name") if isinstance(raw, Mapping) else None
            title = f"sandbox {brief(name)}" if isinstance(name, str) else f"sandboxes[{index}]"
            error.name(title)
            raise
    unique("name", (spec.name for spec in specs), what="name")
    _shared(defaults)  # also where no sandbox takes them
    return specs


def _shared(defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    given = _given("defaults", defaults or {})
    check_known(_DEFAULT_NAMES, given, "defaults.")
    return given


def _given(option: str, raw: Any) -> dict[str, Any]:
    return {key: value for key, value in mapping(option, raw).items() if value is not None}
