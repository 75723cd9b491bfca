# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""From what a user wrote to a Spec, or to a SpecError that says what to write instead."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

from ..errors import SpecError
from . import netmode
from .model import Spec, from_table
from .option import Reach, check_known
from .options import NAMES, reaching
from .quantities import UNLIMITED
from .text import brief, mapping, refusal, sequence, unique
from .values import TimeOffset

_DEFAULT_NAMES = tuple(name for name in NAMES if name != "name")


def normalise(raw: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> Spec:
    """The spec of one sandbox; an option that is absent or None comes from ``defaults``.

    A default is replaced as a whole: mappings and lists are not merged with the sandbox's own.
    """
    own = _given("sandbox", raw)
    shared = _given("defaults", defaults or {})
    check_known(NAMES, own)
    check_known(_DEFAULT_NAMES, shared, "defaults.")
    spec = from_table({**_fitting(shared, own), **own})
    _check_together(spec)
    return spec


# Options of interfaces that the sandbox has of its own.
_OF_NETWORKS = tuple(option.name for option in reaching(Reach.INTERFACES))


def _fitting(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Defaults without the networks of those that have a mode of their own without any."""
    if own.get("network_mode", netmode.BRIDGE) == netmode.BRIDGE:
        return shared
    return {key: value for key, value in shared.items() if key not in _OF_NETWORKS}


def normalise_all(
    raws: Sequence[Mapping[str, Any]], *, defaults: Mapping[str, Any] | None = None
) -> list[Spec]:
    """Specs of one host in the given order; errors name the sandbox they are about."""
    specs = []
    for index, raw in enumerate(sequence("sandboxes", raws)):
        try:
            specs.append(normalise(raw, defaults=defaults))
        except SpecError as error:
            error.message = f"{_title(index, raw)}: {error.message}"
            raise
    unique("name", (spec.name for spec in specs), what="name")
    return specs


def _title(index: int, raw: object) -> str:
    name = raw.get("name") if isinstance(raw, Mapping) else None
    return f"sandbox {brief(name)}" if isinstance(name, str) else f"sandboxes[{index}]"


def _given(option: str, raw: Any) -> dict[str, Any]:
    return {key: value for key, value in mapping(option, raw).items() if value is not None}


def _check_together(spec: Spec) -> None:
    if spec.state != "absent" and not spec.image:
        raise refusal("image", None, "names no image", hint="name one of the host's images")
    _check_swap(spec)
    _check_retries(spec)
    _check_network(spec)
    _check_dependencies(spec)
    if spec.time_offset:
        _check_clocks(spec.time_offset)


def _check_network(spec: Spec) -> None:
    mode = spec.network_mode
    if mode == netmode.HOST and not spec.allow_host_network:
        problem = "gives the sandbox the host's network"
        hint = "set allow_host_network: true if that is meant; it is then listed in relaxed"
        raise refusal("network_mode", mode, problem, hint=hint)
    if spec.network_partner == spec.name:
        hint = "name another sandbox, or use bridge"
        raise refusal("network_mode", mode, "names the sandbox itself", hint=hint)
    if mode != netmode.BRIDGE and spec.networks:
        hint = "leave networks out, or set network_mode: bridge"
        names = ", ".join(item.name for item in spec.networks)
        raise refusal("networks", names, f"can't be had with network_mode {mode}", hint=hint)
    for option in _OF_NETWORKS:
        value = getattr(spec, option)
        if mode != netmode.BRIDGE and option != "networks" and value is not None:
            problem = f"has no effect with network_mode {mode}"
            hint = "leave it out, or set network_mode: bridge"
            raise refusal(option, value, problem, hint=hint)
    if spec.published_ports and not spec.networks:
        first = str(spec.published_ports[0])
        problem = "leads to a sandbox without a network"
        raise refusal("published_ports", first, problem, hint=_publishing_hint(spec))
    foreign = [key for key, _ in spec.sysctls if key.startswith("net.")]
    if foreign and not spec.owns_network:
        problem = f"is not this sandbox's to set with network_mode {mode}"
        hint = "set it for the owner of that network, or leave it out"
        raise refusal("sysctls", foreign[0], problem, hint=hint)


def _publishing_hint(spec: Spec) -> str:
    if spec.network_mode == netmode.HOST:
        return "leave it out: in the host's network its ports are the host's"
    if spec.network_partner:
        return f"publish it at sandbox {spec.network_partner}, whose network it shares"
    return "attach it to a network, or publish nothing"


def _check_dependencies(spec: Spec) -> None:
    if any(item.name == spec.name for item in spec.depends_on):
        hint = "leave it out; where it is a default of all, give this one depends_on: []"
        raise refusal("depends_on", spec.name, "is the sandbox itself", hint=hint)


def _check_swap(spec: Spec) -> None:
    if spec.memory_swap is None:
        return
    if spec.memory is None:
        hint = "set memory as well"
        raise refusal("memory_swap", spec.memory_swap, "is given without memory", hint=hint)
    if spec.memory_swap != UNLIMITED and spec.memory_swap < spec.memory:
        problem = f"is less than memory ({spec.memory})"
        hint = "it is the sum of memory and swap"
        raise refusal("memory_swap", spec.memory_swap, problem, hint=hint)


def _check_retries(spec: Spec) -> None:
    if spec.restart_retries and spec.restart_policy != "on-failure":
        problem = f"has no meaning with restart_policy {spec.restart_policy}"
        hint = "set restart_policy: on-failure, or leave it out"
        raise refusal("restart_retries", spec.restart_retries, problem, hint=hint)


def _check_clocks(offset: TimeOffset) -> None:
    """The kernel refuses a clock below zero."""
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        seconds = getattr(offset, name)
        if seconds + time.clock_gettime(clock) < 0:
            option = f"time_offset.{name}"
            hint = f"the host's clock is at {time.clock_gettime(clock):.0f} seconds"
            raise refusal(option, seconds, "turns the clock back below zero", hint=hint)
